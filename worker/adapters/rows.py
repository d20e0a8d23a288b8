"""Entries, answers, wishes, holds, calls, lines of the audit as JSON in tables, and instants for queries.

An entry's sub-values are flattened: the JSON has the keys of the first version, so ledgers of every version
can be read, and SQL can read one field (`entry ->> 'owed_at'`). No other module knows both forms. A new field
needs a key with a default here, for rows that were written before. A key that has its default is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import ValidationError

from contracts.departments import Version
from worker.core.dead_letters import AuditLine
from worker.core.keeping import purgeable
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import NO_TRACE, Cause, Reference, Trace
from worker.core.model.credentials import Debt, Fingerprint, IssuedCredentials, PartialReissue
from worker.core.model.departments import Department
from worker.core.model.entry import Begun, Check, Claim, Entry, NewerEvent, Status
from worker.core.model.holds import Hold
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.core.model.replace import replace
from worker.core.model.wishes import Wish
from worker.core.presence import WorkerSeen
from worker.core.snapshots import Said, Standing
from worker.ports import LedgerFailed

T = TypeVar("T")

NOBODY: frozenset[str] = frozenset()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class RareRow:
    """The JSON of the facts that most entries do not have, under one key: a key costs time in each write."""

    cause: Cause | None = None
    counted_at: datetime | None = None
    auth_id: str | None = None
    cancelled: bool = False
    wanted_by: NewerEvent | None = None
    begun: Begun | None = None
    hold: Hold | None = None
    holds_made: int = 0
    removing: Removing | None = None
    deletion: Deletion | None = None
    retry: Retry | None = None
    past_removals: tuple[datetime, ...] = ()
    owed_results: tuple[Answer, ...] = ()
    results_at: datetime | None = None
    supersedes: str | None = None
    keeps_name: bool = False
    kept_name: str | None = None


NOTHING_RARE = RareRow()


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
    rare: RareRow | None = None


_ENTRY = TypeAdapter(EntryRow)
_ANSWER = TypeAdapter(Answer)
_WISH = TypeAdapter(Wish)
_HOLD = TypeAdapter(Hold)
_CALL = TypeAdapter(CallNote)
_WORKER = TypeAdapter(WorkerSeen)
_LINE = TypeAdapter(AuditLine)


def entry_json(entry: Entry) -> str:
    """Encodes an entry."""
    issued, debt, check = entry.issued, entry.debt, entry.check
    row = EntryRow(
        department=entry.department,
        revision=entry.revision,
        status=entry.status,
        incarnation=entry.incarnation,
        generation=issued.generation if issued else 0,
        name=entry.name,
        auth_id=entry.auth_id,
        version=entry.version,
        version_type=entry.version_type,
        claim=entry.claim,
        owed_to=debt.recipients if debt else NOBODY,
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
        rare=_rare_of(entry),
    )
    return _ENTRY.dump_json(row, exclude_defaults=True).decode()


def entry_of(text: Any) -> Entry:
    """Decodes an entry; raises `LedgerFailed` for invalid JSON and for an inconsistent entry."""
    row = _validated(_ENTRY, text)
    rare = row.rare or NOTHING_RARE
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
            wanted_by=rare.wanted_by,
            begun=rare.begun,
            created_at=row.created_at,
            claim=row.claim,
            issued=_issued_of(row),
            debt=_debt_of(row),
            check=_check_of(row),
            duplicates_check_at=row.recount_at,
            removal=_removal_of(row),
            repairs=row.mends,
            missing_since=row.missing_since,
            gone_at=row.gone_at,
            api_id=row.api_id,
            hold=rare.hold,
            holds_made=rare.holds_made,
            removing=rare.removing,
            deletion=_deletion_of(row),
            retry=rare.retry,
            past_removals=rare.past_removals,
            owed_results=rare.owed_results,
            results_at=rare.results_at,
            keeps_name=rare.keeps_name,
            kept_name=rare.kept_name,
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


def hold_json(hold: Hold) -> str:
    """Encodes a hold."""
    return _HOLD.dump_json(hold).decode()


def hold_of(text: Any) -> Hold:
    """Decodes a hold; raises `LedgerFailed` for invalid JSON."""
    return _validated(_HOLD, text)


def call_json(call: CallNote) -> str:
    """Encodes a call."""
    return _CALL.dump_json(call).decode()


def call_of(text: Any) -> CallNote:
    """Decodes a call; raises `LedgerFailed` for invalid JSON."""
    return _validated(_CALL, text)


def counted_removals(entry: Entry) -> list[int] | None:
    """The times of the entry's counted removals, in microseconds since 1970; None without any."""
    if not (entry.removal or entry.removing or entry.past_removals):
        return None
    return [microseconds(at) for at in entry.counted_removals] or None


def unix(moment: datetime | None) -> float | None:
    """Unix time."""
    return moment.timestamp() if moment else None


def moment_of(seconds: Any) -> datetime:
    """The instant of a Unix time."""
    return datetime.fromtimestamp(seconds, UTC)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970: exact, unlike Unix time with its fractions."""
    return (moment - EPOCH) // MICROSECOND


def moment_at(since_1970: int) -> datetime:
    """The instant of `microseconds`."""
    return EPOCH + since_1970 * MICROSECOND


def standing_row(standing: Standing) -> tuple[Any, ...]:
    """The last snapshot of a source in the order of its columns."""
    flags = int(standing.finished), int(standing.complete)
    return standing.source, microseconds(standing.as_of), standing.digest, standing.revision, *flags


def standing_of(row: Sequence[Any]) -> Standing:
    """Decodes a row of `snapshots`."""
    source, as_of, digest, revision, finished, complete = row
    return Standing(source, moment_at(as_of), digest, revision, bool(finished), bool(complete))


def said_row(source: str, said: Said) -> tuple[Any, ...]:
    """A department in a source's snapshot, in the order of its columns."""
    missing_since = None if said.missing_since is None else microseconds(said.missing_since)
    as_of = microseconds(said.as_of)
    return source, *said.department, said.name, as_of, missing_since, said.unsent, int(said.removed)


def said_of(row: Sequence[Any]) -> Said:
    """Decodes a row of `said`, without its source."""
    tenant, id_, name, as_of, missing, unsent, removed = row
    since = None if missing is None else moment_at(missing)
    return Said(Department(tenant, id_), name, moment_at(as_of), since, unsent, bool(removed))


def audit_json(line: AuditLine) -> str:
    """Encodes a line of the audit."""
    return _LINE.dump_json(line).decode()


def audit_of(text: Any) -> AuditLine:
    """Decodes a line of the audit; raises `LedgerFailed` for invalid JSON."""
    return _validated(_LINE, text)


def forgettable(entry: Any, answers: Sequence[Any]) -> Iterator[tuple[Entry, Answer]]:
    """The entry of a department with each of its old answers to forget; nothing if a text is damaged."""
    if not answers:
        return
    try:
        decoded = entry_of(entry)
        found = purgeable(decoded, [answer_of(text) for text in answers])
    except LedgerFailed:
        return
    for answer in found:
        yield decoded, answer


def worker_json(worker: WorkerSeen) -> str:
    """Encodes what a worker says of itself."""
    return _WORKER.dump_json(worker).decode()


def worker_of(text: Any, seen_at: float, *, left: bool) -> WorkerSeen:
    """Decodes what a worker said of itself at this Unix time; raises `LedgerFailed` for invalid JSON."""
    return replace(_validated(_WORKER, text), seen_at=moment_of(seen_at), left=left)


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
        row.rare.supersedes if row.rare else None,
    )


def _rare_of(entry: Entry) -> RareRow | None:
    removal, supersedes = entry.removal, entry.issued.supersedes if entry.issued else None
    facts = (removal, entry.removing, entry.deletion, entry.retry, entry.hold, entry.holds_made)
    if not (
        any(facts)
        or entry.wanted_by
        or entry.begun
        or entry.past_removals
        or entry.owed_results
        or supersedes
        or entry.keeps_name
    ):
        return None
    return RareRow(
        cause=removal.cause if removal else None,
        counted_at=removal.counted_at if removal else None,
        auth_id=removal.auth_id if removal else None,
        cancelled=removal is not None and removal.cancelled,
        wanted_by=entry.wanted_by,
        begun=entry.begun,
        hold=entry.hold,
        holds_made=entry.holds_made,
        removing=entry.removing,
        deletion=entry.deletion,
        retry=entry.retry,
        past_removals=entry.past_removals,
        owed_results=entry.owed_results,
        results_at=entry.results_at,
        supersedes=supersedes,
        keeps_name=entry.keeps_name,
        kept_name=entry.kept_name,
    )


def _removal_of(row: EntryRow) -> Removed | None:
    """Without a cause, as in a row of an earlier version, nothing is deleted later."""
    if row.removed_at is None:
        return None
    rare = row.rare or NOTHING_RARE
    return Removed(row.removed_at, rare.cause, rare.counted_at, rare.auth_id, rare.cancelled)


def _deletion_of(row: EntryRow) -> Deletion | None:
    """A row that no migration has seen yet is only read: its deletion began after its subaccount was made."""
    deletion = row.rare.deletion if row.rare else None
    if deletion is None and row.status is Status.DELETING and row.created_at is not None:
        return Deletion(row.created_at, in_doubt=True)
    return deletion


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
