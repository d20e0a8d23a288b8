"""A large ledger: many departments of one tenant, each with two answers, as a worker would have written them.

The rows are made by the ledgers' own row functions and written in one transaction, so a million departments
take minutes and not hours. One department in twenty was removed long ago; the others are active.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic_core import to_json

from contracts.subaccounts import ResultKind
from tests.support.builders import NOW, an_answer, an_entry, created, renamed
from worker.adapters.postgres.connection import connect
from worker.adapters.postgres.ledger import postgres_ledger
from worker.adapters.postgres.ledger_values import answer_values, entry_values
from worker.adapters.rows import answer_json, entry_json
from worker.adapters.sqlite.ledger import INSERT_ENTRY, answer_row, entry_row, sqlite_ledger
from worker.core.model.answers import Answer
from worker.core.model.causes import Reference
from worker.core.model.credentials import Fingerprint, IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.removals import Removed
from worker.core.model.replace import replace
from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl

TENANT = "default"
ONE_IN = 20
"""One of so many departments was removed."""
BATCH = 1000
LONGEST_SECONDS = 3600.0
INSERT = "INSERT INTO {0} ({1}) SELECT {1} FROM json_populate_recordset(NULL::{0}, %s::json)"
FINGERPRINT = Fingerprint("0123456789abcdef", "fedcba98765432100123456789abcdef")

CREATED, RENAMED = created("Sales of the north", tenant=TENANT), renamed("Sales", tenant=TENANT, sequence=2)
ENTRY = an_entry(
    issued=IssuedCredentials(CREATED.reference, fingerprint=FINGERPRINT),
    version=RENAMED.version,
    version_type=RENAMED.reference.type,
    api_id="5b0f6f0e-5f5e-11ef-8a6e-0242ac110004",
)
"""An entry after a create and a rename; each department's differs in its ids."""
ANSWERS = (
    an_answer(CREATED, ResultKind.CREATED, confirmed=True),
    an_answer(RENAMED, ResultKind.RENAMED, confirmed=True, answered_at=NOW + timedelta(minutes=1)),
)

LONG_AGO = NOW - timedelta(days=100)
"""Before any window of a limit."""

T = TypeVar("T")


def department(number: int) -> Department:
    """The department of this number, from 0 on."""
    return Department(TENANT, f"d-{number:08}")


def auth_id(number: int) -> str:
    """The auth id of its subaccount."""
    return f"SA{number:018}"


def event(number: int, place: int) -> Reference:
    """An event of the department; those that were answered have the places 1 and 2."""
    return Reference("/hr", f"e-{number:08}-{place}", ANSWERS[0].event.type)


def entries(departments: int) -> Iterator[Entry]:
    """The entries, in the order of their ids."""
    for number in range(departments):
        version = RENAMED.version._replace(id=event(number, 2).id)
        entry = replace(ENTRY, department=department(number), auth_id=auth_id(number), version=version)
        if number % ONE_IN == ONE_IN - 1:
            gone = Removed(LONG_AGO, counted_at=LONG_AGO, auth_id=entry.auth_id)
            entry = replace(entry, status=Status.REMOVED, auth_id=None, removal=gone, incarnation=2)
        yield entry


def answers(departments: int) -> Iterator[Answer]:
    """The answers to the events of each department."""
    for number in range(departments):
        for place, answer in enumerate(ANSWERS, start=1):
            answered = answer.event._replace(id=event(number, place).id)
            yield replace(answer, department=department(number), event=answered, auth_id=auth_id(number))


async def fill(url: LedgerUrl, departments: int) -> None:
    """Fills an empty ledger."""
    match url:
        case SqliteUrl(path):
            await _fill_sqlite(path, departments)
        case PostgresUrl():
            await _fill_postgres(url, departments)


async def _fill_sqlite(path: Path, departments: int) -> None:
    async with sqlite_ledger(path) as ledger, ledger.store.transaction() as connection:
        connection.executemany(
            INSERT_ENTRY, (entry_row(one, entry_json(one)) for one in entries(departments))
        )
        connection.executemany(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (answer_row(one.event[:2], one, answer_json(one)) for one in answers(departments)),
        )


async def _fill_postgres(url: PostgresUrl, departments: int) -> None:
    async with postgres_ledger(lambda: url):
        pass  # makes the tables
    connection = await connect(url, "large state", {"idle_in_transaction_session_timeout": "0"})
    try:
        await connection.rows("BEGIN", ())
        tables = {
            "departments": (entry_values(one) for one in entries(departments)),
            "answers": (answer_values([one])[0] for one in answers(departments)),
        }
        for table, rows in tables.items():
            for some in _batches(rows):
                statement = INSERT.format(table, ", ".join(some[0]))
                await connection.rows(statement, (to_json(some).decode(),), LONGEST_SECONDS)
        await connection.rows("COMMIT", (), LONGEST_SECONDS)
        for table in tables:
            await connection.rows(f"VACUUM (ANALYZE) {table}", None, LONGEST_SECONDS)
    finally:
        await connection.close()


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    rows = iter(rows)
    while some := list(islice(rows, BATCH)):
        yield some
