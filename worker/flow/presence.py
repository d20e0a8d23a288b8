"""Says in the ledger that the worker runs: commands wait for it, and `provisioner status` shows it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from worker.core.presence import BEAT_SECONDS, WorkerSeen
from worker.ports import Clock, LedgerFailed, Presence

Describe = Callable[[], Awaitable[WorkerSeen]]
"""What the worker says of itself now."""


@dataclass
class Announcer:
    """Announces the worker each `BEAT_SECONDS`, until `is_stopping`: then it has left.

    It waits for nothing but the ledger: neither the duties nor the broker delay it. `on_failure` gets each
    failure of the ledger.
    """

    presence: Presence
    worker_id: str
    describe: Describe
    is_stopping: Callable[[], bool]
    clock: Clock
    on_failure: Callable[[LedgerFailed], None]

    async def run(self) -> None:
        """Never returns."""
        while True:
            begun = self.clock.monotonic()
            try:
                await self._beat()
            except LedgerFailed as error:
                self.on_failure(error)
            await self.clock.sleep(max(0.0, begun + BEAT_SECONDS - self.clock.monotonic()))

    async def leave(self) -> None:
        """Tells those who look that the worker does no further work. Does nothing without the ledger."""
        with suppress(LedgerFailed):
            await self.presence.leave(self.worker_id)

    async def _beat(self) -> None:
        if self.is_stopping():
            await self.presence.leave(self.worker_id)
        else:
            await self.presence.announce(await self.describe())
