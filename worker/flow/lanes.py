"""Lanes: one step at a time per department, many departments at once.

Steps of one department in parallel would contend for its ledger entry and could overtake each other. Sorted
newest first, the older events of a lane find their work done and cost no call.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

T = TypeVar("T")


class Progress(Enum):
    """The result of running work once."""

    ENDED = auto()
    """It is finished and leaves the lane."""

    YIELDED = auto()
    """It did nothing, because newer work has been filed. It runs again after that work."""


Work = Callable[[], Awaitable[Progress]]
Rank = tuple[Any, ...]
FIRST: Rank = ()
"""The rank of work that goes before all work with a rank."""

LAST: Rank = (False,)
"""The rank of work that goes after all work ranked by a longer tuple."""


@dataclass(frozen=True, slots=True)
class _Item:
    work: Work
    rank: Rank


@dataclass(slots=True)
class _Lane:
    """Work is taken in rounds, each sorted by rank; new work waits for the next round, so nothing starves.

    `size` counts all work in the lane: waiting, left in this round, and running.
    """

    waiting: list[_Item] = field(default_factory=list)
    round: deque[_Item] = field(default_factory=deque)
    size: int = 0

    def file(self, item: _Item) -> None:
        self.waiting.append(item)
        self.size += 1

    def next(self) -> _Item | None:
        if not self.round:
            self.round.extend(sorted(self.waiting, key=_priority, reverse=True))
            self.waiting.clear()
        return self.round.popleft() if self.round else None

    def put_back(self, item: _Item) -> None:
        self.waiting += [item, *self.round]
        self.round.clear()


def _priority(item: _Item) -> tuple[bool, Rank]:
    return item.rank == FIRST, item.rank


def _is_ranked(rank: Rank) -> bool:
    return rank not in (FIRST, LAST)


@asynccontextmanager
async def running_lanes() -> AsyncIterator["Lanes"]:
    """Lanes for the length of the block. Work that still runs at its end is cancelled."""
    lanes = Lanes()
    try:
        yield lanes
    finally:
        await lanes.cut_off()


class Lanes:
    """Runs the work filed under one key one at a time; different keys do not wait for each other.

    Of the work that waits under one key, the highest rank goes first. The consumer's prefetch limits the
    waiting work. Work handles its own errors: an exception would end its lane.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane] = {}
        self._ranked = 0
        self._running: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """The number of items that run or wait, under all keys."""
        return sum(lane.size for lane in self._lanes.values())

    @property
    def ranked(self) -> int:
        """The number of items with a rank of their own: events. Duties go first, and requests last."""
        return self._ranked

    def filed(self, key: Hashable) -> int:
        """The number of items that run or wait under this key."""
        lane = self._lanes.get(key)
        return lane.size if lane else 0

    def file(self, key: Hashable, work: Work, rank: Rank = FIRST) -> None:
        """Adds work under a key. Returns before any of it runs."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
            self._idle.clear()
            task = asyncio.create_task(self._run(key, lane))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        lane.file(_Item(work, rank))
        self._ranked += _is_ranked(rank)

    async def turn(self, key: Hashable, work: Callable[[], Awaitable[T]], rank: Rank = LAST) -> T:
        """Files work under a key, and returns its result or raises its error.

        If the caller is cancelled before its turn, nothing runs.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def attend() -> Progress:
            if result.cancelled():
                return Progress.ENDED
            try:
                value = await work()
            except Exception as error:  # noqa: BLE001 - it is raised to the caller
                if not result.cancelled():
                    result.set_exception(error)
            else:
                if not result.cancelled():
                    result.set_result(value)
            return Progress.ENDED

        self.file(key, attend, rank)
        return await result

    def overtaken(self, key: Hashable, rank: Rank) -> bool:
        """Whether work of a higher rank has been filed under this key since the current round began."""
        lane = self._lanes.get(key)
        return lane is not None and any(item.rank > rank for item in lane.waiting)

    async def idle(self) -> None:
        """Returns once nothing runs or waits."""
        while not self._idle.is_set():  # work may be filed just as the last one ends
            await self._idle.wait()

    async def cut_off(self) -> None:
        """Cancels running work at any point, and drops waiting work."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, key: Hashable, lane: _Lane) -> None:
        try:
            while item := lane.next():
                if await item.work() is Progress.YIELDED:
                    lane.put_back(item)
                else:
                    lane.size -= 1
                    self._ranked -= _is_ranked(item.rank)
        finally:
            del self._lanes[key]
            if not self._lanes:
                self._idle.set()
