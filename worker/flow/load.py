"""Measures the load each second: the metrics are read in another thread, which cannot count the lanes."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.flow.lanes import Lanes
from worker.flow.waiting import WaitingRoom
from worker.ports import Clock
from worker.telemetry.events import Telemetry

MEASURE_SECONDS = 1.0


@dataclass(frozen=True)
class LoadWatch:
    """Tells how much the worker has in hand. `rate_used`: see `RateLimiter.used`."""

    lanes: Lanes
    waiting: WaitingRoom
    rate_used: Callable[[], float]
    clock: Clock
    telemetry: Telemetry

    async def run(self) -> None:
        """Never returns."""
        while True:
            self.telemetry.load(
                held=len(self.lanes),
                lanes_waiting=self.waiting.lanes,
                messages_waiting=len(self.waiting),
                rate_used=self.rate_used(),
            )
            await self.clock.sleep(MEASURE_SECONDS)
