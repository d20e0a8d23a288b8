"""A ledger in a database reads as much for one event, poll or start with many departments as with few.

Work is counted, not timed: in SQLite the steps of its virtual machine, in PostgreSQL the rows and the index
entries that were read. The long form, with a million departments, is `tests/benchmarks/large.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from tests.benchmarks.large_state import ANSWERS, TENANT, auth_id, department, event, fill
from tests.conformance.ledgers import fresh, fresh_schema
from tests.support.builders import NOW
from worker.adapters.ledgers import open_ledger
from worker.adapters.postgres.ledger import PostgresLedger
from worker.adapters.sqlite.ledger import SqliteLedger
from worker.core.limits import DEFAULT_LIMIT, Admission
from worker.core.model.departments import Department
from worker.core.model.replace import replace
from worker.ports import NOTHING_BESIDE, Beside, Ledger, OpenedLedger
from worker.settings.ledger_url import LedgerUrl, SqliteUrl, parse_ledger_url

FEW, MANY = 60, 1500
SLACK = 5
"""Steps or rows that a call may differ by."""

Call = Callable[[Ledger, int], Awaitable[Any]]
ADMISSION = Admission(DEFAULT_LIMIT, NOW)


async def write(ledger: Ledger, number: int, beside: Beside = NOTHING_BESIDE) -> None:
    which = department(number // 2)
    entry = (await ledger.recall(which, ANSWERS[0].event)).entry
    answer = replace(ANSWERS[0], department=which, event=event(number, 9))
    await ledger.record(replace(entry, name="Other"), answer, beside)


CALLS: Mapping[str, Call] = {
    "recall": lambda ledger, number: ledger.recall(department(number // 2), event(number // 2, 1)),
    "recall of an unknown one": lambda ledger, number: ledger.recall(department(number), event(number, 1)),
    "record": write,
    "record a removal": lambda ledger, number: write(ledger, number, Beside(admission=ADMISSION)),
    "tenant_counts": lambda ledger, _: ledger.tenant_counts(TENANT, ADMISSION.since),
    "due": lambda ledger, _: ledger.due(NOW, 100, NOW - timedelta(days=30)),
    "overdue": lambda ledger, _: ledger.overdue(NOW),
    "waiting_holds": lambda ledger, _: ledger.waiting_holds(),
    "wishes": lambda ledger, _: ledger.wishes(),
    "workers": lambda ledger, _: ledger.workers(timedelta(seconds=5)),
    "holders": lambda ledger, number: ledger.holders([auth_id(one) for one in range(number - 20, number)]),
    "entries_after": lambda ledger, number: ledger.entries_after(department(number // 2), 20),
    "entries_after in another tenant": lambda ledger, _: ledger.entries_after(None, 20, "another"),
    "claimed": lambda ledger, _: ledger.claimed(),
    "purge": lambda ledger, number: ledger.purge(NOW - timedelta(days=9), department(number // 2), 20),
    "answers": lambda ledger, number: ledger.answers(department(number // 2)),
    "answers_to": lambda ledger, number: ledger.answers_to(event(number // 2, 1).id),
    "last_sweep_at": lambda ledger, _: ledger.last_sweep_at(),
    "caught_up_at": lambda ledger, _: ledger.caught_up_at(),
    "bind": lambda ledger, _: ledger.bind("default", "MA1"),
}


@asynccontextmanager
async def filled(url: LedgerUrl, departments: int) -> AsyncIterator[OpenedLedger]:
    await fill(url, departments)
    async with open_ledger(url) as opened:
        yield opened


async def steps_of(ledger: SqliteLedger, call: Callable[[], Awaitable[Any]]) -> int:
    """The steps that SQLite's virtual machine takes for a call."""
    steps = 0

    def count(statement: dict[str, Any]) -> None:
        nonlocal steps
        steps += statement["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    connections: list[apsw.Connection] = [await ledger.store.run(lambda connection: connection)]
    with ledger.store.read() as reading:
        connections.append(reading)
    for connection in connections:
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, count)
    await call()
    for connection in connections:
        connection.trace_v2(0)
    return steps


async def rows_read(ledger: PostgresLedger, call: Callable[[], Awaitable[Any]]) -> int:
    """The rows and index entries that the server reads for a call."""

    async def read_so_far() -> int:
        await ledger.store.execute("SELECT pg_stat_force_next_flush()")
        await ledger.store.rows("SELECT pg_stat_force_next_flush()")
        counted = (
            "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = current_schema())"
            " + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = current_schema())"
        )
        ((read,),) = await ledger.store.rows(counted)
        return int(read)

    before = await read_so_far()
    await call()
    return await read_so_far() - before


async def costs(opened: OpenedLedger, departments: int) -> dict[str, int]:
    """The cost of each call, made a second time."""
    found = {}
    for place, (name, call) in enumerate(CALLS.items()):
        ledger: Any = opened.ledger
        cost = steps_of if isinstance(ledger, SqliteLedger) else rows_read
        await call(ledger, departments - 1)
        found[name] = await cost(ledger, partial(call, ledger, departments - 2 - place))
    return found


def assert_flat(few: Mapping[str, int], many: Mapping[str, int]) -> None:
    assert {name: (few[name], cost) for name, cost in many.items() if cost > few[name] + SLACK} == {}
    assert sum(few.values()) > 0


async def test_sqlite_takes_as_many_steps_with_many_departments_as_with_few(tmp_path: Path):
    found = []
    for departments in (FEW, MANY):
        async with filled(SqliteUrl(tmp_path / f"{departments}.db"), departments) as opened:
            found.append(await costs(opened, departments))
    assert_flat(*found)


async def test_postgresql_reads_as_many_rows_with_many_departments_as_with_few(postgres_url: str):
    found = []
    for departments in (FEW, MANY):
        with fresh_schema(postgres_url) as url:
            async with filled(parse_ledger_url(url), departments) as opened:
                found.append(await costs(opened, departments))
    assert_flat(*found)


async def test_postgresql_drops_its_plans_for_few_departments_once_there_are_many(postgres_url: str):
    """A plan for few rows reads whole tables. The server keeps it until it analyzes them anew."""
    most = 20

    async def add(ledger: Ledger, number: int) -> None:
        which = Department("growing", str(number))
        answer = replace(ANSWERS[0], department=which, event=event(number, 9))
        await ledger.recall(which, answer.event)
        entry = await ledger.record(fresh(which, auth_id=f"SA{number}"), replace(answer, confirmed=False))
        await ledger.record(entry, answer)

    with fresh_schema(postgres_url) as url:
        async with filled(parse_ledger_url(url), 20) as opened:
            ledger: Any = opened.ledger
            for number in range(10):  # so often that the server keeps a plan
                await add(ledger, number)
            for first in range(100, 1600, 100):
                await asyncio.gather(*(add(ledger, number) for number in range(first, first + 100)))
            read = await rows_read(
                ledger, lambda: asyncio.gather(*(add(ledger, number) for number in range(50, 100)))
            )
            assert read / 50 < most
