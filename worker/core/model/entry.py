"""An entry: all that the ledger knows of one department.

It is made of sub-values, one for each fact that is present as a whole or not at all: a claim, the credentials
issued, a debt, a check, a removal. Each of them, and the entry, checks itself when it is made, so no other
module needs to ask whether an active department has a subaccount. A combination that breaks a rule raises
`ValueError` where it is built, and never reaches the ledger. To add a state, add a sub-value or a rule here
first.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from contracts.departments import Kind, Version
from worker.core.model.answers import Answer
from worker.core.model.causes import NO_TRACE, Cause, Reference, Trace
from worker.core.model.credentials import Debt, IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.holds import Hold, HoldState
from worker.core.model.removals import Deletion, Removed, Removing, Retry


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
class Check:
    """When to compare the entry with the provider.

    It is set before a change is sent and cleared when the outcome is recorded, unless `late_call` says that
    a call without a clear response may still be carried out.
    """

    at: datetime
    late_call: bool = False


class NewerEvent(NamedTuple):
    """An event that supersedes others of its department."""

    version: Version
    reference: Reference


BEGUN_FOR = timedelta(minutes=1)
"""The outcome of a change is waited for at least so long, however short the settle window is: the message of
its event may have to wait until a worker has started."""


class Begun(NamedTuple):
    """An event whose change may have been sent, since `at`."""

    version: Version
    reference: Reference
    at: datetime


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
    `wanted_by`: the newest event that says that the department exists, from the start of its step until it,
    or a newer event, is answered. A removal that is older is superseded by it.
    `begun`: the newest event whose change may have been sent, until it, or a newer event, is answered, or the
    change is known not to have been carried out. An older event waits for its outcome.
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
    wanted_by: NewerEvent | None = None
    begun: Begun | None = None
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
    owed_results: tuple[Answer, ...] = ()
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

    def newer_event(self, version: Version) -> NewerEvent | None:
        """The event that supersedes one of this version; None if it is the newest."""
        if self.newest is not None and self.version is not None and not version.newer_than(self.version):
            return NewerEvent(self.version, self.newest)
        wanted = self.wanted_by if version.kind is Kind.REMOVED else None
        return wanted if wanted is not None and not version.newer_than(wanted.version) else None

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
    def check_due_at(self) -> datetime | None:
        """When to compare the entry with the provider: not while the outcome of a change is waited for."""
        if self.check is None or self.begun is None:
            return self.check.at if self.check else None
        return max(self.check.at, self.begun.at + BEGUN_FOR)

    @property
    def due_at(self) -> datetime | None:
        """When the next duty is due, apart from a deletion whose grace is over (`deletable_since`).

        While a create is open, only results are due: the create is settled first.
        """
        if self.status is Status.CLAIMED:
            return self.results_at
        moments = (
            self.check_due_at,
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
