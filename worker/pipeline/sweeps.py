"""Sweeps: the worker compares the provider's list with the ledger, daily and when a person asks for it.

One sweep runs at a time, in the background: no lane waits for it, and a drain ends it. What was found is a
report in the ledger. A sweep that died leaves nothing; it is due again, and the wish for it is still open.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.subaccounts import ResultCode, ResultKind
from worker.core.drift import Report, corrections, sweep_id
from worker.core.model.answers import Answer
from worker.core.model.departments import EVERY_DEPARTMENT
from worker.core.model.wishes import Sweeping, Wish
from worker.core.wishes import reference_of
from worker.pipeline.comparison import Comparison, ListContradicted
from worker.ports import CallFailed, Clock, DepartmentLocks, Ledger, LedgerFailed
from worker.provider.rate import Stopping
from worker.telemetry.events import Telemetry

POLL_SECONDS = 1.0

FIRST_AFTER = timedelta(minutes=5)
"""The first sweep of a worker begins at the earliest this long after its start."""

AGAIN_AFTER = timedelta(minutes=10)
"""The time after which a failed sweep is tried again."""

LONGEST_SPREAD = timedelta(minutes=10)
SPREAD = 0.1
"""Sweeps are spread over this part of their interval, so that deployments do not list at the same moment."""


@dataclass(frozen=True, slots=True)
class OwnSweeps:
    """How often the worker sweeps by itself; `every` None: never. `fixes`: it corrects what it finds then."""

    every: timedelta | None = None
    fixes: bool = False


NO_OWN_SWEEPS = OwnSweeps()


@dataclass
class Sweeps:
    """Makes the sweeps that are due or asked for.

    `is_well`: whether the provider serves calls. A sweep that is due waits for that; one that a person waits
    for fails, and says why.
    """

    comparison: Comparison
    ledger: Ledger
    locks: DepartmentLocks
    owner: str
    own: OwnSweeps
    is_well: Callable[[], bool]
    clock: Clock
    telemetry: Telemetry
    stopping: asyncio.Event
    _asked: dict[str, Wish] = field(default_factory=dict)
    _not_before: datetime | None = None
    _spread: timedelta = timedelta(0)

    async def run(self) -> None:
        """Looks each `POLL_SECONDS` whether a sweep is due or asked for. Never returns."""
        with suppress(LedgerFailed):  # the next use of the ledger reports it
            if (last := await self.ledger.last_sweep_at()) is not None:
                self.telemetry.sweep_on_record(last)
        while True:
            if not self.stopping.is_set():
                await self.attend()
            await self.clock.sleep(POLL_SECONDS)

    def ask(self, wish: Wish) -> None:
        """Takes note of a wish to sweep."""
        self._asked[wish.id] = wish

    async def attend(self) -> None:
        """Makes the sweeps that are asked for, then one that is due."""
        try:
            while self._asked:
                await self._grant(self._asked.pop(next(iter(self._asked))))
            if await self._is_due():
                await self._sweep_unasked()
        except LedgerFailed as error:
            self.telemetry.sweep_failed(str(error))
            self._put_off()
        except Stopping:
            return

    async def _grant(self, wish: Wish) -> None:
        """Sweeps for a person, and answers the wish. Raises `LedgerFailed` and `Stopping`."""
        async with self.locks.hold(EVERY_DEPARTMENT):
            if wish not in await self.ledger.wishes():
                return  # it was withdrawn, or answered by another worker
            kept = await self.ledger.sweep(wish.id)
            if kept is not None:  # a worker died before it answered
                await self._answer(wish, Report.from_json(kept), None)
                return
            report, why_not = await self._swept()
            if report is not None:
                fixes = isinstance(wish.asks, Sweeping) and wish.asks.fixes
                await self._keep(wish.id, report, fixes=fixes)
            await self._answer(wish, report, why_not)

    async def _sweep_unasked(self) -> None:
        async with self.locks.hold(EVERY_DEPARTMENT):
            if not await self._is_due():
                return  # another worker has made it meanwhile
            report, why_not = await self._swept()
            if report is None:
                self._put_off()
                self.telemetry.sweep_failed(why_not or "")
                return
            await self._keep(sweep_id(self.owner, report.started_at), report, fixes=self.own.fixes)

    async def _swept(self) -> tuple[Report | None, str | None]:
        """The report, or why there is none."""
        try:
            return await self.comparison.sweep(), None
        except (CallFailed, ListContradicted) as error:
            return None, str(error)

    async def _keep(self, id_: str, report: Report, *, fixes: bool) -> None:
        """Asks for the corrections first: a worker that dies in between sweeps again."""
        if fixes:
            now = self.clock.now()
            await self.ledger.wish(*corrections(report.findings, id_, now, await self.ledger.wishes()))
        await self.ledger.note_sweep(id_, report.finished_at, report.to_json())
        self.telemetry.sweep_finished(
            report.counts,
            subaccounts=report.subaccounts,
            seconds=(report.finished_at - report.started_at).total_seconds(),
            finished_at=report.finished_at,
        )

    async def _answer(self, wish: Wish, report: Report | None, why_not: str | None) -> None:
        outcome = ResultKind.UNCHANGED if report else ResultKind.FAILED
        answer = Answer(
            department=EVERY_DEPARTMENT,
            event=reference_of(wish),
            payload_digest=wish.id,
            outcome=outcome,
            code=ResultCode.UNCHANGED if report else ResultCode.NOT_ALLOWED,
            answered_at=self.clock.now(),
            reason=f"{len(report.findings)} findings" if report else why_not,
            confirmed=True,
        )
        await self.ledger.record_answer(answer)
        await self.ledger.close_wish(wish.id)

    async def _is_due(self) -> bool:
        """Whether it is time for a sweep that nobody asked for, and the provider is well."""
        every, now = self.own.every, self.clock.now()
        if every is None:
            return False
        if self._not_before is None:
            self._not_before = now + min(every, FIRST_AFTER)
            self._spread = min(every * SPREAD, LONGEST_SPREAD) * self.clock.jitter()
        if now < self._not_before or not self.is_well():
            return False
        last = await self.ledger.last_sweep_at()
        if last is not None:  # a time in the future, after the clock was set back, counts as now
            self._not_before = min(last, now) + every + self._spread
        return now >= self._not_before

    def _put_off(self) -> None:
        if self.own.every is not None:
            self._not_before = self.clock.now() + min(self.own.every, AGAIN_AFTER)
