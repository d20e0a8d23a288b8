"""Opens the ledger at a URL, with the adapter of its kind.

To add a kind of ledger, add its URL to the settings, its adapter here and to the conformance suites.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.ports import LedgerUnusable, OpenedLedger
from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl


@asynccontextmanager
async def open_ledger(
    url: LedgerUrl,
    *,
    read_only: bool = False,
    must_exist: bool = False,
    on_commit: Callable[[int], None] = lambda _operations: None,
) -> AsyncIterator[OpenedLedger]:
    """Opens the ledger at `url`, with its audit and its department locks.

    With `read_only` or `must_exist` a missing ledger is not created. `on_commit` gets the number of
    operations in each commit. Raises `LedgerFailed`, `LedgerForeign`.
    """
    match url:
        case SqliteUrl(path):
            opened = (
                sqlite_ledger_read(path)
                if read_only
                else sqlite_ledger(path, on_commit, must_exist=must_exist)
            )
            async with opened as ledger:
                yield OpenedLedger(ledger, SqliteAudit(ledger.store), InProcessLocks())
        case PostgresUrl():
            raise LedgerUnusable("this version opens no PostgreSQL ledger; set LEDGER_URL to sqlite:///…")
