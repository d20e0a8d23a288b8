"""Workers with one mistake about removals. The simulation must detect every one of them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.simulation.mutants import Mutant
from worker.bootstrap.wiring import Parts
from worker.core import messages
from worker.core.conclude import intend
from worker.core.conclusions.conclusion import Conclusion
from worker.core.decide import Create, Delete, HoldBack, Inspect, Reconsider, Restore, Step, removal_step
from worker.core.gone import vacated
from worker.core.holds import result_published
from worker.core.inventory import NOTHING, Inspection
from worker.core.limits import Admission, TenantCounts, WindowCount
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import HoldReason, HoldState
from worker.core.model.recollection import Recollection
from worker.core.model.wishes import Approving, Wish
from worker.core.outcomes import Outcome
from worker.pipeline.line import Asked, Line
from worker.pipeline.owed_results import OwedResults
from worker.pipeline.records import Records
from worker.pipeline.removals import Removals
from worker.pipeline.traces import deletion_audit
from worker.ports import Beside


class DeletesBlindly(Line):
    """Deletes without a look at the subaccount and its resources."""

    def _decide(self, event: Asked, known: Recollection) -> Any:
        decision = super()._decide(event, known)
        if not isinstance(decision, Inspect) or not self.is_blind(known.entry):
            return decision
        return Delete(decision.auth_id, inspection=self.unseen())

    def unseen(self) -> Inspection:
        return Inspection(found=None, tagged=False, inventory=NOTHING, begun=self.clock.monotonic())

    def is_blind(self, _entry: Entry) -> bool:
        return True


class ResumesBlindly(DeletesBlindly):
    """Repeats a deletion that was begun before without another look."""

    def is_blind(self, entry: Entry) -> bool:
        return entry.status is Status.DELETING


class CountsPerProcess(Line):
    """Counts only the removals of its own process, and does not ask the ledger to admit them."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        object.__setattr__(self, "counted", [])

    async def _counts(self, tenant: str) -> TenantCounts:
        since = Admission(self.policy.limit, self.clock.now()).since
        counts = await self.records.tenant_counts(tenant, since)
        return replace(counts, windows=tuple(self._own(tenant, begin) for begin in since))

    def _own(self, tenant: str, since: datetime) -> WindowCount:
        counted: list[tuple[Department, datetime]] = self.counted  # type: ignore[attr-defined]
        own = [one for one, at in counted if one.tenant == tenant and at > since]
        return WindowCount(len(own), len(set(own)))

    async def _claim(self, step: Step, entry: Entry, event: Asked, key: str) -> Entry:
        now = self.clock.now()
        intended = intend(step, entry, event, key, self.policy, now)
        if intended.removing is not None and entry.removing is None:
            self.counted.append((entry.department, now))  # type: ignore[attr-defined]
        beside = Beside(audit=deletion_audit(step, entry, event, now))
        return await self.records.announce(entry, intended, beside)


class AlwaysCascades(Line):
    def _decide(self, event: Asked, known: Recollection) -> Any:
        decision = super()._decide(event, known)
        return replace(decision, cascade=True) if isinstance(decision, Delete) else decision


class DoesNotHold(Line):
    """Carries out what it should hold for one of its reasons."""

    reasons: frozenset[HoldReason] = frozenset()

    def _decide(self, event: Asked, known: Recollection) -> Any:
        decision = super()._decide(event, known)
        auth_id = known.entry.auth_id
        if not isinstance(decision, HoldBack) or decision.reason not in self.reasons or auth_id is None:
            return decision
        if decision.inspection is not None:
            return Delete(auth_id, inspection=decision.inspection)
        step = removal_step(auth_id, self.policy)
        if isinstance(step, Delete) and known.inspection is None:
            return Inspect(auth_id)
        return Delete(auth_id, inspection=known.inspection) if isinstance(step, Delete) else step


class DeletesWithResources(DoesNotHold):
    reasons = frozenset({HoldReason.RESOURCES})


class IgnoresDrift(DoesNotHold):
    reasons = frozenset({HoldReason.DRIFT})


class RemovesProtected(DoesNotHold):
    reasons = frozenset({HoldReason.PROTECTED})


class RemovesMerged(DoesNotHold):
    reasons = frozenset({HoldReason.MERGED})


class CreatesInsteadOfRestoring(Line):
    async def _carry_out(self, event: Asked, decided: Step, known: Recollection, *rest: Any) -> Any:
        if isinstance(decided, Restore):
            name = decided.name or known.entry.existing.name
            known = replace(known, entry=vacated(known.entry, self.clock.now()))
            decided = Create(name)
        return await super()._carry_out(event, decided, known, *rest)


class RestoresAtOnce(Line):
    """Takes a deletion in doubt for undone before the settle window is over."""

    async def _record(
        self, event: Asked, step: Step, known: Recollection, entry: Entry, key: str, outcome: Outcome
    ) -> Any:
        line: Line = self
        if isinstance(step, Reconsider):
            line = replace(self, policy=replace(self.policy, settle_window=timedelta(0)))
        return await Line._record(line, event, step, known, entry, key, outcome)


class ForgetsWhatWaits(Line):
    """Removes for an event that is older than one whose step has begun."""

    def _decide(self, event: Asked, known: Recollection) -> Any:
        return super()._decide(event, replace(known, entry=replace(known.entry, wanted_by=None)))


class WrongRecords(Records):
    """Records another conclusion than the line has come to."""

    async def conclude(self, before: Entry, conclusion: Conclusion, *rest: Any) -> Entry:
        return await super().conclude(before, self.wrong(before, conclusion), *rest)

    def wrong(self, _before: Entry, conclusion: Conclusion) -> Conclusion:
        return conclusion


class LineWithWrongRecords(Line):
    wrong: type[WrongRecords] = WrongRecords

    def __init__(self, records: Records, **named: Any) -> None:
        super().__init__(records=self.wrong(records.entries, records.duties), **named)


class BackdatedRecords(WrongRecords):
    def wrong(self, _before: Entry, conclusion: Conclusion) -> Conclusion:
        entry = conclusion.entry
        if entry.removal is None or entry.status is not Status.DISABLED or entry.version is None:
            return conclusion
        removal = replace(entry.removal, removed_at=entry.version.time)
        return replace(conclusion, entry=replace(entry, removal=removal))


class CountsGraceFromTheEvent(LineWithWrongRecords):
    wrong = BackdatedRecords


class SilentRecords(WrongRecords):
    def wrong(self, before: Entry, conclusion: Conclusion) -> Conclusion:
        if not any(hold.state is HoldState.VOID for hold in conclusion.holds):
            return conclusion
        silent = replace(conclusion.entry, owed_results=before.owed_results, results_at=before.results_at)
        return replace(conclusion, entry=silent, answers=())


class VoidsWithoutAnswer(LineWithWrongRecords):
    wrong = SilentRecords


class ForgetfulRecords(WrongRecords):
    def wrong(self, _before: Entry, conclusion: Conclusion) -> Conclusion:
        issued = conclusion.entry.issued
        if issued is None or issued.supersedes is None:
            return conclusion
        entry = replace(conclusion.entry, issued=replace(issued, supersedes=None))
        return replace(conclusion, entry=entry)


class NamesNoPredecessor(LineWithWrongRecords):
    wrong = ForgetfulRecords


FORGED = "forged "


class ApprovesAll(Removals):
    """Approves every waiting hold of the tenant with the one that was named."""

    async def approve(self, wish: Wish, asks: Approving) -> None:
        await super().approve(wish, asks)
        for hold in await self.holds.holds():
            if hold.state is HoldState.WAITING and hold.department.tenant == wish.department.tenant:
                forged = replace(wish, id=f"{FORGED}{hold.id}", department=hold.department)
                await super().approve(forged, Approving(hold.id))

    async def _is_over(self, wish: Wish) -> bool:
        return not wish.id.startswith(FORGED) and await super()._is_over(wish)


class ForgetsOwedResults(OwedResults):
    """Records an owed result as published before it is."""

    async def publish(self, entry: Entry) -> Entry:
        for answer in entry.owed_results:
            entry = await self.records.published(result_published(entry, answer))
            result = messages.result(answer, self.names.owner, self.clock.now())
            await self.outbox.publish_result(result)
        return entry


REMOVAL_MUTANTS = (
    Mutant("deletes without a look before", Parts(line=DeletesBlindly), "removals"),
    Mutant("repeats a deletion without another look", Parts(line=ResumesBlindly), "removals-kills"),
    Mutant("counts the limit per process", Parts(line=CountsPerProcess), "removals-kills"),
    Mutant("counts grace from the time of the event", Parts(line=CountsGraceFromTheEvent), "removals"),
    Mutant("approves more than the ids named", Parts(removals=ApprovesAll), "removals"),
    Mutant("always deletes with cascade", Parts(line=AlwaysCascades), "removals"),
    Mutant("creates instead of restoring", Parts(line=CreatesInsteadOfRestoring), "removals"),
    Mutant("restores while a deletion is in doubt", Parts(line=RestoresAtOnce), "deletions", seed=30),
    Mutant("forgets the event that waits", Parts(line=ForgetsWhatWaits), "deletions"),
    Mutant("deletes what has resources", Parts(line=DeletesWithResources), "removals"),
    Mutant("deletes what has drifted", Parts(line=IgnoresDrift), "removals", seed=11),
    Mutant("removes the protected", Parts(line=RemovesProtected), "removals"),
    Mutant("removes the merged", Parts(line=RemovesMerged), "removals"),
    Mutant("voids a hold without an answer", Parts(line=VoidsWithoutAnswer), "removals"),
    Mutant("names no predecessor of new credentials", Parts(line=NamesNoPredecessor), "removals"),
    Mutant("forgets an owed result", Parts(owed_results=ForgetsOwedResults), "removals-kills"),
)
