"""The values that every stage shares: event, entry, answer.

An entry is the ledger's knowledge of one department. It is made of sub-values, one for each fact that is
present as a whole or not at all: a claim, the credentials issued, a debt, a check, a removal. Each of them,
and the entry, checks itself when it is made, so no other module needs to ask whether an active department has
a subaccount. A combination that breaks a rule raises `ValueError` where it is built, and never reaches the
ledger. To add a state, add a sub-value or a rule here first.
"""

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
from contracts.subaccounts import ResultCode, ResultKind

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - exported under this name
else:

    def replace(value: T, **changes: Any) -> T:
        """`dataclasses.replace` for the values below, checks included, in a fraction of the time.

        One event changes its entry seven times, and `dataclasses.replace` copies it field by field.
        """
        if not changes.keys() <= value.__dict__.keys():
            raise TypeError(f"{type(value).__name__} has no {changes.keys() - value.__dict__.keys()}")
        changed = object.__new__(type(value))
        changed.__dict__.update(value.__dict__, **changes)
        if check := getattr(changed, "__post_init__", None):
            check()
        return changed


ANY_RECIPIENT = ""
"""The recipient while none is configured: any queue bound to the secrets exchange."""


class Department(NamedTuple):
    """Identifies a department: an id is unique within its tenant only."""

    tenant: str
    id: str


class Reference(NamedTuple):
    """Identifies one event. `type` is as its producer wrote it; empty if it cannot be read."""

    source: str
    id: str
    type: str


class Trace(NamedTuple):
    """The tracing attributes that an event passes on to the messages it causes."""

    traceparent: str | None = None
    tracestate: str | None = None
    correlationid: str | None = None


NO_TRACE = Trace()


@dataclass(frozen=True, slots=True)
class Cause:
    """The reason for a step; its answer refers to it.

    An event is a cause. A step that is due later has the cause it was scheduled for, or none. The answer to a
    cause without a `version` does not change the department's newest event.
    """

    reference: Reference
    payload_digest: str
    version: Version | None = None
    name: str | None = None
    trace: Trace = NO_TRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Cause):
    """A valid department event, reduced to the fields that decisions need."""

    department: Department
    version: Version

    @property
    def kind(self) -> Kind:
        """The kind of event: created, renamed or removed."""
        return self.version.kind

    @classmethod
    def of(
        cls,
        event: DepartmentCreated | DepartmentRenamed | DepartmentRemoved,
        sent_type: str,
        payload_digest: str,
    ) -> "Event":
        """Reduces a valid event; `sent_type` is its type as its producer wrote it."""
        return cls(
            department=Department(event.tenant, event.data.department_id),
            version=event.version,
            reference=Reference(event.source, event.id, sent_type),
            payload_digest=payload_digest,
            name=event.data.name,
            trace=Trace(event.traceparent, event.tracestate, event.correlationid),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recreation(Cause):
    """A person's request to create a subaccount for a department whose own is gone."""

    department: Department
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Reissue:
    """A request to issue a department's credentials again, to one recipient or to all.

    The ids of these credentials are derived from `cause`.
    """

    department: Department
    reference: Reference
    payload_digest: str
    recipient: str | None
    cause: tuple[str, ...]
    trace: Trace = NO_TRACE

    @classmethod
    def of(cls, request: ReissueRequested, sent_type: str, payload_digest: str) -> "Reissue":
        """Reduces a valid request; `sent_type` is its type as its producer wrote it."""
        return cls(
            department=Department(request.tenant, request.data.department_id),
            reference=Reference(request.source, request.id, sent_type),
            payload_digest=payload_digest,
            recipient=request.data.recipient,
            cause=(request.source, request.id),
            trace=Trace(request.traceparent, request.tracestate, request.correlationid),
        )


class WishKind(StrEnum):
    """The things that a person can ask the running worker for."""

    REISSUE = "reissue"
    """To issue a department's credentials again."""
    RECREATE = "recreate"
    """To create a subaccount for a department whose own is gone."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An operator's request to the running worker. `recipient`: of a reissue; None: all recipients."""

    id: str
    department: Department
    recipient: str | None
    asked_by: str
    asked_at: datetime
    kind: WishKind = WishKind.REISSUE


class Fingerprint(NamedTuple):
    """A keyed digest that tells auth tokens apart without revealing them. `key_check` identifies the key."""

    key_check: str
    token: str

    def differs(self, other: "Fingerprint") -> bool:
        """Whether the tokens certainly differ; False for fingerprints made with different keys."""
        return self.key_check == other.key_check and self.token != other.token


class Status(StrEnum):
    """The state of a department's subaccount.

    CLAIMED: a create may have been sent, and its outcome is not on record. DELETING is durable before the
    delete is sent, and only REMOVED follows it.
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

    `attempt` counts the creates for this event with an unknown outcome, including this one; `clean_scans`
    the complete scans since it began that found nothing. A claim outlives a create that did not happen, so
    that the next create continues the count, and ends with a successful one.
    """

    started_at: datetime
    idempotency_key: str
    event: Reference
    attempt: int = 1
    clean_scans: int = 0
    trace: Trace = NO_TRACE

    def __post_init__(self) -> None:
        if self.attempt < 0 or self.clean_scans < 0:
            raise ValueError("a claim counts attempts and scans from 0")


@dataclass(frozen=True)
class PartialReissue:
    """A request to reissue that has not ended. `recipients`: those whose copies the broker has confirmed."""

    request: Reference
    recipients: frozenset[str]


@dataclass(frozen=True)
class IssuedCredentials:
    """The credentials of the newest subaccount, without the token itself.

    They are kept after its deletion: the next ones continue the count of generations. `cause` is the event
    they were issued for, `trace` its trace. `fingerprint` is that of the token last published,
    `reissued_at` the time of the last reissue on request. `partial_reissues`: requests that have served only
    some recipients.
    """

    cause: Reference
    trace: Trace = NO_TRACE
    generation: int = 1
    fingerprint: Fingerprint | None = None
    reissued_at: datetime | None = None
    partial_reissues: tuple[PartialReissue, ...] = ()

    def __post_init__(self) -> None:
        if self.generation < 1:
            raise ValueError("generations count from 1")


@dataclass(frozen=True)
class Debt:
    """Work still owed for a subaccount: credentials, enabling it, or both.

    `recipients`: those whose credentials the broker has not confirmed. `enable`: the subaccount was
    created disabled, and is enabled once its credentials are confirmed. The scheduler tries again at
    `retry_at`; None while the department is not active.
    """

    recipients: frozenset[str]
    enable: bool = False
    retry_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.enable and not self.recipients:
            raise ValueError("a debt owes credentials, or enabling, or both")

    @property
    def holds_back(self) -> bool:
        """Whether the subaccount must stay disabled because its credentials are not confirmed."""
        return self.enable and bool(self.recipients)


@dataclass(frozen=True)
class Check:
    """When to compare the entry with the provider.

    It is set before a change is sent and cleared when the outcome is recorded, unless `late_call` says that
    a call without a clear response may still be carried out.
    """

    at: datetime
    late_call: bool = False


@dataclass(frozen=True)
class Removed:
    """The removal of a department. `removed_at`: when the provider confirmed the disable or the delete."""

    removed_at: datetime


class Existing(NamedTuple):
    """The facts of an existing subaccount."""

    auth_id: str
    name: str
    issued: IssuedCredentials


@dataclass(frozen=True)
class Entry:
    """The ledger's record of one department. It never holds a token. Raises `ValueError` if it breaks a rule.

    `revision` counts writes: a write succeeds only if there was no other since the entry was recalled.
    `incarnation`: the number of the existing subaccount, or else of the next one.
    `version`: that of the newest event answered; `version_type`: its type as its producer wrote it.
    `created_at`: when the newest subaccount was recorded as created.
    `duplicates_check_at`: when to look for duplicates again; a create was taken for lost, or ran twice.
    `repairs` counts the checks that had to correct the provider.
    `api_id`: the provider's id of the last call of a step, which its support asks for.
    `missing_since`: since when the provider does not find the subaccount on record.
    `gone_at`: when it was certain that others had deleted it. It is kept until there is another subaccount,
    or until the removal of the department is answered.
    """

    department: Department
    revision: int = 0
    status: Status = Status.ABSENT
    incarnation: int = 1
    name: str | None = None
    auth_id: str | None = None
    version: Version | None = None
    version_type: str | None = None
    created_at: datetime | None = None
    claim: Claim | None = None
    issued: IssuedCredentials | None = None
    debt: Debt | None = None
    check: Check | None = None
    duplicates_check_at: datetime | None = None
    removal: Removed | None = None
    repairs: int = 0
    missing_since: datetime | None = None
    gone_at: datetime | None = None
    api_id: str | None = None

    def __post_init__(self) -> None:
        status, exists = self.status, self.auth_id is not None
        claimed, disabled = status is Status.CLAIMED, status is Status.DISABLED
        active, removed = status is Status.ACTIVE, status is Status.REMOVED
        if exists != (active or disabled or status is Status.DELETING):
            raise ValueError("an entry has an auth_id exactly while its subaccount exists")
        if exists and (self.name is None or self.issued is None):
            raise ValueError("an existing subaccount has a name, and credentials were issued for it")
        if self.debt is not None and not exists:
            raise ValueError("a debt is owed for an existing subaccount")
        if self.check is not None and not exists:
            raise ValueError("a check compares an existing subaccount")
        if (claimed and self.claim is None) or (exists and self.claim is not None):
            raise ValueError("a claimed department has a claim, and an existing subaccount has none")
        if (disabled or removed) and self.removal is None:
            raise ValueError("a disabled or removed department has a removal")
        if (active or status is Status.ABSENT) and self.removal is not None:
            raise ValueError("an active or absent department has no removal")
        never_gone = status in {Status.ABSENT, Status.DELETING}
        if (self.missing_since is not None and not exists) or (self.gone_at is not None and never_gone):
            raise ValueError("a missing subaccount is on record, and a gone one was")
        if self.revision < 0 or self.incarnation < 1 or self.repairs < 0:
            raise ValueError("revisions and repairs count from 0, incarnations from 1")

    @property
    def newest(self) -> Reference | None:
        """The newest event answered."""
        if self.version is None:
            return None
        type_ = self.version_type or f"department.{self.version.kind}.v1"
        return Reference(self.version.source, self.version.id, type_)

    @property
    def existing(self) -> Existing:
        """The subaccount on record; raises `ValueError` if there is none."""
        if self.auth_id is None or self.name is None or self.issued is None:
            raise ValueError(f"there is no subaccount: the department is {self.status}")
        return Existing(self.auth_id, self.name, self.issued)

    @property
    def is_live(self) -> bool:
        """Whether the department has an active subaccount, and is not known to have lost it."""
        return self.status is Status.ACTIVE and self.gone_at is None

    @property
    def generation(self) -> int:
        """The generation of the credentials last issued; 0 if none were issued yet."""
        return self.issued.generation if self.issued else 0

    @property
    def owed_to(self) -> frozenset[str]:
        """The recipients whose credentials are not confirmed."""
        return self.debt.recipients if self.debt else frozenset()

    @property
    def held_back(self) -> bool:
        """Whether the subaccount must stay disabled because its credentials are not confirmed."""
        return self.debt is not None and self.debt.holds_back

    def unknown_creates(self, event: Reference) -> int:
        """The number of creates for exactly this event that have ended unknown so far."""
        return self.claim.attempt if self.claim and self.claim.event == event else 0

    @property
    def due_at(self) -> datetime | None:
        """When the next duty is due; None while a create is open, since that is settled first."""
        if self.status is Status.CLAIMED:
            return None
        moments = (
            self.check.at if self.check else None,
            self.duplicates_check_at,
            self.debt.retry_at if self.debt else None,
        )
        return min((at for at in moments if at is not None), default=None)


@dataclass(frozen=True)
class Answer:
    """The final outcome of one event or request, as it is recorded and published.

    `recipients`: those to whom a request has published credentials.
    """

    department: Department
    event: Reference
    payload_digest: str
    outcome: ResultKind
    code: ResultCode
    answered_at: datetime
    name: str | None = None
    auth_id: str | None = None
    reason: str | None = None
    superseded_by: Reference | None = None
    trace: Trace = NO_TRACE
    confirmed: bool = False
    recipients: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recollection:
    """The ledger's knowledge when a step begins: the department, and the answer to this event, if any."""

    entry: Entry
    answer: Answer | None = None
