"""Copies and checks of a ledger in SQLite, and its backup into a file while a worker writes."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any

import apsw

from worker.adapters.rows import answer_of, audit_of, call_of, entry_of, hold_of, moment_at, wish_of
from worker.adapters.sqlite.backup import damage_lines
from worker.adapters.sqlite.ledger import INSERT_ENTRY, RECORD_HOLD, answer_row, entry_row, hold_row
from worker.adapters.sqlite.store import SqliteStore, applied_migrations, known_migrations
from worker.core.keeping import Row, Schema, Table
from worker.ports import KeptRows, LedgerFailed, LedgerForeign, LedgerNotEmpty

BATCH = 1000
MOST_DAMAGES = 10

SELECT: Mapping[Table, str] = MappingProxyType(
    {
        Table.LEDGER: "SELECT owner, provider_account, caught_up_at FROM ledger",
        Table.SEALED_FOR: "SELECT recipient FROM sealed_for ORDER BY recipient",
        Table.DEPARTMENTS: (
            "SELECT tenant, department_id, entry FROM departments ORDER BY tenant, department_id"
        ),
        Table.ANSWERS: "SELECT source, event_id, answer FROM answers ORDER BY source, event_id",
        Table.HOLDS: "SELECT id, hold FROM holds ORDER BY id",
        Table.WISHES: "SELECT id, closed, wish FROM wishes ORDER BY id",
        Table.CALLS: (
            "SELECT tenant, department_id, number, call FROM calls ORDER BY tenant, department_id, number"
        ),
        Table.SWEEPS: (
            "SELECT id, CAST(round(finished_at * 1000000) AS INTEGER), report FROM sweeps ORDER BY id"
        ),
        Table.SUSPECTS: "SELECT message, marks FROM suspects ORDER BY message",
        Table.SNAPSHOTS: (
            "SELECT source, as_of, digest, revision, finished, complete FROM snapshots ORDER BY source"
        ),
        Table.SAID: (
            "SELECT source, tenant, department_id, name, as_of, missing_since, unsent, removed FROM said"
            " ORDER BY source, tenant, department_id"
        ),
        Table.AUDIT: "SELECT number, audit FROM audit ORDER BY number",
    }
)


@dataclass(frozen=True, slots=True)
class SqliteKeeping:
    """The `Keeping` port on a store."""

    store: SqliteStore

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["SqliteRows"]:
        """See `Keeping.reading`."""
        with self.store.read() as connection:
            connection.execute("BEGIN")
            connection.execute(
                "SELECT count(*) FROM sqlite_schema"
            ).fetchall()  # the moment of the first read
        try:
            yield SqliteRows(self.store.read)
        finally:
            with self.store.read() as connection:
                connection.execute("COMMIT")

    @asynccontextmanager
    async def filling(self) -> AsyncIterator["SqliteFilling"]:
        """See `Keeping.filling`."""
        async with self.store.transaction() as connection:
            filling = SqliteFilling(partial(self.store.reading_from, connection))
            counts = await filling.counts()
            if any(number for table, number in counts.items() if table is not Table.LEDGER):
                raise LedgerNotEmpty("the ledger holds rows already")
            yield filling

    async def schema(self) -> Schema:
        """See `Keeping.schema`."""
        with self.store.read() as connection:
            return Schema(applied_migrations(connection)[-1], known_migrations()[-1])

    async def damages(self) -> Sequence[str]:
        """See `Keeping.damages`."""
        with self.store.read() as connection:
            checked = connection.execute(f"PRAGMA integrity_check({MOST_DAMAGES})")
            found = [line for row in checked for line in damage_lines(str(row[0]))]
        if found != ["ok"]:
            return found[:MOST_DAMAGES]
        async with self.reading() as rows:
            unreadable = [line async for line in _unreadable(rows)]
        return unreadable[:MOST_DAMAGES]


async def _unreadable(rows: KeptRows) -> AsyncIterator[str]:
    """A line for each row that cannot be read."""
    for table in INSERT:
        async for batch in rows.batches(table):
            for row in batch:
                try:
                    INSERT[table][1](*row)
                except LedgerFailed:
                    key = " ".join(str(value) for value in row[:-1])
                    yield f"{table} {key}: it cannot be read: damaged, or of another version"


@dataclass(frozen=True, slots=True)
class SqliteRows:
    """The `KeptRows` port: `read` gives a connection that sees one moment."""

    read: Callable[[], AbstractContextManager[apsw.Connection]]

    async def counts(self) -> Mapping[Table, int]:
        """See `KeptRows.counts`."""
        with self.read() as connection:
            found: dict[Table, Any] = {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - ours
                for table in Table
            }
        return {table: row[0] for table, row in found.items()}

    async def batches(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """See `KeptRows.batches`."""
        with self.read() as connection:
            cursor: Any = connection.execute(SELECT[table])
        while True:
            with self.read():
                rows: list[Row] = list(islice(cursor, BATCH))
            if not rows:
                return
            yield rows


@dataclass(frozen=True, slots=True)
class SqliteFilling(SqliteRows):
    """The `Filling` port on a connection within its transaction."""

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """See `Filling.add`."""
        with self.read() as connection:
            match table:
                case Table.LEDGER:
                    for row in rows:
                        _bind(connection, row)
                case _:
                    statement, of = INSERT[table]
                    connection.executemany(statement, (of(*row) for row in rows))


def _bind(connection: apsw.Connection, row: Row) -> None:
    """Binds a new ledger, or leaves it bound to the same owner."""
    connection.execute(
        "INSERT INTO ledger (only_row, owner, provider_account) VALUES (1, ?, ?) ON CONFLICT DO NOTHING",
        row[:2],
    )
    connection.execute("UPDATE ledger SET caught_up_at = ?", row[2:])
    bound: Any = connection.execute("SELECT owner, provider_account FROM ledger").fetchone()
    if bound != row[:2]:
        raise LedgerForeign.of(bound, (str(row[0]), str(row[1])))


def _department(_tenant: str, _id: str, text: str) -> tuple[Any, ...]:
    return entry_row(entry_of(text), text)


def _answer(source: str, event_id: str, text: str) -> tuple[Any, ...]:
    return answer_row((source, event_id), answer_of(text), text)


def _hold(_id: str, text: str) -> tuple[Any, ...]:
    return hold_row(hold_of(text), text)


def _wish(id_: str, closed: int, text: str) -> tuple[Any, ...]:
    return id_, wish_of(text).asked_at.timestamp(), closed, text


def _call(tenant: str, id_: str, number: int, text: str) -> tuple[Any, ...]:
    call_of(text)
    return tenant, id_, number, text


def _sweep(id_: str, finished_at: int, report: str) -> tuple[Any, ...]:
    return id_, moment_at(finished_at).timestamp(), report


def _audit(number: int, text: str) -> tuple[Any, ...]:
    line = audit_of(text)
    return number, line.at.astimezone(UTC).isoformat(), line.by, line.event_id, text


def _as_it_is(*values: str | int | None) -> Row:
    return values


INSERT: Mapping[Table, tuple[str, Callable[..., tuple[Any, ...]]]] = MappingProxyType(
    {
        Table.SEALED_FOR: ("INSERT INTO sealed_for VALUES (?)", _as_it_is),
        Table.DEPARTMENTS: (INSERT_ENTRY, _department),
        Table.ANSWERS: ("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _answer),
        Table.HOLDS: (RECORD_HOLD, _hold),
        Table.WISHES: ("INSERT INTO wishes VALUES (?, ?, ?, ?)", _wish),
        Table.CALLS: ("INSERT INTO calls VALUES (?, ?, ?, ?)", _call),
        Table.SWEEPS: ("INSERT INTO sweeps VALUES (?, ?, ?)", _sweep),
        Table.SUSPECTS: ("INSERT INTO suspects VALUES (?, ?)", _as_it_is),
        Table.SNAPSHOTS: ("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?)", _as_it_is),
        Table.SAID: ("INSERT INTO said VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _as_it_is),
        Table.AUDIT: ("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", _audit),
    }
)
"""For each table its statement, and how a row becomes its values. A damaged row raises `LedgerFailed`."""
