"""One SQLite file for the ledger and the audit: WAL, durable, group commit.

https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw

from worker.adapters.sqlite.worker_lock import locked
from worker.ports import LedgerFailed, LedgerForeign, LedgerMissing, LedgerUnusable, OnCommit, no_note
from worker.settings.files import closed_to_us

BUSY_SECONDS = 5.0
BUSY_PAUSE_SECONDS = 0.01
BUSY_MILLISECONDS = 500
"""The longest wait of SQLite inside a call while another process opens or recovers the file."""
OLDER = "the ledger is of an older version; start `provisioner run` of this version on it once"
MIGRATIONS = resources.files("worker.adapters.sqlite") / "migrations"

T = TypeVar("T")
Job = Callable[[apsw.Connection], Any]
Waiting = tuple[Job, asyncio.Future[Any]]


@asynccontextmanager
async def sqlite_store(
    path: Path,
    on_commit: OnCommit = no_note,
    *,
    must_exist: bool = False,
    alone: bool = False,
) -> AsyncIterator["SqliteStore"]:
    """Opens the file, creates it if it is missing (mode 0600), and migrates its schema.

    `alone`: as its one worker (`locked`). Raises `LedgerFailed`, `LedgerUnusable`, `LedgerForeign` or
    `LedgerTaken`.
    """
    writing = _open(path, must_exist=must_exist)
    store = SqliteStore(open_to_read(path), writing, on_commit)
    try:
        with ExitStack() as stack:
            if alone:  # before the migration, which another worker would meet
                _lock(path, stack)
            await store.run(_migrate)
            yield store
    finally:
        await store.close()


@asynccontextmanager
async def sqlite_store_read(path: Path) -> AsyncIterator["SqliteStore"]:
    """Opens an existing ledger read-only; raises `LedgerFailed`."""
    reading = open_to_read(path)
    store = SqliteStore(reading, reading, no_note)
    try:
        yield store
    finally:
        await store.close()


class SqliteStore:
    """The file of a ledger: writes that arrive during a commit share the next one, and reads never wait.

    A statement takes microseconds, so it runs on the event loop. Two things may take longer: a commit waits
    for the disk, in a thread, and its BEGIN may wait for another process that writes.
    """

    def __init__(self, reading: apsw.Connection, writing: apsw.Connection, on_commit: OnCommit) -> None:
        self._reading = reading
        self._writing = writing
        self._file = _identity(writing)
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._gathered: list[Waiting] = []
        self._committer: asyncio.Task[None] | None = None

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A connection that sees durable data only; its errors become `LedgerFailed`."""
        with self.reading_from(self._reading) as connection:
            yield connection

    @contextmanager
    def reading_from(self, connection: apsw.Connection) -> Iterator[apsw.Connection]:
        """The same connection, whose errors become `LedgerFailed` in the block."""
        try:
            yield connection
        except apsw.SQLError as error:
            if not str(error).startswith(("no such table", "no such column")):
                raise LedgerFailed(f"the ledger cannot be read: {error}") from None
            raise LedgerFailed(OLDER) from None
        except apsw.Error as error:
            path = Path(self._reading.filename)
            closed = f"; {closed_to_us(path)}" if _is_closed(path, error) else ""
            raise LedgerFailed(f"the ledger cannot be read: {error}{closed}") from None

    async def run(self, job: Callable[[apsw.Connection], T]) -> T:
        """Runs a job in the next commit; its writes are durable on return.

        A failed job undoes its own writes only. The other jobs of its commit are then run a second time.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._gathered.append((job, done))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_all())
        return cast(T, await done)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[apsw.Connection]:
        """One long transaction of a command, which must write nothing else meanwhile.

        It is durable at the end of the block, and undone if that raises. Errors become `LedgerFailed`.
        """
        try:
            await self._begin()
            yield self._writing
            await self._in_thread("COMMIT")
        except apsw.Error as error:
            raise LedgerFailed(f"the ledger cannot be written: {error}") from None
        finally:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")

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
        begun = asyncio.get_running_loop().time()
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
        self._on_commit(len(batch), asyncio.get_running_loop().time() - begun)
        for (_, done), result in zip(batch, results, strict=True):
            _resolve(done, result)

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


def _resolve(done: asyncio.Future[Any], result: Any) -> None:
    with suppress(asyncio.InvalidStateError):  # the caller of `run` was cancelled
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)


def _lock(path: Path, stack: ExitStack) -> None:
    """Locks the ledger until the stack is left."""
    try:
        stack.enter_context(locked(path))
    except OSError as error:
        raise _cannot_open(path, error) from None


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


def open_to_read(path: Path) -> apsw.Connection:
    """A read-only connection to an existing ledger; raises `LedgerFailed`."""
    _require(path)
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
    except apsw.Error as error:
        raise _cannot_open(path, error) from None
    return connection


def require_place(path: Path) -> None:
    """Raises `LedgerUnusable` unless a worker could open the ledger at `path`, or make it.

    Changes nothing.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise _cannot_open(path, FileNotFoundError())
    used = [folder] if _is_missing(path) else [folder, path]
    if not all(os.access(place, os.R_OK | os.W_OK) for place in used):
        raise _cannot_open(path, PermissionError())


def _cannot_open(path: Path, error: OSError | apsw.Error) -> LedgerFailed:
    elsewhere = "set LEDGER_URL to another file"
    match error:
        case FileNotFoundError() | NotADirectoryError():
            why = f"there is no folder {path.parent}; make it, or {elsewhere}"
        case apsw.CantOpenError() if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise an error
            why = "it is a folder; set LEDGER_URL to a file in it"
        case PermissionError() | apsw.Error() if _is_closed(path, error):
            why = f"Permission denied; {closed_to_us(path)}"
            if _is_missing(path):
                why += f", or {elsewhere}"
        case OSError(strerror=reason) if _is_missing(path):
            why = f"{reason}; {elsewhere}"
        case OSError(strerror=reason):  # another file would be an empty ledger
            why = str(reason)
        case apsw.CantOpenError() | apsw.NotADBError():
            why = f"{error}; {elsewhere}"
        case _:
            return LedgerFailed(f"the ledger {path} cannot be opened: {error}")
    return LedgerUnusable(f"the ledger {path} cannot be opened: {why}")


def _is_closed(path: Path, error: OSError | apsw.Error) -> bool:
    """Whether the error is that this process may not use the file, its folder or the files beside it."""
    if isinstance(error, PermissionError):
        return True
    beside = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    used = [file for file in (path, *beside) if not _is_missing(file)]
    return isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError) and not all(
        os.access(file, os.R_OK | os.W_OK) for file in (*used, path.absolute().parent)
    )


def _is_missing(path: Path) -> bool:
    """Whether there is certainly no file: a closed folder may hold one."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _require(path: Path) -> None:
    if _is_missing(path):
        raise LedgerMissing(f"there is no ledger at {path}; set LEDGER_URL to the one the worker uses")
    try:
        path.stat()
    except OSError as error:
        raise _cannot_open(path, error) from None


def applied_migrations(connection: apsw.Connection) -> Sequence[str]:
    """The names of the migrations that were applied to this file, in order."""
    return [str(row[0]) for row in connection.execute("SELECT name FROM migrations ORDER BY name")]


def known_migrations() -> Sequence[str]:
    """The names of this version's migrations, in order."""
    return sorted(file.name for file in MIGRATIONS.iterdir())


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
