"""How fast calls go out: as many as allowed in any window, fewer after being told that it was too fast."""

import asyncio
from collections import deque

from worker.ports import RateLimit

GUARD = 0.02
"""Part of the window kept free: calls may be closer together when they arrive than when they were sent."""

GROWTH = 0.1
"""Part of the limit regained in each window that passes without complaint."""


class Stopping(Exception):
    """No further call begins."""


class Pace:
    """A log of send times. Unlike a bucket it never lets two windows' worth through in one."""

    def __init__(self, limit: RateLimit, stopping: asyncio.Event) -> None:
        self._limit = limit.calls
        self._window = limit.window.total_seconds() * (1 + GUARD)
        self._allowed = float(limit.calls)
        self._sent: deque[float] = deque(maxlen=limit.calls)
        self._changed_at = 0.0
        self._closed_until = 0.0
        self._turn = asyncio.Lock()
        self._stopping = stopping

    @property
    def allowed(self) -> int:
        """Calls in a window, at present."""
        return int(self._allowed)

    async def wait(self) -> None:
        """Returns when one more call may be sent, in the order asked; raises `Stopping`."""
        async with self._turn:
            while (seconds := self._seconds_to_wait()) > 0:
                await self._pass(seconds)
            if self._stopping.is_set():
                raise Stopping
            self._sent.append(_time())

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """After a 429. Of many at a time, sent before the first was heard of, only one counts."""
        now = _time()
        self._closed_until = max(self._closed_until, now + (retry_after_seconds or 0.0))
        if self._allowed == self._limit or now >= self._changed_at + self._window:
            self._allowed = max(1.0, self._allowed / 2)
            self._changed_at = now

    def _seconds_to_wait(self) -> float:
        now = _time()
        self._grow_back(now)
        free_at = self._closed_until
        if len(self._sent) >= self.allowed:
            free_at = max(free_at, self._sent[-self.allowed] + self._window)
        return free_at - now

    def _grow_back(self, now: float) -> None:
        windows = (now - max(self._changed_at, self._closed_until)) // self._window
        if self._allowed < self._limit and windows >= 1:
            self._allowed = min(self._limit, self._allowed + windows * GROWTH * self._limit)
            self._changed_at = now

    async def _pass(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopping


def _time() -> float:
    return asyncio.get_running_loop().time()
