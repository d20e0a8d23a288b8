"""One step at a time per department, many departments at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running_lanes() -> AsyncIterator["Lanes"]:
    """What still runs at the end of the block is cut off, not waited for."""
    lanes = Lanes()
    try:
        yield lanes
    finally:
        await lanes.cut_off()


class Lanes:
    """Runs what is filed under one key in order; different keys do not wait for each other.

    How much waits is bounded by the consumer's prefetch. Work handles its own errors.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Work]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return sum(1 + len(lane) for lane in self._waiting.values())

    def file(self, key: Hashable, work: Work) -> None:
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append(work)
            return
        self._waiting[key] = deque()
        self._idle.clear()
        task = asyncio.create_task(self._run(key, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def idle(self) -> None:
        """Returns once nothing runs and nothing waits."""
        await self._idle.wait()

    async def cut_off(self) -> None:
        """Ends what runs, wherever it is."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, key: Hashable, work: Work) -> None:
        lane = self._waiting[key]
        try:
            await work()
            while lane:
                await lane.popleft()()
        finally:
            del self._waiting[key]
            if not self._waiting:
                self._idle.set()
