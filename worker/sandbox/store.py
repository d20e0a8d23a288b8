"""Stores of the state: none, or a file that survives a killed process."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from worker.sandbox.records import KINDS
from worker.sandbox.state import Change

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    kind TEXT, key TEXT, sequence INTEGER, body TEXT, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value REAL) WITHOUT ROWID;
"""
_ADAPTERS: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {kind.__name__: TypeAdapter(kind) for kind in KINDS}
)


class StoreError(Exception):
    """The file cannot be used; the text gives the reason in one line."""


class Store(Protocol):
    """Keeps records between runs."""

    @property
    def runs(self) -> int:
        """The number of times this state was opened before."""

    @property
    def ahead(self) -> timedelta:
        """The lead of simulated time over real time."""

    def load(self) -> Iterator[tuple[Any, int]]:
        """Yield every record with its place in the order of creation."""

    def save(self, changes: Sequence[Change]) -> None:
        """Save the changes in one transaction."""

    def save_ahead(self, ahead: timedelta) -> None:
        """Save the lead of simulated time over real time."""

    def close(self) -> None:
        """Close the store."""


class NoStore:
    """Keeps nothing."""

    runs = 0
    ahead = timedelta(0)

    def load(self) -> Iterator[tuple[Any, int]]:
        """Yield nothing."""
        return iter(())

    def save(self, changes: Sequence[Change]) -> None:
        """Do nothing."""

    def save_ahead(self, ahead: timedelta) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class FileStore:
    """A SQLite file, locked exclusively. Saved changes survive a killed process, but not a power cut."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises StoreError if it is unusable or in use."""
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        except sqlite3.Error as error:
            raise self._error(error) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._error(error) from None

    def _prepare(self) -> None:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=OFF"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(_SCHEMA)
        self.runs = int(self._fact("runs"))
        self._set_fact("runs", self.runs + 1)

    @property
    def ahead(self) -> timedelta:
        """The lead of simulated time over real time."""
        return timedelta(seconds=self._fact("ahead"))

    def load(self) -> Iterator[tuple[Any, int]]:
        """Yield every record with its place in the order of creation."""
        rows = self._connection.execute("SELECT kind, sequence, body FROM record ORDER BY sequence")
        try:
            for kind, sequence, body in rows:
                yield _ADAPTERS[kind].validate_json(body), sequence
        except (KeyError, ValidationError):
            raise self._error("another version wrote it") from None

    def save(self, changes: Sequence[Change]) -> None:
        """Save the changes in one transaction."""
        if not changes:
            return
        self._connection.execute("BEGIN")
        for change in changes:
            if change.record is None:
                self._connection.execute(
                    "DELETE FROM record WHERE kind = ? AND key = ?", (change.kind, change.key)
                )
            else:
                body = _ADAPTERS[change.kind].dump_json(change.record).decode()
                row = (change.kind, change.key, change.sequence, body)
                self._connection.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)", row)
        self._connection.execute("COMMIT")

    def save_ahead(self, ahead: timedelta) -> None:
        """Save the lead of simulated time over real time."""
        self._set_fact("ahead", ahead.total_seconds())

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _error(self, reason: object) -> StoreError:
        return StoreError(f"cannot use {self._path} as a state file: {reason}")

    def _fact(self, name: str) -> float:
        row = self._connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return float(row[0]) if row else 0.0

    def _set_fact(self, name: str, value: float) -> None:
        self._connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))
