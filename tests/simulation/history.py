"""The ordered notes of a run. The checker reads nothing else, and a failure prints them."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Note(NamedTuple):
    """One thing that happened, at a virtual time in seconds. `department` is None if it concerns all."""

    at: float
    what: str
    department: str | None
    detail: dict[str, Any]

    def __str__(self) -> str:
        detail = " ".join(
            f"{name}={_short(value)}" for name, value in self.detail.items() if value is not None
        )
        return f"{self.at:9.3f}  {self.department or '-':4} {self.what:18} {detail}"


class History:
    """The notes of a run, in order."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.notes: list[Note] = []

    def note(self, what: str, department: str | None = None, **detail: Any) -> None:
        self.notes.append(Note(self._now(), what, department, detail))

    def of(self, department: str | None) -> list[Note]:
        """The notes of a department and those that concern all departments."""
        return [one for one in self.notes if department is None or one.department in {None, department}]


def _short(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 90 else f"{text[:90]}…"
