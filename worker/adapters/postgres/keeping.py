"""Copies and checks of a ledger in PostgreSQL, each on a connection and in a transaction of its own."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import psycopg
from pydantic_core import to_json

from worker.adapters.postgres.audit import audit_rows
from worker.adapters.postgres.connection import Connection, connect
from worker.adapters.postgres.ledger_values import answer_values, entry_values, hold_values
from worker.adapters.postgres.refusals import reason_of
from worker.adapters.postgres.schema import MIGRATIONS, applied_migrations
from worker.adapters.postgres.store import Values
from worker.adapters.rows import answer_of, audit_of, call_of, entry_of, hold_of, moment_at, wish_of
from worker.core.keeping import COLUMNS, Row, Schema, Table
from worker.ports import LedgerFailed, LedgerForeign, LedgerNotEmpty
from worker.settings.ledger_url import PostgresUrl

BATCH = 1000
LONGEST_SECONDS = 3600.0
"""For a statement that may sort or commit a large ledger."""
WHILE_THE_OTHER_WORKS = {
    "idle_in_transaction_session_timeout": "0",
    "enable_seqscan": "on",  # a copy reads whole tables
}
NAME = "provisioner copies"

SELECT: Mapping[Table, str] = MappingProxyType(
    {
        Table.LEDGER: "SELECT owner, provider_account, caught_up_at FROM ledger",
        Table.SEALED_FOR: "SELECT recipient FROM sealed_for ORDER BY recipient",
        Table.DEPARTMENTS: (
            "SELECT tenant, department_id, entry FROM departments ORDER BY tenant, department_id"
        ),
        Table.ANSWERS: "SELECT source, event_id, answer FROM answers ORDER BY source, event_id",
        Table.HOLDS: "SELECT id, hold FROM holds ORDER BY id",
        Table.WISHES: "SELECT id, closed::integer, wish FROM wishes ORDER BY id",
        Table.CALLS: (
            "SELECT tenant, department_id, number, call FROM calls ORDER BY tenant, department_id, number"
        ),
        Table.SWEEPS: "SELECT id, round(finished_at * 1000000)::bigint, report FROM sweeps ORDER BY id",
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
class PostgresKeeping:
    """The `Keeping` port. `url` is asked before each connection."""

    url: Callable[[], PostgresUrl]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["PostgresRows"]:
        """See `Keeping.reading`."""
        async with self._connected(to_read=True) as connection:
            with _told("read"):
                await connection.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ())
                await connection.rows("SELECT 1", ())  # the moment of the first read
            yield PostgresRows(connection)

    @asynccontextmanager
    async def filling(self) -> AsyncIterator["PostgresFilling"]:
        """See `Keeping.filling`."""
        async with self._connected(to_read=False) as connection:
            with _told("written"):
                await connection.rows("BEGIN", ())
            filling = PostgresFilling(connection)
            counts = await filling.counts()
            if any(number for table, number in counts.items() if table is not Table.LEDGER):
                raise LedgerNotEmpty("the ledger holds rows already")
            yield filling
            with _told("written"):
                await connection.rows("COMMIT", (), LONGEST_SECONDS)

    async def schema(self) -> Schema:
        """See `Keeping.schema`."""
        async with self._connected(to_read=True) as connection:
            with _told("read"):
                applied = await applied_migrations(connection) or {}
        return Schema(max(applied, default="none"), MIGRATIONS[-1].name)

    async def damages(self) -> Sequence[str]:
        """See `Keeping.damages`. PostgreSQL checks its own pages as it reads them, where it has checksums."""
        found = []
        async with self.reading() as rows:
            for table, of in VALUES.items():
                async for batch in rows.batches(table):
                    found += [
                        f"{table} {_key_of(row)}: it cannot be read" for row in batch if _fails(of, row)
                    ]
        return found

    @asynccontextmanager
    async def _connected(self, *, to_read: bool) -> AsyncIterator[Connection]:
        """A connection for the block; what is not committed then is undone."""
        connection = await connect(self.url(), NAME, WHILE_THE_OTHER_WORKS, to_read=to_read)
        try:
            yield connection
        finally:
            await connection.close()


@dataclass(frozen=True, slots=True)
class PostgresRows:
    """The `KeptRows` port on a connection within its transaction."""

    connection: Connection

    async def counts(self) -> Mapping[Table, int]:
        """See `KeptRows.counts`."""
        found = {}
        for table in Table:
            statement = f"SELECT count(*) FROM {table}"  # noqa: S608 - ours
            with _told("read"):
                ((found[table],),) = await self.connection.rows(statement, (), LONGEST_SECONDS)
        return found

    async def batches(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """See `KeptRows.batches`."""
        cursor = f"rows_of_{table}"
        with _told("read"):
            await self.connection.rows(f"DECLARE {cursor} NO SCROLL CURSOR FOR {SELECT[table]}")
        while True:
            with _told("read"):
                rows = await self.connection.rows(f"FETCH {BATCH} FROM {cursor}", None, LONGEST_SECONDS)
            if not rows:
                break
            yield rows
        with _told("read"):
            await self.connection.rows(f"CLOSE {cursor}")


@dataclass(frozen=True, slots=True)
class PostgresFilling(PostgresRows):
    """The `Filling` port."""

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """See `Filling.add`."""
        if not rows:
            return
        if table is Table.LEDGER:
            await self._bind(rows[0])
            return
        values = [VALUES[table](*row) for row in rows]
        columns = ", ".join(values[0])
        statement = (
            f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns}"  # noqa: S608 - ours
            f" FROM json_populate_recordset(NULL::{table}, %s::json)"
        )
        with _told("written"):
            await self.connection.rows(statement, (to_json(values).decode(),), LONGEST_SECONDS)
            if table is Table.AUDIT:  # the next line has the next number
                await self.connection.rows(
                    "SELECT setval(pg_get_serial_sequence('audit', 'number'), max(number)) FROM audit",
                    (),
                )

    async def _bind(self, row: Row) -> None:
        """Binds a new ledger, or leaves it bound to the same owner."""
        with _told("written"):
            (bound,) = await self.connection.rows(
                "INSERT INTO ledger (owner, provider_account, caught_up_at) VALUES (%s, %s, %s)"
                " ON CONFLICT (only_row) DO UPDATE SET caught_up_at = excluded.caught_up_at"
                " RETURNING owner, provider_account",
                row,
            )
        if bound != row[:2]:
            raise LedgerForeign.of(bound, (str(row[0]), str(row[1])))


@contextmanager
def _told(done: str) -> Iterator[None]:
    """Turns an error of the server into `LedgerFailed`."""
    try:
        yield
    except psycopg.Error as error:
        raise LedgerFailed(f"the ledger cannot be {done}: {reason_of(error)}") from None


def _fails(of: Callable[..., Values], row: Row) -> bool:
    try:
        of(*row)
    except LedgerFailed:
        return True
    return False


def _key_of(row: Row) -> str:
    return " ".join(str(value) for value in row[:-1])


def _department(_tenant: str, _id: str, text: str) -> Values:
    return entry_values(entry_of(text)) | {"entry": text}


def _answer(source: str, event_id: str, text: str) -> Values:
    (values,) = answer_values((answer_of(text),))
    return values | {"source": source, "event_id": event_id, "answer": text}


def _hold(_id: str, text: str) -> Values:
    return hold_values(hold_of(text)) | {"hold": text}


def _wish(id_: str, closed: int, text: str) -> Values:
    return {
        "id": id_,
        "asked_at": wish_of(text).asked_at.timestamp(),
        "closed": bool(closed),
        "wish": text,
    }


def _call(tenant: str, id_: str, number: int, text: str) -> Values:
    call_of(text)
    return {"tenant": tenant, "department_id": id_, "number": number, "call": text}


def _sweep(id_: str, finished_at: int, report: str) -> Values:
    return {"id": id_, "finished_at": moment_at(finished_at).timestamp(), "report": report}


def _audit(number: int, text: str) -> Values:
    (values,) = audit_rows((audit_of(text),))
    return values | {"number": number, "audit": text}


def _named(table: Table, row: Row) -> Values:
    return dict(zip(COLUMNS[table], row, strict=True))


VALUES: Mapping[Table, Callable[..., Values]] = MappingProxyType(
    {
        Table.SEALED_FOR: lambda recipient: {"recipient": recipient},
        Table.DEPARTMENTS: _department,
        Table.ANSWERS: _answer,
        Table.HOLDS: _hold,
        Table.WISHES: _wish,
        Table.CALLS: _call,
        Table.SWEEPS: _sweep,
        Table.SUSPECTS: lambda message, marks: {"message": message, "marks": marks},
        Table.SNAPSHOTS: lambda *row: _named(Table.SNAPSHOTS, row),
        Table.SAID: lambda *row: _named(Table.SAID, row),
        Table.AUDIT: _audit,
    }
)
"""How a row becomes the columns of each table. A damaged row raises `LedgerFailed`."""
