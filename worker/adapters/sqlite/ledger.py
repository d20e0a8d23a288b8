"""The ledger's roles as SQL on a `SqliteStore`."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import apsw
from pydantic_core import to_json

from worker.adapters.sqlite.rows import answer_json, answer_of, entry_json, entry_of, wish_json, wish_of
from worker.adapters.sqlite.store import SqliteStore, sqlite_store, sqlite_store_read
from worker.core.model import Answer, Department, Entry, Recollection, Reference, Wish, replace
from worker.ports import AuthIdTaken, LedgerConflict, LedgerForeign

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
    "INSERT INTO departments (revision, status, name, auth_id, due_at, entry, tenant, department_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, department_id) DO NOTHING"
)
UPDATE_ENTRY = (
    "UPDATE departments SET revision = ?1, status = ?2, name = ?3, auth_id = ?4, due_at = ?5, entry = ?6"
    " WHERE tenant = ?7 AND department_id = ?8 AND revision = ?1 - 1"
)


@asynccontextmanager
async def sqlite_ledger(
    path: Path, on_commit: Callable[[int], None] = lambda _operations: None, *, must_exist: bool = False
) -> AsyncIterator["SqliteLedger"]:
    """A ledger on the file at `path`; see `sqlite_store`."""
    async with sqlite_store(path, on_commit, must_exist=must_exist) as store:
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

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """See `Ledger.record`."""
        written = replace(entry, revision=entry.revision + 1)

        def job(connection: apsw.Connection) -> Entry:
            if answer is not None:
                _write_answer(connection, answer)
            _write_entry(connection, written)
            return written

        return await self.store.run(job)

    async def record_answer(self, answer: Answer) -> None:
        """See `Ledger.record_answer`."""
        await self.store.run(lambda connection: _write_answer(connection, answer))

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT auth_id, tenant, department_id FROM departments"
                " WHERE auth_id IN (SELECT value FROM json_each(?))",
                (to_json(list(auth_ids)).decode(),),
            )
            return {str(auth_id): Department(str(tenant), str(id_)) for auth_id, tenant, id_ in rows}

    async def caught_up(self) -> bool:
        """See `Ledger.caught_up`."""
        with self.store.read() as connection:
            return connection.execute("SELECT caught_up FROM ledger").fetchone() == (1,)

    async def note_caught_up(self, *, caught_up: bool) -> None:
        """See `Ledger.note_caught_up`."""
        await self.store.run(
            lambda connection: connection.execute("UPDATE ledger SET caught_up = ?", (caught_up,))
        )

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

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        """See `Ledger.due`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT tenant, department_id FROM departments WHERE due_at <= ? ORDER BY due_at LIMIT ?",
                (now.timestamp(), limit),
            )
            return [Department(str(tenant), str(id_)) for tenant, id_ in rows]

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        with self.store.read() as connection:
            # The index finds the few entries with a duty; the JSON of each has the rest.
            found = connection.execute(
                "SELECT count(*) FROM departments WHERE due_at IS NOT NULL"
                " AND entry ->> 'owed_at' IS NOT NULL AND unixepoch(entry ->> 'created_at', 'subsec') < ?",
                (since.timestamp(),),
            )
            return cast(int, found.fetchall()[0][0])

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        """See `Ledger.entries`."""
        with self.store.read() as connection:
            rows = connection.execute(
                "SELECT entry FROM departments WHERE tenant = ?1 OR ?1 IS NULL"
                " ORDER BY tenant, department_id",
                (tenant,),
            )
            return [entry_of(row[0]) for row in rows]

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

    async def wish(self, wish: Wish) -> None:
        """See `Ledger.wish`."""
        values = (wish.id, wish.asked_at.timestamp(), wish_json(wish))
        await self.store.run(
            lambda connection: connection.execute(
                "INSERT INTO wishes (id, asked_at, wish) VALUES (?, ?, ?)", values
            )
        )

    async def wishes(self) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        with self.store.read() as connection:
            rows = connection.execute("SELECT wish FROM wishes WHERE closed = 0 ORDER BY asked_at")
            return [wish_of(row[0]) for row in rows]

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


def _write_entry(connection: apsw.Connection, entry: Entry) -> None:
    """Raises `LedgerConflict` if the entry was changed since it was recalled, and `AuthIdTaken`."""
    values = (
        entry.revision,
        entry.status.value,
        entry.name,
        entry.auth_id,
        entry.due_at.timestamp() if entry.due_at else None,
        entry_json(entry),
        *entry.department,
    )
    statement = INSERT_ENTRY if entry.revision == 1 else UPDATE_ENTRY
    try:
        connection.execute(statement, values)
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
    """Raises `LedgerConflict` for another payload; otherwise only the confirm of an answer changes."""
    connection.execute(
        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, event_id) DO UPDATE"
        " SET confirmed = excluded.confirmed, answer = excluded.answer"
        " WHERE payload_digest = excluded.payload_digest",
        (
            answer.event.source,
            answer.event.id,
            answer.payload_digest,
            *answer.department,
            answer.answered_at.isoformat(),
            answer.confirmed,
            answer_json(answer),
        ),
    )
    if connection.changes() != 1:
        raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
