"""A database that loses connections: sessions that hold locks, a network that goes silent, lost commits.

The worker's own session, locks and group commit (`worker/adapters/postgres`) run on it; only the connection
is simulated. A session ends at the server when it is cut, at any moment of a statement; when nothing passes
for some seconds; when the worker dies; when another server takes over. The worker learns of it by its next
statement or heartbeat. Heartbeats that would succeed are not sent but counted as proofs, for speed.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import psycopg

from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from worker.adapters.postgres.connection import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    IDLE_SECONDS,
    Connection,
    ConnectionLost,
)
from worker.adapters.postgres.gathering import CALL_SECONDS
from worker.adapters.postgres.locks import EXCHANGE, PostgresLocks, lock_key
from worker.adapters.postgres.session import HEARTBEAT_SECONDS, Session
from worker.adapters.postgres.store import PostgresStore
from worker.core.model.departments import Department
from worker.ports import DepartmentLocks, Fence, LedgerFailed
from worker.settings.ledger_url import PostgresUrl

SOONEST_FREED_SECONDS = 2.9
"""The server frees the locks of a silent worker no sooner; see `PROOF_SECONDS` of the worker's session."""
LONGEST_SILENCE_SECONDS = 20.0
LONGEST_FAILOVER_SECONDS = 15.0

T = TypeVar("T")


@dataclass(eq=False)
class ServerSession:
    """The server's side of a connection."""

    process: Process
    locks: dict[int, int] = field(default_factory=dict)
    """How often it holds each key: a lock is taken as often as it is asked for, and given back one by one."""
    alive: bool = True
    on_end: Callable[[], None] = lambda: None


@dataclass
class Database:
    """The server, and the network between it and the workers."""

    loop: asyncio.AbstractEventLoop
    chance: Chance
    history: History
    sessions: list[ServerSession] = field(default_factory=list)
    departments: dict[int, Department] = field(default_factory=dict)  # by the key of their lock
    silent_until: dict[int, float] = field(default_factory=dict)  # by worker
    down_until: float = 0.0

    # The faults that strike at a moment.

    def cut(self) -> None:
        """Ends the session of one worker."""
        if self.sessions:
            self.end(self.chance.one_of(self.sessions), "cut")

    def silence(self) -> None:
        """Lets nothing pass between the server and one worker for a while; either side notices by itself."""
        if self.sessions:
            self._silence(self.chance.one_of(self.sessions))

    def fail_over(self) -> None:
        """Ends all sessions, and takes none for a while. What was committed stays."""
        self.history.note("database down")
        self.down_until = self.loop.time() + self.chance.seconds(0.05, LONGEST_FAILOVER_SECONDS)
        for session in list(self.sessions):
            self.end(session, "the server is gone")

    def heal(self) -> None:
        """Ends all faults."""
        self.silent_until.clear()
        self.down_until = 0.0

    # The faults that a worker meets.

    def endanger(self, process: Process) -> None:
        """At a call to the provider: the session may be lost meanwhile, in one of two ways."""
        mine = [session for session in self.sessions if session.process is process]
        for fault, lose in (
            ("session cut at a call", lambda: self.end(mine[0], "cut")),
            ("database silent at a call", lambda: self._silence(mine[0])),
        ):
            if mine and self.chance.strikes(fault):
                self.loop.call_later(self.chance.seconds(0.0, 4 * self.chance.latency()), lose)

    def opens_at(self, process: Process) -> float:
        """The time until which nothing passes between the server and the worker; in the past if it does."""
        return self.silent_until.get(process.number, 0.0)

    def opened(self, process: Process) -> ServerSession:
        """A new session; what is left of an earlier one of this worker ends first."""
        for earlier in [one for one in self.sessions if one.process is process]:
            self.end(earlier, "replaced")
        session = ServerSession(process)
        self.sessions.append(session)
        return session

    def exchange(self, session: ServerSession, given: list[int], taken: list[int]) -> list[tuple[bool]]:
        """The work of `EXCHANGE`: gives keys back, then takes those that no other session holds."""
        return [(self._give(session, key),) for key in given] + [(self._take(session, key),) for key in taken]

    def end(self, session: ServerSession, why: str) -> None:
        """Ends a session at the server: its locks are free at once."""
        if not session.alive:
            return
        session.alive = False
        self.sessions.remove(session)
        self.history.note("session ended", worker=session.process.number, why=why)
        session.locks.clear()
        session.on_end()

    def process_died(self, session: ServerSession) -> None:
        """The server sees it at once, or only by the silence if the host has vanished."""
        if not session.alive:
            return
        vanished = self.chance.strikes("host vanished")
        seconds = self._notices_after() if vanished else self.chance.seconds(0.0, 0.3)
        self.loop.call_later(seconds, self.end, session, "its host vanished" if vanished else "it died")

    def _take(self, session: ServerSession, key: int) -> bool:
        if any(key in other.locks for other in self.sessions if other is not session):
            return False
        session.locks[key] = session.locks.get(key, 0) + 1
        if session.locks[key] == 1:
            self._note("lock taken", session, key)
        return True

    def _give(self, session: ServerSession, key: int) -> bool:
        if key not in session.locks:
            return False
        session.locks[key] -= 1
        if not session.locks[key]:
            del session.locks[key]
            self._note("lock freed", session, key)
        return True

    def _note(self, what: str, session: ServerSession, key: int) -> None:
        department = self.departments.get(key)
        self.history.note(what, department and department.id, worker=session.process.number)

    def _silence(self, session: ServerSession) -> None:
        process = session.process
        seconds = self.chance.seconds(0.5, LONGEST_SILENCE_SECONDS)
        self.silent_until[process.number] = self.loop.time() + seconds
        self.history.note("database silent", worker=process.number, seconds=round(seconds, 3))
        self.loop.call_later(self._notices_after(), self._end_if_silent, session)
        session.on_end()  # its next heartbeat tells it nothing

    def _end_if_silent(self, session: ServerSession) -> None:
        if self.opens_at(session.process) > self.loop.time():
            self.end(session, "silent")

    def _notices_after(self) -> float:
        return self.chance.seconds(SOONEST_FREED_SECONDS, IDLE_SECONDS)


class SimulatedConnection:
    """The worker's side of a connection. Raises `psycopg.Error` as a real one does."""

    def __init__(self, database: Database, process: Process, heartbeat: Callable[[], Awaitable[Any]]) -> None:
        self.server = database.opened(process)
        self.server.on_end = self._heartbeat_soon
        self.closed = False
        self._database = database
        self._process = process
        self._heartbeat = heartbeat
        self._loop = database.loop
        self._proved_at = self._loop.time()
        self._fails_from = math.inf
        self._phase = database.chance.seconds(0.0, HEARTBEAT_SECONDS)
        self._pending: asyncio.Future[Any] | None = None
        process.at_death.append(lambda: database.process_died(self.server))

    @property
    def proved_at(self) -> float:
        """When the newest statement or heartbeat was sent that the server has answered."""
        proving = min(self._loop.time(), self._fails_from)
        beats = math.floor((proving - self._phase) / HEARTBEAT_SECONDS)
        return max(self._proved_at, beats * HEARTBEAT_SECONDS + self._phase - HEARTBEAT_SECONDS)

    async def rows(self, statement: str, parameters: Any = None) -> list[Any]:
        """Carries out one of the few statements of a session."""
        if statement == EXCHANGE:
            given, taken = ([int(key) for key in keys[1:-1].split(",") if key] for keys in parameters)
            return await self.ask(lambda: self._database.exchange(self.server, given, taken))
        assert statement == "SELECT 1"
        return await self.ask(lambda: [(1,)])

    async def ask(self, carry_out: Callable[[], T]) -> T:
        """Has the server carry something out. Its exceptions are raised here."""
        self._process.check()
        sent, loop = self._loop.time(), self._loop
        pending: asyncio.Future[Any] = loop.create_future()
        self._pending = pending
        loop.call_later(self._database.chance.latency() / 4, self._arrive, pending, carry_out)
        overdue = loop.call_later(ANSWER_SECONDS, self.shut_down)
        try:
            result = await pending
        finally:
            overdue.cancel()
        self._process.check()
        self._proved_at = sent
        if isinstance(result, Exception):
            raise result
        return cast(T, result)

    async def commit(self, changes: Sequence[Callable[[bool], T]], *, again: bool = False) -> list[T]:
        """Has the server carry out all changes or none; the session may end just before, or just after."""
        return await self.ask(lambda: self._committed(changes, again=again))

    def _committed(self, changes: Sequence[Callable[[bool], T]], *, again: bool) -> list[T]:
        if self._database.chance.strikes("session cut before a commit"):
            self._database.end(self.server, "cut before a commit")
            return []
        results = [carry_out(again) for carry_out in changes]
        if self._database.chance.strikes("session cut after a commit"):
            self._database.end(self.server, "cut after a commit")
        return results

    def shut_down(self) -> None:
        """Ends the connection on the worker's side, and at the server unless nothing passes."""
        self.closed = True
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(psycopg.OperationalError("server closed the connection"))
        if self._database.opens_at(self._process) <= self._loop.time():
            self._database.end(self.server, "closed")

    async def close(self) -> None:
        """Closes the connection."""
        self.shut_down()

    def _arrive(self, pending: "asyncio.Future[Any]", carry_out: Callable[[], Any]) -> None:
        if self._waits_for_the_network(self._arrive, pending, carry_out):
            return
        if not self.server.alive:
            self.shut_down()
            return
        try:
            result = carry_out()
        except Exception as error:  # noqa: BLE001 - the server refuses it
            result = error
        self._respond(pending, result)

    def _respond(self, pending: "asyncio.Future[Any]", result: Any) -> None:
        if self._waits_for_the_network(self._respond, pending, result):
            return
        if not self.server.alive:  # it was cut after it was carried out
            self.shut_down()
        elif not pending.done():
            pending.set_result(result)

    def _waits_for_the_network(self, again: Callable[..., None], *arguments: Any) -> bool:
        """Whether nothing passes now; then `again` is called once it may, as TCP sends again."""
        opens_at = self._database.opens_at(self._process)
        if opens_at > self._loop.time() and not self.closed:
            self._loop.call_at(opens_at, again, *arguments)
        return opens_at > self._loop.time()

    def _heartbeat_soon(self) -> None:
        """From now on a heartbeat fails, or waits: the next one is sent."""
        self._fails_from = min(self._fails_from, self._loop.time())
        if self._process.alive:
            seconds = self._database.chance.seconds(0.0, 1.5 * HEARTBEAT_SECONDS)
            self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        if self._process.alive and not self.closed:
            self._process.begin(self._proved_again())

    async def _proved_again(self) -> None:
        with suppress(LedgerFailed):
            await self._heartbeat()
        passes = self._database.opens_at(self._process) <= self._loop.time()
        if self.server.alive and not self.closed and passes:
            self._fails_from = math.inf


class SimulatedSession(Session):
    """The worker's session on the simulated database."""

    def __init__(self, database: Database, process: Process) -> None:
        super().__init__(_no_url, lambda: database.chance.seconds(0, 1))
        self._database = database
        self._process = process

    def lost(self, error: ConnectionLost) -> None:
        self._database.history.note("session lost", worker=self._process.number)
        super().lost(error)

    async def _begin(self) -> Connection:
        database, loop = self._database, self._database.loop
        self._process.check()
        if database.opens_at(self._process) > loop.time():
            await asyncio.sleep(CONNECT_SECONDS)
            raise LedgerFailed("the ledger cannot be reached: no answer")
        await asyncio.sleep(2 * database.chance.latency())
        self._process.check()
        if database.down_until > loop.time():
            raise LedgerFailed("the ledger cannot be reached: connection refused")
        database.history.note("session begun", worker=self._process.number)
        return cast(Connection, SimulatedConnection(database, self._process, self._heartbeat))

    async def _heartbeat(self) -> Any:
        return await self.use(lambda connection: connection.rows("SELECT 1", ()))


class SimulatedStore(PostgresStore):
    """Group commit on the simulated database. Each change carries itself out; see `SimulatedChange`."""

    async def _record(self, changes: Any, connection: Any, *, again: bool) -> None:
        current = [asked for asked in changes if self._check_epoch(asked)]
        if current:
            written = await connection.commit([asked.item.what.carry_out for asked in current], again=again)
            for asked, result in zip(current, written, strict=True):
                asked.resolve(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseParts:
    """The parts by which a worker uses the database. A mutant replaces one."""

    locks: type[PostgresLocks] = PostgresLocks
    store: type[SimulatedStore] = SimulatedStore
    fence: Callable[[Session], Fence] = lambda session: session


@dataclass(frozen=True, slots=True)
class NamedLocks:
    """Department locks whose names the history knows."""

    locks: PostgresLocks
    database: Database

    def hold(self, department: Department) -> AbstractAsyncContextManager[None]:
        """See `DepartmentLocks.hold`."""
        self.database.departments[lock_key(department)] = department
        return self.locks.hold(department)


@dataclass(frozen=True, slots=True)
class DatabaseClient:
    """The database as one worker uses it."""

    database: Database
    process: Process
    store: SimulatedStore
    locks: DepartmentLocks
    fence: Fence

    async def read(self) -> None:
        """Waits for the time of a reading statement; raises `LedgerFailed` if it gets no answer.

        Reads have a connection of their own, which is made again at once.
        """
        database, loop = self.database, self.database.loop
        gives_up_at = loop.time() + CALL_SECONDS
        await asyncio.sleep(database.chance.latency() / 2)
        self.process.check()
        if database.opens_at(self.process) > loop.time():
            await asyncio.sleep(min(database.opens_at(self.process), gives_up_at) - loop.time())
        self.process.check()
        if max(database.opens_at(self.process), database.down_until) > loop.time():
            raise LedgerFailed("the ledger cannot be read: no connection")


def connected(database: Database, process: Process, parts: DatabaseParts) -> DatabaseClient:
    """The parts of one worker on the database."""
    session = SimulatedSession(database, process)
    store = parts.store(session, session)
    locks = parts.locks(session, lambda: database.chance.seconds(0, 1))
    return DatabaseClient(database, process, store, NamedLocks(locks, database), parts.fence(session))


def _no_url() -> PostgresUrl:
    raise AssertionError("the simulated session connects by itself")
