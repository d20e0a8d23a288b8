"""Carries an event from recall to publish; each stage is a function.

    recall     read the department's entry, and the answer to this event if there is one
    decide     choose the next step, the recorded answer, or a refusal
    claim      make the intent durable before the effect
    act        call the provider
    record     make the outcome durable, and the answer with it
    publish    send the credentials owed and the answer; the broker confirms

`carry` runs the stages while they succeed. It returns failures as values; exceptions of ports pass through to
the handler. Decide to record is a loop: after an adoption for a removal, or a deletion for a create, the
event is decided again on the new entry.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import SecretStr

from contracts.departments import Kind
from worker.core import messages
from worker.core.conclude import conclude, intend
from worker.core.conclusions.conclusion import Conclusion
from worker.core.conclusions.removal import admission_of
from worker.core.decide import (
    AwaitNewer,
    CountTenant,
    Decision,
    Delete,
    HoldBack,
    NothingLeft,
    Policy,
    Refuse,
    Republish,
    Skip,
    Step,
    VoidHold,
    superseding,
)
from worker.core.holds import result_published
from worker.core.inventory import Counts
from worker.core.judge import Done, Failure, Permanent, Unavailable
from worker.core.limits import Admission, TenantCounts
from worker.core.model.answers import Answer
from worker.core.model.causes import Event, LateRemoval
from worker.core.model.entry import Entry
from worker.core.model.holds import HoldState
from worker.core.model.recollection import Recollection
from worker.core.naming import Names
from worker.core.next_step import Asked, next_step
from worker.core.outcomes import Made, NothingDone, Outcome
from worker.flow.clock_watch import ClockWatch
from worker.pipeline.disappearances import Disappearances, is_missing
from worker.pipeline.outbox import Outbox
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.traces import call_notes, deletion_audit, hold_audit
from worker.ports import (
    AuthIdTaken,
    Beside,
    CallFailed,
    Clock,
    LedgerConflict,
    LedgerFailed,
    NotAdmitted,
    PublishFailed,
)
from worker.provider.act import Actor
from worker.provider.foreign import ForeignIds
from worker.telemetry.events import Telemetry

REMOVALS_AT_ONCE = 4
"""More of them wait. So a wiped org chart, or many approvals, delay creates and renames very little: they
share the event loop, the ledger and the rate limit with a few removals, not with a thousand."""


UNDER_WAY = "a newer event is under way: {0.id} of {0.source}"


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A newer event of the department has arrived: it goes first, and this one waits for its outcome."""


Overtaking = Callable[[], bool]
"""Whether a newer event of the department has arrived since."""

Result = Done | Overtaken | Failure
"""The result of one try to carry an event."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A step whose outcome is on record. `token`: that of a subaccount that it made or adopted."""

    known: Recollection
    token: SecretStr | None


@dataclass(frozen=True)
class Line:
    """Carries one event from recall to publish."""

    records: Records
    reconciler: Reconciler
    disappearances: Disappearances
    foreign: ForeignIds
    actor: Actor
    outbox: Outbox
    names: Names
    clock: Clock
    clock_watch: ClockWatch
    policy: Policy
    removal_slots: asyncio.Semaphore
    telemetry: Telemetry

    async def carry(self, event: Asked, is_overtaken: Overtaking) -> Result:
        """Makes one try, once a removal has its turn. Raises the exceptions of the ports."""
        if not _is_removal(event):
            return await self._carry(event, is_overtaken)
        async with self.removal_slots:
            return await self._carry(event, is_overtaken)

    async def _carry(self, event: Asked, is_overtaken: Overtaking) -> Result:
        await self.reconciler.arm_pending_check(event.department)
        with self.telemetry.stage("recall"):
            known = await self.records.recall(event.department, event.reference)
        token = None
        while True:
            match self._decide(event, known):
                case Republish(answer):  # on record, now or before
                    await self._publish(event, known.entry, answer, token)
                    return Done()
                case NothingLeft():
                    return Done()
                case AwaitNewer(newer):
                    return Overtaken() if is_overtaken() else Unavailable(UNDER_WAY.format(newer))
                case Refuse() as refusal:
                    return self._refused(event, refusal)
                case CountTenant():
                    known = replace(known, counts=await self._counts(event.department.tenant))
                case step:
                    done = await self._carry_out(event, step, known, is_overtaken)
                    if not isinstance(done, _Recorded):
                        return done
                    known, token = done.known, done.token or token

    def _decide(self, event: Asked, known: Recollection) -> Decision | CountTenant | NothingLeft:
        return next_step(event, known, self.policy, self.clock.now())

    async def _counts(self, tenant: str) -> TenantCounts:
        return await self.records.tenant_counts(tenant, Admission(self.policy.limit, self.clock.now()).since)

    def _refused(self, event: Asked, refusal: Refuse) -> Failure:
        if refusal.by_clock and not self.clock_watch.may_refuse(event.reference):
            return Unavailable("the worker's clock may be wrong; it is compared with the provider's first")
        return Permanent(refusal.reason, refusal.detail, refusal.code)

    async def _carry_out(
        self, event: Asked, decided: Step, known: Recollection, is_overtaken: Overtaking
    ) -> _Recorded | Overtaken | Failure:
        late_end = isinstance(event, LateRemoval) and isinstance(decided, Delete | HoldBack)
        if late_end and self.clock_watch.is_off:
            return Unavailable("the worker's clock is wrong, so it cannot tell whether the grace is over")
        entry = known.entry
        step = await self.actor.foresee(decided, entry)
        if isinstance(step, Skip):  # it has nothing to claim, and no call
            return await self._record(event, step, known, entry, "", NothingDone())
        async with self.actor.permit(step) as call:
            if not isinstance(step, VoidHold) and is_overtaken():
                return Overtaken()
            claimed_at = self.clock.monotonic()
            key = self.names.key(step, entry, event)
            try:
                with self.telemetry.stage("claim"):
                    claimed = await self._claim(step, entry, event, key)
            except NotAdmitted as refused:  # others were removed meanwhile: it is decided again
                return _Recorded(replace(known, counts=refused.counts), None)
            outcome = await self.actor.act(step, claimed, key, claimed_at, call)
        return await self._record(event, step, known, claimed, key, outcome)

    async def _claim(self, step: Step, entry: Entry, event: Asked, key: str) -> Entry:
        now = self.clock.now()
        intended = intend(step, entry, event, key, self.policy, now)
        admission = admission_of(entry, intended, self.policy, now)
        return await self.records.announce(
            entry, intended, Beside(audit=deletion_audit(step, entry, event, now), admission=admission)
        )

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> _Recorded | Failure:
        now = self.clock.now()
        conclusion = conclude(entry, event, step, outcome, self.policy, now)
        calls = call_notes(step, entry, key, outcome, now)
        audit = hold_audit(step, conclusion.holds, event, now)
        try:
            with self.telemetry.stage("record"):
                recorded = await self.records.conclude(entry, conclusion, calls, audit)
        except (LedgerConflict, LedgerFailed) as error:
            if isinstance(error, AuthIdTaken):
                self.foreign.met(error)
            await self.reconciler.not_recorded(entry, outcome, error)
            raise
        self.disappearances.tell(entry, recorded)
        self._tell(event, step, entry, recorded, conclusion)
        if conclusion.failure is not None:
            return conclusion.failure
        made = outcome if isinstance(outcome, Made) else None
        if made is not None and made.duplicates:
            self.telemetry.doubles_disabled(recorded, made.duplicates)
        answer = conclusion.answer or (known.answer if isinstance(event, LateRemoval) else None)
        next_known = replace(known, entry=recorded, answer=answer, inspection=conclusion.inspection)
        return _Recorded(next_known, made.auth_token if made else None)

    def _tell(self, event: Asked, step: Step, before: Entry, entry: Entry, conclusion: Conclusion) -> None:
        for hold in conclusion.holds:
            if hold.state is HoldState.VOID:
                self.telemetry.hold_void(hold, event.reference)
            elif hold.state is HoldState.WAITING and (before.hold is None or hold.id != before.hold.id):
                self.telemetry.removal_held(hold)
        if conclusion.failure is not None:
            return
        self.telemetry.stepped(event, step, entry)
        if isinstance(step, Delete):
            counts = step.inspection.inventory.counts if step.inspection else Counts()
            self.telemetry.subaccount_deleted(
                before, step.auth_id, counts, counts.total if step.cascade else None
            )
        if not (isinstance(event, Event) and isinstance(step, Skip)):
            return
        if (newer := before.newer_event(event.version)) is not None:
            why = superseding(event.version, newer.version)
            self.telemetry.superseded(event, newer.reference, why, self.clock.monotonic())

    async def _publish(self, event: Asked, entry: Entry, answer: Answer, token: SecretStr | None) -> None:
        """Publishes all that the broker has not confirmed yet, and records its confirm."""
        delivered = await self._deliver_owed(entry, token)
        if not answer.confirmed and isinstance(event, Event):
            result = messages.result(answer, self.names.owner, self.clock.now())
            try:
                await self.outbox.publish_result(result)
            except PublishFailed:
                await self.records.delivered(entry, delivered)
                raise
            delivered = result_published(delivered, answer)
        if not answer.confirmed or delivered != entry:
            await self.records.confirm(entry, delivered, answer)
        self.outbox.forget_token(delivered)
        if isinstance(event, Event):
            self.telemetry.answered(event, answer, self.clock.now())

    async def _deliver_owed(self, entry: Entry, token: SecretStr | None) -> Entry:
        """Delivers the debt. A subaccount that is gone owes nothing any more."""
        try:
            return await self.outbox.deliver_owed(entry, token)
        except CallFailed as failed:
            if not is_missing(failed.fault):
                raise
            noted = await self.disappearances.note(entry.department)
            if noted.gone_at is None:
                raise
            return noted


def _is_removal(asked: Asked) -> bool:
    return asked.version is not None and asked.version.kind is Kind.REMOVED
