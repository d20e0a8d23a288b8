"""`replace` for the frozen dataclasses of the model, with their checks."""

from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - exported under this name
else:

    def replace(value: T, **changes: Any) -> T:
        """`dataclasses.replace` for the values below, checks included, in a fraction of the time.

        One event changes its entry seven times, and `dataclasses.replace` copies it field by field.
        """
        if not changes.keys() <= value.__dict__.keys():
            raise TypeError(f"{type(value).__name__} has no {changes.keys() - value.__dict__.keys()}")
        changed = object.__new__(type(value))
        changed.__dict__.update(value.__dict__, **changes)
        if check := getattr(changed, "__post_init__", None):
            check()
        return changed
