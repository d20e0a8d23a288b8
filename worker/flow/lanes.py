"""One step at a time per department, many departments at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class Progress(Enum):
    """What has become of work when it returns."""

    ENDED = auto()
    YIELDED = auto()
    """Nothing was done: what is newer goes first."""


Work = Callable[[], Awaitable[Progress]]
Rank = tuple[Any, ...]
FIRST: Rank = ()
"""The rank of what goes before all that is ranked."""

LAST: Rank = (False,)
"""The rank of what goes after all that is ranked by a longer tuple."""


@dataclass(frozen=True, slots=True)
class _Filed:
    work: Work
    rank: Rank


@dataclass(slots=True)
class _Lane:
    """`taken` is gone through, newest first; what comes meanwhile waits for the next time round.

    `size` counts both, and what runs.
    """

    waiting: list[_Filed] = field(default_factory=list)
    taken: deque[_Filed] = field(default_factory=deque)
    size: int = 0

    def file(self, filed: _Filed) -> None:
        self.waiting.append(filed)
        self.size += 1

    def next(self) -> _Filed | None:
        if not self.taken:
            ranked = sorted(self.waiting, key=lambda filed: (filed.rank == FIRST, filed.rank), reverse=True)
            self.taken.extend(ranked)
            self.waiting.clear()
        return self.taken.popleft() if self.taken else None

    def put_back(self, filed: _Filed) -> None:
        self.waiting += [filed, *self.taken]
        self.taken.clear()


@asynccontextmanager
async def running_lanes() -> AsyncIterator["Lanes"]:
    """What still runs at the end of the block is cut off, not waited for."""
    lanes = Lanes()
    try:
        yield lanes
    finally:
        await lanes.cut_off()


class Lanes:
    """Runs what is filed under one key, one at a time; different keys do not wait for each other.

    Of several that wait under one key the highest rank goes first: after the newest event the older ones cost
    no call. How much waits is bounded by the consumer's prefetch. Work handles its own errors.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return sum(lane.size for lane in self._lanes.values())

    def filed(self, key: Hashable) -> int:
        """How many run or wait under a key."""
        lane = self._lanes.get(key)
        return lane.size if lane else 0

    def file(self, key: Hashable, work: Work, rank: Rank = FIRST) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
            self._idle.clear()
            task = asyncio.create_task(self._run(key, lane))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        lane.file(_Filed(work, rank))

    def overtaken(self, key: Hashable, rank: Rank) -> bool:
        """Whether something of a higher rank has come under that key meanwhile."""
        lane = self._lanes.get(key)
        return lane is not None and any(filed.rank > rank for filed in lane.waiting)

    async def idle(self) -> None:
        """Returns once nothing runs and nothing waits."""
        await self._idle.wait()

    async def cut_off(self) -> None:
        """Ends what runs, wherever it is."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, key: Hashable, lane: _Lane) -> None:
        try:
            while filed := lane.next():
                if await filed.work() is Progress.YIELDED:
                    lane.put_back(filed)
                else:
                    lane.size -= 1
        finally:
            del self._lanes[key]
            if not self._lanes:
                self._idle.set()
