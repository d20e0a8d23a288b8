"""The ledger in memory, for tests. It passes the ledger's conformance suite."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from worker.adapters.memory.snapshots import MemorySnapshots
from worker.adapters.rows import (
    answer_json,
    answer_of,
    audit_json,
    audit_of,
    call_json,
    call_of,
    entry_json,
    entry_of,
    hold_json,
    hold_of,
    microseconds,
    moment_at,
    said_of,
    said_row,
    standing_of,
    standing_row,
    wish_json,
    wish_of,
)
from worker.adapters.system import SystemClock
from worker.core.dead_letters import AuditLine
from worker.core.duties import longest_due
from worker.core.keeping import PurgeStep, Row, Table, purgeable
from worker.core.limits import TenantCounts, WindowCount
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.core.model.recollection import Recollection
from worker.core.model.replace import replace
from worker.core.model.wishes import Wish
from worker.core.presence import WorkerSeen
from worker.ports import (
    NOTHING_BESIDE,
    AuthIdTaken,
    Beside,
    LedgerConflict,
    LedgerFailed,
    LedgerForeign,
    NotAdmitted,
)

CALLS_KEPT = 50
SWEEPS_KEPT = 10
_CLOCK = SystemClock()


class MemoryLedger:
    """The `Ledger` port, without durability. `now`: the ledger's own clock."""

    def __init__(self, now: Callable[[], datetime] = _CLOCK.now) -> None:
        self.now = now
        self._entries: dict[Department, Entry] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._holders: dict[str, Department] = {}
        self._bound: tuple[str, str] | None = None
        self._poison_marks: Counter[str] = Counter()
        self._caught_up_at: datetime | None = None
        self._purged_at: datetime | None = None
        self._sealed_for: set[str] = set()
        self._wishes: dict[str, Wish] = {}
        self._closed_wishes: dict[str, Wish] = {}
        self._holds: dict[str, Hold] = {}
        self._calls: dict[Department, dict[int, CallNote]] = {}
        self._sweeps: dict[str, tuple[datetime, str]] = {}
        self._workers: dict[str, WorkerSeen] = {}
        self.audit: list[AuditLine] = []
        self.snapshots = MemorySnapshots()

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """See `Ledger.recall`."""
        entry = self._entries.get(department, Entry(department))
        return Recollection(entry, self._answers.get((event.source, event.id)))

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        """See `Ledger.record`."""
        return self.write(entry, answer, beside)

    def write(self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE) -> Entry:
        """Does `record` without waiting."""
        before = self._entries.get(entry.department, Entry(entry.department))
        if before.revision != entry.revision:
            raise LedgerConflict("the department's entry was changed by another writer meanwhile")
        if entry.auth_id and self._holders.get(entry.auth_id, entry.department) != entry.department:
            raise AuthIdTaken(entry.auth_id, self._holders[entry.auth_id])
        if beside.admission is not None:
            counts = self.counts(entry.department.tenant, beside.admission.since)
            if not beside.admission.allows(counts):
                raise NotAdmitted(counts)
        self._answers = self._with_answers([answer] if answer else [], beside.answers)
        self._holds |= {hold.id: hold for hold in beside.holds}
        self.audit += beside.audit
        self._note_calls(entry.department, beside.calls)
        if before.auth_id:
            del self._holders[before.auth_id]
        if entry.auth_id:
            self._holders[entry.auth_id] = entry.department
        self._entries[entry.department] = replace(entry, revision=entry.revision + 1)
        return self._entries[entry.department]

    def _note_calls(self, department: Department, calls: Sequence[CallNote]) -> None:
        numbered = self._calls.setdefault(department, {})
        numbered |= dict(enumerate(calls, start=max(numbered, default=0) + 1))
        for number in list(numbered)[:-CALLS_KEPT]:
            del numbered[number]

    async def record_answer(self, answer: Answer) -> None:
        """See `Ledger.record_answer`."""
        self.write_answer(answer)

    def write_answer(self, answer: Answer) -> None:
        """Does `record_answer` without waiting."""
        self._answers = self._with_answers([answer])

    def _with_answers(self, *written: Sequence[Answer]) -> dict[tuple[str, str], Answer]:
        answers = dict(self._answers)
        for answer in chain(*written):
            event = (answer.event.source, answer.event.id)
            if not answers.get(event, answer).may_become(answer):
                raise LedgerConflict(
                    "another payload, or another outcome, of this event was answered meanwhile"
                )
            answers[event] = answer
        return answers

    def counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """Does `tenant_counts` without waiting."""
        entries = [entry for key, entry in self._entries.items() if key.tenant == tenant]
        return TenantCounts(
            active=sum(entry.is_counted_active for entry in entries),
            windows=tuple(_within(entries, begin) for begin in since),
        )

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """See `Ledger.tenant_counts`."""
        return self.counts(tenant, since)

    async def hold(self, hold_id: str) -> Hold | None:
        """See `Ledger.hold`."""
        return self._holds.get(hold_id)

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        """See `Ledger.holds`."""
        found = [
            hold
            for hold in self._holds.values()
            if department in {None, hold.department} and (all_ or hold.is_open)
        ]
        return sorted(found, key=lambda hold: (hold.held_at, hold.id))

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        """See `Ledger.waiting_holds`."""
        return Counter(hold.reason for hold in self._holds.values() if hold.state is HoldState.WAITING)

    async def announce(self, worker: WorkerSeen) -> None:
        """See `Ledger.announce`."""
        self._workers[worker.id] = replace(worker, seen_at=self.now())

    async def leave(self, worker_id: str) -> None:
        """See `Ledger.leave`."""
        if worker_id in self._workers:
            self._workers[worker_id] = replace(self._workers[worker_id], seen_at=self.now(), left=True)

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        """See `Ledger.workers`."""
        now = self.now()
        seen = [worker for worker in self._workers.values() if abs(now - worker.seen_at) <= within]
        return sorted(seen, key=lambda worker: (worker.started_at, worker.id))

    async def count_by_status(self) -> Mapping[Status, int]:
        """See `Ledger.count_by_status`."""
        return Counter(entry.status for entry in self._entries.values())

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        """See `Ledger.note_sweep`."""
        self._sweeps[sweep_id] = (finished_at, report)
        if len(self._sweeps) > SWEEPS_KEPT:
            del self._sweeps[min(self._sweeps, key=lambda id_: self._sweeps[id_][0])]

    async def sweep(self, sweep_id: str) -> str | None:
        """See `Ledger.sweep`."""
        return self._sweeps[sweep_id][1] if sweep_id in self._sweeps else None

    async def last_sweep_at(self) -> datetime | None:
        """See `Ledger.last_sweep_at`."""
        return max((at for at, _ in self._sweeps.values()), default=None)

    async def calls(self, department: Department, limit: int = 50) -> Sequence[CallNote]:
        """See `Ledger.calls`."""
        return list(self._calls.get(department, {}).values())[-limit:]

    async def wish(self, *wishes: Wish) -> None:
        """See `Ledger.wish`."""
        known = self._wishes.keys() | self._closed_wishes.keys()
        if not known.isdisjoint(wish.id for wish in wishes):
            raise LedgerFailed("the ledger refuses a write: there is a wish of this id already")
        self._wishes |= {wish.id: wish for wish in wishes}

    async def wishes(self) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        return sorted(self._wishes.values(), key=lambda wish: wish.asked_at)

    async def is_open(self, wish_id: str) -> bool:
        """See `Ledger.is_open`."""
        return wish_id in self._wishes

    async def close_wish(self, wish_id: str) -> None:
        """See `Ledger.close_wish`."""
        if (wish := self._wishes.pop(wish_id, None)) is not None:
            self._closed_wishes[wish_id] = wish

    async def mark_poison(self, message: str) -> int:
        """See `Ledger.mark_poison`."""
        self._poison_marks[message] += 1
        return self._poison_marks[message]

    async def clear_poison(self, message: str) -> None:
        """See `Ledger.clear_poison`."""
        del self._poison_marks[message]

    async def bind(self, owner: str, provider_account: str) -> None:
        """See `Ledger.bind`."""
        self._bound = self._bound or (owner, provider_account)
        if self._bound != (owner, provider_account):
            raise LedgerForeign.of(self._bound, (owner, provider_account))

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        return {auth_id: self._holders[auth_id] for auth_id in auth_ids if auth_id in self._holders}

    async def caught_up_at(self) -> datetime | None:
        """See `Ledger.caught_up_at`."""
        return self._caught_up_at

    async def note_caught_up(self, at: datetime | None) -> None:
        """See `Ledger.note_caught_up`."""
        self._caught_up_at = at

    async def note_still_caught_up(self, at: datetime) -> None:
        """See `Ledger.note_still_caught_up`."""
        self._caught_up_at = self._caught_up_at and at

    async def sealed_for(self) -> frozenset[str]:
        """See `Ledger.sealed_for`."""
        return frozenset(self._sealed_for)

    async def note_sealed(self, recipient: str) -> None:
        """See `Ledger.note_sealed`."""
        self._sealed_for.add(recipient)

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        """See `Ledger.due`."""
        due = sorted(
            (entry.due_at, key)
            for key, entry in self._entries.items()
            if entry.due_at is not None and entry.due_at <= now
        )
        if deletable_before is None:
            return [key for _, key in due[:limit]]
        deletable = sorted(
            (entry.deletable_since, key)
            for key, entry in self._entries.items()
            if entry.deletable_since is not None and entry.deletable_since <= deletable_before
        )
        return longest_due(due, deletable, limit, now - deletable_before)

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        return sum(is_overdue(entry, since) for entry in self._entries.values())

    async def unsettled(self, since: datetime) -> int:
        """See `Ledger.unsettled`."""
        claims = (entry.claim for entry in self._entries.values() if entry.status is Status.CLAIMED)
        return sum(claim is not None and claim.started_at < since for claim in claims)

    async def owing(self) -> int:
        """See `Ledger.owing`."""
        debts = (entry.debt for entry in self._entries.values())
        return sum(debt is not None and bool(debt.recipients) and debt.retry_at is not None for debt in debts)

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        """See `Ledger.entries_after`."""
        keys = [key for key in self._entries if (last is None or key > last) and tenant in {None, key.tenant}]
        return [self._entries[key] for key in sorted(keys)[:limit]]

    async def claimed(self) -> Sequence[Entry]:
        """See `Ledger.claimed`."""
        keys = [key for key, entry in self._entries.items() if entry.status is Status.CLAIMED]
        return [self._entries[key] for key in sorted(keys)]

    async def answers(self, department: Department) -> Sequence[Answer]:
        """See `Ledger.answers`."""
        found = [answer for answer in self._answers.values() if answer.department == department]
        return sorted(found, key=lambda answer: answer.answered_at)

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        """See `Ledger.answers_to`."""
        return [self._answers[key] for key in sorted(self._answers) if key[1] == event_id]

    def rows(self) -> Mapping[Table, Sequence[Row]]:
        """All rows, as `KeptRows` has them."""
        bound, at, wishes = self._bound, self._caught_up_at, self._wishes | self._closed_wishes
        return {
            Table.LEDGER: [(*bound, microseconds(at) if at else None)] if bound else [],
            Table.SEALED_FOR: [(recipient,) for recipient in sorted(self._sealed_for)],
            Table.DEPARTMENTS: [(*key, entry_json(self._entries[key])) for key in sorted(self._entries)],
            Table.ANSWERS: [(*key, answer_json(self._answers[key])) for key in sorted(self._answers)],
            Table.HOLDS: [(id_, hold_json(self._holds[id_])) for id_ in sorted(self._holds)],
            Table.WISHES: [
                (id_, int(id_ in self._closed_wishes), wish_json(wishes[id_])) for id_ in sorted(wishes)
            ],
            Table.CALLS: [
                (*key, number, call_json(call))
                for key in sorted(self._calls)
                for number, call in self._calls[key].items()
            ],
            Table.SWEEPS: [(id_, microseconds(at), text) for id_, (at, text) in sorted(self._sweeps.items())],
            Table.SUSPECTS: sorted(self._poison_marks.items()),
            Table.SNAPSHOTS: [standing_row(one) for _, one in sorted(self.snapshots.standings.items())],
            Table.SAID: [
                said_row(of, self.snapshots.rows[of, key]) for of, key in sorted(self.snapshots.rows)
            ],
            Table.AUDIT: [(number, audit_json(line)) for number, line in enumerate(self.audit, start=1)],
        }

    def load(self, rows: Mapping[Table, Sequence[Row]]) -> None:
        """Takes over the rows of another ledger, none if one is damaged or of another owner."""
        given: Mapping[Table, Sequence[Any]] = {table: rows.get(table, ()) for table in Table}
        bound, caught_up_at = self._bound, self._caught_up_at
        for owner, account, at in given[Table.LEDGER]:
            bound, caught_up_at = bound or (owner, account), moment_at(at) if at is not None else None
            if bound != (owner, account):
                raise LedgerForeign.of(bound, (owner, account))
        entries = [entry_of(text) for _, _, text in given[Table.DEPARTMENTS]]
        answers = {(source, id_): answer_of(text) for source, id_, text in given[Table.ANSWERS]}
        holds = {id_: hold_of(text) for id_, text in given[Table.HOLDS]}
        wishes = [(id_, closed, wish_of(text)) for id_, closed, text in given[Table.WISHES]]
        calls = [(Department(*key), number, call_of(text)) for *key, number, text in given[Table.CALLS]]
        self.audit += [audit_of(text) for _, text in given[Table.AUDIT]]
        self._bound, self._caught_up_at = bound, caught_up_at
        self._sealed_for = {recipient for (recipient,) in given[Table.SEALED_FOR]}
        self._entries = {entry.department: entry for entry in entries}
        self._holders = {entry.auth_id: entry.department for entry in entries if entry.auth_id}
        self._answers, self._holds = answers, holds
        self._wishes = {id_: wish for id_, closed, wish in wishes if not closed}
        self._closed_wishes = {id_: wish for id_, closed, wish in wishes if closed}
        for department, number, call in calls:
            self._calls.setdefault(department, {})[number] = call
        self._sweeps = {id_: (moment_at(at), text) for id_, at, text in given[Table.SWEEPS]}
        self._poison_marks = Counter(dict(given[Table.SUSPECTS]))
        said = [(source, said_of(row)) for source, *row in given[Table.SAID]]
        self.snapshots.standings = {row[0]: standing_of(row) for row in given[Table.SNAPSHOTS]}
        self.snapshots.rows = {(source, one.department): one for source, one in said}

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        """See `Ledger.purge`."""
        entries = await self.entries_after(after, limit)
        removed = 0
        for entry in entries:
            old = [one for one in await self.answers(entry.department) if one.answered_at < before]
            for answer in purgeable(entry, old):
                del self._answers[answer.event.source, answer.event.id]
                removed += 1
        return PurgeStep(removed, len(entries), entries[-1].department if entries else None)

    async def purged_at(self) -> datetime | None:
        """See `Ledger.purged_at`."""
        return self._purged_at

    async def note_purge(self, at: datetime) -> None:
        """See `Ledger.note_purge`."""
        self._purged_at = at


def is_overdue(entry: Entry, since: datetime) -> bool:
    """Whether an entry older than `since` has a debt with a retry, or a late removal fails since then."""
    if entry.retry is not None and entry.due_at is not None and entry.retry.failing_since < since:
        return True
    retry_at = entry.debt.retry_at if entry.debt else None
    return retry_at is not None and entry.created_at is not None and entry.created_at < since


def _within(entries: Sequence[Entry], since: datetime) -> WindowCount:
    gone = [entry.latest_removal for entry in entries if not entry.is_counted_active]
    return WindowCount(
        removals=sum(at > since for entry in entries for at in entry.counted_removals),
        departments=sum(at is not None and at > since for at in gone),
    )
