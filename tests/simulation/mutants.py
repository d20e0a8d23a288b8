"""Workers with one mistake each. The checker is worth what it finds: every one of them must be caught."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from contracts.subaccounts import DeadReason, ResultKind
from worker.bootstrap import Parts
from worker.core import messages
from worker.core.adoption import Match, duplicates_of, to_disable
from worker.core.conclude import Made, NothingDone, NothingSeen, Outcome, conclude, confirmed
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
from worker.core.judge import DeadLetter, Operation, Park, Transient, Unavailable, Unknown, classify
from worker.core.model import Answer, Entry, Event, Recollection, Status
from worker.pipeline.handler import Handler
from worker.pipeline.line import Line, Overtaken, Result
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
    """A worker with a mistake, and the profile whose faults bring it to light."""

    mistake: str
    parts: Parts
    profile: str = "all"


class AcksBeforeConfirm(Handler):
    async def _end(self, work: Work, verdict: Any) -> Any:
        await work.delivery.ack()
        return await super()._end(work, verdict)


class AcksBeforeAnswering(Handler):
    async def _handle(self, work: Work) -> Any:
        await work.delivery.ack()
        return await super()._handle(work)


class TakesAnyPublishForConfirmed(Outbox):
    async def publish_result(self, outgoing: Any) -> None:
        try:
            await self.publisher.publish(outgoing)
        except PublishFailed:
            return


class PublishesBeforeItRecords(Line):
    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Any:
        told = conclude(entry, event, step, outcome, self.policy, self.clock.now()).answer
        if told is not None:
            await self.outbox.publish_result(messages.result(told, self.names.owner, self.clock.now()))
        return await super()._record(event, step, entry, outcome)


class ForgetsTheClaim(Line):
    """No claim: a crash leaves no trace of the create."""

    async def _claim(self, step: Step, entry: Entry, event: Event, key: str) -> Entry:
        if isinstance(step, Create):
            return _claimed_in_memory(step, entry, event, key, self.clock.now())
        return await super()._claim(step, entry, event, key)


def _claimed_in_memory(step: Create, entry: Entry, event: Event, key: str, now: datetime) -> Entry:
    from worker.core.conclude import intend
    from worker.core.decide import Policy

    return intend(step, entry, event, key, Policy(), now)


class DropsClaimsAtRestart(Line):
    """Takes the claims it finds at its start for those of creates that never happened."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        object.__setattr__(self, "seen", set())

    async def carry(self, event: Event, is_overtaken: Any) -> Result:
        entry = (await self.records.recall(event.department)).entry
        seen = self.seen  # type: ignore[attr-defined]
        if event.department not in seen and entry.status is Status.CLAIMED:
            before = Status.REMOVED if entry.removed_at else Status.ABSENT
            await self.records.recheck(replace(entry, status=before))
        seen.add(event.department)
        return await super().carry(event, is_overtaken)


class CreatesAgainUnasked(Actor):
    """An unknown create is taken for one that did not happen."""

    async def act(self, step: Step, *rest: Any) -> Outcome:
        outcome = await super().act(step, *rest)
        match step, outcome:
            case Create(), _ if isinstance(getattr(outcome, "failure", None), Unknown):
                return replace(outcome, failure=Transient("try again"))  # type: ignore[arg-type]
        return outcome


class BelievesOneEmptyScan(Line):
    """Gives a create up for lost at the first look, with no settle window."""

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Any:
        if isinstance(step, Adopt) and isinstance(outcome, NothingSeen) and entry.claim is not None:
            claim = replace(entry.claim, clean_scans=5)
            later = NothingSeen(claim.started_at + timedelta(days=1))
            return await super()._record(event, step, replace(entry, claim=claim), later)
        return await super()._record(event, step, entry, outcome)


class CountsLooksInsteadOfTime(Line):
    """Two empty scans are enough, however early."""

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Any:
        if isinstance(step, Adopt) and isinstance(outcome, NothingSeen) and entry.claim is not None:
            outcome = NothingSeen(entry.claim.started_at + timedelta(days=1))
        return await super()._record(event, step, entry, outcome)


class TakesTheFirstMatch(Subaccounts):
    """Not the one on record: the newest of its tag is kept, and the one on record disabled."""

    async def disable_duplicates(self, entry: Entry) -> tuple[str, ...]:
        result = await self.scanner.scan(entry.created_at)
        tags = self.names.tags(entry.department, range(1, entry.incarnation + 1))
        others = duplicates_of((await self.matches(result, entry, tags))[1:], None)
        await self.disable(to_disable(others), entry)
        return tuple(one.auth_id for one in others)


class EnablesAtOnce(Actor):
    """Although it is to be enabled once its credentials are published."""

    async def _create(self, *args: Any) -> Outcome:
        return await replace(self, enable=Enable.CREATED).create_as_told(*args)

    async def create_as_told(self, *args: Any) -> Outcome:
        return await super()._create(*args)


class LeavesDuplicatesEnabled(Subaccounts):
    async def disable(self, _auth_ids: Iterable[str], _entry: Entry) -> None:
        """Reported all the same."""


class KeepsDoublesToItself(Line):
    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.telemetry.doubles_disabled = lambda *_: None  # type: ignore[method-assign]


class NeverRecounts(Scheduler):
    async def _recount(self, entry: Entry) -> None:
        """Not looked for."""


class NeverChecks(Scheduler):
    async def _checked(self, entry: Entry) -> Entry:
        return replace(entry, check_at=None, late_call=False)


class ChecksOnce(Scheduler):
    """What was set right once is taken to stay so."""

    async def _checked(self, entry: Entry) -> Entry:
        return replace(await super()._checked(entry), check_at=None, late_call=False)


class LooksAtTheFirstPageOnly(Scanner):
    async def _read(self, _since: datetime | None) -> ScanResult | None:
        result = ScanResult(self._clock.now(), {})
        note(await page_of(self._provider, 0), self._template, result.seen)
        return result


class SkipsWhatShifts(Scanner):
    """Pages without overlap: what a deletion moves up meanwhile is not seen."""

    async def _read(self, _since: datetime | None) -> ScanResult | None:
        result, offset = ScanResult(self._clock.now(), {}), 0
        while page := await page_of(self._provider, offset):
            note(page, self._template, result.seen)
            offset += len(page)
        return result


class AdoptsByName(Subaccounts):
    """Any subaccount that begins with the department's name will do."""

    async def matches(self, result: ScanResult, entry: Entry, _tags: Mapping[str, int]) -> list[Match]:
        everything = [one for seen in result.seen.values() for one in seen]
        named = [one for one in everything if one.name.startswith(f"{entry.department.id} ")]
        return [Match(entry.incarnation, one) for one in named]


class KnowsTheFirstIncarnationOnly(Subaccounts):
    """A department founded anew before the ledger was lost is not recognised."""

    def tags(self, entry: Entry) -> Mapping[str, int]:
        return self.names.tags(entry.department, range(entry.incarnation, entry.incarnation + 1))


class TrustsTheNewestPage(Orphans):
    """Where that holds nothing unknown, nothing is: not even of a ledger that is new."""

    async def _find(self) -> set[str]:
        return await self._unknown(await self._newest_page())


class TakesANewLedgerForCaughtUp(Orphans):
    """Once the whole list was read, it is never read again, whatever was found."""

    async def _find(self) -> set[str]:
        found = await super()._find()
        await self._ledger.note_caught_up(caught_up=True)
        return found


class AdoptsAsTheFirstIncarnation(Line):
    """What was found is put on record under the incarnation the ledger took it for."""

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Any:
        if isinstance(outcome, Made):
            outcome = replace(outcome, found=None)
        return await super()._record(event, step, entry, outcome)


class CountsNoCrashes(Line):
    """A create whose outcome was never recorded is sent again however often the worker died in it."""

    async def _record(self, event: Event, step: Step, entry: Entry, outcome: Outcome) -> Any:
        if isinstance(outcome, NothingSeen) and entry.claim is not None and entry.claim.attempt:
            entry = replace(entry, claim=replace(entry.claim, attempt=1))
        return await super()._record(event, step, entry, outcome)


class RemovesAllTheSame(Line):
    """Told to ignore removals, it disables."""

    def __init__(self, policy: Policy, **named: Any) -> None:
        if policy.removal is Removal.IGNORE:
            policy = replace(policy, removal=Removal.DISABLE)
        super().__init__(policy=policy, **named)


class CreatesOnAnyRename(Line):
    """Told to reject the rename of what it does not know, it creates."""

    def __init__(self, policy: Policy, **named: Any) -> None:
        super().__init__(policy=replace(policy, unknown_rename=UnknownRename.CREATE), **named)


class RejectsRenames(Line):
    """Of departments it knows, too."""

    def _decide(self, event: Event, known: Recollection) -> Any:
        decision = super()._decide(event, known)
        if isinstance(decision, Rename) and self.policy.unknown_rename is UnknownRename.REJECT:
            return Refuse(DeadReason.INVALID, "a rename")
        return decision


class ToleratesNoClock(Line):
    """What is ahead of its own clock by a second it dead-letters."""

    def _decide(self, event: Event, known: Recollection) -> Any:
        if event.version.time > self.clock.now() + timedelta(seconds=1):
            return Refuse(DeadReason.INVALID, "ahead of the clock")
        return super()._decide(event, known)


class AnswersBeforeCredentials(Outbox):
    """The credentials go out with the department's next event."""

    async def deliver_owed(self, entry: Entry, token: Any) -> Entry:
        made_by_this_event = token is not None
        return entry if made_by_this_event else await super().deliver_owed(entry, token)


class IgnoresVersions(Line):
    def _decide(self, event: Event, known: Recollection) -> Any:
        return super()._decide(event, replace(known, entry=replace(known.entry, version=None)))


class IgnoresDuplicates(Line):
    def _decide(self, event: Event, known: Recollection) -> Any:
        if known.answer is not None and known.answer.confirmed:
            again = decide(event, Recollection(known.entry), self.policy, self.clock.now())
            known = replace(known, answer=None) if known.entry.version == event.version else known
            return again if known.answer is None else super()._decide(event, known)
        return super()._decide(event, known)


class ForgetsWhatIsOwed(Line):
    async def _publish(self, event: Event, entry: Entry, answer: Answer, token: Any) -> None:
        await super()._publish(
            event, confirmed(entry, entry.owed_to) if token is None else entry, answer, token
        )


class SendsChangesUnannounced(Line):
    """No durable check before a change: what a crash leaves behind is never compared."""

    async def _claim(self, step: Step, entry: Entry, event: Event, key: str) -> Entry:
        changes = isinstance(step, Rename | Restore | Disable)
        return entry if changes else await super()._claim(step, entry, event, key)


class TrustsLostAnswers(Actor):
    """A change without an answer is taken for done."""

    async def _changed(self, call: Any) -> Outcome:
        from worker.core.conclude import Changed

        try:
            return await super()._changed(call)
        except CallFailed as failed:
            if isinstance(classify(failed.fault), Unknown):
                return Changed()
            raise


class AnswersDeadLetters(Handler):
    """A dead letter is acked without having been confirmed."""

    async def _dead_letter(self, work: Work, verdict: DeadLetter) -> None:
        try:
            await super()._dead_letter(work, verdict)
        except PublishFailed:
            return


class AcksWhatItParksFirst(Handler):
    async def _park(self, work: Work, verdict: Park) -> None:
        await work.delivery.ack()
        await super()._park(work, verdict)


class ForgetsTheRoutingKey(Handler):
    """What is parked comes back under the delay's routing key, and nobody knows its own."""

    async def _park(self, work: Work, verdict: Park) -> None:
        parked = messages.parked(work.original, verdict)
        headers = {**parked.message.headers}
        del headers[messages.ORIGINAL_ROUTING_KEY]
        await self.outbox.publish(replace(parked, message=replace(parked.message, headers=headers)))


class CountsOutages(Handler):
    """What fails for everybody is held against each message."""

    def _judge(self, work: Work, result: Any) -> Any:
        if isinstance(result, Unavailable):
            result = Transient(result.detail, result.retry_after_seconds)
        return super()._judge(work, result)


class LetsAllThrough(Circuit):
    """Half-open for everybody at once."""

    @contextmanager
    def _let_through(self, operation: Operation) -> Iterator[None]:
        self._check_not_open(operation)
        self._breaker = replace(self._breaker, trial=operation)
        yield


class AnswersTheOlderFirst(Line):
    """What a newer event has overtaken is answered before that one's outcome is on record."""

    async def carry(self, event: Event, is_overtaken: Any) -> Result:
        result = await super().carry(event, is_overtaken)
        if isinstance(result, Overtaken):
            entry = (await self.records.recall(event.department)).entry
            recorded = await self._record(event, Skip(ResultKind.SUPERSEDED), entry, NothingDone())
            if recorded.known.answer is not None:
                await self._publish(event, recorded.known.entry, recorded.known.answer, None)
        return result


MUTANTS = (
    Mutant("acks before the dead letter is confirmed", Parts(handler=AcksBeforeConfirm)),
    Mutant("acks before it answers", Parts(handler=AcksBeforeAnswering)),
    Mutant("takes any publish for confirmed", Parts(outbox=TakesAnyPublishForConfirmed)),
    Mutant("publishes before it records", Parts(line=PublishesBeforeItRecords)),
    Mutant("no claim", Parts(line=ForgetsTheClaim)),
    Mutant("drops claims at a restart", Parts(line=DropsClaimsAtRestart)),
    Mutant("creates again without settling", Parts(actor=CreatesAgainUnasked)),
    Mutant("believes one empty scan", Parts(line=BelievesOneEmptyScan)),
    Mutant("counts looks instead of time", Parts(line=CountsLooksInsteadOfTime)),
    Mutant("enables at once", Parts(actor=EnablesAtOnce), "calm"),
    Mutant("takes the first match", Parts(subaccounts=TakesTheFirstMatch), "very-late"),
    Mutant("leaves doubles enabled", Parts(subaccounts=LeavesDuplicatesEnabled), "very-late"),
    Mutant("keeps doubles to itself", Parts(line=KeepsDoublesToItself), "very-late"),
    Mutant("never recounts", Parts(scheduler=NeverRecounts), "very-late"),
    Mutant("never checks", Parts(scheduler=NeverChecks)),
    Mutant("looks at the first page only", Parts(scanner=LooksAtTheFirstPageOnly), "adoption"),
    Mutant("skips what shifts", Parts(scanner=SkipsWhatShifts), "adoption"),
    Mutant("adopts by name, not by tag", Parts(subaccounts=AdoptsByName), "adoption"),
    Mutant("checks what it set right no more", Parts(scheduler=ChecksOnce)),
    Mutant(
        "knows the first incarnation only", Parts(subaccounts=KnowsTheFirstIncarnationOnly), "ledger-lost"
    ),
    Mutant("trusts the newest page of a new ledger", Parts(orphans=TrustsTheNewestPage), "ledger-lost"),
    Mutant("takes a new ledger for caught up", Parts(orphans=TakesANewLedgerForCaughtUp), "ledger-lost"),
    Mutant("records the wrong incarnation", Parts(line=AdoptsAsTheFirstIncarnation), "ledger-lost"),
    Mutant("counts no crashes", Parts(line=CountsNoCrashes), "crashing"),
    Mutant("removes although told not to", Parts(line=RemovesAllTheSame)),
    Mutant("creates although told to reject", Parts(line=CreatesOnAnyRename)),
    Mutant("rejects the rename of what it knows", Parts(line=RejectsRenames)),
    Mutant("tolerates no clock but its own", Parts(line=ToleratesNoClock), "clock-set"),
    Mutant("answers before it hands on credentials", Parts(outbox=AnswersBeforeCredentials)),
    Mutant("ignores versions", Parts(line=IgnoresVersions)),
    Mutant("ignores duplicates", Parts(line=IgnoresDuplicates)),
    Mutant("forgets the credentials it owes", Parts(line=ForgetsWhatIsOwed)),
    Mutant("sends changes unannounced", Parts(line=SendsChangesUnannounced), "broker"),
    Mutant("trusts lost answers", Parts(actor=TrustsLostAnswers)),
    Mutant("acks a dead letter that was not confirmed", Parts(handler=AnswersDeadLetters)),
    Mutant("acks what it parks before that is confirmed", Parts(handler=AcksWhatItParksFirst), "provider"),
    Mutant("parks without the routing key", Parts(handler=ForgetsTheRoutingKey), "provider"),
    Mutant("counts outages", Parts(handler=CountsOutages), "outage"),
    Mutant("lets all calls through when half-open", Parts(circuit=LetsAllThrough), "outage"),
    Mutant("answers the older before the newest is on record", Parts(line=AnswersTheOlderFirst)),
)
