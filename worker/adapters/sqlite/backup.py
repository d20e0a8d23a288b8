"""A backup of an SQLite ledger into a file of its own, consistent while a worker writes.

https://www.sqlite.org/backup.html: within a read transaction all its steps see the same moment, so a writer
neither waits for it nor starts it anew.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from worker.adapters.sqlite.store import open_to_read
from worker.ports import LedgerFailed, UserError

PAGES_AT_ONCE = 500


class BackupRefused(UserError):
    """The file of a backup cannot be made."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A place for the file until it is whole; at the end of the block it gets its name.

    It is its owner's alone (0600), and never takes the place of another file. Nothing is left of a block that
    fails. Raises `BackupRefused`.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        if path.exists():
            raise BackupRefused(f"{path} exists, and a backup overwrites nothing; name a new file")
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise BackupRefused(
            f"{partial} exists: another backup is under way, or one was cut off; then remove that file"
        ) from None
    except OSError as error:
        raise BackupRefused(f"{path} cannot be written: {error.strerror}") from None
    try:
        yield partial
        _put(partial, path)
    finally:
        for name in (partial.name, f"{partial.name}-wal", f"{partial.name}-shm", f"{partial.name}-journal"):
            partial.with_name(name).unlink(missing_ok=True)


def _put(partial: Path, path: Path) -> None:
    """Gives the file its name, durably, once all of it is in this one file: no write-ahead log beside it."""
    with closing(apsw.Connection(str(partial))) as whole:
        whole.pragma("journal_mode", "delete")
    if path.exists():
        raise BackupRefused(f"{path} was made meanwhile, and a backup overwrites nothing; name a new file")
    file = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    partial.rename(path)
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def back_up(ledger: Path, file: Path, on_pages: Callable[[int, int], None]) -> None:
    """Copies a ledger into a file that `new_file` has made, and checks it.

    `on_pages` gets the number of pages done and of all. The copy is marked as perhaps behind: a worker reads
    Plivo's whole list before its first create on it. Raises `LedgerFailed`.
    """
    with closing(open_to_read(ledger)) as source:
        try:
            with closing(apsw.Connection(str(file))) as target:
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # the moment of the backup
                with target.backup("main", source, "main") as backup:
                    while not backup.done:
                        backup.step(PAGES_AT_ONCE)
                        on_pages(backup.page_count - backup.remaining, backup.page_count)
                        await asyncio.sleep(0)  # Ctrl-C is heard here
                _mark(target)
                found = target.pragma("quick_check")
        except apsw.Error as error:
            raise LedgerFailed(f"the backup failed: {error}") from None
    if found != "ok":
        first = damage_lines(str(found))[0]
        raise LedgerFailed(f"the backup is damaged, and so is the ledger, it seems: {first}")


def damage_lines(found: str) -> list[str]:
    """The damages in one result of SQLite's checks, which may have several lines under a heading."""
    return [line for line in found.splitlines() if not line.startswith("***")] or [found]


def _mark(backup: apsw.Connection) -> None:
    """Also in a ledger of an older version, which has another column for it, or none."""
    columns = {str(row[1]) for row in backup.execute("PRAGMA table_info(ledger)")}
    for column, value in (("caught_up_at", "NULL"), ("caught_up", "0")):
        if column in columns:
            backup.execute(f"UPDATE ledger SET {column} = {value}")  # noqa: S608 - ours
