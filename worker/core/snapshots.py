"""Snapshots: complete lists of a source's departments, compared with what the source said before.

All texts are in the contract's one spelling, so that two spellings of one name are the same state.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from contracts import text
from contracts.departments import (
    DEFAULT_TENANT,
    DepartmentCreated,
    DepartmentEvent,
    DepartmentRemoved,
    DepartmentRenamed,
    Kind,
    digest_of_payload,
)
from contracts.envelope import rfc3339
from contracts.subaccounts import NAMESPACE
from worker.core.model.departments import Department

SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The name of a source: it is a part of a URI."""

FOOTERS = frozenset({"total", "totals", "grand total", "sum", "subtotal", "gesamt", "summe", "(blank)"})
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_EXPONENT = re.compile(r"[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+")
_DATE = re.compile(
    r"(?:0?[1-9]|[12][0-9]|3[01])[-/](?:0?[1-9]|[12][0-9]|3[01])"
    r"|(?:19|20)[0-9]{2}[-/](?:0?[1-9]|1[0-2])(?:[-/][0-9]{1,2})?"
    r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)?[0-9]{2}"
    rf"|[0-9]{{1,2}}[- ](?:{_MONTHS})|(?:{_MONTHS})[- ][0-9]{{1,4}}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list. `line`: its number, or that of its first line."""

    department: Department
    name: str
    line: int
    parent_id: str | None = None

    def says_as(self, other: "Row") -> bool:
        """Whether both rows say the same of one department."""
        return (self.department, self.name, self.parent_id) == (other.department, other.name, other.parent_id)


@dataclass(frozen=True, slots=True)
class Said:
    """A department as its source has last named it, in its snapshot of `as_of`.

    `missing_since`: of the first of the complete snapshots without it, as far as they follow one another.
    `unsent`: the event as JSON, until the broker has confirmed it. `removed`: that event is a removal, and
    nothing is said of the department after it.
    """

    department: Department
    name: str
    as_of: datetime
    missing_since: datetime | None = None
    unsent: str | None = None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """The last snapshot of a source that was applied, wholly or in part.

    `digest`: that of its plan. `revision` grows with each change of what the source said. `finished`: all of
    it was sent. `complete`: no line of it was refused.
    """

    source: str
    as_of: datetime
    digest: str
    revision: int
    finished: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Create:
    """The source has not said this department before."""

    row: Row


@dataclass(frozen=True, slots=True)
class Rename:
    """The source said another name before."""

    row: Row
    previous_name: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The source said this department before, and its list is without it."""

    said: Said


@dataclass(frozen=True, slots=True)
class Same:
    """Nothing is to be sent."""


Difference = Create | Rename | Missing | Same
SAME = Same()


def difference(row: Row | None, said: Said | None) -> Difference:
    """How a row differs from what the source said of the same department; None where there is no such."""
    if said is not None and said.removed:
        said = None
    match row, said:
        case Row(), None:
            return Create(row)
        case Row(), Said() if row.name != said.name:
            return Rename(row, said.name)
        case None, Said():
            return Missing(said)
        case _:
            return SAME


def row_of(given: Mapping[str, Any], line: int, *, from_csv: bool = False) -> Row:
    """The row with these members. Raises `ValueError`; its text names members, never their values.

    `from_csv`: a spreadsheet may have changed the id.
    """
    id_ = _read(given, "department_id")
    if from_csv:
        check_id(id_)
    name = _read(given, "name", spelling=text.name)
    parent_id = _read(given, "parent_id") if given.get("parent_id") is not None else None
    tenant = _read(given, "tenant") if given.get("tenant") is not None else DEFAULT_TENANT
    return Row(Department(tenant, id_), name, line, parent_id)


def _read(given: Mapping[str, Any], member: str, spelling: Any = text.identifier) -> str:
    if given.get(member) is None:
        raise ValueError(f"{member} is missing")
    try:
        return str(spelling(given[member]))
    except ValueError as error:
        raise ValueError(f"{member} {error}") from None


def check_id(id_: str) -> None:
    """Raises `ValueError` for an id that a spreadsheet has probably changed, or that ends a table."""
    if _EXPONENT.fullmatch(id_):
        raise ValueError(
            "department_id is a number with an exponent: a spreadsheet has rounded it; export JSON"
        )
    if _DATE.fullmatch(id_):
        raise ValueError("department_id looks like a date: a spreadsheet may have made it one; export JSON")
    if id_.casefold() in FOOTERS:
        raise ValueError("department_id is that of a footer, not of a department")


def source_uri(name: str) -> str:
    """The `source` of the events of a snapshot."""
    return f"/snapshot/{name}"


def event_for(source: str, kind: Kind, row: Row, as_of: datetime) -> DepartmentEvent:
    """The event that says this of a department. The same words always have the same id, and no others."""
    data: dict[str, Any] = {"department_id": row.department.id, "name": row.name}
    if row.parent_id is not None and kind is Kind.CREATED:
        data["parent_id"] = row.parent_id
    type_ = f"department.{kind}.v1"
    payload = digest_of_payload(type_, row.department.tenant, data)
    parts = ["snapshot", source, *row.department, payload, rfc3339(as_of)]
    attributes = {
        "id": str(uuid.uuid5(NAMESPACE, to_json(parts).decode())),
        "source": source_uri(source),
        "type": type_,
        "time": as_of,
        "subject": row.department.id,
        "tenant": row.department.tenant,
        "data": data,
    }
    event: DepartmentEvent = _EVENTS[kind].model_validate(attributes)
    return event


_EVENTS: Mapping[Kind, Any] = {
    Kind.CREATED: DepartmentCreated,
    Kind.RENAMED: DepartmentRenamed,
    Kind.REMOVED: DepartmentRemoved,
}


def may_go(since: datetime | None, as_of: datetime) -> bool:
    """Whether a missing department may be removed: an older snapshot was without it already."""
    return since is not None and since < as_of


def settled(said: Said) -> Said | None:
    """The row on record once the broker has confirmed the event; None: there is none any more."""
    return None if said.removed else replace(said, unsent=None)


def why_refused(as_of: datetime, last: Standing | None, now: datetime) -> str | None:
    """Why a snapshot of this moment cannot be planned; None if it can."""
    if as_of > now:
        return f"the snapshot is of {rfc3339(as_of)}, which lies in the future: is a clock wrong?"
    if last is not None and as_of < last.as_of:
        return (
            f"the snapshot is of {rfc3339(as_of)}, and one of {rfc3339(last.as_of)} was applied: an older"
            " list must not undo it"
        )
    return None


class PlanDigest:
    """The digest of a plan, whose items come in any order of its sections. Items are digested as JSON."""

    def __init__(self, sections: tuple[str, ...]) -> None:
        self._of = {section: hashlib.sha256() for section in sections}

    def add(self, section: str, item: Any) -> None:
        """Adds the next item of a section."""
        self._of[section].update(canonical(item) + b"\n")

    def hexdigest(self, rest: Mapping[str, Any]) -> str:
        """The digest of all sections, and of the other members of the plan: SHA-256 in hexadecimal."""
        whole = hashlib.sha256(canonical(dict(rest)))
        for section, part in self._of.items():
            whole.update(f"\n{section} {part.hexdigest()}".encode())
        return whole.hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted members and no white space: the order in which a tool writes them is no change."""
    return to_json(_sorted(value))


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {name: _sorted(value[name]) for name in sorted(value)}
        case list():
            return [_sorted(item) for item in value]
        case _:
            return value
