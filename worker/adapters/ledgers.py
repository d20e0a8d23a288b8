"""Opens the ledger at a URL, with the adapter of its scheme.

To add a kind of ledger, add its scheme here and to the settings, and its adapter to the conformance suites.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.ports import LedgerUnusable, OpenedLedger
from worker.settings.parse import SQLITE


@asynccontextmanager
async def open_ledger(
    url: str,
    *,
    read_only: bool = False,
    must_exist: bool = False,
    on_commit: Callable[[int], None] = lambda _operations: None,
) -> AsyncIterator[OpenedLedger]:
    """Opens the ledger at `url`, with its audit and its department locks.

    With `read_only` or `must_exist` a missing ledger is not created. `on_commit` gets the number of
    operations in each commit. Raises `LedgerFailed`, `LedgerForeign`; `LedgerUnusable` for an unknown scheme.
    """
    if not url.startswith(SQLITE):
        raise LedgerUnusable(
            "there is no ledger of this kind; set LEDGER_URL to sqlite:///relative/path.db or"
            " sqlite:////absolute/path.db"
        )
    path = Path(url.removeprefix(SQLITE))
    opened = sqlite_ledger_read(path) if read_only else sqlite_ledger(path, on_commit, must_exist=must_exist)
    async with opened as ledger:
        yield OpenedLedger(ledger, SqliteAudit(ledger.store), InProcessLocks())
