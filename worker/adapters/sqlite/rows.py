"""Entries, answers and wishes as JSON in the tables, beside the columns for queries.

An entry's sub-values are flattened: the JSON has the keys of the first version, so ledgers of every version
can be read, and SQL can read one field (`entry ->> 'owed_at'`). No other module knows both forms. A new field
needs a key with a default here, for rows that were written before.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import ValidationError

from contracts.departments import Version
from worker.core.model import (
    NO_TRACE,
    Answer,
    Check,
    Claim,
    Debt,
    Department,
    Entry,
    Fingerprint,
    IssuedCredentials,
    PartialReissue,
    Reference,
    Removed,
    Status,
    Trace,
    Wish,
)
from worker.ports import LedgerFailed

T = TypeVar("T")


@dataclass(slots=True)
class EntryRow:
    """The JSON of an entry."""

    department: Department
    revision: int
    status: Status
    incarnation: int = 1
    generation: int = 0
    name: str | None = None
    auth_id: str | None = None
    version: Version | None = None
    version_type: str | None = None
    claim: Claim | None = None
    owed_to: frozenset[str] = frozenset()
    issued_for: Reference | None = None
    issued_trace: Trace = NO_TRACE
    owed_at: datetime | None = None
    created_at: datetime | None = None
    removed_at: datetime | None = None
    check_at: datetime | None = None
    late_call: bool = False
    recount_at: datetime | None = None
    enable_owed: bool = False
    fingerprint: Fingerprint | None = None
    reissued_at: datetime | None = None
    partial_reissues: tuple[PartialReissue, ...] = ()
    mends: int = 0
    missing_since: datetime | None = None
    gone_at: datetime | None = None
    api_id: str | None = None


_ENTRY = TypeAdapter(EntryRow)
_ANSWER = TypeAdapter(Answer)
_WISH = TypeAdapter(Wish)


def entry_json(entry: Entry) -> str:
    """Encodes an entry."""
    issued, debt, check = entry.issued, entry.debt, entry.check
    row = EntryRow(
        department=entry.department,
        revision=entry.revision,
        status=entry.status,
        incarnation=entry.incarnation,
        generation=entry.generation,
        name=entry.name,
        auth_id=entry.auth_id,
        version=entry.version,
        version_type=entry.version_type,
        claim=entry.claim,
        owed_to=entry.owed_to,
        issued_for=issued.cause if issued else None,
        issued_trace=issued.trace if issued else NO_TRACE,
        owed_at=debt.retry_at if debt else None,
        created_at=entry.created_at,
        removed_at=entry.removal.removed_at if entry.removal else None,
        check_at=check.at if check else None,
        late_call=check is not None and check.late_call,
        recount_at=entry.duplicates_check_at,
        enable_owed=debt is not None and debt.enable,
        fingerprint=issued.fingerprint if issued else None,
        reissued_at=issued.reissued_at if issued else None,
        partial_reissues=issued.partial_reissues if issued else (),
        mends=entry.repairs,
        missing_since=entry.missing_since,
        gone_at=entry.gone_at,
        api_id=entry.api_id,
    )
    return _ENTRY.dump_json(row).decode()


def entry_of(text: Any) -> Entry:
    """Decodes an entry; raises `LedgerFailed` for invalid JSON and for an inconsistent entry."""
    row = _validated(_ENTRY, text)
    try:
        return Entry(
            department=row.department,
            revision=row.revision,
            status=row.status,
            incarnation=row.incarnation,
            name=row.name,
            auth_id=row.auth_id,
            version=row.version,
            version_type=row.version_type,
            created_at=row.created_at,
            claim=row.claim,
            issued=_issued_of(row),
            debt=_debt_of(row),
            check=_check_of(row),
            duplicates_check_at=row.recount_at,
            removal=Removed(row.removed_at) if row.removed_at else None,
            repairs=row.mends,
            missing_since=row.missing_since,
            gone_at=row.gone_at,
            api_id=row.api_id,
        )
    except ValueError:
        raise _damaged() from None


def answer_json(answer: Answer) -> str:
    """Encodes an answer."""
    return _ANSWER.dump_json(answer).decode()


def answer_of(text: Any) -> Answer:
    """Decodes an answer; raises `LedgerFailed` for invalid JSON."""
    return _validated(_ANSWER, text)


def wish_json(wish: Wish) -> str:
    """Encodes a wish."""
    return _WISH.dump_json(wish).decode()


def wish_of(text: Any) -> Wish:
    """Decodes a wish; raises `LedgerFailed` for invalid JSON."""
    return _validated(_WISH, text)


def _issued_of(row: EntryRow) -> IssuedCredentials | None:
    cause = row.issued_for
    if cause is None:
        return None
    return IssuedCredentials(
        cause,
        row.issued_trace,
        row.generation,
        row.fingerprint,
        row.reissued_at,
        row.partial_reissues,
    )


def _debt_of(row: EntryRow) -> Debt | None:
    recipients, enable = row.owed_to, row.enable_owed
    return Debt(recipients, enable, row.owed_at) if recipients or enable else None


def _check_of(row: EntryRow) -> Check | None:
    """Drops the meaningless check that earlier versions set for an adoption without an answer."""
    at = row.check_at
    if at is None or row.auth_id is None:
        return None
    return Check(at, row.late_call)


def _validated(adapter: TypeAdapter[T], text: Any) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError:
        raise _damaged() from None


def _damaged() -> LedgerFailed:
    return LedgerFailed("a row of the ledger cannot be read: damaged, or of another version")
