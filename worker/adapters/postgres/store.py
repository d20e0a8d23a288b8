"""The database of a ledger: group commit on the session, gathered reads on a second connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import psycopg
from psycopg import errors
from pydantic_core import to_json

from worker.adapters.postgres.connection import Connection, ConnectionLost, Row, connect
from worker.adapters.postgres.gathering import Asked, Gathering
from worker.adapters.postgres.locks import lock_key
from worker.adapters.postgres.refusals import reason_of, refused
from worker.adapters.postgres.schema import applied_migrations, migrate, use_schema
from worker.adapters.postgres.session import Link, Session, running_session
from worker.core.model.departments import Department
from worker.ports import AuthIdTaken, LedgerFailed, LedgerMissing, LedgerUnusable, OnCommit, no_note
from worker.settings.ledger_url import PostgresUrl

BATCH = 500
"""Changes in one commit at most."""
TRIES = 3
"""Of one change that met others: after that, something else is wrong."""
REPLANNED_AFTER = 1000
"""Changes after which the server plans its statements anew. It keeps a plan until it analyzes the tables,
minutes later. One made for few rows reads all of them: each event would take longer than the one before."""
OLDER = "the ledger is of an older version; start `provisioner run` of this version on it once"
READ_ONLY = "the ledger cannot be written: it was opened to read"
UNHEEDED = (
    "the ledger cannot be opened: a pooler drops the settings by which the server frees the locks of a lost"
    " machine; LEDGER_URL must name PostgreSQL itself"
)
POOLED = (
    "the ledger cannot be opened: a pooler shares one connection among many, so locks exclude nobody;"
    " LEDGER_URL must name PostgreSQL itself"
)

RECORD = "SELECT * FROM record_changes(%s::json, %s::json, %s::json, %s::json, %s::json, %s)"
RECALL = (  # one statement for all, so the entry and the answer of each are of one moment
    "SELECT (SELECT d.entry FROM departments d"
    " WHERE d.tenant = q.tenant AND d.department_id = q.department_id),"
    " (SELECT a.answer FROM answers a WHERE a.key = q.key)"
    ' FROM json_to_recordset(%s::json) AS q (n integer, tenant text COLLATE "C",'
    ' department_id text COLLATE "C", key uuid) ORDER BY q.n'
)
HOLDER = "SELECT tenant, department_id FROM departments WHERE auth_id = %s"

T = TypeVar("T")
Values = dict[str, Any]
"""A row, by the names of its columns."""
Parameters = Sequence[Any] | Values
Write = Callable[[Connection], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """An atomic write: an entry, answers, and the facts beside them."""

    department: Department
    entry: Values | None = None
    answers: Sequence[Values] = ()
    holds: Sequence[Values] = ()
    calls: Sequence[Values] = ()
    audit: Sequence[Values] = ()

    @property
    def subjects(self) -> set[Any]:
        """Whom it concerns. Two changes that are written together have none in common."""
        answered = {answer["key"] for answer in self.answers}
        return answered | {self.department} if self.entry else answered


@dataclass(frozen=True, slots=True)
class Written:
    """The change is durable."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The entry was changed since it was recalled; nothing was written."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One of the events has another answer already, the text `known`; nothing was written."""

    known: str


Verdict = Written | Stale | Answered
WRITTEN = Written()


@dataclass(frozen=True, slots=True)
class _UnderLock(Generic[T]):
    """Something to write. `epoch`: that of the department's lock it is written under; None without one."""

    what: T
    epoch: int | None


_Change = Asked[_UnderLock[Change], Verdict]


@dataclass(frozen=True, slots=True)
class _Recall:
    department: Department
    key: str


@asynccontextmanager
async def postgres_store(
    url: Callable[[], PostgresUrl],
    on_commit: OnCommit,
    jitter: Callable[[], float],
    *,
    must_exist: bool = False,
) -> AsyncIterator[tuple["PostgresStore", Session]]:
    """Opens the ledger in the database at `url`, makes it if it is missing, and migrates its schema.

    `url` is asked before each connection.

    Raises `LedgerFailed`, `LedgerUnusable`, `LedgerMissing` or `LedgerForeign`.
    """
    reading = Link(lambda: connect(url(), "provisioner reads"))
    async with running_session(url, jitter) as session:
        store = PostgresStore(reading, session, on_commit)
        try:
            await _prepare(session, reading, must_exist=must_exist)
            yield store, session
        finally:
            await store.close()


@asynccontextmanager
async def postgres_store_read(url: Callable[[], PostgresUrl]) -> AsyncIterator["PostgresStore"]:
    """Opens an existing ledger read-only; raises `LedgerFailed`."""
    store = PostgresStore(Link(lambda: connect(url(), "provisioner reads", to_read=True)), None)
    try:
        await store.read(_require)
        yield store
    finally:
        await store.close()


class PostgresStore:
    """Writes that arrive during a commit share the next one, and so do reads.

    Without a session it is read-only.
    """

    def __init__(self, reading: Link, session: Session | None, on_commit: OnCommit = no_note) -> None:
        self._reading = reading
        self._session = session
        self._on_commit = on_commit
        self._changes_planned = 0
        self._changes: Gathering[_UnderLock[Change], Verdict] = Gathering(self._write_batch, BATCH)
        self._writes: Gathering[_UnderLock[Write], Any] = Gathering(self._run_one, 1)
        self._recalls: Gathering[_Recall, Row] = Gathering(self._recall_batch, BATCH)
        self._reads: Gathering[Write, Any] = Gathering(self._read_one, 1)

    async def write(self, change: Change) -> Verdict:
        """Writes a change, with others in one commit. Raises `LedgerFailed` and `AuthIdTaken`.

        A change that is made under the department's lock is written only by the session that holds the lock.
        """
        return await self._changes.ask(self._under_lock(change, change.department))

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], department: Department | None = None
    ) -> T:
        """Runs writing statements, alone; durable on return. `department`: as `write`."""
        return cast(T, await self._writes.ask(self._under_lock(work, department)))

    async def execute(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """Runs one writing statement; durable on return."""
        return await self.run(lambda connection: connection.rows(statement, parameters))

    async def recall(self, department: Department, key: str) -> Row:
        """The texts of the department's entry and of the answer of this key, both of one moment; or None."""
        return await self._recalls.ask(_Recall(department, key))

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs reading statements, alone."""
        return cast(T, await self._reads.ask(work))

    async def rows(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """The rows of one reading statement."""
        return await self.read(lambda connection: connection.rows(statement, parameters))

    async def close(self) -> None:
        """Finishes what is under way."""
        for gathering in (self._changes, self._writes, self._recalls, self._reads):
            await gathering.close()
        await self._reading.close()

    def _under_lock(self, what: T, department: Department | None) -> _UnderLock[T]:
        session = self._writing
        held = department is not None and lock_key(department) in session.leases
        return _UnderLock(what, session.epoch if held else None)

    @property
    def _writing(self) -> Session:
        if self._session is None:
            raise LedgerFailed(READ_ONLY)
        return self._session

    def _check_epoch(self, asked: Asked[_UnderLock[Any], Any]) -> bool:
        """Whether it may be written now; fails it if the lock it is written under is lost."""
        if asked.item.epoch in {None, self._writing.epoch}:
            return True
        asked.fail(ConnectionLost("the connection that holds the department's lock was lost"))
        return False

    async def _write_batch(self, batch: Sequence[_Change]) -> None:
        for apart in _apart(batch):
            await self._write(sorted(apart, key=lambda asked: asked.item.what.department))

    async def _write(self, changes: Sequence[_Change], *, again: bool = False) -> None:
        """Writes the changes in one commit. `again`: they may have been written before, without an answer."""
        try:
            await self._writing.use(partial(self._record, changes, again=again))
        except ConnectionLost:
            if again:
                raise
            await self._write(changes, again=True)
        except psycopg.Error as error:
            if len(changes) == 1 and not isinstance(error, RACES):
                changes[0].fail(refusal(error))
                return
            for asked in changes:
                await self._write_alone(asked, again=again)

    async def _write_alone(self, asked: _Change, *, again: bool) -> None:
        """Writes one change, after it met others or was among others, one of which was refused."""
        failure: psycopg.Error | None = None
        for _ in range(TRIES):
            try:
                await self._writing.use(partial(self._record, [asked], again=again))
            except errors.UniqueViolation as error:
                if taken := await self._taken(asked.item.what):
                    asked.fail(taken)
                    return
                failure = error
            except RACES as error:
                failure = error
            except psycopg.Error as error:
                asked.fail(refusal(error))
                return
            else:
                return
        if failure is not None:
            asked.fail(refusal(failure))

    async def _taken(self, change: Change) -> AuthIdTaken | None:
        """The error if the change has an auth id that is on record for another department."""
        auth_id = change.entry["auth_id"] if change.entry else None
        if auth_id is None:
            return None
        for tenant, id_ in await self._writing.use(lambda connection: connection.rows(HOLDER, (auth_id,))):
            if (tenant, id_) != change.department:
                return AuthIdTaken(auth_id, Department(tenant, id_))
        return None

    async def _record(self, changes: Sequence[_Change], connection: Connection, *, again: bool) -> None:
        current = [asked for asked in changes if self._check_epoch(asked)]
        if not current:
            return
        begun = asyncio.get_running_loop().time()
        verdicts = await record(connection, [asked.item.what for asked in current], again=again)
        self._on_commit(len(current), asyncio.get_running_loop().time() - begun)
        for asked, verdict in zip(current, verdicts, strict=True):
            asked.resolve(verdict)
        self._changes_planned += len(current)
        if self._changes_planned >= REPLANNED_AFTER:
            self._changes_planned = 0
            await connection.rows("DISCARD PLANS", ())

    async def _run_one(self, batch: Sequence[Asked[_UnderLock[Write], Any]]) -> None:
        (asked,) = batch

        async def work(connection: Connection) -> None:
            if self._check_epoch(asked):
                begun = asyncio.get_running_loop().time()
                asked.resolve(await asked.item.what(connection))
                self._on_commit(1, asyncio.get_running_loop().time() - begun)

        try:
            await self._writing.use(work)
        except psycopg.Error as error:
            asked.fail(refusal(error))

    async def _recall_batch(self, batch: Sequence[Asked[_Recall, Row]]) -> None:
        wanted = [(number, *asked.item.department, asked.item.key) for number, asked in enumerate(batch)]
        names = ("n", "tenant", "department_id", "key")
        parameters = (_json([dict(zip(names, row, strict=True)) for row in wanted]),)
        found = await self._look(lambda connection: connection.rows(RECALL, parameters))
        for asked, row in zip(batch, found, strict=True):
            asked.resolve(row)

    async def _read_one(self, batch: Sequence[Asked[Write, Any]]) -> None:
        (asked,) = batch
        asked.resolve(await self._look(asked.item))

    async def _look(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Reads, a second time if the connection is lost meanwhile. Raises `LedgerFailed`."""
        try:
            try:
                return await self._reading.use(work)
            except ConnectionLost:
                return await self._reading.use(work)
        except (errors.UndefinedTable, errors.UndefinedColumn):
            raise LedgerFailed(OLDER) from None
        except errors.InsufficientPrivilege as error:
            raise refused(error) from None
        except psycopg.Error as error:
            raise LedgerFailed(f"the ledger cannot be read: {reason_of(error)}") from None


RACES = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)
"""Two writers met. Nothing was written, and the next try sees what the other one wrote."""


async def record(
    connection: Connection, changes: Sequence[Change], *, again: bool = False
) -> Sequence[Verdict]:
    """Writes the changes, and returns the verdict on each. Raises `psycopg.Error`; then none is written."""
    parts = [
        _json(
            [
                {"job": job, "place": place, **values}
                for job, change in enumerate(changes)
                for place, values in enumerate(rows_of(change))
            ]
        )
        for rows_of in _PARTS
    ]
    verdicts: list[Verdict] = [WRITTEN] * len(changes)
    for job, reason, known in await connection.rows(RECORD, (*parts, again)):
        verdicts[job] = Answered(known) if reason == "answered" else Stale()
    return verdicts


_PARTS: Sequence[Callable[[Change], Sequence[Values]]] = (
    lambda change: [change.entry] if change.entry else [],
    lambda change: change.answers,
    lambda change: change.holds,
    lambda change: change.calls,
    lambda change: change.audit,
)
"""In the order of the parameters of `record_changes`."""


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """Commits what the block does; undoes it if the block raises."""
    await connection.rows("BEGIN", ())
    try:
        yield
    except BaseException:
        if not connection.closed:
            await connection.rows("ROLLBACK", ())
        raise
    await connection.rows("COMMIT", ())


def refusal(error: psycopg.Error) -> LedgerFailed:
    """The error of a write that the server has refused."""
    if isinstance(error, errors.IntegrityError | errors.DataError | errors.RaiseException):
        return LedgerFailed(f"the ledger refuses a write: {reason_of(error)}")
    return LedgerFailed(f"the ledger cannot be written: {reason_of(error)}")


def _apart(changes: Sequence[_Change]) -> Sequence[Sequence[_Change]]:
    """The changes in groups, each without two changes that concern the same; in order for each subject."""
    groups: list[tuple[set[Any], list[_Change]]] = []
    for asked in changes:
        subjects = asked.item.what.subjects
        after = (
            max((n for n, (seen, _) in enumerate(groups) if not seen.isdisjoint(subjects)), default=-1) + 1
        )
        if after == len(groups):
            groups.append((set(), []))
        groups[after][0].update(subjects)
        groups[after][1].append(asked)
    return [group for _, group in groups]


def _json(rows: Sequence[Values]) -> str | None:
    return to_json(rows).decode() if rows else None


async def require_locks(session: Session, reading: Link) -> None:
    """Raises `LedgerUnusable` where locks of the session exclude nobody, or outlive it. Changes nothing."""
    await _check_settings_arrived(session)
    await _check_locks_exclude(session, reading)


async def _prepare(session: Session, reading: Link, *, must_exist: bool) -> None:
    try:
        await require_locks(session, reading)
        if must_exist:
            await session.use(_require)
        await session.use(migrate)
        session.resume = use_schema
        await session.use(use_schema)
    except psycopg.Error as error:
        raise refused(error) from None


async def _require(connection: Connection) -> None:
    if await applied_migrations(connection) is None:
        raise LedgerMissing(
            f"there is no ledger at {connection.place}; set LEDGER_URL to the one the workers use"
        )


async def _check_settings_arrived(session: Session) -> None:
    """Raises `LedgerUnusable` if the server has not what the session asked for when it connected."""
    if await session.use(lambda one: one.rows("SHOW idle_session_timeout")) == [("0",)]:
        raise LedgerUnusable(UNHEEDED)


async def _check_locks_exclude(session: Session, reading: Link) -> None:
    """Raises `LedgerUnusable` if two connections get one lock: they are one, behind a pooler."""

    async def take(connection: Connection) -> bool:
        return await connection.rows("SELECT pg_try_advisory_lock(%s)", (key,)) == [(True,)]

    async def give(connection: Connection) -> None:
        await connection.rows("SELECT pg_advisory_unlock(%s)", (key,))

    key = lock_key(Department("pooler", session.name))
    if await session.use(take) and await reading.use(take):
        raise LedgerUnusable(POOLED)
    await session.use(give)
