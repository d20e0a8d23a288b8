"""The lock of the one worker that works on an SQLite ledger: a file beside it, locked with flock(2).

The system gives the lock back when the process ends, however it ends, so none is ever left behind. The file
stays: another process may hold it open. Its text names the process that locked it last.

On NFS, Linux passes flock on to the server, so it also excludes other hosts, unless the mount says `nolock`
or `local_lock`. An SQLite ledger must not be there anyway: its write-ahead log needs memory that all its
processes share, https://www.sqlite.org/wal.html.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.ports import LedgerTaken

LONGEST_HOLDER = 200


def lock_path(ledger: Path) -> Path:
    """The lock file of a ledger. A link to the ledger has the same one, as it has the same log of SQLite."""
    real = ledger.resolve()
    return real.with_name(f"{real.name}.lock")


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """Holds the lock for the block. Raises `LedgerTaken` if another worker has it, and `OSError`."""
    file = os.open(lock_path(ledger), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(file, fcntl.LOCK_EX, ledger)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


@contextmanager
def no_worker(ledger: Path) -> Iterator[None]:
    """Keeps workers away from a ledger that is read. Raises `LedgerTaken` while one has the lock.

    A ledger that never had a worker of this kind, such as a backup, has no lock file and gets none.
    """
    try:
        file = os.open(lock_path(ledger), os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _take(file, fcntl.LOCK_SH, ledger)
        yield
    finally:
        os.close(file)


def _take(file: int, kind: int, ledger: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LedgerTaken(
            f"the ledger {ledger} is in use by {_holder(file)}, and an SQLite ledger is for one worker"
            " at a time: stop that one, or set LEDGER_URL to a PostgreSQL ledger, which many workers share"
        ) from None


def _holder(file: int) -> str:
    written = os.pread(file, LONGEST_HOLDER, 0).decode(errors="replace").split("\n")[0]
    return written or "another process"
