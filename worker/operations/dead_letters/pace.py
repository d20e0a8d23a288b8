"""How fast dead letters go."""

import asyncio
from dataclasses import dataclass

from worker.flow.waiting import pause
from worker.ports import Clock

BATCHES_PER_SECOND = 50
UNSLOWED_AT_ONCE = 500
LONG_SECOND = 1.05
"""What leaves evenly arrives less so: some fifty milliseconds sooner or later."""


@dataclass
class Pace:
    """In no second more than `per_second` begin, however they are batched. One for all of a replay.

    Each batch pushes the next away by its size. Where sizes differ, a second may hold `at_once` - 1 more than
    evenly: a long second has room for them, too.
    """

    clock: Clock
    per_second: float | None = None
    _next_at: float | None = None

    @property
    def at_once(self) -> int:
        """The most a batch may hold."""
        return max(1, int(self.per_second) // BATCHES_PER_SECOND) if self.per_second else UNSLOWED_AT_ONCE

    @property
    def wait_seconds(self) -> float:
        """Until the next batch may begin."""
        return 0.0 if self._next_at is None else max(0.0, self._next_at - self.clock.monotonic())

    async def turn(self, stopping: asyncio.Event) -> None:
        """Waits until the next batch may begin, or for the stop."""
        if self.wait_seconds and not stopping.is_set():
            await pause(self.clock, self.wait_seconds, stopping)

    def begin(self, count: int) -> None:
        """So many begin now."""
        if self.per_second is not None and count:
            whole = int(self.per_second) or self.per_second
            self._next_at = self.clock.monotonic() + LONG_SECOND * count / whole
