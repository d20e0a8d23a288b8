"""Workers with one mistake each. The simulation must detect every one of them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from contracts.subaccounts import DeadReason, ResultKind
from tests.simulation.database import DatabaseParts
from worker.bootstrap.wiring import Parts
from worker.core import messages
from worker.core.adoption import Match, duplicates_of, to_disable
from worker.core.conclude import conclude
from worker.core.debts import confirmed
from worker.core.decide import (
    Adopt,
    Create,
    Disable,
    Enable,
    Policy,
    Refuse,
    Removal,
    Rename,
    Restore,
    Skip,
    Step,
    UnknownRename,
    decide,
)
from worker.core.judge import (
    CallFault,
    DeadLetter,
    Operation,
    Park,
    Transient,
    Unavailable,
    Unknown,
    classify,
)
from worker.core.model.answers import Answer
from worker.core.model.causes import Event
from worker.core.model.entry import Entry, Status
from worker.core.model.recollection import Recollection
from worker.core.outcomes import Made, NothingDone, NothingSeen, Outcome
from worker.pipeline.handler import Handler
from worker.pipeline.line import Asked, Line, Overtaken, Result, _Recorded
from worker.pipeline.outbox import Outbox
from worker.pipeline.scheduler import Scheduler
from worker.pipeline.work import Work
from worker.ports import CallFailed, PublishFailed
from worker.provider.act import Actor
from worker.provider.circuit import Circuit
from worker.provider.scan import Orphans, Scanner, ScanResult, note, page_of
from worker.provider.subaccounts import Subaccounts


@dataclass(frozen=True, slots=True)
class Mutant:
    """Parts of a worker with one mistake, and the profile whose faults reveal it.

    `mistake` continues the sentence "a worker that ...". `seed` is the first to be tried: one that reveals
    the mistake saves the search, and any other is only slow.
    """

    mistake: str
    parts: Parts
    profile: str = "all"
    seed: int = 0
    database_parts: DatabaseParts | None = None


class AcksBeforeConfirm(Handler):
    async def _end(self, work: Work, verdict: Any) -> Any:
        await work.delivery.ack()
        return await super()._end(work, verdict)


class AcksBeforeAnswering(Handler):
    async def _handle(self, work: Work) -> Any:
        await work.delivery.ack()
        return await super()._handle(work)


class IgnoresFailedPublishes(Outbox):
    async def publish_result(self, outgoing: Any) -> None:
        try:
            await self.publisher.publish(outgoing)
        except PublishFailed:
            return


class PublishesBeforeItRecords(Line):
    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        answer = conclude(entry, event, step, outcome, self.policy, self.clock.now()).answer
        if answer is not None:
            await self.outbox.publish_result(messages.result(answer, self.names.owner, self.clock.now()))
        return await super()._record(event, step, known, entry, key, outcome)


class WritesNoClaim(Line):
    """Writes no claim, so a crash leaves no trace of the create."""

    async def _claim(self, step: Step, entry: Entry, event: Asked, key: str) -> Entry:
        if isinstance(step, Create):
            return _claimed_in_memory(step, entry, event, key, self.clock.now())
        return await super()._claim(step, entry, event, key)


def _claimed_in_memory(step: Create, entry: Entry, event: Asked, key: str, now: datetime) -> Entry:
    from worker.core.conclude import intend
    from worker.core.decide import Policy

    return intend(step, entry, event, key, Policy(), now)


class DropsClaimsAtRestart(Line):
    """Treats the claims it finds at its start as creates that never happened."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        object.__setattr__(self, "seen", set())

    async def carry(self, event: Asked, is_overtaken: Any) -> Result:
        entry = (await self.records.recall(event.department)).entry
        seen = self.seen  # type: ignore[attr-defined]
        if event.department not in seen and entry.status is Status.CLAIMED:
            before = Status.REMOVED if entry.removal else Status.ABSENT
            await self.records.recheck(replace(entry, status=before))
        seen.add(event.department)
        return await super().carry(event, is_overtaken)


class CreatesAgainWithoutSettling(Actor):
    """Treats an unknown create as one that did not happen."""

    async def act(self, step: Step, *rest: Any) -> Outcome:
        outcome = await super().act(step, *rest)
        match step, outcome:
            case Create(), _ if isinstance(getattr(outcome, "failure", None), Unknown):
                return replace(outcome, failure=Transient("try again"))  # type: ignore[arg-type]
        return outcome


class TrustsOneEmptyScan(Line):
    """Treats a create as lost after one empty scan, without a settle window."""

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        if isinstance(step, Adopt) and isinstance(outcome, NothingSeen) and entry.claim is not None:
            claim = replace(entry.claim, clean_scans=5)
            later = NothingSeen(claim.started_at + timedelta(days=1))
            return await super()._record(event, step, known, replace(entry, claim=claim), key, later)
        return await super()._record(event, step, known, entry, key, outcome)


class CountsScansInsteadOfTime(Line):
    """Treats a create as lost after two empty scans, without waiting for the settle window."""

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        if isinstance(step, Adopt) and isinstance(outcome, NothingSeen) and entry.claim is not None:
            outcome = NothingSeen(entry.claim.started_at + timedelta(days=1))
        return await super()._record(event, step, known, entry, key, outcome)


class TakesTheFirstMatch(Subaccounts):
    """Keeps the newest match instead of the recorded one, which it disables."""

    async def disable_duplicates(self, entry: Entry) -> tuple[str, ...]:
        result = await self.scanner.scan(entry.created_at)
        tags = self.names.tags(entry.department, range(1, entry.incarnation + 1))
        others = duplicates_of((await self.matches(result, entry, tags))[1:], None)
        await self.disable(to_disable(others), entry)
        return tuple(one.auth_id for one in others)


class EnablesAtCreate(Actor):
    """Enables a subaccount at its create instead of after its credentials."""

    async def _create(self, *args: Any) -> Outcome:
        return await replace(self, enable=Enable.CREATED).create_at_once(*args)

    async def create_at_once(self, *args: Any) -> Outcome:
        return await super()._create(*args)


class LeavesDuplicatesEnabled(Subaccounts):
    async def disable(self, _auth_ids: Iterable[str], _entry: Entry) -> None:
        """Reports the duplicates without disabling them."""


class HidesDuplicates(Line):
    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.telemetry.doubles_disabled = lambda *_: None  # type: ignore[method-assign]


class NeverChecksForDuplicates(Scheduler):
    async def _disable_duplicates(self, entry: Entry) -> None:
        """Skips the duplicate check."""


class NeverChecksChanges(Scheduler):
    async def _check(self, entry: Entry) -> Entry:
        return replace(entry, check=None)


class ChecksOnce(Scheduler):
    """Does not check a correction again."""

    async def _check(self, entry: Entry) -> Entry:
        return replace(await super()._check(entry), check=None)


class ScansOnlyTheFirstPage(Scanner):
    async def _read(self, _since: datetime | None) -> ScanResult | None:
        result = ScanResult(self._clock.now(), {})
        note(await page_of(self._provider, 0), self._template, result.seen)
        return result


class ScansWithoutOverlap(Scanner):
    """Reads pages without overlap, and misses a subaccount that a deletion moves up."""

    async def _read(self, _since: datetime | None) -> ScanResult | None:
        result, offset = ScanResult(self._clock.now(), {}), 0
        while page := await page_of(self._provider, offset):
            note(page, self._template, result.seen)
            offset += len(page)
        return result


class AdoptsByName(Subaccounts):
    """Adopts any subaccount whose name begins with that of the department."""

    async def matches(self, result: ScanResult, entry: Entry, _tags: Mapping[str, int]) -> list[Match]:
        everything = [one for seen in result.seen.values() for one in seen]
        named = [one for one in everything if one.name.startswith(f"{entry.department.id} ")]
        return [Match(entry.incarnation, one) for one in named]


class KnowsOnlyTheFirstIncarnation(Subaccounts):
    """Does not recognise a later incarnation from before the ledger was lost."""

    def tags(self, entry: Entry) -> Mapping[str, int]:
        return self.names.tags(entry.department, range(entry.incarnation, entry.incarnation + 1))


class TrustsTheNewestPage(Orphans):
    """Assumes that nothing is unknown if the newest page has nothing unknown, even with a new ledger."""

    async def _find(self) -> set[str]:
        return await self._unknown(self._tagged(await page_of(self._provider, 0)))


class MarksANewLedgerCaughtUp(Orphans):
    """Never reads the whole list a second time, whatever it found."""

    async def _find(self) -> set[str]:
        found = await super()._find()
        await self._register.note_caught_up(self._clock.now())
        return found

    async def _has_caught_up(self) -> bool:
        return await self._register.caught_up_at() is not None


class AdoptsAsTheFirstIncarnation(Line):
    """Records an adopted subaccount under the incarnation of the entry instead of its own."""

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        if isinstance(outcome, Made):
            outcome = replace(outcome, found=None)
        return await super()._record(event, step, known, entry, key, outcome)


class DoesNotCountCrashes(Line):
    """Repeats a create without a recorded outcome however often the worker died in it."""

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        if isinstance(outcome, NothingSeen) and entry.claim is not None and entry.claim.attempt:
            entry = replace(entry, claim=replace(entry.claim, attempt=1))
        return await super()._record(event, step, known, entry, key, outcome)


class RemovesAgainstThePolicy(Line):
    """Disables, although the policy is to ignore removals."""

    def __init__(self, policy: Policy, **named: Any) -> None:
        if policy.removal is Removal.IGNORE:
            policy = replace(policy, removal=Removal.DISABLE)
        super().__init__(policy=policy, **named)


class CreatesAgainstThePolicy(Line):
    """Creates, although the policy is to reject renames of unknown departments."""

    def __init__(self, policy: Policy, **named: Any) -> None:
        super().__init__(policy=replace(policy, unknown_rename=UnknownRename.CREATE), **named)


class RejectsKnownRenames(Line):
    """Rejects renames of known departments too."""

    def _decide(self, event: Asked, known: Recollection) -> Any:
        decision = super()._decide(event, known)
        if isinstance(decision, Rename) and self.policy.unknown_rename is UnknownRename.REJECT:
            return Refuse(DeadReason.INVALID, "a rename")
        return decision


class ToleratesNoClockSkew(Line):
    """Dead-letters an event that is one second ahead of its own clock."""

    def _decide(self, event: Asked, known: Recollection) -> Any:
        if event.version and event.version.time > self.clock.now() + timedelta(seconds=1):
            return Refuse(DeadReason.INVALID, "ahead of the clock")
        return super()._decide(event, known)


class AnswersBeforeCredentials(Outbox):
    """Publishes the credentials with the department's next event."""

    async def deliver_owed(self, entry: Entry, token: Any) -> Entry:
        made_by_this_event = token is not None
        return entry if made_by_this_event else await super().deliver_owed(entry, token)


class IgnoresVersions(Line):
    def _decide(self, event: Asked, known: Recollection) -> Any:
        return super()._decide(event, replace(known, entry=replace(known.entry, version=None)))


class IgnoresDuplicates(Line):
    def _decide(self, event: Asked, known: Recollection) -> Any:
        if isinstance(event, Event) and known.answer is not None and known.answer.confirmed:
            again = decide(event, Recollection(known.entry), self.policy, self.clock.now())
            known = replace(known, answer=None) if known.entry.version == event.version else known
            return again if known.answer is None else super()._decide(event, known)
        return super()._decide(event, known)


class ForgetsDebts(Line):
    async def _publish(self, event: Asked, entry: Entry, answer: Answer, token: Any) -> None:
        await super()._publish(
            event, confirmed(entry, entry.owed_to) if token is None else entry, answer, token
        )


class SendsChangesWithoutACheck(Line):
    """Records no check before a change, so a change that a crash cut off is never compared."""

    async def _claim(self, step: Step, entry: Entry, event: Asked, key: str) -> Entry:
        changes = isinstance(step, Rename | Restore | Disable)
        return entry if changes else await super()._claim(step, entry, event, key)


class TrustsLostResponses(Actor):
    """Treats a change without a response as done."""

    async def _changed(self, call: Any) -> Outcome:
        from worker.core.outcomes import Changed

        try:
            return await super()._changed(call)
        except CallFailed as failed:
            if isinstance(classify(failed.fault), Unknown):
                return Changed()
            raise


class AcksUnconfirmedDeadLetters(Handler):
    """Acks the original of a dead letter that was not confirmed."""

    async def _dead_letter(self, work: Work, verdict: DeadLetter) -> None:
        try:
            await super()._dead_letter(work, verdict)
        except PublishFailed:
            return


class AcksBeforeParking(Handler):
    async def _park(self, work: Work, verdict: Park) -> None:
        await work.delivery.ack()
        await super()._park(work, verdict)


class ForgetsTheRoutingKey(Handler):
    """Parks without the original routing key, so the message returns with that of the delay."""

    async def _park(self, work: Work, verdict: Park) -> None:
        parked = messages.parked(work.original, verdict)
        headers = {**parked.message.headers}
        del headers[messages.ORIGINAL_ROUTING_KEY]
        await self.outbox.publish(replace(parked, message=replace(parked.message, headers=headers)))


class CountsOutagesAsAttempts(Handler):
    """Counts an outage as an attempt of each message."""

    def _judge(self, work: Work, result: Any) -> Any:
        if isinstance(result, Unavailable):
            result = Transient(result.detail, result.retry_after_seconds)
        return super()._judge(work, result)


class LetsAllCallsThrough(Circuit):
    """Lets all calls through a half-open circuit, instead of one trial."""

    @contextmanager
    def _let_through(self, operation: Operation) -> Iterator[None]:
        self._check_not_open(operation)
        self._breaker = replace(self._breaker, trial=operation)
        yield


class BelievesRefusalsUnproved(Circuit):
    """Takes a refusal for the message's own fault without a probe."""

    async def _confirmed(self, _refusal: CallFault) -> bool:
        return True


class AnswersOlderEventsFirst(Line):
    """Answers an overtaken event before the outcome of the newer one is recorded."""

    async def carry(self, event: Asked, is_overtaken: Any) -> Result:
        result = await super().carry(event, is_overtaken)
        if isinstance(result, Overtaken):
            entry = (await self.records.recall(event.department)).entry
            superseded = Skip(ResultKind.SUPERSEDED)
            recorded = await self._record(event, superseded, Recollection(entry), entry, "", NothingDone())
            if isinstance(recorded, _Recorded) and recorded.known.answer is not None:
                await self._publish(event, recorded.known.entry, recorded.known.answer, None)
        return result


class ActsBehindANewerChange(Line):
    """Acts for an event although the change of a newer one may be in effect."""

    def _decide(self, event: Asked, known: Recollection) -> Any:
        return super()._decide(event, replace(known, entry=replace(known.entry, begun=None)))


MUTANTS = (
    Mutant("acks before the dead letter is confirmed", Parts(handler=AcksBeforeConfirm)),
    Mutant("acks before it answers", Parts(handler=AcksBeforeAnswering)),
    Mutant("ignores a failed publish", Parts(outbox=IgnoresFailedPublishes)),
    Mutant("publishes before it records", Parts(line=PublishesBeforeItRecords)),
    Mutant("writes no claim", Parts(line=WritesNoClaim)),
    Mutant("drops claims at a restart", Parts(line=DropsClaimsAtRestart)),
    Mutant("creates again without settling", Parts(actor=CreatesAgainWithoutSettling)),
    Mutant("trusts one empty scan", Parts(line=TrustsOneEmptyScan)),
    Mutant("counts scans instead of time", Parts(line=CountsScansInsteadOfTime)),
    Mutant("enables a subaccount at its create", Parts(actor=EnablesAtCreate), "calm"),
    Mutant("takes the first match", Parts(subaccounts=TakesTheFirstMatch), "very-late"),
    Mutant("leaves duplicates enabled", Parts(subaccounts=LeavesDuplicatesEnabled), "very-late"),
    Mutant("does not report duplicates", Parts(line=HidesDuplicates), "very-late"),
    Mutant("never checks for duplicates", Parts(scheduler=NeverChecksForDuplicates), "very-late"),
    Mutant("never checks changes", Parts(scheduler=NeverChecksChanges), seed=181),
    Mutant("scans only the first page", Parts(scanner=ScansOnlyTheFirstPage), "adoption"),
    Mutant("scans without overlap", Parts(scanner=ScansWithoutOverlap), "adoption", seed=213),
    Mutant("adopts by name, not by tag", Parts(subaccounts=AdoptsByName), "adoption"),
    Mutant("does not check a correction again", Parts(scheduler=ChecksOnce), seed=90),
    Mutant(
        "knows only the first incarnation",
        Parts(subaccounts=KnowsOnlyTheFirstIncarnation),
        "ledger-lost",
        seed=73,
    ),
    Mutant(
        "trusts the newest page of a new ledger", Parts(orphans=TrustsTheNewestPage), "ledger-lost", seed=8
    ),
    Mutant("marks a new ledger as caught up", Parts(orphans=MarksANewLedgerCaughtUp), "ledger-lost", seed=74),
    Mutant("records the wrong incarnation", Parts(line=AdoptsAsTheFirstIncarnation), "ledger-lost", seed=73),
    Mutant("does not count crashes", Parts(line=DoesNotCountCrashes), "crashing", seed=26),
    Mutant("removes against the policy", Parts(line=RemovesAgainstThePolicy)),
    Mutant("creates against the policy", Parts(line=CreatesAgainstThePolicy), seed=59),
    Mutant("rejects renames of known departments", Parts(line=RejectsKnownRenames)),
    Mutant("tolerates no clock skew", Parts(line=ToleratesNoClockSkew), "clock-set"),
    Mutant("answers before it publishes credentials", Parts(outbox=AnswersBeforeCredentials)),
    Mutant("ignores versions", Parts(line=IgnoresVersions)),
    Mutant("ignores duplicates", Parts(line=IgnoresDuplicates), seed=4),
    Mutant("forgets owed credentials", Parts(line=ForgetsDebts)),
    Mutant(
        "sends changes without a recorded check", Parts(line=SendsChangesWithoutACheck), "broker", seed=53
    ),
    Mutant("treats a lost response as success", Parts(actor=TrustsLostResponses)),
    Mutant("acks an unconfirmed dead letter", Parts(handler=AcksUnconfirmedDeadLetters)),
    Mutant("acks before it parks", Parts(handler=AcksBeforeParking), "provider"),
    Mutant("parks without the routing key", Parts(handler=ForgetsTheRoutingKey), "provider", seed=659),
    Mutant("counts outages as attempts", Parts(handler=CountsOutagesAsAttempts), "outage"),
    Mutant("lets all calls through when half-open", Parts(circuit=LetsAllCallsThrough), "outage"),
    Mutant("believes a refusal without a probe", Parts(circuit=BelievesRefusalsUnproved), "outage", seed=389),
    Mutant("answers older events before the newest is recorded", Parts(line=AnswersOlderEventsFirst)),
    Mutant("acts behind a newer change in doubt", Parts(line=ActsBehindANewerChange)),
)
"""Those about removals are in `removal_mutants.py`, about many workers in `worker_mutants.py`."""
