"""Values of settings that can be read again from their file: a login is rotated without a restart."""

from collections.abc import Callable
from typing import Generic, TypeVar

from worker.ports import UserError

T = TypeVar("T")

OnRead = Callable[[str, str | None], None]
"""Gets the name of a setting that was read again, and why the old value is kept; None for a new value."""


def _unreported(_name: str, _why_kept: str | None) -> None:
    return None


class Rotating(Generic[T]):
    """The value of a setting. One that came from a file is read again when it was refused."""

    def __init__(
        self,
        value: T,
        name: str = "",
        read: Callable[[], T] | None = None,
        on_read: OnRead = _unreported,
    ) -> None:
        self.value = value
        self._name = name
        self._read = read
        self._on_read = on_read
        self._reported: str | None = None

    def read_again(self) -> T:
        """The value in the file now. One that is missing, half-written or invalid leaves the value as it is.

        A change, and each new reason to keep the old value, is reported once.
        """
        if self._read is None:
            return self.value
        try:
            found = self._read()
        except UserError as error:
            self._report(str(error))
            return self.value
        self._reported = None
        if found != self.value:
            self.value = found
            self._on_read(self._name, None)
        return self.value

    def _report(self, why_kept: str) -> None:
        if why_kept != self._reported:
            self._reported = why_kept
            self._on_read(self._name, why_kept)
