"""The ledger's roles as SQL on a `SqliteStore`."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import apsw
from pydantic_core import to_json

from worker.adapters.rows import (
    answer_json,
    answer_of,
    call_json,
    call_of,
    counted_removals,
    entry_json,
    entry_of,
    forgettable,
    hold_json,
    hold_of,
    microseconds,
    moment_at,
    moment_of,
    unix,
    wish_json,
    wish_of,
    worker_json,
    worker_of,
)
from worker.adapters.sqlite.audit import write_audit
from worker.adapters.sqlite.store import SqliteStore, sqlite_store, sqlite_store_read
from worker.core.duties import longest_due
from worker.core.keeping import PurgeStep
from worker.core.limits import TenantCounts, WindowCount
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.recollection import Recollection
from worker.core.model.replace import replace
from worker.core.model.wishes import Wish
from worker.core.presence import WorkerSeen
from worker.ports import (
    NOTHING_BESIDE,
    AuthIdTaken,
    Beside,
    LedgerConflict,
    LedgerForeign,
    NotAdmitted,
    OnCommit,
    no_note,
)

CALLS_KEPT = 50
"""For each department."""
SWEEPS_KEPT = 10
WORKERS_KEPT = timedelta(days=1)
CONFIRMED, UNCONFIRMED = '"confirmed":true', '"confirmed":false'
"""As in the JSON of an answer. No text in it has these characters: its quotes are escaped."""

RECALL = (  # one statement, so both parts are consistent
    "SELECT (SELECT entry FROM departments WHERE tenant = ? AND department_id = ?),"
    " (SELECT answer FROM answers WHERE source = ? AND event_id = ?)"
)
ANSWERS_TO = (  # the key begins with the source, so each of the few sources is looked up
    "WITH RECURSIVE sources (source) AS (SELECT min(source) FROM answers UNION ALL"
    " SELECT (SELECT min(source) FROM answers WHERE source > sources.source) FROM sources"
    " WHERE source IS NOT NULL)"
    " SELECT answer FROM sources JOIN answers USING (source) WHERE event_id = ? ORDER BY source"
)
INSERT_ENTRY = (
    "INSERT INTO departments (revision, status, name, auth_id, due_at, entry, active, deletable_since,"
    " last_removal_at, removals, tenant, department_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant, department_id) DO NOTHING"
)
UPDATE_ENTRY = (
    "UPDATE departments SET revision = ?1, status = ?2, name = ?3, auth_id = ?4, due_at = ?5, entry = ?6,"
    " active = ?7, deletable_since = ?8, last_removal_at = ?9, removals = ?10"
    " WHERE tenant = ?11 AND department_id = ?12 AND revision = ?1 - 1"
)
UPDATE_ENTRY_ONLY = (  # SQLite writes every index of the columns that are set, whether they change or not
    "UPDATE departments SET revision = ?1, entry = ?6 WHERE tenant = ?11 AND department_id = ?12"
    " AND revision = ?1 - 1 AND status = ?2 AND name IS ?3 AND auth_id IS ?4 AND due_at IS ?5 AND active = ?7"
    " AND deletable_since IS ?8 AND last_removal_at IS ?9 AND removals IS ?10"
)
RECORD_ANSWER = (  # a confirm, as almost always, is told from another outcome without decoding
    "INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE"
    " SET confirmed = excluded.confirmed, answer = excluded.answer WHERE answer IN (?8, ?9)"
)
CONFIRM = (  # the same answer has the same time: a later outcome of the event has another
    "UPDATE answers SET confirmed = 1, answer = replace(answer, ?1, ?2)"
    " WHERE source = ?3 AND event_id = ?4 AND payload_digest = ?5 AND answered_at = ?6"
)
REPLACE_ANSWER = (
    "UPDATE answers SET answered_at = ?6, confirmed = ?7, answer = ?8 WHERE source = ?1 AND event_id = ?2"
)
ACTIVE = "SELECT ifnull((SELECT active FROM active_counts WHERE tenant = ?), 0)"
REMOVED_SINCE = (
    "SELECT ifnull(sum((SELECT count(*) FROM json_each(removals) WHERE value > ?2)), 0),"
    " count(*) FILTER (WHERE active = 0)"
    " FROM departments WHERE tenant = ?1 AND last_removal_at > ?2"
)
OVERDUE = (  # exactly the expression of an index
    "SELECT count(*) FROM departments WHERE due_at IS NOT NULL AND min("
    "CASE WHEN entry ->> 'owed_at' IS NULL THEN 1e12"
    " ELSE ifnull(unixepoch(entry ->> 'created_at', 'subsec'), 1e12) END,"
    " ifnull(unixepoch(entry ->> '$.rare.retry.failing_since', 'subsec'), 1e12)) < ?"
)
UNSETTLED = (
    "SELECT count(*) FROM departments"
    " WHERE status = 'claimed' AND unixepoch(entry ->> '$.claim.started_at', 'subsec') < ?1"
)
OWING = (
    "SELECT count(*) FROM departments"
    " WHERE due_at IS NOT NULL AND entry ->> 'owed_at' IS NOT NULL AND entry ->> '$.owed_to[0]' IS NOT NULL"
)
RECORD_HOLD = (
    "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET held_at = excluded.held_at,"
    " reason = excluded.reason, state = excluded.state, hold = excluded.hold"
)
ALL_HOLDS = "SELECT hold FROM holds ORDER BY held_at, id"
OPEN_HOLDS = "SELECT hold FROM holds WHERE state IN ('waiting', 'approved') ORDER BY held_at, id"
HOLDS_OF_ONE = (
    "SELECT hold FROM holds WHERE tenant = ? AND department_id = ?"
    " AND (? OR state IN ('waiting', 'approved')) ORDER BY held_at, id"
)
DUE = (
    "SELECT due_at, tenant, department_id FROM departments WHERE due_at <= ?"
    " ORDER BY due_at, tenant, department_id LIMIT ?"
)
DELETABLE = (
    "SELECT deletable_since, tenant, department_id FROM departments WHERE deletable_since <= ?"
    " ORDER BY deletable_since, tenant, department_id LIMIT ?"
)
ENTRIES_AFTER = (
    "SELECT entry FROM departments WHERE (tenant, department_id) > (?, ?)"
    " ORDER BY tenant, department_id LIMIT ?"
)
ENTRIES_OF_TENANT = (
    "SELECT entry FROM departments WHERE tenant = ? AND department_id > ?"
    " ORDER BY tenant, department_id LIMIT ?"
)
CLAIMED = "SELECT entry FROM departments WHERE status = 'claimed' ORDER BY tenant, department_id"
ANNOUNCE = (
    "INSERT INTO workers VALUES (?, unixepoch('subsec'), 0, ?)"
    " ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at, has_left = 0, worker = excluded.worker"
)
LEAVE = "UPDATE workers SET seen_at = unixepoch('subsec'), has_left = 1 WHERE id = ?"
FORGET_WORKERS = "DELETE FROM workers WHERE seen_at < unixepoch('subsec') - ?"
WORKERS = "SELECT seen_at, has_left, worker FROM workers WHERE abs(unixepoch('subsec') - seen_at) <= ?"
OLD_ANSWERS = (
    "SELECT entries.tenant, entries.department_id, entry, answer FROM (SELECT tenant, department_id, entry"
    " FROM departments WHERE (tenant, department_id) > (?1, ?2) ORDER BY tenant, department_id LIMIT ?3)"
    " AS entries LEFT JOIN answers ON answers.tenant = entries.tenant"
    " AND answers.department_id = entries.department_id AND answered_at < ?4"
    " ORDER BY entries.tenant, entries.department_id"
)
FORGET_ANSWER = (  # unless the department was written since
    "DELETE FROM answers WHERE source = ?1 AND event_id = ?2 AND ?5 ="
    " (SELECT revision FROM departments WHERE tenant = ?3 AND department_id = ?4)"
)
INSERT_CALL = (
    "INSERT INTO calls SELECT ?1, ?2, coalesce(max(number), 0) + 1, ?3 FROM calls"
    " WHERE tenant = ?1 AND department_id = ?2 RETURNING number"
)


@asynccontextmanager
async def sqlite_ledger(
    path: Path,
    on_commit: OnCommit = no_note,
    *,
    must_exist: bool = False,
    alone: bool = False,
) -> AsyncIterator["SqliteLedger"]:
    """A ledger on the file at `path`; see `sqlite_store`."""
    async with sqlite_store(path, on_commit, must_exist=must_exist, alone=alone) as store:
        yield SqliteLedger(store)


@asynccontextmanager
async def sqlite_ledger_read(path: Path) -> AsyncIterator["SqliteLedger"]:
    """A read-only ledger on an existing file; see `sqlite_store_read`."""
    async with sqlite_store_read(path) as store:
        yield SqliteLedger(store)


@dataclass(frozen=True, slots=True)
class SqliteLedger:
    """The `Ledger` port on a store."""

    store: SqliteStore

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """See `Ledger.recall`."""
        with self.store.read() as connection:
            row: Any = connection.execute(RECALL, (*department, event.source, event.id)).fetchone()
        entry, answer = row
        return Recollection(
            Entry(department) if entry is None else entry_of(entry),
            None if answer is None else answer_of(answer),
        )

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        """See `Ledger.record`."""
        written = replace(entry, revision=entry.revision + 1)

        def job(connection: apsw.Connection) -> Entry:
            if beside.admission is None:
                _write_entry(connection, written)
            else:  # counted while the department still counts as active, and before any later writer
                counts = _counts(connection, entry.department.tenant, beside.admission.since)
                _write_entry(connection, written)
                if not beside.admission.allows(counts):
                    raise NotAdmitted(counts)
            if answer is not None:
                _write_answer(connection, answer)
            if beside is not NOTHING_BESIDE:
                _write_beside(connection, entry.department, beside)
            return written

        return await self.store.run(job)

    async def record_answer(self, answer: Answer) -> None:
        """See `Ledger.record_answer`."""
        write = _confirm if answer.confirmed and not answer.is_provisional else _write_answer
        await self.store.run(lambda connection: write(connection, answer))

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT auth_id, tenant, department_id FROM departments"
                " WHERE auth_id IN (SELECT value FROM json_each(?))",
                (to_json(list(auth_ids)).decode(),),
            )
            return {str(auth_id): Department(str(tenant), str(id_)) for auth_id, tenant, id_ in rows}

    async def caught_up_at(self) -> datetime | None:
        """See `Ledger.caught_up_at`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT caught_up_at FROM ledger WHERE caught_up_at IS NOT NULL")
            return next((moment_at(row[0]) for row in rows), None)

    async def note_caught_up(self, at: datetime | None) -> None:
        """See `Ledger.note_caught_up`."""
        value = microseconds(at) if at else None
        await self.store.run(
            lambda connection: connection.execute("UPDATE ledger SET caught_up_at = ?", (value,))
        )

    async def note_still_caught_up(self, at: datetime) -> None:
        """See `Ledger.note_still_caught_up`."""
        still = "UPDATE ledger SET caught_up_at = ? WHERE caught_up_at IS NOT NULL"
        await self.store.run(lambda connection: connection.execute(still, (microseconds(at),)))

    async def sealed_for(self) -> frozenset[str]:
        """See `Ledger.sealed_for`."""
        with self.store.read() as connection:
            return frozenset(str(row[0]) for row in connection.execute("SELECT recipient FROM sealed_for"))

    async def note_sealed(self, recipient: str) -> None:
        """See `Ledger.note_sealed`."""
        await self.store.run(
            lambda connection: connection.execute(
                "INSERT INTO sealed_for VALUES (?) ON CONFLICT DO NOTHING", (recipient,)
            )
        )

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        """See `Ledger.due`."""
        with self.store.read() as connection:
            due = _moments(connection.execute(DUE, (now.timestamp(), limit)))
            if deletable_before is None:
                return [department for _, department in due]
            deletable = _moments(connection.execute(DELETABLE, (deletable_before.timestamp(), limit)))
            return longest_due(due, deletable, limit, now - deletable_before)

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        with self.store.read() as connection:
            found = connection.execute(OVERDUE, (since.timestamp(),))
            return cast(int, found.fetchall()[0][0])

    async def unsettled(self, since: datetime) -> int:
        """See `Ledger.unsettled`."""
        with self.store.read() as connection:
            found = connection.execute(UNSETTLED, (since.timestamp(),))
            return cast(int, found.fetchall()[0][0])

    async def owing(self) -> int:
        """See `Ledger.owing`."""
        with self.store.read() as connection:
            return cast(int, connection.execute(OWING).fetchall()[0][0])

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """See `Ledger.tenant_counts`."""
        with self.store.read() as connection:
            with connection:  # all counts of one moment
                counts = _counts(connection, tenant, since)
            return counts  # noqa: RET504 - the block may swallow errors, as far as mypy knows

    async def hold(self, hold_id: str) -> Hold | None:
        """See `Ledger.hold`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT hold FROM holds WHERE id = ?", (hold_id,))
            return next((hold_of(row[0]) for row in rows), None)

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        """See `Ledger.holds`."""
        everything = ALL_HOLDS if all_ else OPEN_HOLDS
        with self.store.read() as connection:
            if department is None:
                rows = connection.execute(everything)
            else:
                rows = connection.execute(HOLDS_OF_ONE, (*department, all_))
            return [hold_of(row[0]) for row in rows]

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        """See `Ledger.waiting_holds`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT reason, count(*) FROM holds"
                " WHERE state IN ('waiting', 'approved') AND state = 'waiting' GROUP BY reason"
            )
            return {HoldReason(str(reason)): cast(int, number) for reason, number in rows}

    async def announce(self, worker: WorkerSeen) -> None:
        """See `Ledger.announce`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute(ANNOUNCE, (worker.id, worker_json(worker)))
            connection.execute(FORGET_WORKERS, (WORKERS_KEPT.total_seconds(),))

        await self.store.run(job)

    async def leave(self, worker_id: str) -> None:
        """See `Ledger.leave`."""
        await self.store.run(lambda connection: connection.execute(LEAVE, (worker_id,)))

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        """See `Ledger.workers`."""
        with self.store.read() as connection:
            rows = connection.execute(WORKERS, (within.total_seconds(),))
            seen = [worker_of(text, cast(float, at), left=bool(has_left)) for at, has_left, text in rows]
            return sorted(seen, key=lambda worker: (worker.started_at, worker.id))

    async def count_by_status(self) -> Mapping[Status, int]:
        """See `Ledger.count_by_status`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT status, count(*) FROM departments GROUP BY status")
            return {Status(str(status)): cast(int, number) for status, number in rows}

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        """See `Ledger.note_sweep`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO sweeps VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET finished_at = excluded.finished_at, report = excluded.report",
                (sweep_id, finished_at.timestamp(), report),
            )
            connection.execute(
                "DELETE FROM sweeps WHERE id NOT IN"
                " (SELECT id FROM sweeps ORDER BY finished_at DESC, id LIMIT ?)",
                (SWEEPS_KEPT,),
            )

        await self.store.run(job)

    async def sweep(self, sweep_id: str) -> str | None:
        """See `Ledger.sweep`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT report FROM sweeps WHERE id = ?", (sweep_id,))
            return next((str(row[0]) for row in rows), None)

    async def last_sweep_at(self) -> datetime | None:
        """See `Ledger.last_sweep_at`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT finished_at FROM sweeps ORDER BY finished_at DESC LIMIT 1")
            return next((moment_of(row[0]) for row in rows), None)

    async def calls(self, department: Department, limit: int = CALLS_KEPT) -> Sequence[CallNote]:
        """See `Ledger.calls`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT call FROM calls WHERE tenant = ? AND department_id = ? ORDER BY number DESC LIMIT ?",
                (*department, limit),
            )
            return [call_of(row[0]) for row in rows][::-1]

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        """See `Ledger.entries_after`."""
        after = last or EVERY_DEPARTMENT
        with self.store.read() as connection:
            if tenant is None:
                rows = connection.execute(ENTRIES_AFTER, (*after, limit))
            else:
                rows = connection.execute(ENTRIES_OF_TENANT, (tenant, after.id, limit))
            return [entry_of(row[0]) for row in rows]

    async def claimed(self) -> Sequence[Entry]:
        """See `Ledger.claimed`."""
        with self.store.read() as connection:
            return [entry_of(row[0]) for row in connection.execute(CLAIMED)]

    async def answers(self, department: Department) -> Sequence[Answer]:
        """See `Ledger.answers`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT answer FROM answers WHERE tenant = ? AND department_id = ? ORDER BY answered_at",
                department,
            )
            return [answer_of(row[0]) for row in rows]

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        """See `Ledger.answers_to`."""
        with self.store.read() as connection:
            rows = connection.execute(ANSWERS_TO, (event_id,))
            return [answer_of(row[0]) for row in rows]

    async def wish(self, *wishes: Wish) -> None:
        """See `Ledger.wish`."""
        rows = [(wish.id, wish.asked_at.timestamp(), wish_json(wish)) for wish in wishes]
        await self.store.run(
            lambda connection: connection.executemany(
                "INSERT INTO wishes (id, asked_at, wish) VALUES (?, ?, ?)", rows
            )
        )

    async def wishes(self) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT wish FROM wishes WHERE closed = 0 ORDER BY asked_at")
            return [wish_of(row[0]) for row in rows]

    async def is_open(self, wish_id: str) -> bool:
        """See `Ledger.is_open`."""
        with self.store.read() as connection:
            found = connection.execute("SELECT 1 FROM wishes WHERE id = ? AND closed = 0", (wish_id,))
            return found.fetchone() is not None

    async def close_wish(self, wish_id: str) -> None:
        """See `Ledger.close_wish`."""
        await self.store.run(
            lambda connection: connection.execute("UPDATE wishes SET closed = 1 WHERE id = ?", (wish_id,))
        )

    async def mark_poison(self, message: str) -> int:
        """See `Ledger.mark_poison`."""

        def job(connection: apsw.Connection) -> int:
            marked = connection.execute(
                "INSERT INTO suspects VALUES (?, 1) ON CONFLICT DO UPDATE SET marks = marks + 1"
                " RETURNING marks",
                (message,),
            )
            return cast(int, marked.fetchall()[0][0])

        return await self.store.run(job)

    async def clear_poison(self, message: str) -> None:
        """See `Ledger.clear_poison`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM suspects WHERE message = ?", (message,))

        await self.store.run(job)

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        """See `Ledger.purge`. It writes only if there is something to forget."""
        last, old = after or EVERY_DEPARTMENT, before.astimezone(UTC).isoformat()
        with self.store.read() as connection:
            rows: list[Any] = connection.execute(OLD_ANSWERS, (*last, limit, old)).fetchall()
        of_each = {key: list(found) for key, found in groupby(rows, key=lambda row: Department(*row[:2]))}
        forgotten = [
            (answer.event.source, answer.event.id, *department, entry.revision)
            for department, found in of_each.items()
            for entry, answer in forgettable(found[0][2], [row[3] for row in found if row[3] is not None])
        ]
        removed = await self.store.run(lambda connection: _forget(connection, forgotten)) if forgotten else 0
        return PurgeStep(removed, len(of_each), next(reversed(of_each), None))

    async def purged_at(self) -> datetime | None:
        """See `Ledger.purged_at`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT purged_at FROM ledger WHERE purged_at IS NOT NULL")
            return next((moment_at(row[0]) for row in rows), None)

    async def note_purge(self, at: datetime) -> None:
        """See `Ledger.note_purge`."""
        await self.store.run(
            lambda connection: connection.execute("UPDATE ledger SET purged_at = ?", (microseconds(at),))
        )

    async def bind(self, owner: str, provider_account: str) -> None:
        """See `Ledger.bind`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO ledger (only_row, owner, provider_account) VALUES (1, ?, ?)"
                " ON CONFLICT DO UPDATE SET times_bound = times_bound + 1",
                (owner, provider_account),
            )
            bound = connection.execute("SELECT owner, provider_account FROM ledger").fetchall()[0]
            if bound != (owner, provider_account):
                raise LedgerForeign.of((str(bound[0]), str(bound[1])), (owner, provider_account))

        await self.store.run(job)


def _forget(connection: apsw.Connection, answers: Iterable[tuple[str | int, ...]]) -> int:
    removed = 0
    for answer in answers:
        connection.execute(FORGET_ANSWER, answer)
        removed += connection.changes()
    return removed


def entry_row(entry: Entry, text: str) -> tuple[Any, ...]:
    """The values of an entry for `INSERT_ENTRY` and `UPDATE_ENTRY`; `text`: its JSON."""
    removals, latest = counted_removals(entry), entry.latest_removal
    return (
        entry.revision,
        entry.status.value,
        entry.name,
        entry.auth_id,
        unix(entry.due_at),
        text,
        entry.is_counted_active,
        unix(entry.deletable_since),
        microseconds(latest) if latest else None,
        to_json(removals).decode() if removals else None,
        *entry.department,
    )


def answer_row(event: tuple[str, str], answer: Answer, text: str) -> tuple[Any, ...]:
    """The values of an answer in the order of its columns; `text`: its JSON."""
    return (
        *event,
        answer.payload_digest,
        *answer.department,
        answer.answered_at.isoformat(),
        answer.confirmed,
        text,
    )


def hold_row(hold: Hold, text: str) -> tuple[Any, ...]:
    """The values of a hold in the order of its columns; `text`: its JSON."""
    return hold.id, *hold.department, hold.held_at.timestamp(), hold.reason.value, hold.state.value, text


def _write_entry(connection: apsw.Connection, entry: Entry) -> None:
    """Raises `LedgerConflict` if the entry was changed since it was recalled, and `AuthIdTaken`."""
    row = entry_row(entry, entry_json(entry))
    try:
        if entry.revision == 1:
            connection.execute(INSERT_ENTRY, row)
        else:
            connection.execute(UPDATE_ENTRY_ONLY, row)
            if connection.changes() == 0:
                connection.execute(UPDATE_ENTRY, row)
    except apsw.ConstraintError:
        holder = _holder(connection, entry.auth_id)
        if entry.auth_id is None or holder in {None, entry.department}:
            raise
        raise AuthIdTaken(entry.auth_id, holder) from None
    if connection.changes() != 1:
        raise LedgerConflict("the department's entry was changed by another writer meanwhile")


def _holder(connection: apsw.Connection, auth_id: str | None) -> Department | None:
    rows = connection.execute("SELECT tenant, department_id FROM departments WHERE auth_id = ?", (auth_id,))
    return next((Department(str(tenant), str(id_)) for tenant, id_ in rows), None)


def _write_answer(connection: apsw.Connection, answer: Answer) -> None:
    """Raises `LedgerConflict` for another payload, and for an outcome that may not follow the known one."""
    event, text = (answer.event.source, answer.event.id), answer_json(answer)
    row = answer_row(event, answer, text)
    unconfirmed = text.replace(CONFIRMED, UNCONFIRMED)
    connection.execute(RECORD_ANSWER, (*row, unconfirmed))
    if connection.changes() == 1:
        return
    known: Any = connection.execute(
        "SELECT answer FROM answers WHERE source = ? AND event_id = ?", event
    ).fetchone()
    if not answer_of(known[0]).may_become(answer):
        raise LedgerConflict("another payload, or another outcome, of this event was answered meanwhile")
    connection.execute(REPLACE_ANSWER, row)


def _confirm(connection: apsw.Connection, answer: Answer) -> None:
    """As `_write_answer`, but does not encode the answer if it is on record and only its confirm is new."""
    event, answered_at = answer.event, answer.answered_at.isoformat()
    key = (event.source, event.id, answer.payload_digest, answered_at)
    connection.execute(CONFIRM, (UNCONFIRMED, CONFIRMED, *key))
    if connection.changes() == 0:
        _write_answer(connection, answer)


def _write_beside(connection: apsw.Connection, department: Department, beside: Beside) -> None:
    for answer in beside.answers:
        _write_answer(connection, answer)
    for hold in beside.holds:
        connection.execute(RECORD_HOLD, hold_row(hold, hold_json(hold)))
    write_audit(connection, beside.audit)
    for call in beside.calls:
        numbered: Any = connection.execute(INSERT_CALL, (*department, call_json(call))).fetchall()
        if numbered[0][0] > CALLS_KEPT:
            connection.execute(
                "DELETE FROM calls WHERE tenant = ? AND department_id = ? AND number <= ?",
                (*department, numbered[0][0] - CALLS_KEPT),
            )


def _counts(connection: apsw.Connection, tenant: str, since: Sequence[datetime]) -> TenantCounts:
    active: Any = connection.execute(ACTIVE, (tenant,)).fetchone()
    found: list[Any] = [
        connection.execute(REMOVED_SINCE, (tenant, microseconds(begin))).fetchone() for begin in since
    ]
    return TenantCounts(active[0], tuple(WindowCount(*counts) for counts in found))


def _moments(rows: Iterable[Any]) -> Sequence[tuple[datetime, Department]]:
    return [(moment_of(at), Department(tenant, id_)) for at, tenant, id_ in rows]
