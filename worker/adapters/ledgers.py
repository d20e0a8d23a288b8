"""Opens the ledger at a URL, with the adapter of its kind.

To add a kind of ledger, add its URL to the settings, its adapter here and to the conformance suites.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.keeping import SqliteKeeping
from worker.adapters.sqlite.ledger import SqliteLedger, sqlite_ledger, sqlite_ledger_read
from worker.adapters.sqlite.snapshots import SqliteSnapshots
from worker.adapters.sqlite.store import require_place as sqlite_place
from worker.adapters.sqlite.worker_lock import no_worker
from worker.ports import OnCommit, OpenedLedger, no_note
from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl


@asynccontextmanager
async def open_ledger(
    url: LedgerUrl,
    *,
    read_only: bool = False,
    must_exist: bool = False,
    alone: bool = False,
    on_commit: OnCommit = no_note,
    read_again: Callable[[], LedgerUrl] | None = None,
) -> AsyncIterator[OpenedLedger]:
    """Opens the ledger at `url`, with its audit and its department locks.

    With `read_only` or `must_exist` a missing ledger is not created. `alone`: a worker opens it, or a command
    that no worker may meet; raises `LedgerTaken` if it is for one at a time and another has it. `read_again`
    gives the URL for each connection to a server: its login may have changed. Raises `LedgerFailed`,
    `LedgerForeign`.
    """
    async with AsyncExitStack() as stack:
        match url:
            case SqliteUrl(path) if read_only:
                stack.enter_context(no_worker(path) if alone else nullcontext())
                file = await stack.enter_async_context(sqlite_ledger_read(path))
                yield _in_a_file(file)
            case SqliteUrl(path):
                opening = sqlite_ledger(path, on_commit, must_exist=must_exist, alone=alone)
                yield _in_a_file(await stack.enter_async_context(opening))
            case PostgresUrl():
                from worker.adapters.postgres.ledger import postgres_ledger  # noqa: PLC0415 - takes 0.2 s

                newest = partial(_newest, url, read_again)
                database = postgres_ledger(newest, on_commit, read_only=read_only, must_exist=must_exist)
                yield await stack.enter_async_context(database)


def _in_a_file(ledger: SqliteLedger) -> OpenedLedger:
    store = ledger.store
    keeping, snapshots = SqliteKeeping(store), SqliteSnapshots(store)
    return OpenedLedger(ledger, SqliteAudit(store), InProcessLocks(), keeping, snapshots)


def _newest(url: PostgresUrl, read_again: Callable[[], LedgerUrl] | None) -> PostgresUrl:
    found = read_again() if read_again else url
    return found if isinstance(found, PostgresUrl) else url


@dataclass(frozen=True, slots=True)
class LockRoom:
    """The number of locks that the database has room for, and how many one worker may take."""

    locks: int
    for_each_worker: int


async def require_place(url: LedgerUrl) -> LockRoom | None:
    """Raises `LedgerFailed` unless a worker could open the ledger at `url`, or make it. Changes nothing.

    Returns None where locks take no room.
    """
    match url:
        case SqliteUrl(path):
            sqlite_place(path)
            return None
        case PostgresUrl():
            from worker.adapters.postgres.locks import MOST_HELD  # noqa: PLC0415 - takes 0.2 s
            from worker.adapters.postgres.place import lock_room  # noqa: PLC0415

            return LockRoom(await lock_room(url), MOST_HELD)


def require_no_worker(url: LedgerUrl) -> None:
    """Raises `LedgerTaken` while a worker works on the ledger, and it is for one at a time."""
    if isinstance(url, SqliteUrl):
        with no_worker(url.path):
            pass
