"""The line one message takes, from validation to ack.

    validate   the bytes are a department event            else: dead letter, with the reason
    recall     what the ledger knows of the department
    decide     what is to be done
    claim      the intent is durable before the effect
    act        the provider call
    record     what has happened is durable, the answer with it
    publish    credentials owed and the answer, confirmed by the broker
    ack        the one place that ends a delivery

`_line` is the way of one event while all goes well. What fails comes back to `_try`, where judge turns it
into a verdict.
"""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from itertools import count

from pydantic import SecretStr

from contracts.departments import (
    DEFAULT_TENANT,
    IDENTIFIER_LENGTH,
    Invalid,
    UnsupportedType,
    department_event,
    payload_digest,
)
from contracts.envelope import CloudEvent, Malformed, Message, read
from contracts.subaccounts import DeadReason
from worker.act import Actor
from worker.core import messages
from worker.core.conclude import Conclusion, Made, Outcome, conclude, confirmed, intend, readdressed
from worker.core.decide import Policy, Refuse, Republish, Step, decide
from worker.core.judge import (
    DeadLetter,
    Done,
    Failure,
    Permanent,
    Transient,
    Verdict,
    Wait,
    classify,
    judge,
)
from worker.core.messages import Outgoing, Subject
from worker.core.model import Answer, Entry, Event, Recollection, Reference, Status, Trace
from worker.lanes import Lanes
from worker.ports import (
    CallFailed,
    Clock,
    Delivery,
    Ledger,
    LedgerConflict,
    LedgerFailed,
    NoRecipientKey,
    Publisher,
    PublishFailed,
    Sealer,
    Unroutable,
)
from worker.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no valid event; `subject` is what could be read of it all the same."""

    verdict: DeadLetter
    subject: Subject | None = None


NO_EVENT = Reference("", "", "")


class StepFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def validate(message: Message) -> Event | Unreadable:
    """The department event a message carries, or why there is none."""
    try:
        envelope = read(message)
    except Malformed as error:
        return Unreadable(_refusal(DeadReason.MALFORMED, error))
    try:
        return Event.of(department_event(envelope), envelope.type, payload_digest(envelope))
    except UnsupportedType as error:
        return Unreadable(_refusal(DeadReason.UNSUPPORTED_TYPE, error), _readable_part(envelope))
    except Invalid as error:
        return Unreadable(_refusal(DeadReason.INVALID, error), _readable_part(envelope))


@dataclass
class Pipeline:
    ledger: Ledger
    actor: Actor
    publisher: Publisher
    sealer: Sealer
    clock: Clock
    policy: Policy
    lanes: Lanes
    telemetry: Telemetry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, delivery: Delivery) -> None:
        """Files a delivery into its department's lane. Called by the consumer; returns at once."""
        reading = validate(delivery.original.message)
        lane: Hashable = reading.department if isinstance(reading, Event) else object()
        self.telemetry.received(reading.version.kind if isinstance(reading, Event) else None)
        self.lanes.file(lane, lambda: self._carry(delivery, reading))

    async def drain(self) -> None:
        """Finishes what runs; what waits or has not begun is left for the broker to deliver again."""
        self.stopping.set()
        await self.lanes.idle()

    async def _carry(self, delivery: Delivery, reading: Event | Unreadable) -> None:
        """Takes a delivery to its end, however many tries that takes."""
        for tries in count(1):
            if self.stopping.is_set() or not delivery.live:
                return
            verdict = await self._try(delivery, reading, tries)
            if not isinstance(verdict, Wait):
                return
            await self._wait(verdict.seconds)

    async def _try(self, delivery: Delivery, reading: Event | Unreadable, tries: int) -> Verdict:
        try:
            verdict = await self._verdict(reading, tries)
            if not isinstance(verdict, Wait):
                await self._end(delivery, verdict, reading, tries)
        except (PublishFailed, LedgerFailed, LedgerConflict) as error:
            return self._judge(Transient(str(error)), tries)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not take the neighbours down
            self.telemetry.step_crashed(error)
            return self._judge(Transient(f"unexpected {type(error).__name__}"), tries)
        return verdict

    async def _verdict(self, reading: Event | Unreadable, tries: int) -> Verdict:
        if isinstance(reading, Unreadable):
            return reading.verdict
        try:
            await self._line(reading)
        except StepFailed as failed:
            return self._judge(failed.failure, tries)
        return Done()

    async def _line(self, event: Event) -> None:
        known = await self.ledger.recall(event.department, event.reference)
        auth_token = None
        while not isinstance(decision := self._decide(event, known), Republish):
            step = await self._foresee(decision, known.entry)
            async with self.actor.permit(step):
                claimed_at = self.clock.monotonic()
                claimed = await self._claim(step, known.entry, event)
                outcome = await self.actor.act(step, claimed, event, claimed_at)
            known = await self._record(event, step, claimed, outcome)
            auth_token = outcome.auth_token if isinstance(outcome, Made) else auth_token
        await self._publish(event, known.entry, decision.answer, auth_token)

    def _decide(self, event: Event, known: Recollection) -> Step | Republish:
        decision = decide(event, known, self.policy, self.clock.now())
        if isinstance(decision, Refuse):
            raise StepFailed(Permanent(decision.reason, decision.detail))
        return decision

    async def _foresee(self, step: Step, entry: Entry) -> Step:
        try:
            return await self.actor.foresee(step, entry)
        except CallFailed as failed:
            raise StepFailed(classify(failed.fault)) from None

    async def _claim(self, step: Step, entry: Entry, event: Event) -> Entry:
        key = self.actor.names.key(step, entry, event)
        intended = intend(step, entry, event, key, self.policy, self.clock.now())
        return entry if intended == entry else await self.ledger.record(intended)

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Recollection:
        conclusion = conclude(entry, event, step, outcome, self.policy, self.clock.now())
        try:
            recorded = await self._write(entry, conclusion)
        except LedgerConflict:
            if isinstance(outcome, Made):
                await self._disown(entry, outcome)
            raise
        if conclusion.failure is not None:
            raise StepFailed(conclusion.failure)
        self.telemetry.stepped(event, step, recorded)
        if isinstance(outcome, Made) and outcome.doubles:
            self.telemetry.doubles_disabled(recorded, outcome.doubles)
        return Recollection(recorded, conclusion.answer)

    async def _disown(self, entry: Entry, made: Made) -> None:
        """Another worker has the department: what we made must not live on beside what it has on record."""
        now_on_record = (await self.ledger.recall(entry.department, NO_EVENT)).entry
        if now_on_record.auth_id == made.auth_id:
            return
        try:
            await self.actor.disable_made(now_on_record, made.auth_id)
        except CallFailed as failed:
            raise StepFailed(classify(failed.fault)) from None
        self.telemetry.doubles_disabled(now_on_record, (made.auth_id,))

    async def _write(self, entry: Entry, conclusion: Conclusion) -> Entry:
        if conclusion.answer is None and conclusion.entry == entry:
            return entry
        return await self.ledger.record(conclusion.entry, conclusion.answer)

    async def _publish(self, event: Event, entry: Entry, answer: Answer, token: SecretStr | None) -> None:
        """Sends what the broker has not confirmed yet, and notes its confirm."""
        entry = readdressed(entry, self.policy.recipients)
        owed = entry.owed_to if entry.status is Status.ACTIVE else frozenset()
        if owed:
            await self._issue(event, entry, owed, token or await self._token(entry))
        if not answer.confirmed:
            await self._publish_result(messages.result(answer, self._owner, self.clock.now()))
        if owed or not answer.confirmed:
            await self.ledger.record(confirmed(entry, owed), replace(answer, confirmed=True))
        self.telemetry.answered(event, answer)

    async def _issue(self, event: Event, entry: Entry, owed: frozenset[str], token: SecretStr) -> None:
        """To every recipient that can be served; raises for those that cannot, once the others are noted."""
        failed: dict[str, PublishFailed] = {}
        for recipient in sorted(owed):
            try:
                await self._send_credentials(event, entry, recipient, token)
            except (NoRecipientKey, Unroutable) as failure:
                failed[recipient] = failure
        if failed:
            if served := owed - failed.keys():
                await self.ledger.record(confirmed(entry, served))
            raise next(iter(failed.values()))

    async def _send_credentials(self, event: Event, entry: Entry, recipient: str, token: SecretStr) -> None:
        clear = messages.credentials(entry, recipient, token, event.trace, self._owner, self.clock.now())
        message = self.sealer.seal(clear, recipient)
        await self.publisher.publish(messages.addressed(clear, recipient, message))
        self.telemetry.credentials_published(entry)

    async def _token(self, entry: Entry) -> SecretStr:
        """Read from the provider when it is needed: it is stored nowhere."""
        try:
            return await self.actor.token(entry)
        except CallFailed as failed:
            raise StepFailed(classify(failed.fault)) from None

    async def _publish_result(self, outgoing: Outgoing) -> None:
        """A result that nobody is bound for counts as answered."""
        try:
            await self.publisher.publish(outgoing)
        except Unroutable:
            self.telemetry.result_unroutable(outgoing.routing_key)

    async def _end(
        self, delivery: Delivery, verdict: Done | DeadLetter, reading: Event | Unreadable, tries: int
    ) -> None:
        """The one place that ends a delivery."""
        if isinstance(verdict, DeadLetter):
            await self._bury(delivery.original, verdict, reading, tries)
        await delivery.ack()

    async def _bury(
        self, original: Outgoing, verdict: DeadLetter, reading: Event | Unreadable, tries: int
    ) -> None:
        subject = _subject_of(reading) if isinstance(reading, Event) else reading.subject
        now = self.clock.now()
        # The result first: should the dead letter fail, the next try may end otherwise, as after any failure.
        if subject is not None:
            await self._publish_result(messages.failed(subject, verdict, self._owner, now))
        await self.publisher.publish(messages.dead_letter(original, verdict, subject, tries, now))
        self.telemetry.dead_lettered(verdict, subject)

    def _judge(self, failure: Failure, tries: int) -> Wait | DeadLetter:
        verdict = judge(failure, tries, self.clock.jitter())
        if isinstance(verdict, Wait):
            self.telemetry.waiting(failure, verdict.seconds, tries)
        return verdict

    async def _wait(self, seconds: float) -> None:
        """Sleeps, but not through a drain."""
        naps = [asyncio.ensure_future(self.clock.sleep(seconds)), asyncio.ensure_future(self.stopping.wait())]
        try:
            await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for nap in naps:
                nap.cancel()

    @property
    def _owner(self) -> str:
        return self.actor.names.owner


def _refusal(reason: DeadReason, error: ValueError) -> DeadLetter:
    return DeadLetter(reason, str(error))


def _subject_of(event: Event) -> Subject:
    return Subject(event.reference, event.department.tenant, event.department.id, event.name, event.trace)


def _readable_part(envelope: CloudEvent) -> Subject:
    """What an envelope tells although its data breaks the contract."""
    data = envelope.data if isinstance(envelope.data, dict) else {}
    tenant, department, name = envelope.tenant, data.get("department_id", envelope.subject), data.get("name")
    return Subject(
        Reference(envelope.source, envelope.id, envelope.type),
        _text(tenant) or DEFAULT_TENANT,
        _text(department),
        _text(name),
        Trace(envelope.traceparent, envelope.tracestate, envelope.correlationid),
    )


def _text(value: object) -> str | None:
    """A value that should be an identifier, if it can stand for one at all."""
    return (
        value
        if isinstance(value, str) and 1 <= len(value) <= IDENTIFIER_LENGTH and value.isprintable()
        else None
    )
