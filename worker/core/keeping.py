"""The contents of a ledger, in the same form for every kind of ledger, and the part that may be purged.

To copy a ledger, its rows are read as plain values and written to another one. The digest over them tells
whether both hold the same.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import to_json

from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.entry import Entry

RETENTION = timedelta(days=90)
"""How long the answers of events are kept that are not the newest of their department."""

CURRENT_FOR = timedelta(hours=1)
"""How long a ledger that knew every subaccount counts as knowing them, while no worker uses it. One used
longer ago may be a backup that was put back: then the whole list is read before the first create."""

Row = tuple[str | int | None, ...]
"""One row as plain values, in the order of `COLUMNS`."""


class Table(StrEnum):
    """The tables of a ledger. A copy reads and writes them in this order."""

    LEDGER = "ledger"
    """One row: the owner it is bound to. None in a ledger that no worker has started on."""
    SEALED_FOR = "sealed_for"
    DEPARTMENTS = "departments"
    ANSWERS = "answers"
    HOLDS = "holds"
    WISHES = "wishes"
    CALLS = "calls"
    SWEEPS = "sweeps"
    SUSPECTS = "suspects"
    SNAPSHOTS = "snapshots"
    SAID = "said"
    AUDIT = "audit"


COLUMNS: Mapping[Table, tuple[str, ...]] = MappingProxyType(
    {
        Table.LEDGER: ("owner", "provider_account", "caught_up_at"),
        Table.SEALED_FOR: ("recipient",),
        Table.DEPARTMENTS: ("tenant", "department_id", "entry"),
        Table.ANSWERS: ("source", "event_id", "answer"),
        Table.HOLDS: ("id", "hold"),
        Table.WISHES: ("id", "closed", "wish"),
        Table.CALLS: ("tenant", "department_id", "number", "call"),
        Table.SWEEPS: ("id", "finished_at", "report"),
        Table.SUSPECTS: ("message", "marks"),
        Table.SNAPSHOTS: ("source", "as_of", "digest", "revision", "finished", "complete"),
        Table.SAID: (
            *("source", "tenant", "department_id", "name", "as_of", "missing_since", "unsent", "removed"),
        ),
        Table.AUDIT: ("number", "audit"),
    }
)
"""The values of a row. Times are microseconds since 1970; `closed`, `finished`, `complete` and `removed` are
0 or 1; `entry`, `answer`, `hold`, `wish`, `call`, `unsent` and `audit` are the JSON texts on record, to the
byte. All else that a ledger stores beside them is derived from them. Rows are in the order of the columns
that identify them, which come first: texts by code point (`COLLATE "C"`), numbers by size."""


def may_be_behind(caught_up_at: datetime | None, now: datetime) -> bool:
    """Whether the ledger may lack subaccounts that are at the provider: new, lost, or restored."""
    return caught_up_at is None or abs(now - caught_up_at) > CURRENT_FOR


class Schema(NamedTuple):
    """The newest migration of a ledger, and the newest that this version knows."""

    applied: str
    known: str


class PurgeStep(NamedTuple):
    """The result of one step of a purge: answers removed, departments looked at.

    `last`: the last department; None: there was none left.
    """

    removed: int
    looked_at: int
    last: Department | None


@dataclass(slots=True)
class Tally:
    """Counts rows and digests them, in the order in which they are added."""

    counts: dict[Table, int] = field(default_factory=lambda: dict.fromkeys(Table, 0))
    _digest: Any = field(default_factory=hashlib.sha256)

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Adds the next rows of a table."""
        self.counts[table] += len(rows)
        for row in rows:
            self._digest.update(to_json((table.value, *row)) + b"\n")

    @property
    def digest(self) -> str:
        """The digest of all rows so far: SHA-256 of a JSON array for each, in hexadecimal."""
        return str(self._digest.hexdigest())

    @property
    def total(self) -> int:
        """The number of rows so far."""
        return sum(self.counts.values())


def purgeable(entry: Entry, answers: Sequence[Answer]) -> Sequence[Answer]:
    """Those of a department's old answers that it may forget: a replay of their event is `superseded`.

    So their version is on record, and older than the department's. Requests and wishes have none, and a
    version that a person has had forgotten may be the highest: their answers stay. So do those that the entry
    still needs or owes, and those that the broker has not confirmed.
    """
    newest = entry.version
    if newest is None:
        return []
    needed = set(_needed(entry))
    return [
        answer
        for answer in answers
        if answer.confirmed
        and answer.version is not None
        and newest.newer_than(answer.version)
        and answer.event[:2] not in needed
    ]


def _needed(entry: Entry) -> Iterator[tuple[str, ...]]:
    """Source and id of older events whose answers the entry refers to."""
    for cause in (entry.removal.cause if entry.removal else None, entry.hold.cause if entry.hold else None):
        if cause is not None:
            yield cause.reference[:2]
    for answer in entry.owed_results:
        yield answer.event[:2]
