"""The private PostgreSQL of the tests serves, fails as asked, and leaves nothing behind."""

import asyncio
import os
import select
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection, errors

from tests.support.fault_proxy import database_proxy
from tests.support.nodes import running_node
from tests.support.postgres_node import (
    NEEDS_PASSWORD,
    Account,
    PostgresNode,
    fresh_database,
    postgres_binaries,
    postgres_node,
    postgres_standby,
)
from worker.demo.private_node import NodeUnavailable

pytestmark = pytest.mark.usefixtures("postgres_server")

PROJECT = Path(__file__).parents[2]

OWNER = """
import asyncio
from psycopg import AsyncConnection
from tests.support.postgres_node import postgres_node, postgres_standby

async def own():
    async with postgres_node() as node, postgres_standby(node) as standby:
        async with await AsyncConnection.connect(node.url()) as busy:
            print(node.folder, standby.folder, flush=True)
            await busy.execute("SELECT pg_sleep(600)")

asyncio.run(own())
"""


@pytest.fixture(scope="module")
def node() -> Iterator[PostgresNode]:
    """A server that runs before and after each test."""
    with running_node(postgres_node()) as (running, _):
        yield running


async def test_data_survives_a_restart_and_a_crash(node):
    node.execute("CREATE TABLE kept (it text)")
    for end in (node.stop, node.kill):
        node.execute("INSERT INTO kept VALUES ('still here')")
        await end()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            node.execute("SELECT 1")
        await node.start()
    assert rows(node.url(), "SELECT count(*) FROM kept") == [(2,)]


async def test_a_stop_tells_the_clients_and_a_crash_does_not(node):
    async with asking(node, node.stop) as answer:
        with pytest.raises(errors.AdminShutdown):
            await answer
    await node.start()
    async with asking(node, node.kill) as answer:
        with pytest.raises(psycopg.OperationalError, match="unexpectedly"):
            await answer
    await node.start()


async def test_a_frozen_server_answers_once_it_is_thawed(node):
    async with await AsyncConnection.connect(node.url()) as connection:
        node.freeze()
        answer = asyncio.create_task(connection.execute("SELECT 1"))
        assert set(states_of(node)) == {"T"}
        await asyncio.wait({answer}, timeout=0.1)
        assert not answer.done()
        node.thaw()
        await answer
    node.freeze()
    await node.restart()


async def test_a_standby_follows_refuses_writes_and_can_be_promoted():
    async with postgres_node() as primary, postgres_standby(primary) as standby:
        primary.execute("ALTER SYSTEM SET synchronous_commit = remote_apply")
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.execute("SELECT pg_reload_conf()")
        await becomes(primary.url(), "SHOW synchronous_standby_names", "standby")
        primary.execute("CREATE TABLE followed (it text)")
        assert rows(standby.url(), "SELECT count(*) FROM followed") == [(0,)]
        with pytest.raises(errors.ReadOnlySqlTransaction):
            standby.execute("INSERT INTO followed VALUES ('x')")
        both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
        writing = f"{both}?target_session_attrs=read-write"
        assert rows(writing, "SHOW port") == [(str(primary.port),)]

        await primary.kill()
        standby.promote()
        standby.execute("INSERT INTO followed VALUES ('x')")
        assert rows(writing, "SHOW port") == [(str(standby.port),)]


async def test_a_database_of_its_own_ends_with_its_test(node):
    with fresh_database(node.url()) as url, fresh_database(node.socket_url()) as other:
        left = psycopg.connect(url)
        assert rows(url, "SHOW unix_socket_directories") == [(str(node.folder),)]
        assert rows(other, "SELECT current_database()") != rows(url, "SELECT current_database()")
    assert rows(node.url(), "SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'") == [(0,)]
    left.close()


async def test_a_member_of_one_role_needs_its_password(node):
    node.execute(f"CREATE ROLE guarded LOGIN PASSWORD 'right' IN ROLE {NEEDS_PASSWORD}")
    there = f"127.0.0.1:{node.port}/postgres"
    assert rows(f"postgresql://guarded:right@{there}", "SELECT 1") == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://guarded:wrong@{there}")


async def test_settings_are_given_for_the_node_or_for_one_start():
    async with postgres_node(fsync=True, settings={"max_connections": "7"}) as node:
        assert rows(node.url(), "SHOW fsync") == [("on",)]
        assert rows(node.url(), "SHOW max_connections") == [("7",)]
        await node.restart({"max_connections": "9"})
        assert rows(node.url(), "SHOW max_connections") == [("9",)]


async def test_faults_on_the_network_strike_its_clients(postgres_url):
    """The connections of psycopg take the proxy's faults as they take those of a network."""
    async with database_proxy(postgres_url) as proxy, await AsyncConnection.connect(proxy.url) as connection:
        proxy.black_hole()
        answer = asyncio.create_task(connection.execute("SELECT 1"))
        await asyncio.wait({answer}, timeout=0.1)
        assert not answer.done()
        proxy.heal()
        await answer


async def test_the_response_to_a_commit_can_be_lost(postgres_database):
    async with database_proxy(postgres_database) as proxy:
        connection = await AsyncConnection.connect(proxy.url)
        await connection.execute("CREATE TABLE kept (it text)")
        proxy.lose_response()
        with pytest.raises(psycopg.OperationalError):
            await connection.commit()
        await connection.close()
    assert rows(postgres_database, "SELECT count(*) FROM kept") == [(0,)]


async def test_an_ended_server_leaves_no_process_and_no_folder():
    async with postgres_node() as node:
        assert len(processes_of(node.folder)) > 3
    assert processes_of(node.folder) == []
    assert not node.folder.exists()


async def test_the_servers_of_a_killed_owner_leave_no_process_and_no_folder():
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, stdout=PIPE, cwd=PROJECT)
    assert owner.stdout is not None
    line = await asyncio.wait_for(owner.stdout.readline(), 60)
    folders = [Path(name) for name in line.decode().split()]
    keepers = [os.pidfd_open(pid) for folder in folders for pid in keepers_of(folder)]
    assert len(keepers) == len(folders) == 2
    assert all(processes_of(folder) for folder in folders)

    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    for keeper in keepers:
        ended, _, _ = await asyncio.to_thread(select.select, [keeper], [], [], 60)
        os.close(keeper)
        assert ended

    assert not any(processes_of(folder) or folder.exists() for folder in folders)


async def test_an_installation_that_its_user_cannot_reach_is_copied(monkeypatch):
    monkeypatch.setattr(Account, "may_enter", lambda _self, _folder: False)
    async with postgres_node() as node, postgres_standby(node) as standby:
        assert (node.folder / "installation").exists()
        assert rows(standby.url(), "SELECT pg_is_in_recovery()") == [(True,)]


async def test_a_failed_start_reports_the_reason_and_leaves_nothing(monkeypatch, open_folder):
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    with pytest.raises(NodeUnavailable, match=r"PostgreSQL does not start \(.*no_such_key.*POSTGRES_URL"):
        async with postgres_node(settings={"no_such_key": "1"}):
            pass
    assert os.listdir(open_folder) == []  # noqa: PTH208 - a test on a loop


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that every user may enter; that of `tmp_path` is closed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def test_missing_binaries_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    with pytest.raises(NodeUnavailable, match=r"uv sync.*POSTGRES_BIN.*POSTGRES_URL"):
        postgres_binaries()


@asynccontextmanager
async def asking(
    node: PostgresNode, end: Callable[[], Awaitable[None]]
) -> AsyncIterator["asyncio.Task[object]"]:
    """A query that takes long, while the server ends."""
    connection = await AsyncConnection.connect(node.url())
    answer: asyncio.Task[object] = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND state = 'active'"
    await becomes(node.url(), busy, 1)
    await end()
    yield answer
    await connection.close()


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


async def becomes(url: str, query: str, value: object) -> None:
    while rows(url, query) != [(value,)]:  # noqa: ASYNC110 - the server does not tell
        await asyncio.sleep(0.01)


def processes_of(folder: Path) -> list[int]:
    """The live processes that work inside the folder of a server."""
    return [pid for pid in pids() if workplace(pid).is_relative_to(folder)]


def keepers_of(folder: Path) -> list[int]:
    return [pid for pid in pids() if arguments_of(pid)[-2:] == ["keeper", str(folder)]]


def states_of(node: PostgresNode) -> list[str]:
    """The letter of the state of each process, as in proc(5)."""
    return [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        for pid in processes_of(node.folder)
    ]


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def workplace(pid: int) -> Path:
    """The working directory of a process; /proc if it is gone or of another user."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path("/proc")


def arguments_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []
