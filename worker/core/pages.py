"""Pages: reads a list that changes meanwhile, page by page, without skipping an item.

Pages overlap by one: each is requested from the last item of the page before. An item that is added at the
front only shifts the others down, so some come twice. An item that is removed shifts them up, so one could
slip through: then the last item of the page before is missing, and the list must be read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_RESTARTS = 5
"""How often a list is read from its beginning before it counts as unreadable."""
MAX_STALE_PAGES = 50
"""Pages in a row without a new item. Additions alone do not shift a list that far while it is read."""


class Reading(Enum):
    """How the reading of a list stands after a page."""

    MORE = auto()
    """The next page begins at the cursor's offset."""
    COMPLETE = auto()
    """The page was the last: it has only the last item again, or the whole list is empty."""
    BROKEN = auto()
    """An item was removed, so another may have been skipped; or the list repeats the same pages."""


@dataclass(slots=True)
class Cursor:
    """The position of one reading. `last`: the last id of the page before; None before the first page."""

    offset: int = 0
    last: str | None = None
    _known: set[str] = field(default_factory=set)
    _stale_pages: int = 0

    def take(self, ids: Sequence[str]) -> Reading:
        """Takes note of the page at `offset`, by the ids of its items in order."""
        if not self._joins(ids):
            return Reading.BROKEN
        if not ids or list(ids) == [self.last]:
            return Reading.COMPLETE
        self.offset += len(ids) - 1
        self.last = ids[-1]
        return Reading.MORE

    def _joins(self, ids: Sequence[str]) -> bool:
        """Whether the page overlaps the one before, in a list that still shows new items."""
        fresh = set(ids) - self._known
        self._stale_pages = 0 if fresh else self._stale_pages + 1
        self._known |= fresh
        return (self.last is None or self.last in ids) and self._stale_pages < MAX_STALE_PAGES
