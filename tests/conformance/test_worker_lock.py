"""An SQLite ledger is for one worker at a time; commands work beside it."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.builders import an_entry
from tests.support.entries import entries_of
from worker.adapters.ledgers import open_ledger, require_no_worker
from worker.adapters.sqlite.worker_lock import lock_path
from worker.ports import LedgerTaken, LedgerUnusable
from worker.settings.ledger_url import SqliteUrl

HOLDS_IT = """
import asyncio, sys
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import parse_ledger_url

async def hold():
    async with open_ledger(parse_ledger_url(sys.argv[1]), alone=True):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def url(path: Path) -> SqliteUrl:
    return SqliteUrl(path)


async def refusal_of(url: SqliteUrl) -> str:
    """The line with which a second worker is refused."""
    with pytest.raises(LedgerTaken) as refusal:
        async with open_ledger(url, alone=True):
            pass
    assert refusal.value.exit_code == 2
    assert len(str(refusal.value).splitlines()) == 1
    return str(refusal.value)


async def test_a_second_worker_is_refused_and_told_who_has_the_ledger(url, path):
    async with open_ledger(url, alone=True) as first:
        refusal = await refusal_of(url)
        assert f"{path} is in use by process {os.getpid()} on {socket.gethostname()}," in refusal
        assert "PostgreSQL" in refusal
        with pytest.raises(LedgerTaken, match=f"process {os.getpid()}"):
            require_no_worker(url)
        await first.ledger.record(an_entry(revision=0))
    require_no_worker(url)
    async with open_ledger(url, alone=True) as next_one:
        assert len(await entries_of(next_one.ledger)) == 1


async def test_a_refused_worker_does_not_migrate_the_ledger(url, monkeypatch, tmp_path):
    async with open_ledger(url, alone=True):
        newer = tmp_path / "newer"
        newer.mkdir()
        (newer / "0001_other.sql").write_text("CREATE TABLE other (id INTEGER) STRICT;")
        monkeypatch.setattr("worker.adapters.sqlite.store.MIGRATIONS", newer)
        await refusal_of(url)
        monkeypatch.undo()
    async with open_ledger(url, alone=True):
        pass


async def test_another_name_of_the_file_is_the_same_ledger(url, path, tmp_path):
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    async with open_ledger(url, alone=True):
        await refusal_of(SqliteUrl(link))
        await refusal_of(SqliteUrl(tmp_path / "elsewhere" / ".." / "ledger.db"))
    async with open_ledger(SqliteUrl(link), alone=True):
        await refusal_of(url)


async def test_commands_work_beside_a_worker(url):
    async with open_ledger(url, alone=True) as first:
        await first.ledger.record(an_entry(revision=0))
        async with open_ledger(url, read_only=True) as reading, open_ledger(url, must_exist=True) as writing:
            assert len(await entries_of(reading.ledger)) == 1
            await writing.ledger.note_sealed("crm")


async def test_a_command_that_reads_alone_keeps_workers_away(url):
    async with open_ledger(url, alone=True):
        pass
    async with (
        open_ledger(url, read_only=True, alone=True),
        open_ledger(url, read_only=True, alone=True),
    ):
        await refusal_of(url)
    async with open_ledger(url, alone=True):
        with pytest.raises(LedgerTaken):
            async with open_ledger(url, read_only=True, alone=True):
                pass


async def test_a_ledger_without_a_worker_gets_no_lock_file_from_reading(url, path):
    async with open_ledger(url):
        pass
    require_no_worker(url)
    async with open_ledger(url, read_only=True, alone=True):
        assert not lock_path(path).exists()


async def test_a_killed_worker_leaves_no_lock(url):
    """The next worker starts at once, whatever the lock file says."""
    for _ in range(3):
        holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDS_IT, str(url), stdout=PIPE)
        try:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"held\n"
            assert f"process {holder.pid} on " in await refusal_of(url)
        finally:
            holder.kill()
            await holder.wait()
        async with open_ledger(url, alone=True):
            pass


async def test_the_lock_file_is_its_owners_alone(url, path):
    async with open_ledger(url, alone=True):
        assert lock_path(path).stat().st_mode & 0o777 == 0o600


async def test_an_error_of_the_worker_is_not_one_of_the_lock(url):
    with pytest.raises(TimeoutError):
        async with open_ledger(url, alone=True):
            raise TimeoutError


async def test_a_lock_that_cannot_be_made_is_a_clear_error(url, path):
    lock_path(path).mkdir()
    with pytest.raises(LedgerUnusable, match="cannot be opened"):
        async with open_ledger(url, alone=True):
            pass
