"""The gateway to the entries: every read and write goes through here.

A write is conditional on the revision that was recalled, so the second of two writers gets a
`LedgerConflict`. The writers:

    announce   the line and the outbox, before a call: the claim, the deletion, the check of a change;
               the disappearances: that a subaccount is missing, or gone;
               the bindings: a subaccount that is to be renamed or enabled;
               the corrections: the check of a change, and credentials owed for a changed token
    conclude   the line, after a step: the next entry, with the answer if there is one, its hold and its call;
               the answer alone if it changes nothing in the entry
    answered   the reissues: the answer to a request, before it is published and after the broker's confirm;
               the recreations: the answer to one that was not carried out;
               the bindings: the answer to one that was not carried out, or was before;
               the corrections: the answer to one for an unknown department
    granted    the bindings, the corrections: the entry with the answer to the wish;
               the scheduler: the same for a wish that is too old, as with `answered`
    confirm    the line, after the broker's confirm: the answer, with the entry if that changes a debt in it
    delivered  the line, the outbox, the reissues: credentials confirmed before something else failed;
               the bindings: a confirmed change, before credentials are published
    attended   the scheduler: duties that are done or put off
    ruled      the removals: a person's ruling on a hold, and an approval that has lapsed
    retried    the removals: the tries of a late removal that fails
    published  the owed results: an answer that the broker has confirmed, or that is put off
    reset      the command that forgets versions: an entry without one
    recheck    the reconciler: a check, on the entry that another worker has recorded

A call that changes nothing on record costs no write of its own: `keep` has the next write of the department
append it. It is lost only if the worker ends before that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from worker.core.conclusions.conclusion import Conclusion
from worker.core.dead_letters import AuditLine
from worker.core.holds import Ruled
from worker.core.limits import TenantCounts
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.recollection import Recollection
from worker.core.naming import NO_EVENT
from worker.ports import NOTHING_BESIDE, Beside, Duties, Entries, LedgerConflict, LedgerFailed

CALLS_KEPT = 50
"""The calls of a department that are kept for its next write: as many as the ledger keeps."""

DEPARTMENTS_KEPT = 1000
"""Departments whose calls are kept. A department that is dead-lettered may have no next write."""


@dataclass(frozen=True, slots=True)
class Records:
    """Reads and writes entries. All methods raise `LedgerFailed`, all writes `LedgerConflict`."""

    entries: Entries
    duties: Duties
    _kept: dict[Department, tuple[CallNote, ...]] = field(default_factory=dict)

    def keep(self, department: Department, *calls: CallNote) -> None:
        """Keeps calls for the next write of the department."""
        if calls:
            kept = self._kept.pop(department, ())
            self._kept[department] = (*kept, *calls)[-CALLS_KEPT:]
            if len(self._kept) > DEPARTMENTS_KEPT:
                del self._kept[next(iter(self._kept))]  # the one that has waited longest

    async def recall(self, department: Department, event: Reference = NO_EVENT) -> Recollection:
        """The department's entry, and the answer to this event if there is one."""
        return await self.entries.recall(department, event)

    async def announce(self, before: Entry, announced: Entry, beside: Beside = NOTHING_BESIDE) -> Entry:
        """Records the intent of a call. Writes nothing if the entry is unchanged.

        Raises `NotAdmitted` for a removal that the limit does not allow.
        """
        return before if announced == before else await self._record(announced, None, beside)

    async def conclude(
        self,
        before: Entry,
        conclusion: Conclusion,
        calls: tuple[CallNote, ...] = (),
        audit: tuple[AuditLine, ...] = (),
    ) -> Entry:
        """Records the outcome of a step, with its call, which is kept if there is no change.

        An answer that changes nothing in the entry, such as `superseded`, is written alone.
        """
        beside = Beside(conclusion.answers, conclusion.holds, audit, calls)
        if conclusion.entry == before and beside == Beside(calls=calls):
            self.keep(before.department, *calls)
            if conclusion.answer is not None:
                await self.entries.record_answer(conclusion.answer)
            return before
        return await self._record(conclusion.entry, conclusion.answer, beside)

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """The departments of a tenant now, and those removed in each window."""
        return await self.duties.tenant_counts(tenant, since)

    async def ruled(self, ruled: Ruled, answer: Answer | None, audit: AuditLine) -> Entry:
        """Records a ruling on a hold. `answer`: to the person's wish."""
        answers = tuple(one for one in (ruled.answer, answer) if one is not None)
        return await self._record(ruled.entry, None, Beside(answers, (ruled.hold,), (audit,)))

    async def retried(self, entry: Entry) -> Entry:
        """Records the tries of a late removal."""
        return await self._record(entry)

    async def published(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """Records that an owed answer is confirmed, or put off. `answer`: as the event has it on record."""
        return await self._record(entry, answer)

    async def answered(self, answer: Answer, entry: Entry | None = None) -> None:
        """Records a request's answer, with the entry if the request has changed it."""
        if entry is None:
            await self.entries.record_answer(answer)
        else:
            await self._record(entry, answer)

    async def granted(self, entry: Entry, answer: Answer, beside: Beside) -> Entry:
        """Records the end of an adoption or a correction, with its line of the audit and its calls."""
        return await self._record(entry, answer, beside)

    async def confirm(self, before: Entry, entry: Entry, answer: Answer) -> None:
        """Records that the broker has confirmed the answer. An unchanged entry is not written."""
        confirmed = replace(answer, confirmed=True)
        if entry is before or entry == before:
            await self.entries.record_answer(confirmed)
        else:
            await self._record(entry, confirmed)

    async def delivered(self, before: Entry, entry: Entry) -> Entry:
        """Records credentials that are confirmed, before anything else is tried again."""
        return before if entry == before else await self._record(entry)

    async def attended(self, entry: Entry) -> None:
        """Records the entry after its due duties."""
        await self._record(entry)

    async def reset(self, entry: Entry) -> None:
        """Records an entry that has forgotten its newest version."""
        await self._record(entry)

    async def recheck(self, entry: Entry) -> None:
        """Records that the provider's state must be compared with the entry."""
        await self._record(entry)

    async def _record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        """Writes the entry, with the calls that were kept for it."""
        kept = self._kept.pop(entry.department, ())
        if kept:
            beside = replace(beside, calls=(*kept, *beside.calls))
        try:
            return await self.entries.record(entry, answer, beside)
        except LedgerConflict:
            self.keep(entry.department, *beside.calls)
            raise
        except LedgerFailed:  # it may be written
            self.keep(entry.department, *kept)
            raise
