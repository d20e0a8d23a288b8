"""Duties: what an entry has due later. One scheduler takes them through the department's lane."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from worker.core.conclude import put_off_owed
from worker.core.decide import Policy
from worker.core.judge import FaultKind
from worker.core.model import Department, Entry, Status, Wish, replace
from worker.core.reissue import WISH_GOOD_FOR
from worker.flow.lanes import LAST, Lanes, Progress
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.undelivered import UndeliveredCredentials
from worker.pipeline.outbox import Outbox
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.reissues import Reissues
from worker.ports import CallFailed, Clock, Duties, LedgerConflict, LedgerFailed, PublishFailed, Wishes
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry

POLL_SECONDS = 1.0
OVERDUE = timedelta(minutes=5)
"""What is owed for longer is told of."""
DUE_BATCH = 100
MOST_MENDS = 5
"""How often checks set something right before it is left as it is."""


@dataclass
class Scheduler:
    """Runs for ever; a duty that fails is due again a little later."""

    records: Records
    duties: Duties
    wishes: Wishes
    reissues: Reissues
    reconciler: Reconciler
    outbox: Outbox
    subaccounts: Subaccounts
    undelivered: UndeliveredCredentials
    lanes: Lanes
    ledger_watch: LedgerWatch
    clock: Clock
    policy: Policy
    telemetry: Telemetry
    stopping: asyncio.Event
    _filed: set[Department] = field(default_factory=set)
    _filed_wishes: set[str] = field(default_factory=set)

    async def run(self) -> None:
        while True:
            if self.ledger_watch.trouble is None:
                await self.file_what_is_due()
                await self.file_wishes()
            await self.measure_debts()
            await self.clock.sleep(POLL_SECONDS)

    async def file_what_is_due(self) -> None:
        try:
            due = await self.duties.due(self.clock.now(), DUE_BATCH)
        except LedgerFailed as error:
            self.telemetry.duty_failed(None, str(error))
            return
        for department in due:
            if department not in self._filed:
                self._filed.add(department)
                self._file(department)

    async def file_wishes(self) -> None:
        """What cannot be granted now is tried again at the next poll, while it is good."""
        try:
            wishes = await self.wishes.wishes(self.clock.now() - WISH_GOOD_FOR)
        except LedgerFailed as error:
            self.telemetry.duty_failed(None, str(error))
            return
        for wish in wishes:
            if wish.id not in self._filed_wishes:
                self._filed_wishes.add(wish.id)
                self._file_wish(wish)

    def _file_wish(self, wish: Wish) -> None:
        async def attend() -> Progress:
            try:
                if not self.stopping.is_set():
                    await self._grant(wish)
            finally:
                self._filed_wishes.discard(wish.id)
            return Progress.ENDED

        self.lanes.file(wish.department, attend, LAST)

    async def _grant(self, wish: Wish) -> None:
        try:
            self.ledger_watch.check()
            await self.reissues.grant(wish)
        except LedgerFailed as error:
            self._ledger_failed(wish.department, error)
        except (CallFailed, PublishFailed, LedgerConflict) as error:
            self.telemetry.duty_failed(wish.department, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not take the lane down
            self.telemetry.step_crashed(error)

    async def measure_debts(self) -> None:
        try:
            overdue = await self.duties.overdue(self.clock.now() - OVERDUE)
        except LedgerFailed:
            return  # told by whoever needed it
        self.telemetry.debts_overdue(overdue)

    def _file(self, department: Department) -> None:
        async def attend() -> Progress:
            try:
                await self._attend(department)
            finally:
                self._filed.discard(department)
            return Progress.ENDED

        self.lanes.file(department, attend)

    async def _attend(self, department: Department) -> None:
        if self.stopping.is_set():
            return
        try:
            self.ledger_watch.check()
            entry = (await self.records.recall(department)).entry
            await self._record(entry, await self._done(entry))
        except LedgerConflict as error:
            self.telemetry.duty_failed(department, str(error))
        except LedgerFailed as error:
            self._ledger_failed(department, error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not take the lane down
            self.telemetry.step_crashed(error)

    def _ledger_failed(self, department: Department, error: LedgerFailed) -> None:
        self.telemetry.duty_failed(department, str(error))
        self.ledger_watch.failed()

    async def _record(self, entry: Entry, done: Entry) -> None:
        try:
            await self.records.attended(done)
        except LedgerConflict:
            if done.mends != entry.mends:  # what was set right may be over what the other worker has done
                await self.reconciler.arm_check(entry.department)
            raise

    async def _done(self, entry: Entry) -> Entry:
        """The entry once its duties that are due are done, or put off where the provider does not let us."""
        now = self.clock.now()
        if entry.status is Status.CLAIMED:
            return entry  # nothing is due until the create is settled
        try:
            if entry.check_at is not None and entry.check_at <= now:
                entry = await self._checked(entry)
            if entry.recount_at is not None and entry.recount_at <= now:
                await self._recount(entry)
                entry = replace(entry, recount_at=None)
            if entry.owed_at is not None and entry.owed_at <= now:
                entry = await self._deliver(entry)
        except (CallFailed, PublishFailed) as failed:
            if not (isinstance(failed, CallFailed) and failed.fault.outage):  # all of them would say the same
                self.telemetry.duty_failed(entry.department, str(failed))
            return _put_off(entry, now, now + self.policy.settle_window)
        return entry

    async def _deliver(self, entry: Entry) -> Entry:
        """Credentials whose event could not deliver them: it died, or nobody was bound for them."""
        if entry.status is not Status.ACTIVE or not entry.owes:
            self.undelivered.update(entry.department)
            return replace(entry, owed_at=None)
        return await self.outbox.retry_owed(entry)

    async def _checked(self, entry: Entry) -> Entry:
        """A change without an answer may have come late, over a newer one; if so, look once more later."""
        done = replace(entry, check_at=None, late_call=False)
        try:
            if not await self.subaccounts.repair(entry):
                return done
        except CallFailed as failed:
            if failed.fault.kind is not FaultKind.NOT_FOUND:
                raise
            self.telemetry.subaccount_missing(entry)  # somebody deleted it: not made anew unasked
            return done
        self.telemetry.drift_mended(entry)
        mends = entry.mends + 1
        if mends % MOST_MENDS == 0:  # it shows a name as it likes, say: no late call does that so often
            return replace(done, mends=mends)
        again_at = self.clock.now() + self.policy.settle_window
        return replace(entry, check_at=again_at, late_call=True, mends=mends)

    async def _recount(self, entry: Entry) -> None:
        """A create that took more than one try may have been carried out twice, the other one very late."""
        duplicates = await self.subaccounts.disable_duplicates(entry)
        if duplicates:
            self.telemetry.doubles_disabled(entry, duplicates)


def _put_off(entry: Entry, now: datetime, until: datetime) -> Entry:
    def later(at: datetime | None) -> datetime | None:
        return until if at is not None and at <= now else at

    check_at, recount_at = later(entry.check_at), later(entry.recount_at)
    put_off = replace(entry, check_at=check_at, recount_at=recount_at)
    return put_off_owed(put_off, now) if entry.owed_at and entry.owed_at <= now else put_off
