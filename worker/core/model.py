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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from contracts.departments import (
    DepartmentCreated,
    DepartmentRemoved,
    DepartmentRenamed,
    Kind,
    Version,
)
from contracts.reissues import ReissueRequested
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.inventory import Counts, Inspection
from worker.core.limits import TenantCounts

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


EVERY_DEPARTMENT = Department("", "")
"""Stands for the whole ledger. No event can name it."""


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

    @property
    def bare(self) -> "Cause":
        """The cause without anything beside it, as it is kept for a removal that ends later."""
        return Cause(self.reference, self.payload_digest, self.version, self.name, self.trace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Cause):
    """A valid department event, reduced to the fields that decisions need.

    `merged_into`: the department that takes over, if a removal names one.
    """

    department: Department
    version: Version
    merged_into: str | None = None

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
            merged_into=event.data.merged_into if isinstance(event, DepartmentRemoved) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRemoval(Cause):
    """A removal that is carried out without its message: its grace is over, or a person has approved it.

    The reference, the digest and the version are those of the removal event, whose answer it makes.
    """

    department: Department

    @classmethod
    def of(cls, department: Department, cause: Cause) -> "LateRemoval":
        """The removal of a department for this event."""
        return cls(
            department=department,
            reference=cause.reference,
            payload_digest=cause.payload_digest,
            version=cause.version,
            name=cause.name,
            trace=cause.trace,
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


class HoldReason(StrEnum):
    """Why a removal is held for a person, in the order in which the reasons are looked at."""

    PROTECTED = "protected"
    """The department is named in the settings."""
    MERGED = "merged"
    """The event says that another department takes over."""
    LAST_ACTIVE = "last-active"
    """It is its tenant's last active department."""
    LIMIT = "limit"
    """The tenant's removals of a rolling window are used up."""
    DRIFT = "drift"
    """The subaccount is not as the ledger has it."""
    RESOURCES = "resources"
    """Numbers, applications or endpoints hang on the subaccount."""


class HoldState(StrEnum):
    """The state of a hold. WAITING and APPROVED are open, the others final."""

    WAITING = "waiting"
    APPROVED = "approved"
    """A person has approved it, and the worker has not carried it out yet."""
    REJECTED = "rejected"
    VOID = "void"
    """A newer event of the department has arrived."""
    DONE = "done"


@dataclass(frozen=True)
class Ruling:
    """A person's ruling on a hold. `cascade`: the number of resources to be destroyed with the subaccount."""

    by: str
    at: datetime
    cascade: int | None = None


@dataclass(frozen=True)
class Hold:
    """A removal that waits for a person.

    `cause`: the removal event. `auth_id`, `name`: those of the subaccount when it was held. `resources`: the
    counts when they were last looked at. `disabled`: it was met at the deletion, after the event was
    answered `disabled`; otherwise the event has no final answer yet. `accepted`: the reasons, and the drift,
    that approvals of earlier holds of this removal have accepted.
    """

    id: str
    department: Department
    reason: HoldReason
    detail: str
    cause: Cause
    auth_id: str
    name: str
    held_at: datetime
    state: HoldState = HoldState.WAITING
    ruling: Ruling | None = None
    resources: Counts | None = None
    disabled: bool = False
    accepted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        ruled = self.state in {HoldState.APPROVED, HoldState.REJECTED}
        if ruled and self.ruling is None:
            raise ValueError("an approved or rejected hold has a ruling")

    @property
    def is_open(self) -> bool:
        """Whether it may still be carried out."""
        return self.state in {HoldState.WAITING, HoldState.APPROVED}


@dataclass(frozen=True, slots=True)
class Reissuing:
    """Issue a department's credentials again; to all recipients if `recipient` is None."""

    recipient: str | None = None
    kind: Literal["reissue"] = "reissue"


@dataclass(frozen=True, slots=True)
class Recreating:
    """Create a subaccount for a department whose own is gone."""

    kind: Literal["recreate"] = "recreate"


@dataclass(frozen=True, slots=True)
class Approving:
    """Carry out a held removal. `cascade`: the resources, by number, that are destroyed with it."""

    hold_id: str
    cascade: int | None = None
    kind: Literal["approve"] = "approve"


@dataclass(frozen=True, slots=True)
class Rejecting:
    """Do not carry out a held removal."""

    hold_id: str
    kind: Literal["reject"] = "reject"


@dataclass(frozen=True, slots=True)
class Correcting:
    """Correct one finding of a sweep, if it still holds. `finding`: its kind; `auth_id`: the subaccount."""

    finding: str
    auth_id: str
    kind: Literal["correct"] = "correct"


@dataclass(frozen=True, slots=True)
class Binding:
    """Put an existing subaccount on record for a department.

    `name`: the department's; None: as at the provider. `keeps_name`: the subaccount is not renamed.
    `issues`: its credentials are published. `enables`: it is enabled if it is disabled.
    """

    auth_id: str
    name: str | None = None
    keeps_name: bool = False
    issues: bool = False
    enables: bool = False
    kind: Literal["adopt"] = "adopt"


@dataclass(frozen=True, slots=True)
class Sweeping:
    """Compare the provider's list with the ledger. `fixes`: correct the findings that can be corrected."""

    fixes: bool = False
    kind: Literal["sweep"] = "sweep"


WishFor = Reissuing | Recreating | Approving | Rejecting | Correcting | Binding | Sweeping
"""The things that a person can ask the running worker for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A person's request to the running worker. A sweep is for `EVERY_DEPARTMENT`."""

    id: str
    department: Department
    asked_by: str
    asked_at: datetime
    asks: WishFor


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
    some recipients. `supersedes`: the auth id of the department's subaccount before this one.
    """

    cause: Reference
    trace: Trace = NO_TRACE
    generation: int = 1
    fingerprint: Fingerprint | None = None
    reissued_at: datetime | None = None
    partial_reissues: tuple[PartialReissue, ...] = ()
    supersedes: str | None = None

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
class Removing:
    """A removal under way, which counts against the limit already. It ends with its outcome.

    `event`: the removal event. `counted_at`: when it was counted; None if it does not count, because a
    person has approved it, or there is no limit.
    """

    event: Reference
    counted_at: datetime | None = None


@dataclass(frozen=True)
class Removed:
    """The removal of a department. `removed_at`: when the provider confirmed the disable or the delete.

    `cause`: the removal event; None if a person asked for it. `counted_at`: as in `Removing`. `auth_id`: the
    subaccount that was deleted. `cancelled`: it stays disabled, because a person has rejected the deletion,
    or something newer says that the department exists: the event of version `cancelled_by`. A removal that is
    newer still takes the deletion up again.
    """

    removed_at: datetime
    cause: Cause | None = None
    counted_at: datetime | None = None
    auth_id: str | None = None
    cancelled: bool = False
    cancelled_by: Version | None = None


@dataclass(frozen=True)
class Deletion:
    """A deletion that is durable before it is sent, since `begun_at`. `cascade`: with its resources.

    `in_doubt`: an earlier call for it may have been sent, and its outcome is not known.
    """

    begun_at: datetime
    cascade: bool = False
    in_doubt: bool = False


@dataclass(frozen=True)
class Retry:
    """The tries of a late removal, which no message repeats: since when it fails, why, when it goes on."""

    failing_since: datetime
    at: datetime
    tries: int
    detail: str


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
    `hold`: the removal that waits for a person, or that the worker carries out for one. `holds_made` counts
    the holds of the department.
    `removing`: a removal whose call is on the way. `deletion`: while DELETING. `retry`: of a late removal.
    `past_removals`: when the deletions of earlier subaccounts were counted, newest last.
    `owed_results`: answers that no message will publish again, and those that a later one may replace before
    their message does; the scheduler tries at `results_at`.
    `keeps_name`: it was adopted under a name without our tag, and is known by its auth id only.
    `kept_name`: its name at the provider, until it is renamed.
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
    hold: Hold | None = None
    holds_made: int = 0
    removing: Removing | None = None
    deletion: Deletion | None = None
    retry: Retry | None = None
    past_removals: tuple[datetime, ...] = ()
    owed_results: tuple["Answer", ...] = ()
    results_at: datetime | None = None
    keeps_name: bool = False
    kept_name: str | None = None

    def __post_init__(self) -> None:
        broken = _broken_rule(self) or _broken_rule_of_removal(self)
        if broken is not None:
            raise ValueError(broken)

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
    def is_counted_active(self) -> bool:
        """Whether it counts as an active department of its tenant: live, and no removal is under way."""
        return self.is_live and self.removing is None

    @property
    def counted_removals(self) -> tuple[datetime, ...]:
        """When the department's removals were counted, for the limit of its tenant."""
        current = [one.counted_at for one in (self.removal, self.removing) if one is not None]
        return (*self.past_removals, *(at for at in current if at is not None))

    @property
    def latest_removal(self) -> datetime | None:
        """When the department was last removed, whether that counts or a person has approved it."""
        removed = (self.removal.removed_at,) if self.removal else ()
        return max((*self.counted_removals, *removed), default=None)

    @property
    def late_removal(self) -> Cause | None:
        """The event of a removal that ends without its message: approved, waiting for its time, or begun."""
        if self.hold is not None:
            return self.hold.cause if self.hold.state is HoldState.APPROVED else None
        if self.removal is None or self.removal.cancelled:
            return None
        return self.removal.cause if self.status in {Status.DISABLED, Status.DELETING} else None

    @property
    def deletable_since(self) -> datetime | None:
        """When the grace of its deletion began; None if nothing is to be deleted, or a retry has its time."""
        waits = self.status is Status.DISABLED and self.hold is None and self.retry is None
        if not waits or self.removal is None or self.late_removal is None:
            return None
        return self.removal.removed_at

    @property
    def due_at(self) -> datetime | None:
        """When the next duty is due, apart from a deletion whose grace is over (`deletable_since`).

        While a create is open, only results are due: the create is settled first.
        """
        if self.status is Status.CLAIMED:
            return self.results_at
        moments = (
            self.check.at if self.check else None,
            self.duplicates_check_at,
            self.debt.retry_at if self.debt else None,
            self.results_at,
            self._late_removal_at,
        )
        return min((at for at in moments if at is not None), default=None)

    @property
    def _late_removal_at(self) -> datetime | None:
        """When a late removal that does not wait for its grace goes on."""
        if self.late_removal is None:
            return None
        if self.retry is not None:
            return self.retry.at
        if self.deletion is not None:
            return self.deletion.begun_at
        return self.hold.ruling.at if self.hold and self.hold.ruling else None


_EXISTING = frozenset({Status.ACTIVE, Status.DISABLED, Status.DELETING})
_NOT_REMOVED = frozenset({Status.ACTIVE, Status.ABSENT})
_NEVER_GONE = frozenset({Status.ABSENT, Status.DELETING})


def _broken_rule(entry: Entry) -> str | None:
    """The first rule between the fields of a subaccount that an entry breaks. Runs at every change of one."""
    status, exists = entry.status, entry.auth_id is not None
    if exists != (status in _EXISTING):
        return "an entry has an auth_id exactly while its subaccount exists"
    if exists and (entry.name is None or entry.issued is None):
        return "an existing subaccount has a name, and credentials were issued for it"
    if not exists and (entry.check is not None or entry.debt is not None or entry.hold is not None):
        return "a debt, a check and a hold are for an existing subaccount"
    if (entry.claim is None and status is Status.CLAIMED) or (exists and entry.claim is not None):
        return "a claimed department has a claim, and an existing subaccount has none"
    if (entry.missing_since is not None and not exists) or (
        entry.gone_at is not None and status in _NEVER_GONE
    ):
        return "a missing subaccount is on record, and a gone one was"
    if entry.revision < 0 or entry.incarnation < 1 or entry.repairs < 0:
        return "revisions and repairs count from 0, incarnations from 1"
    return None


def _broken_rule_of_removal(entry: Entry) -> str | None:
    status, removal = entry.status, entry.removal
    if removal is None and status in {Status.DISABLED, Status.REMOVED}:
        return "a disabled or removed department has a removal"
    if removal is not None and status in _NOT_REMOVED:
        return "an active or absent department has no removal"
    if (entry.deletion is None) is (status is Status.DELETING):
        return "a deletion is under way exactly while the department is deleting"
    if entry.removing is not None and status not in {Status.ACTIVE, Status.DELETING}:
        return "a removal is under way for a subaccount that was active"
    if entry.hold is not None and not entry.hold.is_open:
        return "the hold of an entry is open"
    if bool(entry.owed_results) is (entry.results_at is None):
        return "results are owed exactly while they have a time"
    if entry.keeps_name and entry.auth_id is None:
        return "only an existing subaccount keeps its name"
    return None


@dataclass(frozen=True)
class Answer:
    """The final outcome of one event or request, as it is recorded and published.

    `recipients`: those to whom a request has published credentials. `hold_id`: of the hold, if it is held.
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
    hold_id: str | None = None

    @property
    def is_provisional(self) -> bool:
        """Whether a later outcome of the same event may take its place."""
        return self.outcome in {ResultKind.HELD, ResultKind.DISABLED}

    def may_become(self, other: "Answer") -> bool:
        """Whether `other` may take its place: a final outcome is not taken back.

        `held` comes before any outcome of the same event, and `disabled` before `removed`. Of any other
        answer only the confirm changes.
        """
        if (self.event[:2], self.payload_digest) != (other.event[:2], other.payload_digest):
            return False
        if self.outcome is ResultKind.HELD:
            return True
        if self.outcome is ResultKind.DISABLED and other.outcome is ResultKind.REMOVED:
            return True
        return replace(self, confirmed=other.confirmed) == other


@dataclass(frozen=True, slots=True)
class CallNote:
    """A call to the provider that changed something, or was meant to, for a department.

    `status`: that of HTTP; None without a response. `error`: why it did not succeed.
    """

    at: datetime
    operation: str
    idempotency_key: str
    auth_id: str | None
    status: int | None = None
    api_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Recollection:
    """The knowledge when a step begins: the department, and the answer to this event, if any.

    `counts`: those of its tenant, once the ledger did not admit a removal. `inspection`: the subaccount as
    the provider has just shown it.
    """

    entry: Entry
    answer: Answer | None = None
    counts: TenantCounts | None = None
    inspection: Inspection | None = None
