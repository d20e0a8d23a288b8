"""The ledger's roles as SQL on a `PostgresStore`."""

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

from pydantic_core import to_json

from worker.adapters.postgres.audit import PostgresAudit, audit_rows
from worker.adapters.postgres.connection import Connection, Row
from worker.adapters.postgres.keeping import PostgresKeeping
from worker.adapters.postgres.ledger_values import (
    ANSWERED,
    answer_values,
    entry_values,
    hold_values,
    key_of,
    named,
)
from worker.adapters.postgres.locks import PostgresLocks
from worker.adapters.postgres.snapshots import PostgresSnapshots
from worker.adapters.postgres.store import (
    Answered,
    Change,
    PostgresStore,
    Stale,
    Verdict,
    Written,
    postgres_store,
    postgres_store_read,
    record,
    transaction,
)
from worker.adapters.rows import (
    answer_of,
    call_json,
    call_of,
    entry_of,
    forgettable,
    hold_of,
    microseconds,
    moment_at,
    moment_of,
    wish_json,
    wish_of,
    worker_json,
    worker_of,
)
from worker.adapters.system import SystemClock
from worker.core.duties import longest_due
from worker.core.keeping import PurgeStep
from worker.core.limits import Admission, TenantCounts, WindowCount
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
    Beside,
    LedgerConflict,
    LedgerFailed,
    LedgerForeign,
    NotAdmitted,
    OnCommit,
    OpenedLedger,
    no_note,
)
from worker.settings.ledger_url import PostgresUrl

CALLS_KEPT = 50
"""For each department, by `record_changes`."""
SWEEPS_KEPT = 10
WORKERS_KEPT = timedelta(days=1)
TRIES = 3
"""Of a change whose event has another answer each time."""

COUNTS = (  # one statement, so all counts are of one moment; row 0 has the active departments
    "SELECT 0, (SELECT coalesce(sum(active), 0)::bigint FROM active_counts WHERE tenant = %(tenant)s), 0"
    " UNION ALL"
    " SELECT window_.number, counted.removals, counted.departments"
    " FROM unnest(%(since)s::bigint[]) WITH ORDINALITY AS window_ (since, number), LATERAL ("
    " SELECT count(*) FILTER (WHERE NOT active) AS departments, coalesce(sum("
    " (SELECT count(*) FROM unnest(removals) AS at WHERE at > window_.since)), 0)::bigint AS removals"
    " FROM departments WHERE tenant = %(tenant)s AND last_removal_at > window_.since) AS counted"
)
HOLDS = (
    "SELECT hold FROM holds WHERE (%(all)s OR state IN ('waiting', 'approved'))"
    " AND (%(tenant)s::text IS NULL OR (tenant, department_id) = (%(tenant)s, %(department_id)s))"
    " ORDER BY held_at, id"
)
WAITING_HOLDS = (
    "SELECT reason, count(*) FROM holds"
    " WHERE state IN ('waiting', 'approved') AND state = 'waiting' GROUP BY reason"
)
DUE = (
    "SELECT due_at, tenant, department_id FROM departments WHERE due_at <= %s"
    " ORDER BY due_at, tenant, department_id LIMIT %s"
)
DELETABLE = (
    "SELECT deletable_since, tenant, department_id FROM departments WHERE deletable_since <= %s"
    " ORDER BY deletable_since, tenant, department_id LIMIT %s"
)
ENTRIES_AFTER = (
    "SELECT entry FROM departments WHERE (tenant, department_id) > (%s, %s)"
    " ORDER BY tenant, department_id LIMIT %s"
)
ENTRIES_OF_TENANT = (
    "SELECT entry FROM departments WHERE tenant = %s AND department_id > %s"
    " ORDER BY tenant, department_id LIMIT %s"
)
CLAIMED = "SELECT entry FROM departments WHERE status = 'claimed' ORDER BY tenant, department_id"
ANNOUNCE = (  # clock_timestamp() is the server's clock now; now() is the begin of the transaction
    "INSERT INTO workers VALUES (%s, extract(epoch FROM clock_timestamp()), false, %s)"
    " ON CONFLICT (id) DO UPDATE"
    " SET seen_at = excluded.seen_at, has_left = false, worker = excluded.worker"
)
LEAVE = "UPDATE workers SET seen_at = extract(epoch FROM clock_timestamp()), has_left = true WHERE id = %s"
FORGET_WORKERS = "DELETE FROM workers WHERE seen_at < extract(epoch FROM clock_timestamp()) - %s"
WORKERS = (
    "SELECT seen_at, has_left, worker FROM workers"
    " WHERE abs(extract(epoch FROM clock_timestamp()) - seen_at) <= %s"
)
OLD_ANSWERS = (
    "SELECT d.tenant, d.department_id, entry, answer FROM (SELECT tenant, department_id, entry"
    " FROM departments WHERE (tenant, department_id) > (%s, %s) ORDER BY tenant, department_id LIMIT %s) AS d"
    " LEFT JOIN answers AS a ON a.tenant = d.tenant AND a.department_id = d.department_id"
    " AND answered_at < %s ORDER BY d.tenant, d.department_id"
)
FORGET = (  # unless the department was written since
    "DELETE FROM answers USING json_to_recordset(%s::json)"
    ' AS x (key uuid, tenant text COLLATE "C", department_id text COLLATE "C", revision bigint),'
    " departments AS d WHERE answers.key = x.key AND d.tenant = x.tenant"
    " AND d.department_id = x.department_id AND d.revision = x.revision RETURNING 1"
)
BIND = (
    "INSERT INTO ledger (owner, provider_account) VALUES (%s, %s)"
    " ON CONFLICT (only_row) DO UPDATE SET times_bound = ledger.times_bound + 1"
    " RETURNING owner, provider_account"
)


@asynccontextmanager
async def postgres_ledger(
    url: Callable[[], PostgresUrl],
    on_commit: OnCommit = no_note,
    *,
    read_only: bool = False,
    must_exist: bool = False,
) -> AsyncIterator[OpenedLedger]:
    """The ledger in the database at `url`, with its audit, locks and fence; see `postgres_store`.

    `url` is asked before each connection: its login may have changed.
    """
    keeping = PostgresKeeping(url)
    if read_only:
        async with postgres_store_read(url) as store:
            ledger, audit, snapshots = PostgresLedger(store), PostgresAudit(store), PostgresSnapshots(store)
            yield OpenedLedger(ledger, audit, NoLocks(), keeping, snapshots)
        return
    jitter = SystemClock().jitter
    async with postgres_store(url, on_commit, jitter, must_exist=must_exist) as (store, session):
        locks = PostgresLocks(session, jitter)
        try:
            ledger, audit, snapshots = PostgresLedger(store), PostgresAudit(store), PostgresSnapshots(store)
            yield OpenedLedger(ledger, audit, locks, keeping, snapshots, session, shared=True)
        finally:
            await locks.close()


@dataclass(frozen=True, slots=True)
class PostgresLedger:
    """The `Ledger` port on a store."""

    store: PostgresStore

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """See `Ledger.recall`."""
        entry, answer = await self.store.recall(department, key_of(event.source, event.id))
        return Recollection(
            Entry(department) if entry is None else entry_of(entry),
            None if answer is None else answer_of(answer),
        )

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        """See `Ledger.record`."""
        written = replace(entry, revision=entry.revision + 1)
        answers = beside.answers if answer is None else (answer, *beside.answers)
        change = Change(
            entry.department,
            entry_values(written),
            answer_values(answers),
            [hold_values(hold) for hold in beside.holds],
            [{**named(entry.department), "call": call_json(call)} for call in beside.calls],
            audit_rows(beside.audit),
        )
        if beside.admission is None:
            await self._write(change, answers, self.store.write)
        else:
            await self._write(change, answers, partial(self._write_admitted, admission=beside.admission))
        return written

    async def record_answer(self, answer: Answer) -> None:
        """See `Ledger.record_answer`."""
        change = Change(answer.department, answers=answer_values((answer,)))
        await self._write(change, (answer,), self.store.write)

    async def _write(
        self, change: Change, answers: Sequence[Answer], write: Callable[[Change], Awaitable[Verdict]]
    ) -> None:
        """Writes the change; raises `LedgerConflict`. An answer may take the place of one before it."""
        for _ in range(TRIES):
            match await write(change):
                case Written():
                    return
                case Stale():
                    break
                case Answered(known):
                    change = _replacing(change, answers, known)
        raise LedgerConflict("the department's entry was changed by another writer meanwhile")

    async def _write_admitted(self, change: Change, admission: Admission) -> Verdict:
        """Writes a removal if the counts of its tenant allow it; in turn with the others of the tenant."""
        tenant = change.department.tenant

        async def work(connection: Connection) -> Verdict:
            async with transaction(connection):
                await connection.rows("SELECT pg_advisory_xact_lock(%s)", (_tenant_key(tenant),))
                # Counted before the write, while the department still counts as active.
                counts = _counts(await connection.rows(*_counting(tenant, admission.since)))
                (verdict,) = await record(connection, [change])
                if isinstance(verdict, Written) and not admission.allows(counts):
                    raise NotAdmitted(counts)
            return verdict

        return await self.store.run(work, change.department)

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        rows = await self.store.rows(
            "SELECT auth_id, tenant, department_id FROM departments WHERE auth_id = ANY(%s)",
            (list(auth_ids),),
        )
        return {auth_id: Department(tenant, id_) for auth_id, tenant, id_ in rows}

    async def caught_up_at(self) -> datetime | None:
        """See `Ledger.caught_up_at`."""
        rows = await self.store.rows("SELECT caught_up_at FROM ledger WHERE caught_up_at IS NOT NULL")
        return moment_at(rows[0][0]) if rows else None

    async def note_caught_up(self, at: datetime | None) -> None:
        """See `Ledger.note_caught_up`."""
        value = microseconds(at) if at else None
        await self.store.execute("UPDATE ledger SET caught_up_at = %s", (value,))

    async def note_still_caught_up(self, at: datetime) -> None:
        """See `Ledger.note_still_caught_up`."""
        still = "UPDATE ledger SET caught_up_at = %s WHERE caught_up_at IS NOT NULL"
        await self.store.execute(still, (microseconds(at),))

    async def sealed_for(self) -> frozenset[str]:
        """See `Ledger.sealed_for`."""
        return frozenset(row[0] for row in await self.store.rows("SELECT recipient FROM sealed_for"))

    async def note_sealed(self, recipient: str) -> None:
        """See `Ledger.note_sealed`."""
        await self.store.execute("INSERT INTO sealed_for VALUES (%s) ON CONFLICT DO NOTHING", (recipient,))

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        """See `Ledger.due`."""
        due = _moments(await self.store.rows(DUE, (now.timestamp(), limit)))
        if deletable_before is None:
            return [department for _, department in due]
        deletable = _moments(await self.store.rows(DELETABLE, (deletable_before.timestamp(), limit)))
        return longest_due(due, deletable, limit, now - deletable_before)

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        query = "SELECT count(*) FROM departments WHERE overdue_since < %s"
        return _number(await self.store.rows(query, (since.timestamp(),)))

    async def unsettled(self, since: datetime) -> int:
        """See `Ledger.unsettled`."""
        query = (
            "SELECT count(*) FROM departments WHERE status = 'claimed'"
            " AND (entry::json #>> '{claim,started_at}')::timestamptz < %s"
        )
        return _number(await self.store.rows(query, (since,)))

    async def owing(self) -> int:
        """See `Ledger.owing`."""
        query = (
            "SELECT count(*) FROM departments WHERE overdue_since IS NOT NULL"
            " AND entry::json ->> 'owed_at' IS NOT NULL AND entry::json #>> '{owed_to,0}' IS NOT NULL"
        )
        return _number(await self.store.rows(query))

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """See `Ledger.tenant_counts`."""
        return _counts(await self.store.rows(*_counting(tenant, since)))

    async def hold(self, hold_id: str) -> Hold | None:
        """See `Ledger.hold`."""
        rows = await self.store.rows("SELECT hold FROM holds WHERE id = %s", (hold_id,))
        return hold_of(rows[0][0]) if rows else None

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        """See `Ledger.holds`."""
        tenant, id_ = department or (None, None)
        rows = await self.store.rows(HOLDS, {"all": all_, "tenant": tenant, "department_id": id_})
        return [hold_of(row[0]) for row in rows]

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        """See `Ledger.waiting_holds`."""
        return {HoldReason(reason): number for reason, number in await self.store.rows(WAITING_HOLDS)}

    async def announce(self, worker: WorkerSeen) -> None:
        """See `Ledger.announce`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                await connection.rows(ANNOUNCE, (worker.id, worker_json(worker)))
                await connection.rows(FORGET_WORKERS, (WORKERS_KEPT.total_seconds(),))

        await self.store.run(work)

    async def leave(self, worker_id: str) -> None:
        """See `Ledger.leave`."""
        await self.store.execute(LEAVE, (worker_id,))

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        """See `Ledger.workers`."""
        rows = await self.store.rows(WORKERS, (within.total_seconds(),))
        seen = [worker_of(text, seen_at, left=has_left) for seen_at, has_left, text in rows]
        return sorted(seen, key=lambda worker: (worker.started_at, worker.id))

    async def count_by_status(self) -> Mapping[Status, int]:
        """See `Ledger.count_by_status`."""
        rows = await self.store.rows("SELECT status, count(*) FROM departments GROUP BY status")
        return {Status(status): number for status, number in rows}

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        """See `Ledger.note_sweep`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                await connection.rows(
                    "INSERT INTO sweeps VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE"
                    " SET finished_at = excluded.finished_at, report = excluded.report",
                    (sweep_id, finished_at.timestamp(), report),
                )
                await connection.rows(
                    "DELETE FROM sweeps WHERE id NOT IN"
                    " (SELECT id FROM sweeps ORDER BY finished_at DESC, id LIMIT %s)",
                    (SWEEPS_KEPT,),
                )

        await self.store.run(work)

    async def sweep(self, sweep_id: str) -> str | None:
        """See `Ledger.sweep`."""
        rows = await self.store.rows("SELECT report FROM sweeps WHERE id = %s", (sweep_id,))
        return str(rows[0][0]) if rows else None

    async def last_sweep_at(self) -> datetime | None:
        """See `Ledger.last_sweep_at`."""
        rows = await self.store.rows("SELECT finished_at FROM sweeps ORDER BY finished_at DESC LIMIT 1")
        return moment_of(rows[0][0]) if rows else None

    async def calls(self, department: Department, limit: int = CALLS_KEPT) -> Sequence[CallNote]:
        """See `Ledger.calls`."""
        rows = await self.store.rows(
            "SELECT call FROM calls WHERE tenant = %s AND department_id = %s ORDER BY number DESC LIMIT %s",
            (*department, limit),
        )
        return [call_of(row[0]) for row in rows][::-1]

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        """See `Ledger.entries_after`."""
        after = last or EVERY_DEPARTMENT
        if tenant is None:
            rows = await self.store.rows(ENTRIES_AFTER, (*after, limit))
        else:
            rows = await self.store.rows(ENTRIES_OF_TENANT, (tenant, after.id, limit))
        return [entry_of(row[0]) for row in rows]

    async def claimed(self) -> Sequence[Entry]:
        """See `Ledger.claimed`."""
        return [entry_of(row[0]) for row in await self.store.rows(CLAIMED)]

    async def answers(self, department: Department) -> Sequence[Answer]:
        """See `Ledger.answers`."""
        rows = await self.store.rows(
            "SELECT answer FROM answers WHERE tenant = %s AND department_id = %s ORDER BY answered_at, key",
            department,
        )
        return [answer_of(row[0]) for row in rows]

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        """See `Ledger.answers_to`."""
        rows = await self.store.rows(
            "SELECT answer FROM answers WHERE event_id = %s ORDER BY source", (event_id,)
        )
        return [answer_of(row[0]) for row in rows]

    async def wish(self, *wishes: Wish) -> None:
        """See `Ledger.wish`."""
        rows = [(wish.id, wish.asked_at.timestamp(), wish_json(wish)) for wish in wishes]
        await self.store.execute(
            "INSERT INTO wishes (id, asked_at, wish)"
            " SELECT * FROM unnest(%s::text[], %s::double precision[], %s::text[])",
            [list(column) for column in zip(*rows, strict=True)] if rows else ([], [], []),
        )

    async def wishes(self) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        rows = await self.store.rows("SELECT wish FROM wishes WHERE NOT closed ORDER BY asked_at")
        return [wish_of(row[0]) for row in rows]

    async def is_open(self, wish_id: str) -> bool:
        """See `Ledger.is_open`."""
        return bool(await self.store.rows("SELECT 1 FROM wishes WHERE id = %s AND NOT closed", (wish_id,)))

    async def close_wish(self, wish_id: str) -> None:
        """See `Ledger.close_wish`."""
        await self.store.execute("UPDATE wishes SET closed = true WHERE id = %s", (wish_id,))

    async def mark_poison(self, message: str) -> int:
        """See `Ledger.mark_poison`."""
        return _number(
            await self.store.execute(
                "INSERT INTO suspects VALUES (%s, 1) ON CONFLICT (message)"
                " DO UPDATE SET marks = suspects.marks + 1 RETURNING marks",
                (message,),
            )
        )

    async def clear_poison(self, message: str) -> None:
        """See `Ledger.clear_poison`."""
        await self.store.execute("DELETE FROM suspects WHERE message = %s", (message,))

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        """See `Ledger.purge`. It writes only if there is something to forget."""
        start = after or EVERY_DEPARTMENT
        rows = await self.store.rows(OLD_ANSWERS, (*start, limit, microseconds(before)))
        of_each = {key: list(found) for key, found in groupby(rows, key=lambda row: Department(*row[:2]))}
        forgotten = [
            {"key": key_of(answer.event.source, answer.event.id), **named(entry.department)}
            | {"revision": entry.revision}
            for found in of_each.values()
            for entry, answer in forgettable(found[0][2], [row[3] for row in found if row[3] is not None])
        ]
        removed = await self.store.execute(FORGET, (to_json(forgotten).decode(),)) if forgotten else []
        return PurgeStep(len(removed), len(of_each), next(reversed(of_each), None))

    async def purged_at(self) -> datetime | None:
        """See `Ledger.purged_at`."""
        rows = await self.store.rows("SELECT purged_at FROM ledger WHERE purged_at IS NOT NULL")
        return moment_at(rows[0][0]) if rows else None

    async def note_purge(self, at: datetime) -> None:
        """See `Ledger.note_purge`."""
        await self.store.execute("UPDATE ledger SET purged_at = %s", (microseconds(at),))

    async def bind(self, owner: str, provider_account: str) -> None:
        """See `Ledger.bind`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                (bound,) = await connection.rows(BIND, (owner, provider_account))
                if bound != (owner, provider_account):
                    raise LedgerForeign.of(bound, (owner, provider_account))

        await self.store.run(work)


class NoLocks:
    """For a ledger that is only read."""

    def hold(self, _department: Department) -> AbstractAsyncContextManager[None]:
        """Raises `LedgerFailed`."""
        raise LedgerFailed("a ledger that was opened to read has no locks")


def _replacing(change: Change, answers: Sequence[Answer], text: str) -> Change:
    """The change whose answer takes the place of the known one; raises `LedgerConflict` if it may not."""
    known = answer_of(text)
    key = key_of(known.event.source, known.event.id)
    last = [answer for answer in answers if key_of(answer.event.source, answer.event.id) == key][-1]
    if not known.may_become(last):
        raise LedgerConflict(ANSWERED)
    replaced = [{**values, "replaces": text} if values["key"] == key else values for values in change.answers]
    return dataclasses.replace(change, answers=replaced)


def _tenant_key(tenant: str) -> int:
    """The key of the lock under which the removals of a tenant are counted."""
    return int.from_bytes(hashlib.sha256(f"tenant\0{tenant}".encode()).digest()[:8], signed=True)


def _counting(tenant: str, since: Sequence[datetime]) -> tuple[str, Any]:
    """The statement that counts, and its parameters."""
    return COUNTS, {"tenant": tenant, "since": [microseconds(begin) for begin in since]}


def _counts(rows: Sequence[Row]) -> TenantCounts:
    (_, active, _), *windows = sorted(rows)
    return TenantCounts(active, tuple(WindowCount(*counts) for _, *counts in windows))


def _moments(rows: Sequence[Row]) -> Sequence[tuple[datetime, Department]]:
    return [(moment_of(at), Department(tenant, id_)) for at, tenant, id_ in rows]


def _number(rows: Sequence[Row]) -> int:
    return int(rows[0][0])
