"""Sizes and rates of the batches in which dead letters are read, replayed and removed."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

from worker.flow.waiting import sleep_unless_stopping
from worker.ports import Clock

BATCH_LETTERS = 500
"""The most letters read or removed at once."""

GROWING = (1, 2, 5, 10, 20, 50, 100, 200, 500)
LARGEST_BATCH = 1_000

BATCHES_PER_SECOND = 50
LONG_SECOND = 1.05
"""A second with a margin: letters that are sent evenly arrive some fifty milliseconds early or late."""


def batch_sizes() -> Iterator[int]:
    """The sizes of replay batches whose outcomes are awaited: a few letters first, then more."""
    return chain(GROWING, repeat(LARGEST_BATCH))


@dataclass
class LetterRate:
    """A limit of `per_second` letters in any second, however they are batched; None: no limit.

    Each batch delays the next by its size. Where sizes differ, a second may hold `batch_letters` - 1 more
    than an even flow: `LONG_SECOND` leaves room for them, too. One instance serves a whole replay.
    """

    clock: Clock
    per_second: float | None = None
    _next_at: float | None = None

    @property
    def batch_letters(self) -> int:
        """The most a batch may hold."""
        return max(1, int(self.per_second) // BATCHES_PER_SECOND) if self.per_second else BATCH_LETTERS

    @property
    def wait_seconds(self) -> float:
        """Seconds until the next batch may begin."""
        return 0.0 if self._next_at is None else max(0.0, self._next_at - self.clock.monotonic())

    async def wait(self, stopping: asyncio.Event) -> None:
        """Waits until the next batch may begin, or until `stopping` is set."""
        if self.wait_seconds and not stopping.is_set():
            await sleep_unless_stopping(self.clock, self.wait_seconds, stopping)

    def begin(self, letters: int) -> None:
        """Records that a batch of `letters` letters begins now."""
        if self.per_second is not None and letters:
            whole = int(self.per_second) or self.per_second
            self._next_at = self.clock.monotonic() + LONG_SECOND * letters / whole
