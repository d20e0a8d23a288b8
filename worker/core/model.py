"""The nouns every stage shares: event, entry, answer."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from contracts.departments import (
    DepartmentCreated,
    DepartmentRemoved,
    DepartmentRenamed,
    Kind,
    Version,
)
from contracts.reissues import ReissueRequested
from contracts.subaccounts import ResultKind

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - for whoever imports it from here
else:

    def replace(value: T, **changes: Any) -> T:
        """`dataclasses.replace` for what an entry is made of, in a fifth of the time.

        One event changes its entry seven times, and that copies it field by field.
        """
        if not changes.keys() <= value.__dict__.keys():
            raise TypeError(f"{type(value).__name__} has no {changes.keys() - value.__dict__.keys()}")
        changed = object.__new__(type(value))
        changed.__dict__.update(value.__dict__, **changes)
        return changed


EVERYBODY = ""
"""The one recipient there is while no recipients are named: whoever is bound to the secrets exchange."""


class Department(NamedTuple):
    """Whom an event is about: an id is unique within its tenant only."""

    tenant: str
    id: str


class Reference(NamedTuple):
    """Names one event. `type` is what its producer wrote."""

    source: str
    id: str
    type: str


class Trace(NamedTuple):
    """What an event hands on to the messages it causes."""

    traceparent: str | None = None
    tracestate: str | None = None
    correlationid: str | None = None


NO_TRACE = Trace()


@dataclass(frozen=True, slots=True)
class Event:
    """A valid department event, as far as decisions need it."""

    department: Department
    version: Version
    reference: Reference
    payload_digest: str
    name: str | None = None
    trace: Trace = NO_TRACE

    @property
    def kind(self) -> Kind:
        return self.version.kind

    @classmethod
    def of(
        cls,
        event: DepartmentCreated | DepartmentRenamed | DepartmentRemoved,
        sent_type: str,
        payload_digest: str,
    ) -> "Event":
        return cls(
            department=Department(event.tenant, event.data.department_id),
            version=event.version,
            reference=Reference(event.source, event.id, sent_type),
            payload_digest=payload_digest,
            name=event.data.name,
            trace=Trace(event.traceparent, event.tracestate, event.correlationid),
        )


@dataclass(frozen=True, slots=True)
class Reissue:
    """A request to issue a department's credentials again, to one recipient or to all.

    `cause` is what the ids of these credentials are derived from.
    """

    department: Department
    reference: Reference
    payload_digest: str
    recipient: str | None
    cause: tuple[str, ...]
    trace: Trace = NO_TRACE

    @classmethod
    def of(cls, request: ReissueRequested, sent_type: str, payload_digest: str) -> "Reissue":
        return cls(
            department=Department(request.tenant, request.data.department_id),
            reference=Reference(request.source, request.id, sent_type),
            payload_digest=payload_digest,
            recipient=request.data.recipient,
            cause=(request.source, request.id),
            trace=Trace(request.traceparent, request.tracestate, request.correlationid),
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks the running worker for: to issue a department's credentials again."""

    id: str
    department: Department
    recipient: str | None
    asked_by: str
    asked_at: datetime


class Fingerprint(NamedTuple):
    """Tells one auth token from another, without telling either. `key_check` names the key it was made by."""

    key_check: str
    token: str

    def differs(self, other: "Fingerprint") -> bool:
        """Whether the tokens certainly do: of two keys, nobody can tell."""
        return self.key_check == other.key_check and self.token != other.token


class Status(StrEnum):
    """Where a department stands.

    A claimed one has a create on its way whose outcome is not recorded. Deleting is durable before DELETE is
    sent, and there is no way back from it.
    """

    ABSENT = "absent"
    CLAIMED = "claimed"
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETING = "deleting"
    REMOVED = "removed"


@dataclass(frozen=True)
class Claim:
    """The durable intent to create: since when, for which event, under which idempotency key.

    `attempt` counts the creates for this event whose outcome stayed unknown, this one with them;
    `clean_scans` the complete scans since it began that saw nothing. It is kept when the create came to
    nothing, for the next one to count on, and goes with success.
    """

    started_at: datetime
    idempotency_key: str
    event: Reference
    attempt: int = 1
    clean_scans: int = 0
    trace: Trace = NO_TRACE


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of one department. Never a token.

    `revision` counts writes: a write holds only if nobody wrote since the entry was recalled.
    `incarnation` is that of the subaccount there is, or else of the next one.
    `version` is that of the newest event answered, `version_type` its type as its producer wrote it.
    `owed_to` names the recipients whose credentials the broker has not confirmed.
    `issued_for` is the event that caused those credentials, `issued_trace` its trace.
    `check_at` is when entry and provider are to be compared: set before a change is sent, it goes with the
    change's record, but stays where `late_call` says that an unanswered one may yet be carried out.
    `owed_at` is when to try again to deliver them, or to enable, should nothing else have done so by then.
    `enable_owed`: it was made disabled, and is to be enabled once its credentials are confirmed.
    `fingerprint` is that of the token last published; `reissued_at` is when somebody asked for that.
    `recount_at` is when to look once more for doubles: a create was taken for lost, or came out twice.
    `mends` counts how often a check had to set something right.
    """

    department: Department
    revision: int = 0
    status: Status = Status.ABSENT
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
    mends: int = 0

    @property
    def newest(self) -> Reference | None:
        """The newest event answered."""
        if self.version is None:
            return None
        type_ = self.version_type or f"department.{self.version.kind}.v1"
        return Reference(self.version.source, self.version.id, type_)

    @property
    def owes(self) -> bool:
        """Whether anybody waits for credentials, or the subaccount for being enabled."""
        return self.enable_owed or bool(self.owed_to)

    @property
    def held_back(self) -> bool:
        """Whether its subaccount must not be enabled yet: its credentials are not confirmed."""
        return self.enable_owed and bool(self.owed_to)

    def unknown_creates(self, event: Reference) -> int:
        """How many creates for this very event have ended unknown so far."""
        return self.claim.attempt if self.claim and self.claim.event == event else 0

    @property
    def due_at(self) -> datetime | None:
        """When the next of its duties is due: never while a create is open, for it only looks then."""
        if self.status is Status.CLAIMED:
            return None
        dues = [at for at in (self.check_at, self.recount_at, self.owed_at) if at is not None]
        return min(dues) if dues else None


@dataclass(frozen=True)
class Answer:
    """The final outcome of one event, as it is recorded and published."""

    department: Department
    event: Reference
    payload_digest: str
    outcome: ResultKind
    answered_at: datetime
    name: str | None = None
    auth_id: str | None = None
    reason: str | None = None
    superseded_by: Reference | None = None
    trace: Trace = NO_TRACE
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Recollection:
    """What the ledger knows when a step begins: the department, and whether this very event was answered."""

    entry: Entry
    answer: Answer | None = None
