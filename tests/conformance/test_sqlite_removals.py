"""Removals in SQLite: one limit for all workers, whole writes whatever fails, and older ledgers."""

import asyncio
import json
import shutil
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest

from contracts.subaccounts import ResultKind
from tests.conformance.ledgers import entry_of, fresh
from tests.conformance.test_ledger_removals import REMOVAL, SALES_LINE, a_call, a_hold, disabled, removing
from tests.conformance.test_ledger_workers import DAY, HOUR, department, removals_of, remove
from tests.conformance.test_sqlite import migrations_until
from tests.support.builders import NOW, SALES, a_worker, an_answer, created
from tests.support.entries import entries_of
from worker.adapters.sqlite import store as sqlite
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.core.limits import TenantCounts, Window, WindowCount
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.removals import Removed
from worker.ports import Beside, LedgerFailed

TABLES = ("departments", "answers", "holds", "audit", "calls")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def test_workers_in_threads_share_one_limit(path):
    def work(first: int) -> int:
        async def remove_all() -> int:
            async with sqlite_ledger(path) as ledger:
                order = [(first + number) % 30 for number in range(30)]
                admitted = [
                    await remove(ledger, department(number), NOW + number * HOUR / 60, limit)
                    for number in order
                ]
                return sum(admitted)

        return asyncio.run(remove_all())

    limit = (Window(7, DAY, is_percentage=False),)
    async with sqlite_ledger(path) as ledger:
        for number in range(30):
            await ledger.record(fresh(department(number)))
        admitted = await asyncio.gather(*(asyncio.to_thread(work, first) for first in (0, 10, 20)))
        assert sum(admitted) == len(await removals_of(ledger)) == 7


@pytest.mark.parametrize("table", TABLES)
async def test_nothing_is_written_if_the_file_refuses_one_table(path, table):
    async with sqlite_ledger(path) as ledger:
        entry = await ledger.record(fresh())
        how = "UPDATE" if table == "departments" else "INSERT"
        refusal = f"CREATE TRIGGER refusing BEFORE {how} ON {table} BEGIN SELECT raise(ABORT, 'no'); END"
        await ledger.store.run(lambda db: db.execute(refusal))
        before = contents(path)
        with pytest.raises(LedgerFailed, match="refuses a write: no"):
            await ledger.record(removing(entry, NOW), an_answer(REMOVAL, ResultKind.DISABLED), everything(1))
        assert contents(path) == before
        await ledger.store.run(lambda db: db.execute("DROP TRIGGER refusing"))
        await ledger.record(removing(entry, NOW), an_answer(REMOVAL, ResultKind.DISABLED), everything(1))
        assert [len(rows) for rows in contents(path).values()] == [1, 2, 1, 1, 1]


def everything(number: int) -> Beside:
    """All that may be written beside an entry."""
    other = an_answer(created(id=f"other-{number}"), ResultKind.SUPERSEDED)
    return Beside((other,), (a_hold(number),), (SALES_LINE,), (a_call(number),))


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of each table, as another process sees them."""
    connection = apsw.Connection(str(path))
    try:
        return {table: list(connection.execute(f"SELECT * FROM {table}")) for table in TABLES}  # noqa: S608
    finally:
        connection.close()


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.conformance.ledgers import fresh
from tests.conformance.test_ledger_removals import disabled
from tests.conformance.test_sqlite_removals import department, everything
from tests.support.builders import NOW, an_answer, created
from worker.adapters.sqlite.ledger import sqlite_ledger

async def write_forever():
    async with sqlite_ledger(Path(sys.argv[1])) as ledger:
        for number in range(1_000_000):
            entry = await ledger.record(fresh(department(number)))
            answer = an_answer(created(id=f"e{number}"))
            await ledger.record(disabled(entry, NOW), answer, everything(number))
            print(number, flush=True)

asyncio.run(write_forever())
"""


async def test_a_killed_writer_leaves_whole_writes(path):
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    durable = [int(await writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    durable += [int(line) for line in (await writer.stdout.read()).splitlines()]
    assert await writer.wait() == -signal.SIGKILL
    async with sqlite_ledger(path, must_exist=True) as ledger:
        entries = await entries_of(ledger)
        removed = {entry.department for entry in entries if entry.status is Status.DISABLED}
        assert {department(number) for number in durable} <= removed
        assert len(removed) - len(durable) in {0, 1}
        assert len(entries) - len(removed) in {0, 1}
        held = await ledger.holds(all_=True)
        lines = await SqliteAudit(ledger.store).lines()
        assert len(held) == len(lines) == len(removed)
        assert len(await ledger.answers(SALES)) == 2 * len(removed)
        calls = [await ledger.calls(entry.department) for entry in entries]
        assert Counter(map(len, calls)) == Counter({1: len(removed)}) + Counter(
            {0: len(entries) - len(removed)}
        )
        counts = await ledger.tenant_counts("acme", [NOW - HOUR])
        assert counts == TenantCounts(len(entries) - len(removed), (WindowCount(len(removed), len(removed)),))


async def test_copies_of_the_open_files_hold_all_that_was_recorded(path, tmp_path):
    """As after a power failure: nobody has closed the ledger."""
    async with sqlite_ledger(path) as ledger:
        await ledger.bind("default", "MA1")
        await ledger.announce(a_worker())
        await ledger.note_sweep("S1", NOW, "{}")
        entry = await ledger.record(fresh())
        entry = await ledger.record(disabled(entry, NOW), beside=everything(1))
        copied = tmp_path / "copied"
        copied.mkdir()
        for file in path.parent.glob("ledger.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copied)
    async with sqlite_ledger(copied / path.name, must_exist=True) as ledger:
        assert await entry_of(ledger) == entry
        assert await ledger.holds() == [a_hold(1)]
        assert await ledger.calls(SALES) == [a_call(1)]
        assert [worker.id for worker in await ledger.workers(HOUR)] == [a_worker().id]
        assert await ledger.last_sweep_at() == NOW
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(0, (WindowCount(1, 1),))


async def an_older_ledger(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger as the version before removals left it."""
    older = folder / "migrations"
    older.mkdir()
    for file in migrations_until("0007"):
        shutil.copy(file, older)
    rows = [
        fresh(Department("acme", "active")),
        fresh(Department("acme", "gone"), gone_at=NOW),
        fresh(Department("acme", "disabled"), Status.DISABLED),
        fresh(Department("acme", "deleting"), Status.DELETING, created_at=NOW),
        fresh(Department("globex", "absent"), Status.ABSENT),
    ]
    with monkeypatch.context() as before:
        before.setattr(sqlite, "MIGRATIONS", older)
        async with sqlite_ledger(path) as ledger:
            await ledger.store.run(lambda db: db.executemany(OLDER_ENTRY, [older_row(row) for row in rows]))
            await SqliteAudit(ledger.store).append([SALES_LINE])


OLDER_ENTRY = (
    "INSERT INTO departments (tenant, department_id, revision, status, name, auth_id, entry)"
    " VALUES (?, ?, 1, ?, 'Sales', ?, ?)"
)


def older_row(entry: Entry) -> tuple[str | None, ...]:
    written = {
        "department": entry.department,
        "revision": 1,
        "status": entry.status,
        "name": "Sales",
        "auth_id": entry.auth_id,
        "issued_for": ["/hr", "e1", "department.created.v1"],
        "generation": 1,
        "created_at": "2026-11-21T12:00:00Z",
        "removed_at": "2026-11-21T13:00:00Z" if entry.status is Status.DISABLED else None,
        "gone_at": "2026-11-21T13:00:00Z" if entry.gone_at else None,
    }
    return (*entry.department, entry.status, entry.auth_id, json.dumps(written))


async def test_an_older_ledger_is_counted_and_its_deletions_are_in_doubt(path, tmp_path, monkeypatch):
    await an_older_ledger(path, tmp_path, monkeypatch)
    begun = datetime.now(UTC) - timedelta(milliseconds=1)
    async with sqlite_ledger(path) as ledger:
        assert await ledger.tenant_counts("acme", [NOW - DAY]) == TenantCounts(1, (WindowCount(0, 0),))
        deleting = await entry_of(ledger, Department("acme", "deleting"))
        assert deleting.deletion is not None
        assert deleting.deletion.in_doubt
        assert begun <= deleting.deletion.begun_at <= datetime.now(UTC)
        entry = await entry_of(ledger, Department("acme", "disabled"))
        assert entry.removal == Removed(NOW + HOUR)
        assert await ledger.due(NOW + 99 * DAY, 10, NOW + 99 * DAY) == []
        assert await SqliteAudit(ledger.store).lines(department=SALES) == [SALES_LINE]
        active = await entry_of(ledger, Department("acme", "active"))
        await ledger.record(removing(active, NOW))
        assert await ledger.tenant_counts("acme", [NOW - DAY]) == TenantCounts(0, (WindowCount(1, 1),))


async def test_an_older_ledger_is_read_before_a_worker_has_opened_it(path, tmp_path, monkeypatch):
    await an_older_ledger(path, tmp_path, monkeypatch)
    async with sqlite_ledger_read(path) as ledger:
        assert len(await entries_of(ledger)) == 5
        assert await SqliteAudit(ledger.store).lines(department=SALES) == [SALES_LINE]
        for read in (ledger.holds(), ledger.calls(SALES), ledger.tenant_counts("acme", [])):
            with pytest.raises(LedgerFailed, match=r"older version.*provisioner run") as failure:
                await read
            assert len(str(failure.value).splitlines()) == 1
