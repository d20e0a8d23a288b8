"""Pages: reads a list that changes meanwhile, page by page, without skipping an item.

Pages overlap by one: each is requested from the last item of the page before. An item that is added at the
front only shifts the others down, so some come twice. An item that is removed shifts them up, so one could
slip through: then the last item of the page before is missing, and the list must be read again.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

MAX_RESTARTS = 5
"""How often a list is read from its beginning before it counts as unreadable."""
MAX_STALE_PAGES = 50
"""Pages in a row without a new item. Additions alone do not shift a list that far while it is read."""


RECENT_IDS, SORTED_IDS = 4_096, 65_536
"""How many ids a set holds before it sorts them, and in one sorted array: some milliseconds of work."""


class Ids:
    """A set of ids in eight bytes each, so that a list of a million needs no hundred megabytes.

    It keeps their 64-bit hashes. Of a million ids two have the same one in one list of 37 million.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[array[int]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, id_: object) -> bool:
        return self._has(hash(id_))

    def add(self, ids: Iterable[str]) -> bool:
        """Adds ids; returns whether any of them is new."""
        before = self._size
        for wanted in map(hash, ids):
            if not self._has(wanted):
                self._recent.add(wanted)
                self._size += 1
        if len(self._recent) >= RECENT_IDS:
            self._sort()
        return self._size > before

    def _has(self, wanted: int) -> bool:
        if wanted in self._recent:
            return True
        for part in self._sorted:
            place = bisect_left(part, wanted)
            if place < len(part) and part[place] == wanted:
                return True
        return False

    def _sort(self) -> None:
        """Sorts the recent ids, together with arrays that are no longer than they are."""
        merged = array("q", sorted(self._recent))
        self._recent.clear()
        while self._sorted and len(self._sorted[-1]) <= len(merged) < SORTED_IDS:
            merged = array("q", sorted(chain(self._sorted.pop(), merged)))
        self._sorted.append(merged)


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
    _known: Ids = field(default_factory=Ids)
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
        self._stale_pages = 0 if self._known.add(ids) else self._stale_pages + 1
        return (self.last is None or self.last in ids) and self._stale_pages < MAX_STALE_PAGES
