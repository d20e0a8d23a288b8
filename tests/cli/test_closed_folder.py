"""Commands of a user who may not use the worker's files: one line, whose files they are, and no traceback."""

import asyncio
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import SqliteUrl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

LEDGER_COMMANDS = [
    "departments list",
    "departments list --json",
    "departments show sales",
    "reissue sales",
    "dead-letters audit",
    "dead-letters plan",
    "dead-letters replay --yes",
    "dead-letters discard --all --yes",
]
KEY_COMMANDS = ["keys public", "keys check", "keys new --signing"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's with a ledger. It is not pytest's own, which others may not search."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_ledger(folder)
        yield folder


def _make_ledger(folder: Path) -> None:
    async def make():
        async with open_ledger(SqliteUrl(folder / "a.db")):
            pass

    asyncio.run(make())


def run_as_nobody(folder: Path, command: str, **environ: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *command.split()],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LEDGER_URL": f"sqlite:///{folder / 'a.db'}",
            "AMQP_URL": "amqp://127.0.0.1:9/",
            **environ,
        },
        user=pwd.getpwnam("nobody").pw_uid,
        cwd="/",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout in {b"", b"[]"}
    return done.returncode, done.stderr.decode().splitlines()


@pytest.mark.parametrize("command", [*LEDGER_COMMANDS, *KEY_COMMANDS])
def test_a_closed_folder_is_one_line_that_names_its_user(folder, command):
    folder.chmod(0o700)
    code, lines = run_as_nobody(folder, command)
    assert code in {1, 2}
    (line,) = lines
    assert line.endswith("Permission denied; run it as the worker's user (root)")
    assert str(folder / "a.db") in line


@pytest.mark.parametrize("mode", [0o600, 0o644], ids=oct)
def test_a_ledger_that_run_may_not_write_is_not_to_be_replaced(folder, mode):
    folder.chmod(0o755)
    (folder / "a.db").chmod(mode)
    needed = {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN": "token", "PROVISIONER_HTTP": "127.0.0.1:0"}
    code, lines = run_as_nobody(folder, "run", **needed)
    assert code == 2
    assert lines[-1] == (
        f"the ledger {folder / 'a.db'} cannot be opened: Permission denied;"
        " run it as the worker's user (root)"
    )


def test_a_ledger_that_may_not_be_made_may_be_elsewhere(folder):
    folder.chmod(0o755)
    needed = {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN": "token", "PROVISIONER_HTTP": "127.0.0.1:0"}
    code, lines = run_as_nobody(folder, "run", LEDGER_URL=f"sqlite:///{folder / 'b.db'}", **needed)
    assert code == 2
    assert lines[-1].endswith("run it as the worker's user (root), or set LEDGER_URL to another file")


def test_a_ledger_of_which_only_the_file_may_be_read_is_read_or_one_line(folder):
    folder.chmod(0o755)
    (folder / "a.db").chmod(0o644)
    code, lines = run_as_nobody(folder, "departments list --json")
    assert (code, lines) == (0, []) or lines[0].endswith("run it as the worker's user (root)")


def test_a_setting_that_names_a_closed_file_names_it_and_its_user(folder):
    file = folder / "recipients.json"
    file.write_text("{}")
    file.chmod(0o600)
    folder.chmod(0o755)
    code, lines = run_as_nobody(folder, "topology check", PROVISIONER_RECIPIENTS=str(file))
    assert code == 2
    (line,) = lines
    assert line.startswith(f"PROVISIONER_RECIPIENTS cannot be read: Permission denied: {file}; run it as")


def test_an_env_file_that_is_closed_is_one_line(folder):
    file = folder / "worker.env"
    file.write_text("A=b\n")
    file.chmod(0o600)
    folder.chmod(0o755)
    code, lines = run_as_nobody(folder, f"--env-file {file} departments list")
    assert code == 2
    assert lines == [f"{file} cannot be read: Permission denied; run it as the worker's user (root)"]
