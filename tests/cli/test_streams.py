"""Commands as processes whose standard streams are closed, full, read by nobody or not UTF-8."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import an_answer, an_entry, created
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import SqliteUrl

PROVISIONER = (sys.executable, "-m", "worker")
NAME = "Équipe 営業 🚀"
CLOSABLE = [(2,), (0, 1), (1, 2), (0, 1, 2)]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> str:
    """A ledger of one department, whose name no small encoding can show."""
    url = SqliteUrl(tmp_path_factory.mktemp("ledger") / "a.db")

    async def fill():
        async with open_ledger(url) as opened:
            await opened.ledger.record(an_entry(name=NAME, revision=0), an_answer(created(NAME)))

    asyncio.run(fill())
    return str(url)


def environment(ledger: str, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"LEDGER_URL": ledger, "PYTHONPATH": str(Path(__file__).parents[2])} | more


def run(command: str, ledger: str, **options):
    return subprocess.run(  # noqa: S602 - the tests' own commands, with redirections
        command.replace("provisioner", " ".join(PROVISIONER)),
        shell=True,
        env=environment(ledger, **options.pop("env", {})),
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_tables_and_json_are_printed_in_any_encoding(ledger, encoding):
    env = {"PYTHONIOENCODING": encoding}
    table = run("provisioner departments list", ledger, env=env)
    shown = NAME.encode(encoding, "backslashreplace").decode(encoding)
    assert (table.returncode, table.stderr) == (0, b"")
    assert shown in table.stdout.decode(encoding)
    found = run("provisioner departments list --json", ledger, env=env)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.isascii()
    assert json.loads(found.stdout)[0]["name"] == NAME


def test_the_c_locale_without_coercion_is_enough(ledger):
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for command in ("departments show sales --tenant acme", "departments list --help"):
        done = run(f"provisioner {command}", ledger, env=env)
        assert (done.returncode, done.stderr) == (0, b""), command
        assert done.stdout.isascii(), command
        assert b"\\u25" not in done.stdout, "a table's lines have their like in ASCII"


@pytest.mark.parametrize("closed", CLOSABLE, ids=str)
def test_closed_streams_end_no_command(ledger, closed):
    redirections = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    done = run(f"provisioner departments list --json {redirections}", ledger)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"" if 1 in closed else json.loads(done.stdout)[0]["name"] == NAME


def test_an_error_with_stderr_closed_has_its_exit_code(ledger):
    assert run("provisioner departments show nobody 2>&-", ledger).returncode == 1
    assert run("provisioner nonsense 2>&-", ledger).returncode == 2
    assert run("provisioner nonsense 2>/dev/full", ledger).returncode == 2


def test_a_full_stdout_is_one_line(ledger):
    done = run("provisioner departments list >/dev/full", ledger)
    assert (done.returncode, done.stderr) == (
        1,
        b"standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("command", ["departments list", "departments list --json", "--help"])
def test_a_reader_that_leaves_is_no_error(ledger, command):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROVISIONER, *command.split()],
        env=environment(ledger),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_credentials_are_not_taken_for_a_closed_stdout(ledger):
    done = run("provisioner open --key k --worker-keys w --queue --take --json >&-", ledger)
    assert done.returncode == 2
    assert b"--take needs a stdout that somebody reads: it is closed" in done.stderr
