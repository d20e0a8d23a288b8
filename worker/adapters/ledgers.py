"""Opens the ledger at a URL, with the adapter of its kind.

To add a kind of ledger, add its URL to the settings, its adapter here and to the conformance suites.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.adapters.sqlite.worker_lock import no_worker
from worker.ports import LedgerUnusable, OpenedLedger
from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl


@asynccontextmanager
async def open_ledger(
    url: LedgerUrl,
    *,
    read_only: bool = False,
    must_exist: bool = False,
    alone: bool = False,
    on_commit: Callable[[int], None] = lambda _operations: None,
) -> AsyncIterator[OpenedLedger]:
    """Opens the ledger at `url`, with its audit and its department locks.

    With `read_only` or `must_exist` a missing ledger is not created. `alone`: a worker opens it, or a command
    that no worker may meet; raises `LedgerTaken` if it is for one at a time and another has it. `on_commit`
    gets the number of operations in each commit. Raises `LedgerFailed`, `LedgerForeign`.
    """
    async with AsyncExitStack() as stack:
        match url:
            case SqliteUrl(path) if read_only:
                stack.enter_context(no_worker(path) if alone else nullcontext())
                opened = sqlite_ledger_read(path)
            case SqliteUrl(path):
                opened = sqlite_ledger(path, on_commit, must_exist=must_exist, alone=alone)
            case PostgresUrl():
                raise LedgerUnusable("this version opens no PostgreSQL ledger; set LEDGER_URL to sqlite:///…")
        ledger = await stack.enter_async_context(opened)
        yield OpenedLedger(ledger, SqliteAudit(ledger.store), InProcessLocks())


def require_no_worker(url: LedgerUrl) -> None:
    """Raises `LedgerTaken` while a worker works on the ledger, and it is for one at a time."""
    if isinstance(url, SqliteUrl):
        with no_worker(url.path):
            pass
