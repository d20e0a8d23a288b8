"""The line one message takes, from validation to ack.

    validate   the bytes are a department event            else: dead letter, with the reason
    recall     what the ledger knows of the department
    decide     what is to be done
    claim      the intent is durable before the effect
    act        the provider call
    record     what has happened is durable, the answer with it
    publish    credentials owed and the answer, confirmed by the broker
    ack        the one place that ends a delivery

`_line` is the way of one event while all goes well. What fails comes back to `_verdict`, where judge turns it
into one: wait, pause, park or dead-letter.
"""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from contracts.departments import Kind
from contracts.subaccounts import DeadReason
from worker.core import messages
from worker.core.conclude import (
    Changed,
    Conclusion,
    Failed,
    Made,
    Outcome,
    conclude,
    intend,
    to_be_checked,
)
from worker.core.decide import Policy, Refuse, Republish, Skip, Step, UnknownRename, decide
from worker.core.judge import (
    DeadLetter,
    Done,
    Failure,
    Park,
    Patience,
    Pause,
    Permanent,
    Stay,
    Transient,
    Unavailable,
    Unknown,
    Verdict,
    Wait,
    classify,
    judge,
    parking_delay,
)
from worker.core.messages import Outgoing
from worker.core.model import (
    Answer,
    Department,
    Entry,
    Event,
    Recollection,
    Reissue,
    replace,
)
from worker.flow.exclusive import SharedExclusiveLock
from worker.flow.gate import Gate
from worker.flow.lanes import FIRST, LAST, Lanes, Progress, Rank
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.waiting import WaitingRoom, WaitOutcome
from worker.pipeline.outbox import Outbox
from worker.pipeline.reading import Reading, Unreadable, reading_of, subject_of
from worker.pipeline.reissues import Reissues
from worker.ports import (
    CallFailed,
    Clock,
    Delivery,
    Ledger,
    LedgerConflict,
    LedgerFailed,
    PublishFailed,
)
from worker.provider.act import NO_EVENT, Actor
from worker.telemetry.events import Telemetry

QUARANTINE_AFTER_DELIVERIES = 20
"""Deliveries after which a message is worked on alone. Lost connections count too, and are not its fault."""

LONGEST_HELD_SECONDS = 900.0
"""What was taken and still waits then is parked, uncounted. After 30 minutes, by default, the broker would
close the channel and deliver all of it again."""

MAX_CRASHES = 3
_KILLED = f"{MAX_CRASHES} workers ended while they worked on it alone"


class Overtaken(Exception):
    """A newer event of the department has come: it is the step, and this one waits for its outcome."""


class StepFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass
class Pipeline:
    """Works on the ports of its outbox: what was recorded through one ledger goes out of it."""

    outbox: Outbox
    patience: Patience
    lanes: Lanes
    waiting: WaitingRoom
    gate: Gate
    ledger_watch: LedgerWatch
    stopping: asyncio.Event
    isolation: SharedExclusiveLock = field(default_factory=SharedExclusiveLock)
    ledger: Ledger = field(init=False)
    actor: Actor = field(init=False)
    clock: Clock = field(init=False)
    policy: Policy = field(init=False)
    telemetry: Telemetry = field(init=False)
    left: int = 0
    """Messages that a drain left for the broker to deliver again."""
    _marks: dict[str, int] = field(default_factory=dict)
    """Of messages worked on alone, until they are taken away."""
    _unrecorded: set[Department] = field(default_factory=set)
    """Something was changed there, and the ledger could not be told."""

    def __post_init__(self) -> None:
        self.ledger, self.actor, self.clock = self.outbox.ledger, self.outbox.actor, self.outbox.clock
        self.policy, self.telemetry = self.outbox.policy, self.outbox.telemetry

    def receive(self, delivery: Delivery) -> None:
        """Files a delivery into its department's lane. Called by the consumer; returns at once."""
        reading = reading_of(delivery.original)
        self.telemetry.received(_kind_of(reading))
        lane: Hashable = object() if isinstance(reading, Unreadable) else reading.department
        leave_at = self.clock.monotonic() + LONGEST_HELD_SECONDS
        self.lanes.file(lane, lambda: self._carry(delivery, reading, lane, leave_at), self._rank(reading))
        self.waiting.make_room()

    async def drain(self) -> None:
        """Finishes what runs; what waits or has not begun is left for the broker to deliver again."""
        self.stopping.set()
        self.waiting.close()
        await self.lanes.idle()

    def _rank(self, reading: Reading) -> Rank:
        """The newest goes first. Where a rename must not create, a create that waits with it is before it."""
        if isinstance(reading, Unreadable):
            return FIRST
        if isinstance(reading, Reissue):
            return LAST
        creates_first = self.policy.unknown_rename is UnknownRename.REJECT
        return (creates_first and reading.kind is Kind.CREATED, *reading.version.rank())

    async def _carry(self, delivery: Delivery, reading: Reading, lane: Hashable, leave_at: float) -> Progress:
        """Takes a delivery to its end, however many tries that takes."""
        original = messages.unparked(delivery.original)
        stay = Stay(messages.attempts_of(delivery.original))
        while delivery.live and not self.stopping.is_set():
            stay = stay.tried()
            try:
                verdict = await self._worked_on(delivery, reading, stay)
            except Overtaken:
                return Progress.YIELDED
            verdict = await self._end(delivery, original, verdict, reading, stay)
            if not isinstance(verdict, Wait | Pause):
                break
            stay = stay.paused() if isinstance(verdict, Pause) else stay.spent(verdict.cost_seconds)
            if await self._must_leave(verdict, lane, leave_at) and delivery.live:
                delay = parking_delay(verdict.seconds, self.patience.delays)
                verdict = await self._end(delivery, original, Park(delay, stay.attempts), reading, stay)
                if not isinstance(verdict, Wait | Pause):
                    break
                await self._wait(verdict, lane, evictable=False)  # it could not be parked
        else:
            self.left += delivery.live
        return Progress.ENDED

    async def _worked_on(self, delivery: Delivery, reading: Reading, stay: Stay) -> Verdict:
        if messages.deliveries_of(delivery.original) < QUARANTINE_AFTER_DELIVERIES:
            async with self.isolation.shared():
                return await self._verdict(reading, stay)
        async with self.isolation.exclusive():
            return await self._suspected(messages.fingerprint(delivery.original), reading, stay)

    async def _suspected(self, message: str, reading: Reading, stay: Stay) -> Verdict:
        """It came back so often that it may be what ended its workers. If so, its mark stays."""
        try:
            self.ledger_watch.check()
            if message not in self._marks:  # a mark that could not be taken away is of a worker that lives
                self._marks[message] = await self.ledger.suspect(message)
            try:
                verdict = await self._verdict_on(self._marks[message], reading, stay)
            except Overtaken:
                await self._absolve(message)
                raise
            await self._absolve(message)
        except LedgerFailed as error:
            return self._ledger_failed(error, stay, reading)
        return verdict

    async def _verdict_on(self, marks: int, reading: Reading, stay: Stay) -> Verdict:
        if marks > MAX_CRASHES:
            return DeadLetter(DeadReason.DELIVERY_LIMIT, _KILLED)
        return await self._verdict(reading, stay)

    async def _absolve(self, message: str) -> None:
        await self.ledger.absolve(message)
        del self._marks[message]

    async def _verdict(self, reading: Reading, stay: Stay) -> Verdict:
        if isinstance(reading, Unreadable):
            return reading.verdict
        try:
            self.ledger_watch.check()
            if isinstance(reading, Reissue):
                await self._reissue(reading)
            else:
                await self._line(reading)
        except StepFailed as failed:
            return self._judge(failed.failure, stay, reading)
        except CallFailed as failed:
            return self._judge(classify(failed.fault), stay, reading)
        except PublishFailed as error:
            return self._judge(Unavailable(str(error)), stay, reading)
        except LedgerFailed as error:
            return self._ledger_failed(error, stay, reading)
        except LedgerConflict as error:
            return self._judge(Transient(str(error)), stay, reading)
        except Overtaken:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours must not take the neighbours down
            self.telemetry.step_crashed(error)
            return self._judge(Transient(f"unexpected {type(error).__name__}"), stay, reading)
        return Done()

    async def _line(self, event: Event) -> None:
        await self._have_unrecorded_checked(event.department)
        known = await self.ledger.recall(event.department, event.reference)
        auth_token = None
        while not isinstance(decision := self._decide(event, known), Republish):
            step = await self.actor.foresee(decision, known.entry)
            async with self.actor.permit(step):
                self._check_newest(event, step)
                claimed_at = self.clock.monotonic()
                key = self.actor.names.key(step, known.entry, event)
                claimed = await self._claim(step, known.entry, event, key)
                outcome = await self.actor.act(step, claimed, key, claimed_at)
            known = await self._record(event, step, claimed, outcome)
            auth_token = outcome.auth_token if isinstance(outcome, Made) else auth_token
        await self._publish(event, known.entry, decision.answer, auth_token)

    async def _reissue(self, request: Reissue) -> None:
        failure = await self.reissues.answer(request)
        if failure is not None:
            raise StepFailed(failure)

    @property
    def reissues(self) -> Reissues:
        return Reissues(self.outbox)

    def _check_newest(self, event: Event, step: Step) -> None:
        if not isinstance(step, Skip) and self.lanes.overtaken(event.department, self._rank(event)):
            raise Overtaken

    def _decide(self, event: Event, known: Recollection) -> Step | Republish:
        decision = decide(event, known, self.policy, self.clock.now())
        if isinstance(decision, Refuse):
            raise StepFailed(Permanent(decision.reason, decision.detail))
        return decision

    async def _claim(self, step: Step, entry: Entry, event: Event, key: str) -> Entry:
        intended = intend(step, entry, event, key, self.policy, self.clock.now())
        return entry if intended == entry else await self.ledger.record(intended)

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Recollection:
        conclusion = conclude(entry, event, step, outcome, self.policy, self.clock.now())
        try:
            recorded = await self._write(entry, conclusion)
        except (LedgerConflict, LedgerFailed) as error:
            if _may_have_changed(outcome):
                self._unrecorded.add(entry.department)
            if isinstance(error, LedgerConflict):
                await self._overruled(entry, outcome)
            raise
        if conclusion.failure is not None:
            raise StepFailed(conclusion.failure)
        self.telemetry.stepped(event, step, recorded)
        if isinstance(outcome, Made) and outcome.doubles:
            self.telemetry.doubles_disabled(recorded, outcome.doubles)
        return Recollection(recorded, conclusion.answer)

    async def _overruled(self, entry: Entry, outcome: Outcome) -> None:
        """Another worker has the department: what we did must not stay over, or beside, what it recorded."""
        now_on_record = (await self.ledger.recall(entry.department, NO_EVENT)).entry
        if isinstance(outcome, Made) and outcome.auth_id != now_on_record.auth_id:
            await self.actor.disable_made(now_on_record, outcome.auth_id)
            self.telemetry.doubles_disabled(now_on_record, (outcome.auth_id,))
        await self._have_unrecorded_checked(entry.department)

    async def _have_unrecorded_checked(self, department: Department) -> None:
        if department in self._unrecorded:
            await self.have_checked(department)
            self._unrecorded.discard(department)

    async def have_checked(self, department: Department) -> None:
        """Something of ours may be set, or yet be carried out, over what another worker has recorded."""
        on_record = (await self.ledger.recall(department, NO_EVENT)).entry
        if on_record.auth_id is not None:
            await self.ledger.record(to_be_checked(on_record, self.policy, self.clock.now()))

    async def _write(self, entry: Entry, conclusion: Conclusion) -> Entry:
        if conclusion.answer is None and conclusion.entry == entry:
            return entry
        return await self.ledger.record(conclusion.entry, conclusion.answer)

    async def _publish(self, event: Event, entry: Entry, answer: Answer, token: SecretStr | None) -> None:
        """Sends what the broker has not confirmed yet, and notes its confirm."""
        noted = await self.outbox.settle(entry, token)
        if not answer.confirmed:
            await self.outbox.publish_result(messages.result(answer, self._owner, self.clock.now()))
        if noted != entry or not answer.confirmed:
            await self.ledger.record(noted, replace(answer, confirmed=True))
        self.telemetry.answered(event, answer)

    async def _end(
        self,
        delivery: Delivery,
        original: Outgoing,
        verdict: Verdict,
        reading: Reading,
        stay: Stay,
    ) -> Verdict:
        """The one place that ends a delivery. Done, or else why it goes on."""
        try:
            match verdict:
                case Wait() | Pause():
                    return verdict
                case DeadLetter():
                    await self._bury(original, verdict, reading, stay)
                case Park():
                    await self.outbox.publisher.publish(messages.parked(original, verdict))
                    counted = verdict.attempts > stay.attempts
                    self.telemetry.parked(verdict, subject_of(reading), counted=counted)
            await delivery.ack()
        except PublishFailed as error:
            return self._judge(Unavailable(str(error)), stay, reading)
        except Exception as error:  # noqa: BLE001 - as above
            self.telemetry.step_crashed(error)
            return self._judge(Unavailable(f"unexpected {type(error).__name__}"), stay, reading)
        return Done()

    async def _bury(self, original: Outgoing, verdict: DeadLetter, reading: Reading, stay: Stay) -> None:
        subject = subject_of(reading)
        now = self.clock.now()
        # The result first: should the dead letter fail, the next try may end otherwise, as after any failure.
        if subject is not None:
            await self.outbox.publish_result(messages.failed(subject, verdict, self._owner, now))
        await self.outbox.publisher.publish(
            messages.dead_letter(original, verdict, subject, stay.attempts + 1, now)
        )
        self.telemetry.dead_lettered(verdict, subject)

    def _judge(self, failure: Failure, stay: Stay, reading: Reading) -> Verdict:
        verdict = judge(failure, stay, self.patience, self.clock.jitter())
        if isinstance(verdict, Wait | Pause) and not self.stopping.is_set():
            now = self.clock.monotonic()
            self.telemetry.waiting(failure, verdict, stay.tries, subject_of(reading), now)
        return verdict

    def _ledger_failed(self, error: LedgerFailed, stay: Stay, reading: Reading) -> Verdict:
        self.ledger_watch.failed()
        return self._judge(Unavailable(str(error)), stay, reading)

    async def _must_leave(self, verdict: Wait | Pause, lane: Hashable, leave_at: float) -> bool:
        """Whether it is to be parked, uncounted, after its wait or instead of it."""
        if self.clock.monotonic() >= leave_at and not self.stopping.is_set():
            return True
        return await self._wait(verdict, lane) is WaitOutcome.EVICTED

    async def _wait(self, verdict: Wait | Pause, lane: Hashable, *, evictable: bool = True) -> WaitOutcome:
        paused = isinstance(verdict, Pause)
        return await self.waiting.wait(
            verdict.seconds, lambda: self.lanes.filed(lane), paused=paused, evictable=evictable
        )

    @property
    def _owner(self) -> str:
        return self.actor.names.owner


def _kind_of(reading: Reading) -> Kind | Literal["reissue", "unreadable"]:
    match reading:
        case Event():
            return reading.kind
        case Reissue():
            return "reissue"
        case Unreadable():
            return "unreadable"


def _may_have_changed(outcome: Outcome) -> bool:
    unknown = isinstance(outcome, Failed) and isinstance(outcome.failure, Unknown)
    return unknown or isinstance(outcome, Made | Changed)
