"""The ledger in one SQLite file: WAL, durable, group commit.

https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
from pydantic_core import to_json

from worker.adapters.sqlite.rows import answer_json, answer_of, entry_json, entry_of, wish_json, wish_of
from worker.core.model import Answer, Department, Entry, Recollection, Reference, Wish, replace
from worker.ports import LedgerConflict, LedgerFailed, LedgerForeign, LedgerUnusable

BUSY_SECONDS = 5.0
BUSY_PAUSE_SECONDS = 0.01
BUSY_MILLISECONDS = 500
"""The longest wait of SQLite inside a call while another process opens or recovers the file."""
MIGRATIONS = resources.files("worker.adapters.sqlite") / "migrations"

RECALL = (  # one statement, so both parts are consistent
    "SELECT (SELECT entry FROM departments WHERE tenant = ? AND department_id = ?),"
    " (SELECT answer FROM answers WHERE source = ? AND event_id = ?)"
)
INSERT_ENTRY = (
    "INSERT INTO departments (revision, status, name, auth_id, due_at, entry, tenant, department_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, department_id) DO NOTHING"
)
UPDATE_ENTRY = (
    "UPDATE departments SET revision = ?1, status = ?2, name = ?3, auth_id = ?4, due_at = ?5, entry = ?6"
    " WHERE tenant = ?7 AND department_id = ?8 AND revision = ?1 - 1"
)

T = TypeVar("T")
Job = Callable[[apsw.Connection], Any]
Waiting = tuple[Job, asyncio.Future[Any]]


@asynccontextmanager
async def sqlite_ledger(
    path: Path, on_commit: Callable[[int], None] = lambda _operations: None, *, must_exist: bool = False
) -> AsyncIterator["SqliteLedger"]:
    """Opens the file, creates it if it is missing (mode 0600), and migrates its schema.

    `on_commit` gets the number of operations in each commit. Raises `LedgerFailed`, `LedgerUnusable` or
    `LedgerForeign`.
    """
    writing = _open(path, must_exist=must_exist)
    ledger = SqliteLedger(_open_to_read(path), writing, on_commit)
    try:
        await ledger.run(_migrate)
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def sqlite_ledger_read(path: Path) -> AsyncIterator["SqliteLedger"]:
    """Opens an existing ledger read-only; raises `LedgerFailed`."""
    reading = _open_to_read(path)
    ledger = SqliteLedger(reading, reading, lambda _operations: None)
    try:
        yield ledger
    finally:
        await ledger.close()


class SqliteLedger:
    """The `Ledger` port: writes that arrive during a commit share the next one, and reads never wait.

    A statement takes microseconds, so it runs on the event loop. Two things may take longer: a commit waits
    for the disk, in a thread, and its BEGIN may wait for another process that writes.
    """

    def __init__(
        self, reading: apsw.Connection, writing: apsw.Connection, on_commit: Callable[[int], None]
    ) -> None:
        self._reading = reading
        self._writing = writing
        self._file = _identity(writing)
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._gathered: list[Waiting] = []
        self._committer: asyncio.Task[None] | None = None

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """See `Ledger.recall`."""
        with self.read() as connection:
            row: Any = connection.execute(RECALL, (*department, event.source, event.id)).fetchone()
        entry, answer = row
        return Recollection(
            Entry(department) if entry is None else entry_of(entry),
            None if answer is None else answer_of(answer),
        )

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """See `Ledger.record`."""
        written = replace(entry, revision=entry.revision + 1)

        def job(connection: apsw.Connection) -> Entry:
            if answer is not None:
                _write_answer(connection, answer)
            _write_entry(connection, written)
            return written

        return await self.run(job)

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        with self.read() as connection:
            rows = connection.execute(
                "SELECT auth_id, tenant, department_id FROM departments"
                " WHERE auth_id IN (SELECT value FROM json_each(?))",
                (to_json(list(auth_ids)).decode(),),
            )
            return {str(auth_id): Department(str(tenant), str(id_)) for auth_id, tenant, id_ in rows}

    async def caught_up(self) -> bool:
        """See `Ledger.caught_up`."""
        with self.read() as connection:
            return connection.execute("SELECT caught_up FROM ledger").fetchone() == (1,)

    async def note_caught_up(self, *, caught_up: bool) -> None:
        """See `Ledger.note_caught_up`."""
        await self.run(lambda connection: connection.execute("UPDATE ledger SET caught_up = ?", (caught_up,)))

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        """See `Ledger.due`."""
        with self.read() as connection:
            rows = connection.execute(
                "SELECT tenant, department_id FROM departments WHERE due_at <= ? ORDER BY due_at LIMIT ?",
                (now.timestamp(), limit),
            )
            return [Department(str(tenant), str(id_)) for tenant, id_ in rows]

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        with self.read() as connection:
            # The index finds the few entries with a duty; the JSON of each has the rest.
            found = connection.execute(
                "SELECT count(*) FROM departments WHERE due_at IS NOT NULL"
                " AND entry ->> 'owed_at' IS NOT NULL AND unixepoch(entry ->> 'created_at', 'subsec') < ?",
                (since.timestamp(),),
            )
            return cast(int, found.fetchall()[0][0])

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        """See `Ledger.entries`."""
        with self.read() as connection:
            rows = connection.execute(
                "SELECT entry FROM departments WHERE tenant = ?1 OR ?1 IS NULL"
                " ORDER BY tenant, department_id",
                (tenant,),
            )
            return [entry_of(row[0]) for row in rows]

    async def answers(self, department: Department) -> Sequence[Answer]:
        """See `Ledger.answers`."""
        with self.read() as connection:
            rows = connection.execute(
                "SELECT answer FROM answers WHERE tenant = ? AND department_id = ? ORDER BY answered_at",
                department,
            )
            return [answer_of(row[0]) for row in rows]

    async def wish(self, wish: Wish) -> None:
        """See `Ledger.wish`."""
        values = (wish.id, wish.asked_at.timestamp(), wish_json(wish))
        await self.run(
            lambda connection: connection.execute(
                "INSERT INTO wishes (id, asked_at, wish) VALUES (?, ?, ?)", values
            )
        )

    async def wishes(self, since: datetime) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        with self.read() as connection:
            rows = connection.execute(
                "SELECT wish FROM wishes WHERE closed = 0 AND asked_at >= ? ORDER BY asked_at",
                (since.timestamp(),),
            )
            return [wish_of(row[0]) for row in rows]

    async def close_wish(self, wish_id: str) -> None:
        """See `Ledger.close_wish`."""
        await self.run(
            lambda connection: connection.execute("UPDATE wishes SET closed = 1 WHERE id = ?", (wish_id,))
        )

    async def mark_poison(self, message: str) -> int:
        """See `Ledger.mark_poison`."""

        def job(connection: apsw.Connection) -> int:
            marked = connection.execute(
                "INSERT INTO suspects VALUES (?, 1) ON CONFLICT DO UPDATE SET marks = marks + 1"
                " RETURNING marks",
                (message,),
            )
            return cast(int, marked.fetchall()[0][0])

        return await self.run(job)

    async def clear_poison(self, message: str) -> None:
        """See `Ledger.clear_poison`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM suspects WHERE message = ?", (message,))

        await self.run(job)

    async def bind(self, owner: str, provider_account: str) -> None:
        """See `Ledger.bind`."""

        def job(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO ledger (only_row, owner, provider_account) VALUES (1, ?, ?)"
                " ON CONFLICT DO UPDATE SET times_bound = times_bound + 1",
                (owner, provider_account),
            )
            bound = connection.execute("SELECT owner, provider_account FROM ledger").fetchall()[0]
            if bound != (owner, provider_account):
                raise LedgerForeign(f"the ledger belongs to owner {bound[0]} of provider account {bound[1]}")

        await self.run(job)

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A connection that sees durable data only; its errors become `LedgerFailed`."""
        try:
            yield self._reading
        except apsw.Error as error:
            raise LedgerFailed(f"the ledger cannot be read: {error}") from None

    async def run(self, job: Callable[[apsw.Connection], T]) -> T:
        """Runs a job in the next commit; its writes are durable on return.

        A failed job undoes its own writes only. The other jobs of its commit are then run a second time.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._gathered.append((job, done))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_all())
        return cast(T, await done)

    async def close(self) -> None:
        """Finishes pending writes and closes the file."""
        if self._committer is not None:
            await self._committer
        self._thread.shutdown()
        self._reading.close()
        self._writing.close()

    async def _commit_all(self) -> None:
        try:
            while self._gathered:
                await self._commit_once()
        finally:
            self._committer = None

    async def _commit_once(self) -> None:
        batch: Sequence[Waiting] = ()
        try:
            await self._begin()
            batch, self._gathered = self._gathered, []
            results = self._attempt_all([job for job, _ in batch])
            await self._in_thread("COMMIT")
        except apsw.Error as error:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            if not batch:  # BEGIN failed
                batch, self._gathered = self._gathered, []
            results = [LedgerFailed(f"the ledger cannot be written: {error}")] * len(batch)
        self._on_commit(len(batch))
        for (_, done), result in zip(batch, results, strict=True):
            _settle(done, result)

    async def _begin(self) -> None:
        if _identity(self._writing) != self._file:  # SQLite would write to an unreachable file
            raise apsw.CantOpenError("its file was deleted or replaced; put it back, or restart the worker")
        deadline = asyncio.get_running_loop().time() + BUSY_SECONDS
        while True:
            try:
                self._writing.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(BUSY_PAUSE_SECONDS)
            else:
                return

    async def _in_thread(self, statement: str) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writing.execute, statement)

    def _attempt_all(self, jobs: Sequence[Job]) -> list[Any]:
        """The result or failure of each job. They share a savepoint; if one fails, each gets its own."""
        try:
            with self._writing:  # a savepoint
                return [job(self._writing) for job in jobs]
        except Exception as failure:
            if isinstance(failure, apsw.Error) and not isinstance(failure, apsw.ConstraintError):
                raise
        return [self._attempt(job) for job in jobs]

    def _attempt(self, job: Job) -> Any:
        """The result or failure of a job. Raises an error of the file, which fails the whole commit."""
        try:
            with self._writing:  # a savepoint
                return job(self._writing)
        except apsw.ConstraintError as refusal:
            return LedgerFailed(f"the ledger refuses a write: {refusal}")
        except apsw.Error:
            raise
        except Exception as failure:  # noqa: BLE001 - passed on to the caller of `run`
            return failure


def _identity(connection: apsw.Connection) -> tuple[int, int] | None:
    """Device and inode of the file at the connection's path; None if there is none."""
    try:
        found = Path(connection.filename).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _settle(done: asyncio.Future[Any], result: Any) -> None:
    with suppress(asyncio.InvalidStateError):  # the caller of `run` was cancelled
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)


def _open(path: Path, *, must_exist: bool) -> apsw.Connection:
    if must_exist:
        _require(path)
    try:
        path.touch(mode=0o600)
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("temp_store", "memory")  # savepoint journals in memory, not in files
        connection.set_busy_timeout(0)  # from now on `_begin` waits instead
    except (OSError, apsw.Error) as error:
        raise _cannot_open(path, error) from None
    return connection


def _open_to_read(path: Path) -> apsw.Connection:
    _require(path)
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
    except apsw.Error as error:
        raise _cannot_open(path, error) from None
    return connection


def _cannot_open(path: Path, error: OSError | apsw.Error) -> LedgerFailed:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            why = f"there is no folder {path.parent}; make it, or set LEDGER_URL to another file"
        case apsw.CantOpenError() if path.is_dir():
            why = "it is a folder; set LEDGER_URL to a file in it"
        case OSError(strerror=reason):
            why = f"{reason}; set LEDGER_URL to another file"
        case apsw.CantOpenError() | apsw.NotADBError():
            why = f"{error}; set LEDGER_URL to another file"
        case _:
            return LedgerFailed(f"the ledger {path} cannot be opened: {error}")
    return LedgerUnusable(f"the ledger {path} cannot be opened: {why}")


def _require(path: Path) -> None:
    if not path.exists():
        raise LedgerFailed(f"there is no ledger at {path}; set LEDGER_URL to the one the worker uses")


def _migrate(connection: apsw.Connection) -> None:
    """Applies pending migrations in order; raises `LedgerForeign` for an unknown or changed one."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, checksum TEXT NOT NULL) STRICT"
    )
    applied = {str(name): checksum for name, checksum in connection.execute("SELECT * FROM migrations")}
    files = sorted(MIGRATIONS.iterdir(), key=lambda file: file.name)
    if newer := sorted(applied.keys() - {file.name for file in files}):
        raise LedgerForeign(f"its schema is of a newer version, which knows {newer[-1]}; run that one")
    for file in files:
        script = file.read_text()
        checksum = hashlib.sha256(script.encode()).hexdigest()
        if file.name not in applied:
            for _ in connection.execute(script):  # fetch all: apsw stops at a statement with rows
                pass
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (file.name, checksum))
        elif applied[file.name] != checksum:
            raise LedgerForeign(f"its schema is not this version's: {file.name} differs")


def _write_entry(connection: apsw.Connection, entry: Entry) -> None:
    """Raises `LedgerConflict` if the entry was changed since it was recalled."""
    values = (
        entry.revision,
        entry.status.value,
        entry.name,
        entry.auth_id,
        entry.due_at.timestamp() if entry.due_at else None,
        entry_json(entry),
        *entry.department,
    )
    statement = INSERT_ENTRY if entry.revision == 1 else UPDATE_ENTRY
    connection.execute(statement, values)
    if connection.changes() != 1:
        raise LedgerConflict("the department's entry was changed by another writer meanwhile")


def _write_answer(connection: apsw.Connection, answer: Answer) -> None:
    """Raises `LedgerConflict` for another payload; otherwise only the confirm of an answer changes."""
    connection.execute(
        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, event_id) DO UPDATE"
        " SET confirmed = excluded.confirmed, answer = excluded.answer"
        " WHERE payload_digest = excluded.payload_digest",
        (
            answer.event.source,
            answer.event.id,
            answer.payload_digest,
            *answer.department,
            answer.answered_at.isoformat(),
            answer.confirmed,
            answer_json(answer),
        ),
    )
    if connection.changes() != 1:
        raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
