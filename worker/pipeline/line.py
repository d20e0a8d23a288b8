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

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from contracts.subaccounts import ResultKind
from worker.core import messages
from worker.core.conclude import Made, Outcome, conclude, intend
from worker.core.decide import Policy, Refuse, Republish, Skip, Step, decide, superseding
from worker.core.judge import Done, Failure, Permanent, Unavailable
from worker.core.model import Answer, Entry, Event, Recollection, Recreation
from worker.core.naming import Names
from worker.core.recreation import decide_recreation
from worker.flow.clock_watch import ClockWatch
from worker.pipeline.disappearances import Disappearances, is_missing
from worker.pipeline.outbox import Outbox
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.ports import AuthIdTaken, CallFailed, Clock, LedgerConflict, LedgerFailed, PublishFailed
from worker.provider.act import Actor
from worker.provider.foreign import ForeignIds
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A newer event of the department has arrived: it goes first, and this one waits for its outcome."""


Overtaking = Callable[[], bool]
"""Whether a newer event of the department has arrived since."""

Asked = Event | Recreation
"""The causes of steps: the department events, and the recreations that people ask for."""

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
    telemetry: Telemetry

    async def carry(self, event: Asked, is_overtaken: Overtaking) -> Result:
        """Makes one try. Raises the exceptions of the ports."""
        await self.reconciler.arm_pending_check(event.department)
        known = await self.records.recall(event.department, event.reference)
        token = None
        # Once a step's answer is on record, the decision is to republish it: that ends the loop.
        while not isinstance(decision := self._decide(event, known), Republish):
            if isinstance(decision, Refuse):
                return self._refused(event, decision)
            done = await self._carry_out(event, decision, known.entry, is_overtaken)
            if not isinstance(done, _Recorded):
                return done
            known, token = done.known, done.token or token
        await self._publish(event, known.entry, decision.answer, token)
        return Done()

    def _decide(self, event: Asked, known: Recollection) -> Step | Republish | Refuse:
        match event:
            case Event():
                return decide(event, known, self.policy, self.clock.now())
            case Recreation():
                return decide_recreation(event, known, self.clock.now())

    def _refused(self, event: Asked, refusal: Refuse) -> Failure:
        if refusal.by_clock and not self.clock_watch.may_refuse(event.reference):
            return Unavailable("the worker's clock may be wrong; it is compared with the provider's first")
        return Permanent(refusal.reason, refusal.detail, refusal.code)

    async def _carry_out(
        self, event: Asked, decided: Step, entry: Entry, is_overtaken: Overtaking
    ) -> _Recorded | Overtaken | Failure:
        step = await self.actor.foresee(decided, entry)
        async with self.actor.permit(step) as call:
            if not isinstance(step, Skip) and is_overtaken():
                return Overtaken()
            claimed_at = self.clock.monotonic()
            key = self.names.key(step, entry, event)
            claimed = await self._claim(step, entry, event, key)
            outcome = await self.actor.act(step, claimed, key, claimed_at, call)
        return await self._record(event, step, claimed, outcome)

    async def _claim(self, step: Step, entry: Entry, event: Asked, key: str) -> Entry:
        intended = intend(step, entry, event, key, self.policy, self.clock.now())
        return await self.records.announce(entry, intended)

    async def _record(self, event: Asked, step: Step, entry: Entry, outcome: Outcome) -> _Recorded | Failure:
        conclusion = conclude(entry, event, step, outcome, self.policy, self.clock.now())
        try:
            recorded = await self.records.conclude(entry, conclusion)
        except (LedgerConflict, LedgerFailed) as error:
            if isinstance(error, AuthIdTaken):
                self.foreign.met(error)
            await self.reconciler.not_recorded(entry, outcome, error)
            raise
        self.disappearances.tell(entry, recorded)
        if conclusion.failure is not None:
            return conclusion.failure
        self.telemetry.stepped(event, step, recorded)
        if isinstance(event, Event) and isinstance(step, Skip) and step.outcome is ResultKind.SUPERSEDED:
            why = superseding(event.version, recorded.version)
            self.telemetry.superseded(event, recorded.newest, why, self.clock.monotonic())
        made = outcome if isinstance(outcome, Made) else None
        if made is not None and made.duplicates:
            self.telemetry.doubles_disabled(recorded, made.duplicates)
        return _Recorded(Recollection(recorded, conclusion.answer), made.auth_token if made else None)

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
        if delivered != entry or not answer.confirmed:
            await self.records.confirm(delivered, answer)
        self.outbox.forget_token(delivered)
        if isinstance(event, Event):
            self.telemetry.answered(event, answer)

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
