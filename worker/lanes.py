"""One step at a time per department, many departments at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running_lanes() -> AsyncIterator["Lanes"]:
    """What still runs at the end of the block is cut off, not waited for."""
    async with asyncio.TaskGroup() as group:
        lanes = Lanes(group)
        try:
            yield lanes
        finally:
            lanes.cut_off()


class Lanes:
    """Runs what is filed under one key in order; different keys do not wait for each other.

    How much waits is bounded by the consumer's prefetch. Work must handle its own errors: one that escapes
    ends the task group, and with it the worker.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
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
        task = self._group.create_task(self._run(key, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def idle(self) -> None:
        """Returns once nothing runs and nothing waits."""
        await self._idle.wait()

    def cut_off(self) -> None:
        for task in self._running:
            task.cancel()

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
