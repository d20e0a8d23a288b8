"""PostgreSQL's ledger when connections, processes and servers fail, and its locks among several workers."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from yarl import URL

from tests.conformance.ledgers import entry_of, fresh, fresh_schema
from tests.conformance.test_ledger_removals import REMOVAL, SALES_LINE, a_call, a_hold, removing
from tests.conformance.test_ledger_workers import DAY, department, removals_of, remove
from tests.support.builders import AUDIT_LINE, NOW, SALES, an_answer, created
from tests.support.entries import entries_of
from tests.support.fault_proxy import database_proxy
from tests.support.nodes import running_node
from tests.support.postgres_node import PostgresNode, fresh_database, postgres_node, postgres_standby
from worker.adapters.ledgers import open_ledger
from worker.adapters.migrations import Migration
from worker.adapters.postgres import schema
from worker.adapters.postgres.connection import IDLE_SECONDS
from worker.adapters.postgres.gathering import CALL_SECONDS
from worker.adapters.postgres.session import PROOF_SECONDS, Session
from worker.core.limits import Window
from worker.core.model.departments import Department
from worker.ports import (
    Beside,
    LedgerConflict,
    LedgerFailed,
    LedgerForeign,
    LedgerMissing,
    LedgerUnusable,
    OpenedLedger,
)
from worker.settings.ledger_url import PostgresUrl

PROJECT = Path(__file__).parents[2]
LIMIT_SECONDS = 5.0
"""Every call ends within this time, whatever happens."""
OTHER = Department("acme", "other")
WRITTEN = "SELECT 0"
"""The tag of the statement that writes changes, if it refuses none."""


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A schema of its own on the shared server."""
    with fresh_schema(postgres_url) as schema:
        yield schema


@pytest.fixture(scope="module")
def node() -> Iterator[PostgresNode]:
    """A server that these tests may stop; it runs before and after each."""
    with running_node(postgres_node()) as (running, _):
        yield running


@pytest.fixture
def database(node: PostgresNode) -> Iterator[str]:
    with fresh_database(node.url()) as its:
        yield its


def ledger_at(url: str, **how: Any) -> AbstractAsyncContextManager[OpenedLedger]:
    return open_ledger(PostgresUrl(SecretStr(url)), **how)


@asynccontextmanager
async def ledgers_at(url: str, count: int) -> AsyncIterator[Sequence[OpenedLedger]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ledger_at(url)) for _ in range(count)]


async def _entries_at(url: str) -> Sequence[object]:
    async with ledger_at(url) as opened:
        return await entries_of(opened.ledger)


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """While it runs, the program is a version with one more migration."""
    migration = Migration("9999_next.sql", "ALTER TABLE ledger ADD COLUMN next integer", "a checksum")

    @contextmanager
    def running() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, migration])
            yield

    return running


def one_line(failure: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(failure.value)
    assert len(text.splitlines()) == 1, text
    return text


async def back(opened: OpenedLedger) -> None:
    """Returns once a write succeeds again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await opened.ledger.bind("default", "MA1")
            except LedgerFailed:
                await asyncio.sleep(0.05)
            else:
                return


class TestLocks:
    async def test_a_lock_of_one_worker_is_not_had_by_the_other(self, url):
        begun, taken, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hold(opened: OpenedLedger, has: asyncio.Event) -> None:
            async with opened.locks.hold(SALES):
                has.set()
                await release.wait()

        async with ledgers_at(url, 2) as (one, other), asyncio.TaskGroup() as group:
            group.create_task(hold(one, begun))
            await begun.wait()
            group.create_task(hold(other, taken))
            async with other.locks.hold(OTHER):  # at least one poll later, the first is still held
                pass
            await asyncio.sleep(0.3)
            assert not taken.is_set()
            release.set()
            async with asyncio.timeout(LIMIT_SECONDS):
                await taken.wait()

    async def test_two_workers_are_never_in_one_department_at_once(self, url):
        inside = 0

        async def work(opened: OpenedLedger, number: int) -> None:
            nonlocal inside
            for _ in range(5):
                async with opened.locks.hold(department(number)):
                    if number == 0:
                        inside += 1
                    assert inside <= 1
                    await asyncio.sleep(0)
                    if number == 0:
                        inside -= 1

        async with ledgers_at(url, 3) as ledgers, asyncio.TaskGroup() as group:
            for opened in ledgers:
                for number in (0, 0, 1, 2):
                    group.create_task(work(opened, number))

    async def test_a_cancelled_wait_leaves_no_lock_behind(self, url):
        async with ledgers_at(url, 2) as (one, other):
            async with one.locks.hold(SALES):
                waits = [asyncio.create_task(_once(other)) for _ in range(3)]
                await asyncio.sleep(0.05)
                for wait in waits:
                    wait.cancel()
                await asyncio.wait(waits)
            for delay in range(20):  # cancelled at any point of taking it
                taking = asyncio.create_task(_once(other))
                await asyncio.sleep(delay / 5000)
                taking.cancel()
                await asyncio.wait([taking])
            async with asyncio.timeout(LIMIT_SECONDS):
                await _once(one)

    async def test_the_locks_of_a_killed_process_are_free_at_once(self, url):
        script = """
import asyncio, sys
from pydantic import SecretStr
from tests.support.builders import SALES
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import PostgresUrl

async def main():
    async with open_ledger(PostgresUrl(SecretStr(sys.argv[1]))) as opened, opened.locks.hold(SALES):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, url, cwd=PROJECT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        async with ledger_at(url) as opened:
            waiting = asyncio.create_task(_once(opened))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(2):
                await waiting
        await process.wait()

    async def test_a_frozen_process_loses_its_locks_and_does_not_act_when_it_wakes(self, url):
        script = """
import asyncio, sys
from pydantic import SecretStr
from tests.support.builders import SALES
from worker.adapters.ledgers import open_ledger
from worker.ports import LedgerFailed
from worker.settings.ledger_url import PostgresUrl

async def main():
    loop = asyncio.get_running_loop()
    async with open_ledger(PostgresUrl(SecretStr(sys.argv[1]))) as opened:
        try:
            async with opened.locks.hold(SALES):
                print("held", flush=True)
                seen = loop.time()
                while loop.time() < seen + 5:
                    seen = loop.time()
                    await asyncio.sleep(0.01)
                opened.fence.check()
                print("acts")
        except LedgerFailed as error:
            print("does not act:", error)

asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, url, cwd=PROJECT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        async with ledger_at(url) as opened:
            process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(IDLE_SECONDS + 10):
                await _once(opened)
            process.send_signal(signal.SIGCONT)
            said, _ = await process.communicate()
        assert said.startswith(b"does not act: ")


async def _once(opened: OpenedLedger) -> None:
    async with opened.locks.hold(SALES):
        pass


class TestLoss:
    async def test_the_holder_of_a_lost_lock_is_interrupted_before_it_acts(self, url):
        acted = False

        async def hold(opened: OpenedLedger, has: asyncio.Event) -> None:
            nonlocal acted
            async with opened.locks.hold(SALES):
                has.set()
                await asyncio.Event().wait()
                acted = True

        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened, ledger_at(url) as other:
            held = asyncio.Event()
            holding = asyncio.create_task(hold(opened, held))
            await held.wait()
            loss = asyncio.create_task(opened.fence.until_lost())
            await asyncio.sleep(0)
            proxy.reset()
            async with asyncio.timeout(LIMIT_SECONDS):
                with pytest.raises(LedgerFailed, match="lock was lost"):
                    await holding
                assert "lost" in await loss
                await _once(other)
                await _once(opened)  # on a new connection
            assert not acted
            opened.fence.check()

    async def test_a_write_under_a_lost_lock_is_not_made_by_the_next_session(self, url):
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:

            async def write() -> None:
                async with opened.locks.hold(SALES):
                    proxy.reset()
                    await opened.ledger.record(fresh())

            with pytest.raises(LedgerFailed):
                await write()
            await back(opened)
            assert await entries_of(opened.ledger) == []

    async def test_a_write_whose_commit_was_not_confirmed_is_found_to_be_ours(self, url):
        answer = an_answer(created())
        beside = Beside((), (a_hold(),), (SALES_LINE,), (a_call(1),))
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            proxy.lose_response(WRITTEN)
            entry = await opened.ledger.record(fresh(hold=a_hold()), answer, beside)
            assert await entry_of(opened.ledger) == entry
            assert await opened.ledger.answers(SALES) == [answer]
            assert (await opened.ledger.calls(SALES), await opened.audit.lines()) == (
                [a_call(1)],
                [SALES_LINE],
            )
            proxy.lose_response(WRITTEN)
            await opened.audit.append([AUDIT_LINE])
            proxy.lose_response(WRITTEN)
            await opened.ledger.record_answer(replace(answer, confirmed=True))
            assert await opened.audit.lines() == [SALES_LINE, AUDIT_LINE]
            assert await opened.ledger.answers(SALES) == [replace(answer, confirmed=True)]

    async def test_of_a_batch_whose_commit_was_not_confirmed_each_write_is_told_apart(self, url):
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            stale = await opened.ledger.record(fresh(department(0)))
            await opened.ledger.record(stale)
            proxy.lose_response("SELECT 1")  # the stale one is refused
            written = await asyncio.gather(
                opened.ledger.record(replace(stale, name="Other")),
                *(opened.ledger.record(fresh(department(number))) for number in range(1, 20)),
                return_exceptions=True,
            )
            assert isinstance(written[0], LedgerConflict)
            assert written[1:] == [await entry_of(opened.ledger, department(n)) for n in range(1, 20)]

    async def test_under_a_lock_a_commit_that_was_not_confirmed_fails(self, url):
        """Another worker may have the department now. It finds what was written."""
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:

            async def write() -> None:
                async with opened.locks.hold(SALES):
                    proxy.lose_response(WRITTEN)
                    await opened.ledger.record(fresh())

            with pytest.raises(LedgerFailed, match="lost"):
                await write()
            await back(opened)
            assert (await entry_of(opened.ledger)).revision == 1

    async def test_a_removal_whose_commit_was_not_confirmed_is_counted_once(self, url):
        limit = (Window(1, DAY, is_percentage=False),)
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            for number in range(4):
                await opened.ledger.record(fresh(department(number)))
            proxy.lose_response()
            with pytest.raises(LedgerFailed):
                await remove(opened.ledger, department(0), NOW, limit)
            assert not [await remove(opened.ledger, department(n), NOW, limit) for n in (1, 2)].count(True)
            assert len(await removals_of(opened.ledger)) == 1


class TestNetwork:
    async def test_every_call_ends_in_time_in_a_black_hole(self, url):
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            entry = await opened.ledger.record(fresh())
            begun = asyncio.get_running_loop().time()
            proxy.black_hole()
            calls = [
                opened.ledger.record(entry),
                opened.ledger.recall(SALES, created().reference),
                entries_of(opened.ledger),
                opened.ledger.bind("default", "MA1"),
                opened.audit.append([AUDIT_LINE]),
                opened.ledger.record(removing(entry, NOW), beside=Beside(audit=(SALES_LINE,))),
                _once(opened),
            ]
            failed = await asyncio.gather(*calls, return_exceptions=True)
            assert asyncio.get_running_loop().time() - begun < LIMIT_SECONDS + 1  # two shared cores
            assert all(isinstance(one, LedgerFailed) for one in failed), failed
            proxy.heal()
            await back(opened)
            assert (await entry_of(opened.ledger)).revision in {1, 2}  # what was under way may arrive

    async def test_the_proof_of_the_locks_expires_before_the_server_could_free_them(self, url):
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            opened.fence.check()
            proxy.black_hole()
            begun = asyncio.get_running_loop().time()
            assert isinstance(opened.fence, Session)
            while opened.fence.proof_age() < PROOF_SECONDS:  # noqa: ASYNC110 - time itself
                await asyncio.sleep(0.05)
            with pytest.raises(LedgerFailed, match="not confirmed"):
                opened.fence.check()
            assert asyncio.get_running_loop().time() - begun < PROOF_SECONDS + 1
            proxy.heal()
            await back(opened)
            opened.fence.check()

    async def test_while_nothing_is_written_the_proof_is_kept_fresh(self, url):
        async with ledger_at(url) as opened:
            for _ in range(30):
                await asyncio.sleep(0.1)
                opened.fence.check()

    async def test_a_slow_network_delays_and_loses_nothing(self, url):
        async with database_proxy(url) as proxy, ledger_at(proxy.url) as opened:
            proxy.delay(0.1)
            async with opened.locks.hold(SALES):
                written = await asyncio.gather(
                    *(opened.ledger.record(fresh(department(number))) for number in range(50))
                )
            opened.fence.check()
            assert len(written) == len(await entries_of(opened.ledger)) == 50


class TestServer:
    @pytest.mark.parametrize("end", ["restart", "kill"])
    async def test_after_a_restart_or_a_crash_it_works_again(self, node, database, end):
        async with ledger_at(database) as opened:
            entry = await opened.ledger.record(fresh())
            done: list[Department] = []

            async def work(number: int) -> None:
                which = department(number)
                try:
                    async with opened.locks.hold(which):
                        await opened.ledger.record(fresh(which))
                        done.append(which)
                except LedgerFailed as error:
                    assert len(str(error).splitlines()) == 1  # noqa: PT017 - of those that fail

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(work(number))
                    if number == 50:
                        await asyncio.sleep(0.01)
                        await (node.restart() if end == "restart" else node.kill())
                        if end == "kill":
                            with pytest.raises(LedgerFailed):
                                await opened.ledger.bind("default", "MA1")
                            await node.start()
            await back(opened)
            found = {one.department for one in await entries_of(opened.ledger)}
            assert found >= {*done, entry.department}
            await opened.ledger.record(entry)

    async def test_a_standby_is_refused(self, node):
        async with postgres_standby(node) as standby:
            with pytest.raises(LedgerUnusable, match="standby") as refusal:
                async with ledger_at(standby.url()):
                    pass
            one_line(refusal)

    async def test_of_two_servers_the_primary_is_used_also_after_a_promotion(self, node, database):
        async with postgres_standby(node) as standby:
            hosts = f"{URL(standby.url()).host}:{standby.port},127.0.0.1:{node.port}"
            both = f"postgresql://postgres@{hosts}{URL(database).path}"
            async with ledger_at(both) as opened:
                entry = await opened.ledger.record(fresh())
                await caught_up(standby, node)
                await node.stop()
                try:
                    standby.promote()
                    await back(opened)
                    assert await entry_of(opened.ledger) == entry
                finally:
                    await node.start()


async def caught_up(standby: PostgresNode, primary: PostgresNode) -> None:
    """Returns once the standby has all that the primary has written."""
    with psycopg.connect(primary.url()) as connection:
        (written,) = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        async with asyncio.timeout(30):
            while connection.execute(query, (written,)).fetchone() != (True,):  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.05)


class TestSchema:
    async def test_eight_processes_start_at_once(self, url):
        script = """
import asyncio, sys
from pydantic import SecretStr
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import PostgresUrl

async def main():
    sys.stdin.readline()
    async with open_ledger(PostgresUrl(SecretStr(sys.argv[1]))) as opened:
        await opened.ledger.bind("default", "MA1")

asyncio.run(main())
"""
        pipe = asyncio.subprocess.PIPE
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, url, cwd=PROJECT, stdin=pipe, stderr=pipe
            )
            for _ in range(8)
        ]
        ended = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
        assert [
            (process.returncode, errors) for process, (_, errors) in zip(processes, ended, strict=True)
        ] == [(0, b"")] * 8
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT times_bound FROM ledger").fetchall() == [(8,)]

    @pytest.mark.parametrize("how", [{"read_only": True}, {"must_exist": True}])
    async def test_a_ledger_that_must_exist_is_not_made(self, url, how):
        with pytest.raises(LedgerMissing, match="there is no ledger at postgresql://") as missing:
            async with ledger_at(url, **how):
                pass
        one_line(missing)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('migrations')").fetchall() == [(None,)]

    async def test_a_ledger_opened_read_only_cannot_be_written(self, url):
        async with ledger_at(url) as opened:
            entry = await opened.ledger.record(fresh())
        async with ledger_at(url, read_only=True) as opened:
            assert await entries_of(opened.ledger) == [entry]
            for write in (opened.ledger.record(entry), opened.audit.append([AUDIT_LINE])):
                with pytest.raises(LedgerFailed, match="cannot be written"):
                    await write

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (
                "INSERT INTO migrations VALUES ('9999_newer.sql', 'x')",
                "newer version .*9999_newer.sql",
            ),
            ("UPDATE migrations SET checksum = 'x'", "0001_ledger.sql"),
        ],
    )
    async def test_a_schema_of_another_version_is_refused(self, url, change, error):
        async with ledger_at(url):
            pass
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(change)
        with pytest.raises(LedgerForeign, match=error) as refusal:
            async with ledger_at(url):
                pass
        one_line(refusal)

    async def test_tables_are_not_changed_under_an_older_worker(self, url, next_version):
        async with ledger_at(url) as older:
            await older.ledger.record(fresh())
            with next_version(), pytest.raises(LedgerUnusable, match="stop every worker") as refusal:
                async with ledger_at(url):
                    pass
            one_line(refusal)
            await older.ledger.record(fresh(OTHER))
        with next_version():
            async with asyncio.TaskGroup() as starts:
                opened = [starts.create_task(_entries_at(url)) for _ in range(4)]
            assert [len(one.result()) for one in opened] == [2] * 4
        with pytest.raises(LedgerForeign, match="newer version"):
            async with ledger_at(url):
                pass

    async def test_workers_of_one_schema_start_beside_each_other(self, url):
        async with ledgers_at(url, 2) as (first, second):
            await first.ledger.record(fresh())
            await second.ledger.record(fresh(OTHER))

    async def test_a_worker_that_was_cut_off_writes_nothing_to_newer_tables(self, url):
        """Its lock was lost with its connection, so a newer version may have migrated meanwhile."""
        async with ledger_at(url) as opened:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("INSERT INTO migrations VALUES ('9999_newer.sql', 'x')")
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'provisioner worker %%'"
                )
            with pytest.raises(LedgerFailed, match=r"connection to the ledger was lost|newer version"):
                await opened.ledger.record(fresh())
            with pytest.raises(LedgerFailed, match="newer version"):
                await opened.ledger.record(fresh())

    @pytest.mark.parametrize(
        "change", ["UPDATE audit SET by = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"]
    )
    async def test_the_audit_is_append_only(self, url, change):
        async with ledger_at(url) as opened:
            await opened.audit.append([AUDIT_LINE])
            with (
                psycopg.connect(url, autocommit=True) as connection,
                pytest.raises(psycopg.Error, match="append-only"),
            ):
                connection.execute(change)
            assert await opened.audit.lines() == [AUDIT_LINE]

    async def test_a_change_whose_part_is_refused_is_not_written_and_its_neighbours_are(self, url):
        beside = Beside((), (a_hold(),), (replace(SALES_LINE, by=None),), (a_call(1),))  # type: ignore[arg-type]  # refused
        async with ledger_at(url) as opened:
            entry = await opened.ledger.record(fresh())
            refused, *written = await asyncio.gather(
                opened.ledger.record(removing(entry, NOW), an_answer(REMOVAL), beside),
                *(opened.ledger.record(fresh(department(number))) for number in range(10)),
                return_exceptions=True,
            )
            assert isinstance(refused, LedgerFailed)
            assert "refuses a write" in str(refused)
            others = [await entry_of(opened.ledger, department(number)) for number in range(10)]
            assert written == others
            assert await entries_of(opened.ledger) == [*others, entry]
            assert (await opened.ledger.calls(SALES), await opened.ledger.holds()) == ([], [])


def test_the_limit_of_a_call_is_within_that_of_the_port():
    assert CALL_SECONDS < LIMIT_SECONDS
