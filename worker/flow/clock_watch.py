"""Blocks the gate while the worker's clock differs from the provider's.

The provider's adapter notes a comparison with each response that carries a date.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from worker.core.clock_skew import Comparison, in_words, trustworthy
from worker.flow.gate import Gate
from worker.ports import CallFailed, Clock
from worker.telemetry.events import Telemetry

BLOCKER = "clock"
POLL_SECONDS = 1.0
ASK_AGAIN_SECONDS = 5.0
"""While the clock is wrong no calls are made for messages, so the provider is asked this often."""


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
    """Decides whether the clock is trusted. `ask` makes a call at the provider; it raises `CallFailed`.

    Without `comparisons` the provider cannot be compared with, and the clock is trusted.
    """

    comparisons: Comparisons | None
    ask: Callable[[], Awaitable[None]]
    gate: Gate
    clock: Clock
    telemetry: Telemetry
    _wanted: bool = False

    def trusted(self) -> bool:
        """Whether the clock may make an event invalid. If that is not known, the provider is asked soon."""
        if self.comparisons is None or trustworthy(self.comparisons.latest, self.clock.monotonic()):
            return True
        self._wanted = True
        return False

    async def run(self) -> None:
        """Looks every `POLL_SECONDS`. Never returns."""
        while True:
            await self.look()
            await self.clock.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Blocks or unblocks the gate by the latest comparison, and asks for a new one where needed."""
        self._show()
        if self._wanted or self._is_due():
            self._wanted = False
            with suppress(CallFailed):  # the circuit breaker's concern
                await self.ask()
            self._show()

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
