"""The scheduler: carries out due duties and wishes in the department's lane."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import partial

from worker.core.decide import Policy
from worker.core.duties import (
    OVERDUE,
    UNSETTLED,
    Duty,
    arm_late_check,
    check_done,
    check_repaired,
    due_duty,
    duplicates_checked,
    put_off_due,
    suspend_debt,
)
from worker.core.gone import found, looked_for
from worker.core.model.causes import LateRemoval
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.wishes import (
    Approving,
    Binding,
    Correcting,
    Recreating,
    Reissuing,
    Rejecting,
    Sweeping,
    Wish,
)
from worker.core.removal import deletable_before
from worker.core.wishes import audit_of, has_begun, is_too_late, reference_of, too_late
from worker.flow.clock_watch import ClockWatch
from worker.flow.lanes import FIRST, LAST, Lanes, Progress, Rank
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.undelivered import UndeliveredCredentials
from worker.pipeline.bindings import Bindings
from worker.pipeline.corrections import Corrections
from worker.pipeline.disappearances import Disappearances, is_missing
from worker.pipeline.failures import is_unexpected
from worker.pipeline.outbox import Outbox
from worker.pipeline.owed_results import OwedResults
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.recreations import Recreations
from worker.pipeline.reissues import Reissues
from worker.pipeline.removals import Removals, rank_of_removal
from worker.pipeline.sweeps import Sweeps
from worker.ports import (
    Beside,
    CallFailed,
    Clock,
    DepartmentLocks,
    Duties,
    Holds,
    LedgerConflict,
    LedgerFailed,
    PublishFailed,
    Wishes,
)
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry

POLL_SECONDS = 1.0
DUE_BATCH = 100

Work = Callable[[], Awaitable[None]]


@dataclass
class Scheduler:
    """Files duties and wishes into the lanes, and carries them out there.

    A duty that fails is put off by the policy's settle window.
    """

    records: Records
    duties: Duties
    wishes: Wishes
    reissues: Reissues
    recreations: Recreations
    removals: Removals
    owed_results: OwedResults
    holds: Holds
    bindings: Bindings
    corrections: Corrections
    sweeps: Sweeps
    reconciler: Reconciler
    disappearances: Disappearances
    outbox: Outbox
    subaccounts: Subaccounts
    undelivered: UndeliveredCredentials
    lanes: Lanes
    locks: DepartmentLocks
    ledger_watch: LedgerWatch
    clock: Clock
    clock_watch: ClockWatch
    policy: Policy
    telemetry: Telemetry
    stopping: asyncio.Event
    _filed: set[Hashable] = field(default_factory=set)

    async def run(self) -> None:
        """Polls the ledger each `POLL_SECONDS`. Never returns."""
        while True:
            if self.ledger_watch.trouble is None:
                await self.file_due()
                await self.file_wishes()
                await self.look_at_undelivered()
            await self.outbox.retry_refused()
            await self.measure()
            await self.clock.sleep(POLL_SECONDS)

    async def file_due(self) -> None:
        """Files each department with a due duty into its lane, unless it is filed already."""
        try:
            now = self.clock.now()
            due = await self.duties.due(now, DUE_BATCH, deletable_before(self.policy, now))
        except LedgerFailed as error:
            self.telemetry.duty_failed(None, str(error))
            return
        for department in due:
            self._file(department, department, FIRST, partial(self._attend, department))

    async def file_wishes(self) -> None:
        """Files the open wishes. One that cannot be granted now is tried again while it is valid.

        None is too late by a clock that is wrong.
        """
        try:
            wishes = await self.wishes.wishes()
        except LedgerFailed as error:
            self.telemetry.duty_failed(None, str(error))
            return
        for wish in wishes:
            if wish.id in self._filed:
                continue
            if is_too_late(wish, self.clock.now()):
                if not self.clock_watch.is_off:
                    self._file(wish.id, wish.department, LAST, partial(self._end_too_late, wish))
            elif isinstance(wish.asks, Sweeping):
                self.sweeps.ask(wish)
            elif (grant := self._grant_of(wish)) is not None:
                self._file(wish.id, wish.department, LAST, grant)

    def _grant_of(self, wish: Wish) -> Work | None:
        """How to grant a wish; None if its next try is not due."""
        match wish.asks:
            case Reissuing():
                return partial(self.reissues.grant, wish)
            case Recreating() if self.recreations.is_due(wish):
                return partial(self.recreations.grant, wish)
            case Binding() as asks if self.bindings.is_due(wish):
                return partial(self.bindings.grant, wish, asks)
            case Correcting() as asks if self.corrections.is_due(wish):
                return partial(self.corrections.grant, wish, asks)
            case Approving() as asks:
                return partial(self._approve, wish, asks)
            case Rejecting() as asks:
                return partial(self.removals.reject, wish, asks)
            case _:
                return None

    async def _approve(self, wish: Wish, asks: Approving) -> None:
        """Records the approval and files the removal: a person waits for it."""
        await self.removals.approve(wish, asks)
        self._file_late_removal((await self.records.recall(wish.department)).entry)

    async def _end_too_late(self, wish: Wish) -> None:
        """Answers a wish that no worker has begun with in time; one that has begun is carried on."""
        known = await self.records.recall(wish.department, reference_of(wish))
        if known.answer is None and await self.wishes.is_open(wish.id):
            if has_begun(wish, known.entry):
                await self._carry_on(wish)
                return
            answer = too_late(wish, known.entry, self.clock.now())
            line = audit_of(wish, "", f"not done: {answer.reason}", answer.answered_at)
            if known.entry.revision:
                await self.records.granted(known.entry, answer, Beside(audit=(line,)))
            else:  # a department that the ledger does not know gets no entry by this
                await self.records.answered(answer)
            self.telemetry.duty_failed(
                wish.department, f"{wish.asks.kind} of {wish.asked_by}: {answer.reason}"
            )
        await self.wishes.close_wish(wish.id)

    async def _carry_on(self, wish: Wish) -> None:
        if (grant := self._grant_of(wish)) is not None:
            await grant()

    async def look_at_undelivered(self) -> None:
        """Unblocks the gate for each recipient that another worker has delivered to meanwhile."""
        for recipient, department in self.undelivered.examples.items():
            try:
                entry = (await self.records.recall(department)).entry
            except LedgerFailed:
                return  # the next use of the ledger reports it
            if recipient not in entry.owed_to:
                self.undelivered.delivered(recipient)

    async def measure(self) -> None:
        """Sets the gauges of creates without an outcome, debts and waiting holds."""
        now = self.clock.now()
        try:
            unsettled = await self.duties.unsettled(now - UNSETTLED)
            owing = await self.duties.owing()
            overdue = await self.duties.overdue(now - OVERDUE)
            waiting = await self.holds.waiting_holds()
        except LedgerFailed:
            return  # the next use of the ledger reports it
        self.telemetry.departments_counted(unsettled=unsettled, owing=owing, overdue=overdue)
        self.telemetry.holds_waiting(waiting)

    def _file(self, key: Hashable, department: Department, rank: Rank, work: Work) -> None:
        """Files work into the department's lane, unless work of the same key is there already."""
        if key in self._filed:
            return
        self._filed.add(key)

        async def attend() -> Progress:
            try:
                await self._carry_out(department, work)
            finally:
                self._filed.discard(key)
            return Progress.ENDED

        self.lanes.file(department, attend, rank)

    async def _carry_out(self, department: Department, work: Work) -> None:
        if self.stopping.is_set():
            return
        try:
            async with self.locks.hold(department):
                self.ledger_watch.check()
                await work()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the lane
            self._failed(department, error)

    async def _attend(self, department: Department) -> None:
        """Does the due duties, publishes owed results, and files a late removal that is due."""
        entry = (await self.records.recall(department)).entry
        while duty := due_duty(entry, self.clock.now()):
            await self._record(entry, await self._done(duty, entry))
            entry = (await self.records.recall(department)).entry
        now = self.clock.now()
        if entry.results_at is not None and entry.results_at <= now:
            entry = await self.owed_results.publish(entry)
        self._file_late_removal(entry)

    def _file_late_removal(self, entry: Entry) -> None:
        if entry.late_removal is not None:
            department, rank = entry.department, rank_of_removal(entry)
            removal = partial(self.removals.carry_out, department, rank)
            self._file((department, LateRemoval), department, rank, removal)

    def _failed(self, department: Department, error: Exception) -> None:
        """Reports the error. The duty or wish is still due at a later poll."""
        if is_unexpected(error):
            self.telemetry.step_crashed(error)
            return
        self.telemetry.duty_failed(department, str(error))
        if isinstance(error, LedgerFailed):
            self.ledger_watch.failed(error)

    async def _record(self, entry: Entry, done: Entry) -> None:
        try:
            await self.records.attended(done)
            self.outbox.forget_token(done)
        except LedgerConflict:
            if done.repairs != entry.repairs or done.check is not None:
                # A repair, with or without a response, may undo what is on record now.
                await self.reconciler.arm_late_check(entry.department)
            raise

    async def _done(self, duty: Duty, entry: Entry) -> Entry:
        """Does the duty, and puts off all that are due if it fails. Returns the entry."""
        try:
            return await self._do(duty, entry)
        except (CallFailed, PublishFailed) as failed:
            on_record = (
                await self.records.recall(entry.department)
            ).entry  # the duty may have announced a call
            return self._put_off(on_record, failed)

    def _put_off(self, entry: Entry, failed: CallFailed | PublishFailed) -> Entry:
        now = self.clock.now()
        if isinstance(failed, CallFailed) and is_missing(failed.fault):
            missing = looked_for(entry, self.policy, now)
            self.disappearances.tell(entry, missing)
            if missing.gone_at is not None:
                return missing
            entry = missing
        if not (isinstance(failed, CallFailed) and failed.fault.outage):  # the circuit has reported it
            self.telemetry.duty_failed(entry.department, str(failed))
        return put_off_due(entry, self.policy, now)

    async def _do(self, duty: Duty, entry: Entry) -> Entry:
        match duty:
            case Duty.CHECK:
                return await self._check(entry)
            case Duty.CHECK_DUPLICATES:
                await self._disable_duplicates(entry)
                return duplicates_checked(entry)
            case Duty.PAY_DEBT:
                return await self.outbox.retry_owed(entry)
            case Duty.SUSPEND_DEBT:
                self.undelivered.update(entry.department)
                return suspend_debt(entry)

    async def _check(self, entry: Entry) -> Entry:
        """Repairs the subaccount: a change without a response may have been carried out late."""
        update = await self.subaccounts.difference(entry)
        if update:
            # The repair may be carried out late too, also if this worker dies before its outcome is recorded.
            async with self.subaccounts.permit_to_update() as call:
                announced = arm_late_check(entry, self.policy, self.clock.now())
                entry = await self.records.announce(entry, announced)
                await self.subaccounts.repair(call, entry, update)
            self.telemetry.drift_mended(entry)
        entry = found(check_done(entry), self.policy, self.clock.now())
        return check_repaired(entry, self.policy, self.clock.now()) if update else entry

    async def _disable_duplicates(self, entry: Entry) -> None:
        """A create that took several tries may have been carried out twice, once very late."""
        duplicates = await self.subaccounts.disable_duplicates(entry)
        if duplicates:
            self.telemetry.doubles_disabled(entry, duplicates)
