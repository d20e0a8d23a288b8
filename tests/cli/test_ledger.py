"""`provisioner ledger`, and the refusal of a second worker on one SQLite ledger."""

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tests.conformance.ledgers import fresh_schema
from tests.conformance.test_keeping import answered, furnish
from tests.support.builders import SALES
from tests.support.commands import CommandOutput, in_process, provisioner
from worker.adapters.ledgers import open_ledger
from worker.adapters.sqlite import store
from worker.adapters.sqlite.keeping import SqliteFilling
from worker.adapters.system import SystemClock
from worker.core.keeping import Row, Table
from worker.core.presence import WorkerSeen
from worker.settings.ledger_url import SqliteUrl, parse_ledger_url

NOW = SystemClock().now()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def environ(path: Path) -> dict[str, str]:
    return {
        "LEDGER_URL": f"sqlite:///{path}",
        "PLIVO_AUTH_ID": "MA1",
        "PLIVO_AUTH_TOKEN": "token",
        "PROVISIONER_HTTP": "127.0.0.1:0",
    }


@pytest.fixture
async def furnished(path: Path) -> Path:
    async with open_ledger(SqliteUrl(path)) as opened:
        await furnish(opened)
        await answered(opened.ledger, SALES, 11, NOW - timedelta(days=2))
    return path


async def copy(environ: dict[str, str], source: Path, target: Path, *more: str) -> CommandOutput:
    return await in_process(
        environ, "ledger", "copy", "--from", f"sqlite:///{source}", "--to", f"sqlite:///{target}", *more
    )


async def rows_at(path: Path) -> dict[Table, list[Row]]:
    found: dict[Table, list[Row]] = {table: [] for table in Table}
    async with open_ledger(SqliteUrl(path), read_only=True) as opened, opened.keeping.reading() as rows:
        for table in Table:
            async for batch in rows.batches(table):
                found[table] += batch
    return found


def refused(output: CommandOutput, words: str, code: int = 1) -> None:
    """The command ended with one line that has these words."""
    assert output.code == code
    assert not output.out
    (line,) = output.err.splitlines()
    assert words in line


async def test_a_second_run_ends_with_one_line_that_names_the_first(environ, path):
    """Also where the first has the address of the probes: that would be the second mistake."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ["PROVISIONER_HTTP"] = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_ledger(SqliteUrl(path), alone=True):
            second = await provisioner(environ, "run")
    refused(second, f"in use by process {os.getpid()} on {socket.gethostname()}", code=2)


class TestCopy:
    async def test_it_brings_every_row_and_says_so(self, environ, furnished, tmp_path):
        done = await copy(environ, furnished, tmp_path / "copy.db", "--json")
        assert done.code == 0, done.err
        rows = await rows_at(tmp_path / "copy.db")
        assert rows == await rows_at(furnished)
        assert done.json["counts"] == {table.value: len(rows[table]) for table in Table}
        back = await copy(environ, tmp_path / "copy.db", tmp_path / "back.db", "--json")
        assert back.json["digest"] == done.json["digest"]
        text = await copy(environ, furnished, tmp_path / "text.db")
        assert "2 departments, 3 answers" in text.out
        assert done.json["digest"] in text.out
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600

    async def test_a_target_with_rows_is_refused_and_stays_as_it_is(self, environ, furnished, tmp_path):
        target = tmp_path / "target.db"
        shutil.copy(furnished, target)
        before = await rows_at(target)
        refused(await copy(environ, furnished, target), "the target holds rows already")
        assert await rows_at(target) == before

    async def test_a_target_of_another_owner_is_refused(self, environ, furnished, tmp_path):
        async with open_ledger(SqliteUrl(tmp_path / "target.db")) as opened:
            await opened.ledger.bind("other", "MA1")
        refused(await copy(environ, furnished, tmp_path / "target.db"), "bound to another owner")

    async def test_a_missing_source_is_refused_and_makes_no_target(self, environ, path, tmp_path):
        refused(await copy(environ, path, tmp_path / "target.db"), f"no ledger at sqlite:///{path}")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("other", ["ledger.db", "./ledger.db", "link.db"])
    async def test_the_same_ledger_twice_is_refused(self, environ, furnished, other):
        (furnished.parent / "link.db").symlink_to(furnished)
        twice = await copy(environ, furnished, furnished.parent / other)
        refused(twice, "--from and --to are the same ledger", code=2)

    @pytest.mark.parametrize("option", ["--from", "--to"])
    async def test_a_wrong_url_names_its_option_and_no_secret(self, environ, option):
        urls = {"--from": "sqlite:///a.db", "--to": "sqlite:///b.db"} | {option: "mysql://me:secret@db"}
        given = [word for pair in urls.items() for word in pair]
        wrong = await in_process(environ, "ledger", "copy", *given)
        refused(wrong, f"{option} is not a ledger URL", code=2)
        assert "secret" not in wrong.err

    @pytest.mark.parametrize("which", ["source", "target"])
    async def test_it_refuses_while_a_worker_has_either(self, environ, furnished, tmp_path, which):
        target = tmp_path / "target.db"
        async with open_ledger(SqliteUrl(furnished if which == "source" else target), alone=True):
            refused(await copy(environ, furnished, target), f"in use by process {os.getpid()}")
        assert (await copy(environ, furnished, target)).code == 0

    @pytest.mark.parametrize(
        ("migrations", "words"), [("older", "of an older version"), ("newer", "of a newer version")]
    )
    async def test_a_source_of_another_version_is_refused(
        self, environ, furnished, tmp_path, migrations, words
    ):
        change = {
            "older": "DELETE FROM migrations WHERE name = (SELECT max(name) FROM migrations)",
            "newer": "INSERT INTO migrations VALUES ('9999_later.sql', '')",
        }
        with closing(apsw.Connection(str(furnished))) as connection:
            connection.execute(change[migrations])
        refused(await copy(environ, furnished, tmp_path / "target.db"), words)
        assert not (tmp_path / "target.db").exists()

    async def test_what_is_not_as_written_is_found_and_undone(
        self, environ, furnished, tmp_path, monkeypatch
    ):
        """A target that loses a row, or changes one, is no copy."""

        async def lose_one(self: SqliteFilling, table: Table, rows: list[Row]) -> None:
            await add(self, table, rows[1:] if table is Table.ANSWERS else rows)

        async def change_one(self: SqliteFilling, table: Table, rows: list[Row]) -> None:
            await add(self, table, [("crm2",)] if table is Table.SEALED_FOR else rows)

        add = SqliteFilling.add
        for broken, words in ((lose_one, "2 of 3 answers"), (change_one, "its rows differ")):
            with monkeypatch.context() as faulty:
                faulty.setattr(SqliteFilling, "add", broken)
                refused(await copy(environ, furnished, tmp_path / "target.db"), words)
            assert not any((await rows_at(tmp_path / "target.db")).values())
        assert (await copy(environ, furnished, tmp_path / "target.db")).code == 0


class TestBackup:
    async def test_it_is_a_ledger_of_that_moment_while_a_worker_writes(self, environ, furnished, tmp_path):
        backup, done = tmp_path / "backup.db", asyncio.Event()
        before = await rows_at(furnished)

        async def write() -> int:
            """As fast as a worker can."""
            async with open_ledger(SqliteUrl(furnished), alone=True) as opened:
                number = 100
                while not done.is_set():
                    number += 1
                    await answered(opened.ledger, SALES, number, NOW)
                return number

        writing = asyncio.create_task(write())
        made = await in_process(environ, "ledger", "backup", str(backup), "--json")
        done.set()
        assert await writing > 101, "it wrote meanwhile"
        assert made.code == 0, made.err
        assert made.json == {"file": str(backup), "bytes": backup.stat().st_size, "departments": 2}

        rows = await rows_at(backup)
        assert len(rows[Table.ANSWERS]) >= len(before[Table.ANSWERS])
        assert rows[Table.AUDIT] == before[Table.AUDIT]
        assert rows[Table.LEDGER] == [("default", "MA1", None)], "a worker takes it for behind"
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        assert {one.name for one in tmp_path.iterdir() if "backup" in one.name} == {"backup.db"}
        checked = await in_process(environ | {"LEDGER_URL": f"sqlite:///{backup}"}, "ledger", "check")
        assert checked.code == 0, checked.err

    @pytest.mark.usefixtures("furnished")
    async def test_a_backup_is_copied_to_its_place(self, environ, tmp_path):
        await in_process(environ, "ledger", "backup", str(tmp_path / "backup.db"))
        assert (await copy(environ, tmp_path / "backup.db", tmp_path / "restored.db")).code == 0
        assert await rows_at(tmp_path / "restored.db") == await rows_at(tmp_path / "backup.db")

    @pytest.mark.usefixtures("furnished")
    async def test_it_overwrites_nothing(self, environ, tmp_path):
        taken = tmp_path / "taken"
        taken.write_text("precious")
        refused(await in_process(environ, "ledger", "backup", str(taken)), "overwrites nothing")
        assert taken.read_text() == "precious"
        (tmp_path / "new.partial").touch()
        refused(await in_process(environ, "ledger", "backup", str(tmp_path / "new")), "remove that file")
        assert {one.name for one in tmp_path.iterdir()} >= {"taken", "new.partial"}
        assert not (tmp_path / "new").exists()

    @pytest.mark.usefixtures("furnished")
    async def test_a_folder_that_is_missing_is_one_line(self, environ, tmp_path):
        missing = await in_process(environ, "ledger", "backup", str(tmp_path / "no" / "backup.db"))
        refused(missing, "cannot be written: No such file or directory")

    async def test_a_missing_ledger_leaves_no_file(self, environ, tmp_path):
        refused(
            await in_process(environ, "ledger", "backup", str(tmp_path / "b.db")), "there is no ledger at"
        )
        assert not list(tmp_path.iterdir())

    async def test_a_damaged_ledger_makes_no_backup(self, environ, furnished, tmp_path):
        damage(furnished)
        failed = await in_process(environ, "ledger", "backup", str(tmp_path / "backup.db"))
        assert failed.code == 1
        assert len(failed.err.splitlines()) == 1
        assert not [one for one in tmp_path.iterdir() if "backup" in one.name]

    async def test_a_ledger_of_an_older_version_is_backed_up_before_its_upgrade(
        self, environ, path, tmp_path, monkeypatch
    ):
        older = tmp_path / "migrations"
        shutil.copytree(str(store.MIGRATIONS), older)
        for file in older.iterdir():
            if file.name > "0003":
                file.unlink()
        with monkeypatch.context() as before:
            before.setattr(store, "MIGRATIONS", older)
            async with open_ledger(SqliteUrl(path)) as opened:
                await opened.ledger.bind("default", "MA1")
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute("UPDATE ledger SET caught_up = 1")
        done = await in_process(environ, "ledger", "backup", str(tmp_path / "backup.db"), "--json")
        assert done.json["departments"] is None
        with closing(apsw.Connection(str(tmp_path / "backup.db"))) as connection:
            assert connection.execute("SELECT owner, caught_up FROM ledger").fetchall() == [("default", 0)]


def damage(path: Path) -> None:
    """Overwrites pages in the middle of the file."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 4096 // 2 * 4096)
        file.write(b"\xff" * 8192)


class TestPostgres:
    @pytest.fixture
    def database(self, postgres_url: str) -> Iterator[str]:
        with fresh_schema(postgres_url) as url:
            yield url

    async def test_there_and_back(self, environ, furnished, tmp_path, database):
        there = await in_process(
            environ, "ledger", "copy", "--from", f"sqlite:///{furnished}", "--to", database, "--json"
        )
        assert there.code == 0, there.err
        moved = environ | {"LEDGER_URL": database}
        checked = await in_process(moved, "ledger", "check", "--json")
        assert (checked.code, checked.json["troubles"]) == (0, [])
        assert (await in_process(moved, "ledger", "purge", "--json")).json["departments"] == 2

        made = await in_process(moved, "ledger", "backup", str(tmp_path / "backup.db"), "--json")
        assert made.code == 0, made.err
        rows = await rows_at(tmp_path / "backup.db")
        assert rows[Table.LEDGER] == [("default", "MA1", None)], "a worker takes it for behind"
        assert {one.name for one in tmp_path.iterdir() if "backup" in one.name} == {"backup.db"}
        assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600

        target = f"sqlite:///{tmp_path / 'back.db'}"
        back = await in_process(environ, "ledger", "copy", "--from", database, "--to", target, "--json")
        assert back.code == 0, back.err
        back_rows, before = await rows_at(tmp_path / "back.db"), await rows_at(furnished)
        assert len(back_rows.pop(Table.AUDIT)) == len(before.pop(Table.AUDIT)) + 2  # of the purge
        assert back_rows == before
        assert "password" not in there.out + back.out + made.out

    async def test_it_refuses_while_a_worker_runs_there(self, environ, furnished, database, monkeypatch):
        monkeypatch.setattr("worker.cli.ledger.LEAVE_SECONDS", 0.0)
        async with open_ledger(parse_ledger_url(database)) as opened:
            await opened.ledger.announce(
                WorkerSeen("w1", "host-a", 1, "1.0", NOW, NOW, consuming=True, rate_share=300)
            )
        there = await in_process(
            environ, "ledger", "copy", "--from", f"sqlite:///{furnished}", "--to", database
        )
        refused(there, "a worker runs on postgresql://")


class TestCheck:
    @pytest.mark.usefixtures("furnished")
    async def test_a_whole_ledger(self, environ):
        checked = await in_process(environ, "ledger", "check", "--json")
        assert checked.code == 0
        found = checked.json
        assert (found["owner"], found["provider_account"]) == ("default", "MA1")
        assert found["schema"] == found["schema_known"]
        assert found["counts"]["departments"] == 2
        assert found["newest_age_seconds"] >= timedelta(days=2).total_seconds()
        assert found["troubles"] == []
        text = await in_process(environ, "ledger", "check")
        assert "the ledger is whole" in text.out
        assert "owner default of account MA1" in text.out
        assert not text.err

    async def test_an_empty_ledger_is_whole(self, environ, path):
        async with open_ledger(SqliteUrl(path)):
            pass
        checked = await in_process(environ, "ledger", "check")
        assert checked.code == 0
        assert "nobody: no worker has started on it" in checked.out

    async def test_a_damaged_file(self, environ, furnished):
        damage(furnished)
        checked = await in_process(environ, "ledger", "check")
        assert checked.code == 1
        assert "Traceback" not in checked.err
        assert checked.err

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            (
                "UPDATE departments SET entry = '{}' WHERE tenant = 'acme'",
                "departments acme sales: it cannot be read: damaged, or of another version",
            ),
            (
                "DELETE FROM answers WHERE event_id = 'sales-11'",
                "department sales of tenant acme: its newest event has no answer",
            ),
            (
                "DELETE FROM migrations WHERE name = (SELECT max(name) FROM migrations)",
                "it is of an older version",
            ),
        ],
    )
    async def test_a_trouble_is_one_line_and_exit_1(self, environ, furnished, change, line):
        with closing(apsw.Connection(str(furnished))) as connection:
            connection.execute(change)
        checked = await in_process(environ, "ledger", "check")
        assert checked.code == 1
        (found,) = checked.err.splitlines()
        assert found.startswith(line)
        assert (await in_process(environ, "ledger", "check", "--json")).json["troubles"] == [found]

    async def test_beside_a_worker(self, environ, furnished):
        async with open_ledger(SqliteUrl(furnished), alone=True):
            assert (await in_process(environ, "ledger", "check")).code == 0


class TestPurge:
    async def test_it_forgets_old_answers_beside_a_worker(self, environ, path):
        async with open_ledger(SqliteUrl(path), alone=True) as opened:
            for number, days in ((1, 100), (2, 50), (3, 40)):
                await answered(opened.ledger, SALES, number, NOW - timedelta(days=days))
            done = await in_process(environ, "ledger", "purge", "--as", "ada", "--json")
            assert done.code == 0, done.err
            assert (done.json["answers"], done.json["departments"]) == (1, 1)
            text = await in_process(environ, "ledger", "purge", "--older-than", "30d")
            assert text.out.startswith("forgot 1 answers from before ")
            assert [answer.event.id for answer in await opened.ledger.answers(SALES)] == ["sales-3"]
            lines = await opened.audit.lines(by="ada")
            assert [(line.action, line.selection, line.outcome) for line in lines] == [
                ("purge", "--older-than 90d", "asked for"),
                ("purge", "--older-than 90d", "1 answers forgotten"),
            ]

    @pytest.mark.parametrize("period", ["0s", "90", "-1d", "soon"])
    async def test_a_wrong_period_is_refused(self, environ, period):
        refused(
            await in_process(environ, "ledger", "purge", f"--older-than={period}"), "like 12h or 90d", code=2
        )

    async def test_what_is_not_confirmed_stays(self, environ, path):
        async with open_ledger(SqliteUrl(path)) as opened:
            old = await answered(opened.ledger, SALES, 1, NOW - timedelta(days=100), confirmed=False)
            await answered(opened.ledger, SALES, 2, NOW - timedelta(days=100))
            assert (await in_process(environ, "ledger", "purge", "--json")).json["answers"] == 0
            assert old in await opened.ledger.answers(SALES)
            await opened.ledger.record_answer(replace(old, confirmed=True))
            assert (await in_process(environ, "ledger", "purge", "--json")).json["answers"] == 1
