"""The pace of work that is not urgent: it leaves most of the rate limit to events."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from worker.flow.waiting import sleep_unless_stopping
from worker.ports import CallRate, Clock
from worker.provider.rate import Stopping

IDLE_SHARE = 0.5
"""The part of the rate limit that may be used while no event waits. An event that arrives finds room."""

BUSY_SHARE = 0.1
"""The part while events wait."""

AHEAD_SECONDS = 1.0
"""How far calls that are taken at once may be ahead of their pace."""


NEGLIGIBLE_SECONDS = 1e-4
"""A shorter wait may be below the resolution of the clock."""


@dataclass
class Pace:
    """Spaces calls evenly, within a share of the rate limit. `is_busy`: whether events wait.

    It comes on top of the permits, which keep the limit itself.
    """

    rate: CallRate
    is_busy: Callable[[], bool]
    clock: Clock
    stopping: asyncio.Event
    _next_at: float = 0.0

    async def turn(self) -> None:
        """Waits until one more call may be made. Raises `Stopping`."""
        while not self.stopping.is_set():
            seconds = self._next_at - self.clock.monotonic()
            if seconds < NEGLIGIBLE_SECONDS:
                self._advance(1)
                return
            await sleep_unless_stopping(self.clock, seconds, self.stopping)
        raise Stopping

    def take(self, calls: int) -> bool:
        """Whether so many calls may be made now, without a wait; if so, they are counted."""
        if self._next_at > self.clock.monotonic() + AHEAD_SECONDS:
            return False
        self._advance(calls)
        return True

    def _advance(self, calls: int) -> None:
        share = BUSY_SHARE if self.is_busy() else IDLE_SHARE
        gap = self.rate.window.total_seconds() / (max(1, self.rate.calls) * share)
        self._next_at = max(self._next_at, self.clock.monotonic()) + calls * gap
