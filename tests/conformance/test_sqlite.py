"""The SQLite ledger beyond the conformance suite: files, durability, group commit and clear errors."""

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest

from contracts.subaccounts import ResultCode, ResultKind
from tests.support.builders import NOW, SALES, an_answer, an_entry, created, owing
from tests.support.entries import entries_of
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.sqlite import store as sqlite
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.core.model.causes import Reference
from worker.core.model.credentials import IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.recollection import Recollection
from worker.operations.departments import departments, history
from worker.ports import LedgerConflict, LedgerFailed, LedgerForeign, LedgerUnusable

NOBODY = 65534
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def fresh(number: int = 1) -> Entry:
    return an_entry(revision=0, department=Department("acme", str(number)), auth_id=f"SA-{number}")


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1, text
    return text


async def test_records_are_kept_after_reopening(path):
    answer = an_answer(created())
    async with sqlite_ledger(path) as ledger:
        await ledger.bind("default", "MA1")
        recorded = await ledger.record(replace(fresh(), department=SALES), answer)
    async with sqlite_ledger(path, must_exist=True) as ledger:
        await ledger.bind("default", "MA1")
        assert await ledger.recall(SALES, answer.event) == Recollection(recorded, answer)


async def test_a_write_is_in_the_file_once_it_returns(path):
    """Another process sees the write immediately, before the ledger is closed."""
    async with sqlite_ledger(path) as ledger:
        await ledger.record(fresh())
        with reading(path) as other:
            assert other.execute("SELECT count(*) FROM departments").get == 1


async def test_files_are_accessible_only_to_their_owner(path):
    async with sqlite_ledger(path) as ledger:
        await ledger.record(fresh())
        made = list(path.parent.iterdir())
        assert path in made
        assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o600}


async def test_wal_and_full_sync_are_in_effect(path):
    async with sqlite_ledger(path) as ledger:
        modes = await ledger.store.run(lambda db: (db.pragma("journal_mode"), db.pragma("synchronous")))
    assert modes == ("wal", 2)


async def test_writes_during_a_commit_share_the_next_commit(path):
    commits: list[int] = []
    async with sqlite_ledger(path, lambda operations, _seconds: commits.append(operations)) as ledger:
        commits.clear()
        await asyncio.gather(*(ledger.record(fresh(number)) for number in range(50)))
        assert len(await entries_of(ledger)) == 50
    assert sum(commits) == 50
    assert len(commits) <= 2


async def test_a_failed_job_is_rolled_back_without_the_others(path):
    commits: list[int] = []
    answer = an_answer(created())
    async with sqlite_ledger(path, lambda operations, _seconds: commits.append(operations)) as ledger:
        commits.clear()
        results = await asyncio.gather(
            ledger.record(fresh(1)),
            ledger.record(replace(fresh(2), revision=5), answer),
            ledger.store.run(lambda _: 1 / 0),
            ledger.record(fresh(3)),
            return_exceptions=True,
        )
        assert commits in ([4], [1, 3])
        assert [type(result) for result in results] == [Entry, LedgerConflict, ZeroDivisionError, Entry]
        assert [entry.department.id for entry in await entries_of(ledger)] == ["1", "3"]
        assert (await ledger.recall(SALES, answer.event)).answer is None


async def test_a_cancelled_write_does_not_affect_the_others(path):
    async with sqlite_ledger(path) as ledger:
        impatient = asyncio.create_task(ledger.record(fresh(1)))
        patient = asyncio.create_task(ledger.record(fresh(2)))
        await asyncio.sleep(0)  # both have started
        impatient.cancel()
        await patient
        assert (await asyncio.gather(impatient, return_exceptions=True))[
            0
        ].__class__ is asyncio.CancelledError
        await ledger.record(fresh(3))


async def test_closing_waits_for_pending_writes(path):
    async with sqlite_ledger(path) as ledger:
        begun = [asyncio.create_task(ledger.record(fresh(number))) for number in range(5)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*begun)) == 5
    async with sqlite_ledger(path) as ledger:
        assert len(await entries_of(ledger)) == 5


async def test_migrations_are_applied_once(path):
    for _ in range(2):
        async with sqlite_ledger(path) as ledger:
            applied = await ledger.store.run(lambda db: list(db.execute("SELECT name FROM migrations")))
            assert applied == [(file.name,) for file in migrations_until("9999")]


def migrations_until(last: str) -> list[Path]:
    """The migrations up to this number, in order."""
    files = sorted(Path(str(sqlite.MIGRATIONS)).iterdir())
    return [file for file in files if file.name[:4] <= last]


async def test_answers_of_an_older_ledger_get_codes(path, monkeypatch, tmp_path):
    older = tmp_path / "migrations"
    older.mkdir()
    for file in migrations_until("0004"):
        shutil.copy(file, older)
    done = an_answer(created(id="done"), ResultKind.RENAMED)
    refused = an_answer(created(id="refused"), ResultKind.FAILED)
    with monkeypatch.context() as before:
        before.setattr(sqlite, "MIGRATIONS", older)
        async with sqlite_ledger(path) as ledger:
            for answer in (done, refused):
                await ledger.record_answer(answer)
            await ledger.store.run(
                lambda db: db.execute("UPDATE answers SET answer = json_remove(answer, '$.code')")
            )
    async with sqlite_ledger(path) as ledger:
        codes = {answer.event.id: answer.code for answer in await ledger.answers(SALES)}
    assert codes == {"done": ResultCode.RENAMED, "refused": ResultCode.NOT_ALLOWED}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE migrations SET checksum = 'another'", r"0001_ledger\.sql"),
        (
            "INSERT INTO migrations VALUES ('9999_later.sql', '')",
            r"newer version, which knows 9999_later\.sql",
        ),
    ],
    ids=["changed afterwards", "of a newer version"],
)
async def test_a_ledger_with_an_unknown_migration_is_refused(path, change, reason):
    """An older worker would ignore and overwrite the data of a newer version."""
    async with sqlite_ledger(path) as ledger:
        await ledger.store.run(lambda db: db.execute(change))
    with pytest.raises(LedgerForeign, match=reason) as refusal:
        async with sqlite_ledger(path):
            pass
    one_line(refusal)
    assert refusal.value.exit_code == 2


async def test_a_migration_is_applied_completely_or_not_at_all(path, monkeypatch, tmp_path):
    broken = tmp_path / "migrations"
    broken.mkdir()
    (broken / "0001_broken.sql").write_text("CREATE TABLE half (id INTEGER) STRICT; NONSENSE;")
    monkeypatch.setattr(sqlite, "MIGRATIONS", broken)
    with pytest.raises(LedgerFailed) as failure:
        async with sqlite_ledger(path):
            pass
    one_line(failure)
    with reading(path) as db:
        assert db.execute("SELECT count(*) FROM sqlite_schema").get == 0


async def test_a_ledger_that_must_exist_is_not_created(path):
    with pytest.raises(LedgerFailed, match=r"there is no ledger at .*; set LEDGER_URL") as failure:
        async with sqlite_ledger(path, must_exist=True):
            pass
    one_line(failure)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 40, b"short"])
async def test_a_file_that_is_no_database_is_not_changed(path, content):
    path.write_bytes(content)
    with pytest.raises(LedgerUnusable, match=r"is not a database; set LEDGER_URL to ") as failure:
        async with sqlite_ledger(path):
            pass
    assert failure.value.exit_code == 2
    assert str(path) in one_line(failure)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("place", "what_to_do"),
    [
        ("", "it is a folder; set LEDGER_URL to a file in it"),
        ("missing/ledger.db", "there is no folder .*/missing; make it, or set LEDGER_URL to another file"),
        ("a-file/ledger.db", "there is no folder .*/a-file; make it, or set LEDGER_URL to another file"),
        ("x" * 300, "File name too long; set LEDGER_URL to another file"),
    ],
)
async def test_an_impossible_path_is_a_clear_error(tmp_path, place, what_to_do):
    (tmp_path / "a-file").touch()
    with pytest.raises(LedgerUnusable, match=f"cannot be opened: {what_to_do}$") as failure:
        async with sqlite_ledger(tmp_path / place):
            pass
    assert failure.value.exit_code == 2
    one_line(failure)


async def test_a_read_only_file_can_be_read_and_fails_on_a_write(monkeypatch):
    with (
        TemporaryDirectory() as ours,
        unprivileged_reading(ours, monkeypatch),
        TemporaryDirectory() as folder,
    ):
        path = Path(folder) / "ledger.db"
        async with sqlite_ledger(path) as ledger:
            recorded = await ledger.record(fresh())
        path.chmod(0o400)
        async with sqlite_ledger(path) as ledger:
            assert await entries_of(ledger) == [recorded]
            for write in (
                ledger.bind("default", "MA1"),
                ledger.record(recorded),
            ):  # every start begins with bind
                with pytest.raises(LedgerFailed, match=r"cannot be written: .*readonly") as failure:
                    await write
                one_line(failure)


async def test_binding_again_writes_to_the_file(path):
    """Readiness uses it to check that the ledger is writable: a full disk is still readable."""
    async with sqlite_ledger(path) as ledger:
        await ledger.bind("default", "MA1")
        log = path.with_name(f"{path.name}-wal")
        before = log.stat().st_size
        await ledger.bind("default", "MA1")
        assert log.stat().st_size > before


async def test_a_ledger_that_becomes_read_only_fails_and_recovers(path):
    async with sqlite_ledger(path) as ledger:
        ledger.store._writing.pragma("query_only", 1)
        with pytest.raises(LedgerFailed, match="cannot be written") as failure:
            await ledger.record(fresh())
        one_line(failure)
        ledger.store._writing.pragma("query_only", 0)
        await ledger.record(fresh())


async def test_a_file_deleted_or_replaced_in_use_fails_the_write(path):
    """SQLite would write on to the unlinked file, and messages would be acked without a durable record."""
    async with sqlite_ledger(path) as ledger:
        aside = path.rename(path.with_name("aside.db"))
        with pytest.raises(LedgerFailed, match=r"cannot be written: its file was deleted") as failure:
            await ledger.record(fresh())
        one_line(failure)
        shutil.copy(aside, path)
        with pytest.raises(LedgerFailed, match="replaced"):
            await ledger.record(fresh())
        aside.rename(path)
        await ledger.record(fresh())


async def test_a_ledger_locked_by_another_process_fails_and_recovers(path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.02)
    async with sqlite_ledger(path) as ledger:
        with reading(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerFailed, match=r"cannot be written: .*locked") as failure:
                await ledger.record(fresh())
            one_line(failure)
        await ledger.record(fresh())


async def test_an_unreadable_entry_affects_only_its_department(path):
    async with sqlite_ledger(path) as ledger:
        await ledger.record(fresh(1))
        await ledger.store.run(lambda db: db.execute("UPDATE departments SET entry = '{}'"))
        damaged, whole = await asyncio.gather(
            ledger.recall(fresh(1).department, created().reference),
            ledger.record(fresh(2)),
            return_exceptions=True,
        )
        assert isinstance(damaged, LedgerFailed)
        assert len(str(damaged).splitlines()) == 1
        assert whole == replace(fresh(2), revision=1)


OLDEST = (
    '{"department":["acme","sales"],"revision":1,"status":"%s","incarnation":1,"generation":1,"name":"Sales",'
    '"auth_id":%s,"version":null,"claim":null,"owed_to":[%s],"issued_for":["/hr","e1","department.created.v1"],'
    '"created_at":"2026-11-21T12:00:00Z","owed_at":"2026-11-21T12:01:00Z",%s}'
)
"""An entry as the first version wrote it, without the keys added later."""


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (("active", '"SA1"', '"crm"', '"check_at":null'), {"debt": owing("crm", retry_at=LATER)}),
        (("active", '"SA1"', "", '"check_at":"2026-11-21T12:01:00Z"'), {"check": Check(LATER)}),
        (
            ("absent", "null", "", '"check_at":"2026-11-21T12:01:00Z","late_call":true'),
            {"status": Status.ABSENT, "auth_id": None, "name": "Sales", "created_at": NOW},
        ),
    ],
    ids=["owing", "owing nothing", "check without a subaccount"],
)
async def test_entries_of_earlier_versions_can_be_read(path, row, fields):
    issued = IssuedCredentials(Reference("/hr", "e1", "department.created.v1"))
    expected = {"revision": 1, "auth_id": "SA1", "version": None, "issued": issued} | fields
    async with sqlite_ledger(path) as ledger:
        await ledger.record(an_entry(revision=0, auth_id=None, status=Status.ABSENT))
        await ledger.store.run(lambda db: db.execute("UPDATE departments SET entry = ?", (OLDEST % row,)))
        assert await entries_of(ledger) == [an_entry(**expected)]


async def test_an_entry_that_breaks_a_rule_is_damaged(path):
    async with sqlite_ledger(path) as ledger:
        await ledger.record(fresh())
        await ledger.store.run(
            lambda db: db.execute("UPDATE departments SET entry = json_set(entry, '$.name', null)")
        )
        with pytest.raises(LedgerFailed, match="a row of the ledger cannot be read") as failure:
            await entries_of(ledger)
        one_line(failure)


@contextmanager
def reading(path: Path) -> Iterator[apsw.Connection]:
    """A connection like that of another process."""
    connection = apsw.Connection(str(path))
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def unprivileged_reading(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies the migrations to a folder readable by all, because the project may be private to its owner."""
    copied = Path(folder) / "migrations"
    shutil.copytree(str(sqlite.MIGRATIONS), copied)
    Path(folder).chmod(0o755)
    monkeypatch.setattr(sqlite, "MIGRATIONS", copied)
    with unprivileged():
        yield


@contextmanager
def unprivileged() -> Iterator[None]:
    """Becomes an unprivileged user, because root ignores file permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_reader_does_not_wait_for_a_writer(path):
    async with sqlite_ledger(path) as ledger:
        await ledger.record(fresh())
        writer = apsw.Connection(str(path))
        writer.execute("BEGIN IMMEDIATE")
        async with sqlite_ledger_read(path) as reading:
            (listed,) = [entry async for entry in departments(reading)]
            found = await history(reading, MemoryAudit(), listed.department, NOW)
            assert await SqliteAudit(reading.store).lines() == []
        writer.execute("ROLLBACK")
    assert found.entry == listed
