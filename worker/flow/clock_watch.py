"""Blocks the gate while the worker's clock differs from the provider's.

The provider's adapter notes a comparison with each response that carries a date.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from worker.core.clock_skew import Comparison, in_words, trustworthy
from worker.core.model.causes import Reference
from worker.flow.gate import Gate
from worker.flow.waiting import sleep_unless_stopping
from worker.ports import Clock
from worker.telemetry.events import Telemetry

BLOCKER = "clock"
POLL_SECONDS = 1.0
ASK_AGAIN_SECONDS = 5.0
"""While the clock is wrong no calls are made for messages, so the provider is asked this often."""
FORGET_SECONDS = 600.0
"""A doubted event that was not decided by then went to another worker, or back to the queue."""


@dataclass
class Comparisons:
    """The latest comparison of the worker's clock with the provider's."""

    clock: Clock
    latest: Comparison | None = None

    def note(self, skew: timedelta | None) -> None:
        """Notes how far the provider's clock is ahead; None for a response without a date."""
        self.latest = Comparison(skew, self.clock.monotonic())


@dataclass
class ClockWatch:
    """Decides whether the clock is trusted. `ask` makes a call at the provider, and never fails.

    Without `comparisons` the provider cannot be compared with, and the clock is trusted.
    """

    comparisons: Comparisons | None
    ask: Callable[[], Awaitable[None]]
    gate: Gate
    clock: Clock
    telemetry: Telemetry
    _doubted: dict[Reference, float] = field(default_factory=dict)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_off(self) -> bool:
        """Whether the clock was wrong when it was last compared: then no grace is over by it."""
        latest = self.comparisons.latest if self.comparisons else None
        return latest is not None and latest.off

    def may_refuse(self, event: Reference) -> bool:
        """Whether the clock, which makes this event invalid, is right. If that is unknown, `ask` follows."""
        if self.comparisons is None:
            return True
        since = self._doubted.setdefault(event, self.clock.monotonic())
        if trustworthy(self.comparisons.latest, since):
            del self._doubted[event]
            return True
        self._wanted.set()
        return False

    async def run(self) -> None:
        """Looks every `POLL_SECONDS`, and at once when an event waits. Never returns."""
        while True:
            if await self.look():
                await self.clock.sleep(POLL_SECONDS)  # so that many events share one call
            await sleep_unless_stopping(self.clock, POLL_SECONDS, self._wanted)

    async def look(self) -> bool:
        """Blocks or unblocks the gate by the latest comparison. Returns whether a new one was asked for."""
        self._forget()
        self._show()
        if not (self._wanted.is_set() or self._is_due()):
            return False
        self._wanted.clear()
        await self.ask()
        self._show()
        self.gate.waiting.end_pauses()  # of the events that wait for the comparison
        return True

    def _is_due(self) -> bool:
        latest = self.comparisons.latest if self.comparisons else None
        return latest is not None and latest.off and self.clock.monotonic() >= latest.at + ASK_AGAIN_SECONDS

    def _show(self) -> None:
        latest = self.comparisons.latest if self.comparisons else None
        if latest is None:
            return
        skew = latest.skew or timedelta(0)
        self.telemetry.clock_skew(skew.total_seconds())
        if latest.off:
            self.gate.block(BLOCKER, in_words(skew))
        else:
            self.gate.unblock(BLOCKER)

    def _forget(self) -> None:
        oldest = self.clock.monotonic() - FORGET_SECONDS
        self._doubted = {event: since for event, since in self._doubted.items() if since > oldest}
