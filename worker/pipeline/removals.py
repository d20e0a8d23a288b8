"""Removals without their message: their grace is over, or a person has ruled on a held one.

They take the line of an event, so they are decided again on the entry as it is then. A failed one is on
record with its tries, and is tried again with growing pauses.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.subaccounts import ResultCode, ResultKind
from worker.core.dead_letters import AuditLine
from worker.core.decide import Policy
from worker.core.holds import approved, lapsed, rejected
from worker.core.judge import Done, Failure, Missing, Unavailable, Unknown, told
from worker.core.model.answers import Answer
from worker.core.model.causes import LateRemoval, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, HoldState, Ruling
from worker.core.model.removals import Retry
from worker.core.model.wishes import Approving, Rejecting, Wish
from worker.core.removal import has_lapsed, is_removal_due, may_approve
from worker.core.wishes import reference_of
from worker.flow.clock_watch import ClockWatch
from worker.flow.lanes import Lanes, Rank
from worker.pipeline.failures import failure_of
from worker.pipeline.line import Line, Overtaken
from worker.pipeline.records import Records
from worker.pipeline.traces import WORKER
from worker.ports import Clock, Holds, LedgerConflict, Wishes
from worker.telemetry.events import Telemetry

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
OUTAGE_PAUSE = timedelta(seconds=30)
"""The pause while the provider serves nobody: that is not a failure of this removal."""


@dataclass(frozen=True, slots=True)
class Removals:
    """Carries late removals out, and grants the wishes to approve and to reject."""

    line: Line
    records: Records
    holds: Holds
    wishes: Wishes
    lanes: Lanes
    clock: Clock
    clock_watch: ClockWatch
    policy: Policy
    telemetry: Telemetry

    async def carry_out(self, department: Department, rank: Rank) -> None:
        """Makes one try, if the removal is still due. Newer work in the lane goes first.

        Nothing is due by a clock that is wrong, and a try that shows so does not count: its next would be
        due by that clock, too.
        """
        if self.clock_watch.is_off:
            return
        entry = (await self.records.recall(department)).entry
        now = self.clock.now()
        if entry.hold is not None and entry.deletion is None and self._ends(entry.hold, entry):
            await self._lapse(entry, entry.hold)
            return
        if entry.late_removal is None or not is_removal_due(entry, self.policy, now):
            await self._end_retry(entry)
            return
        removal = LateRemoval.of(department, entry.late_removal)
        try:
            result = await self.line.carry(removal, lambda: self.lanes.overtaken(department, rank))
        except LedgerConflict:  # another worker carries it out, and a record of this try would stop it
            raise
        except Exception as error:
            await self._retry(department, failure_of(error))
            raise
        if not isinstance(result, Done | Overtaken) and not self.clock_watch.is_off:
            await self._retry(department, result)

    async def approve(self, wish: Wish, asks: Approving) -> None:
        """Records the approval; the removal is due from then on. Raises the ports' exceptions."""
        if await self._is_over(wish):
            return
        entry, hold = await self._held(wish, asks.hold_id)
        why_not = may_approve(hold, entry, self.policy) if hold else "there is no such hold"
        if hold is not None and why_not is None and entry.hold is not None:
            at = min(wish.asked_at, self.clock.now())  # valid from when the person said so
            ruled = approved(entry, entry.hold, Ruling(wish.asked_by, at, asks.cascade))
            cascade = "" if asks.cascade is None else f", to destroy its {asks.cascade} resources too"
            line = self._audit(wish, hold, f"approved hold {hold.id}{cascade}")
            await self.records.ruled(ruled, self._taken(wish, hold), line)
            self.telemetry.hold_ruled(ruled.hold, wish.asked_by)
            await self.wishes.close_wish(wish.id)
        else:
            await self._not_taken(wish, why_not or "")

    async def reject(self, wish: Wish, asks: Rejecting) -> None:
        """Records the rejection, which ends the removal. Raises the ports' exceptions."""
        if await self._is_over(wish):
            return
        entry, hold = await self._held(wish, asks.hold_id)
        open_one = entry.hold if hold and entry.hold and entry.hold.id == hold.id else None
        if hold is not None and open_one is not None and entry.deletion is None:
            ruled = rejected(entry, open_one, Ruling(wish.asked_by, self.clock.now()))
            line = self._audit(wish, hold, f"rejected hold {hold.id}")
            await self.records.ruled(ruled, self._taken(wish, hold), line)
            self.telemetry.hold_ruled(ruled.hold, wish.asked_by)
            await self.wishes.close_wish(wish.id)
        else:
            why_not = f"it is {hold.state}" if hold else "there is no such hold"
            await self._not_taken(wish, why_not)

    async def _held(self, wish: Wish, hold_id: str) -> tuple[Entry, Hold | None]:
        return (await self.records.recall(wish.department)).entry, await self.holds.hold(hold_id)

    async def _is_over(self, wish: Wish) -> bool:
        """Whether the wish is withdrawn, or was answered by a try that died before it could close it."""
        if not await self.wishes.is_open(wish.id):
            return True
        reference = reference_of(wish)
        if (await self.records.recall(wish.department, reference)).answer is None:
            return False
        await self.wishes.close_wish(wish.id)
        return True

    async def _not_taken(self, wish: Wish, why: str) -> None:
        reference = reference_of(wish)
        await self.records.answered(_answered(wish, reference, self.clock.now(), why))
        await self.wishes.close_wish(wish.id)

    def _taken(self, wish: Wish, hold: Hold) -> Answer:
        reference = reference_of(wish)
        taken = _answered(wish, reference, self.clock.now(), None)
        return replace(taken, auth_id=hold.auth_id, name=hold.name)

    def _ends(self, hold: Hold, entry: Entry) -> bool:
        """Whether an approval is too old, or the settings, which have changed since, delete nothing."""
        allowed = may_approve(hold, entry, self.policy) is None
        return has_lapsed(hold, self.clock.now()) or (hold.state is HoldState.APPROVED and not allowed)

    async def _lapse(self, entry: Entry, hold: Hold) -> None:
        ruled = lapsed(entry, hold)
        now = self.clock.now()
        line = _line(hold, hold.id, WORKER, "lapse", f"the approval of hold {hold.id} has lapsed", now)
        await self.records.ruled(ruled, None, line)
        self.telemetry.hold_lapsed(ruled.hold)

    async def _end_retry(self, entry: Entry) -> None:
        """A removal that is not due any more, since the settings have changed, is not tried again."""
        if entry.retry is not None and entry.retry.at <= self.clock.now():
            await self.records.retried(replace(entry, retry=None))

    async def _retry(self, department: Department, failure: Failure) -> None:
        entry = (await self.records.recall(department)).entry
        if entry.late_removal is None:
            return
        now = self.clock.now()
        retry = _next_try(entry.retry, failure, now, self.clock.jitter())
        await self.records.retried(replace(entry, retry=retry))
        self.telemetry.removal_failed(department, retry.detail, retry.tries, retry.at)

    def _audit(self, wish: Wish, hold: Hold, outcome: str) -> AuditLine:
        return _line(hold, wish.id, wish.asked_by, wish.asks.kind, outcome, self.clock.now())


def rank_of_removal(entry: Entry) -> Rank:
    """The rank in the lane: that of the department's newest event, so newer ones go first."""
    return (False, *entry.version.rank()) if entry.version else (False,)


def _next_try(before: Retry | None, failure: Failure, now: datetime, jitter: float) -> Retry:
    since, tries = (before.failing_since, before.tries) if before else (now, 0)
    detail = told(failure)
    if isinstance(failure, Unavailable) or (isinstance(failure, Unknown) and failure.outage):
        return Retry(since, now + OUTAGE_PAUSE * (0.5 + 0.5 * jitter), tries, detail)
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 12))
    if isinstance(failure, Missing) and failure.gone_in_seconds is not None:
        pause = min(pause, timedelta(seconds=failure.gone_in_seconds + 0.1))
    return Retry(since, now + pause * (0.5 + 0.5 * jitter), tries + 1, detail)


def _answered(wish: Wish, reference: Reference, now: datetime, why_not: str | None) -> Answer:
    taken = why_not is None
    return Answer(
        department=wish.department,
        event=reference,
        payload_digest=wish.id,
        outcome=ResultKind.UNCHANGED if taken else ResultKind.FAILED,
        code=ResultCode.UNCHANGED if taken else ResultCode.NOT_ALLOWED,
        answered_at=now,
        reason=why_not,
        confirmed=True,
    )


def _line(hold: Hold, run: str, by: str, action: str, outcome: str, now: datetime) -> AuditLine:
    return AuditLine(
        at=now,
        by=by,
        action=action,
        run=run,
        selection=hold.id,
        event_id=hold.cause.reference.id,
        source=hold.cause.reference.source,
        tenant=hold.department.tenant,
        department_id=hold.department.id,
        reason=hold.reason,
        outcome=outcome,
        detail=hold.detail,
    )
