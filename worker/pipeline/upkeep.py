"""Upkeep: the worker forgets old answers daily, and notes that the ledger is still complete.

Neither is urgent, so both go in steps of milliseconds with pauses between them: no event waits for them.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from worker.core.keeping import CURRENT_FOR, RETENTION, may_be_behind
from worker.core.model.departments import EVERY_DEPARTMENT
from worker.ports import Clock, LedgerFailed, Purges, Register
from worker.telemetry.events import Telemetry

POLL = timedelta(minutes=10)

PURGE_EVERY = timedelta(hours=24)

DEPARTMENTS_AT_ONCE = 200
PAUSE_SECONDS = 0.2
"""A million departments take 17 minutes and a hundredth of one core."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Keeps the ledger small, and its note of being complete fresh. Many workers may do it on one ledger."""

    register: Register
    purges: Purges
    clock: Clock
    telemetry: Telemetry
    stopping: asyncio.Event

    async def stay_current(self) -> None:
        """Notes that the ledger knows every subaccount, while it does. Never returns.

        A ledger that is not current gets no note before the whole list was read: see `Orphans`.
        """
        while True:
            try:
                now = self.clock.now()
                if not may_be_behind(await self.register.caught_up_at(), now):
                    await self.register.note_still_caught_up(now)
            except LedgerFailed:
                pass  # the next use of the ledger reports it
            await self.clock.sleep(min(POLL, CURRENT_FOR / 4).total_seconds())

    async def purge_daily(self) -> None:
        """Purges once a day, the first time a while after the start. Never returns."""
        while True:
            await self.clock.sleep(POLL.total_seconds())
            try:
                if await self._is_due():
                    await self._purge()
            except LedgerFailed as error:
                self.telemetry.purge_failed(str(error))

    async def _is_due(self) -> bool:
        last = await self.purges.purged_at()
        return last is None or abs(self.clock.now() - last) >= PURGE_EVERY

    async def _purge(self) -> None:
        """Another worker begins none meanwhile. If the worker ends, the next day's purge does the rest."""
        begun = self.clock.now()
        await self.purges.note_purge(begun)
        removed, last = 0, EVERY_DEPARTMENT
        while not self.stopping.is_set():
            step = await self.purges.purge(begun - RETENTION, last, DEPARTMENTS_AT_ONCE)
            removed += step.removed
            if step.last is None:
                break
            last = step.last
            await self.clock.sleep(PAUSE_SECONDS)
        self.telemetry.purged(removed, (self.clock.now() - begun).total_seconds())
