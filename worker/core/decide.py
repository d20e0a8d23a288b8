"""The decision table: what to do about an event, given what the ledger knows of its department.

An event states what a department is, not what to change, so the newest one wins and order does not matter.
That is checked first: an event answered before is only published again, an older one is skipped. Whatever is
unfinished comes next: a claimed department is adopted and a deletion completed before the event is looked at
again, so a decision never rests on a state that may still change. Only then does the table in `_by_the_table`
compare states; it takes a policy where the operator has a choice. The same table is in ARCHITECTURE.md, and a
test compares the two. This module says what should happen; `conclude` says what has happened.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.adoption import ENOUGH_UNKNOWNS
from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.model import ANY_RECIPIENT, Answer, Entry, Event, Recollection, Status

CLOCK_TOLERANCE = timedelta(minutes=10)
"""How far ahead of our clock an event's time may be if it decides which event is newer."""


NAME_KEPT = "the provider cannot rename a subaccount: it keeps its name there"


class Removal(StrEnum):
    """What happens to the subaccount of a removed department."""

    DISABLE_THEN_DELETE = "disable-then-delete"
    DELETE = "delete"
    DISABLE = "disable"
    IGNORE = "ignore"


class UnknownRename(StrEnum):
    """What to do about the rename of a department without a `created` event."""

    CREATE = "create"
    REJECT = "reject"


class Enable(StrEnum):
    """When a new subaccount is enabled: when it is created, or once its credentials are published."""

    CREATED = "created"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices, and what the provider can do."""

    removal: Removal = Removal.DISABLE_THEN_DELETE
    unknown_rename: UnknownRename = UnknownRename.CREATE
    recipients: frozenset[str] = frozenset({ANY_RECIPIENT})
    settle_window: timedelta = timedelta(seconds=120)
    enable: Enable = Enable.CREATED
    capabilities: Capabilities = EVERYTHING

    def rejects_rename_of(self, entry: Entry) -> bool:
        """Whether its rename is refused. A department whose create was taken for lost is not unknown."""
        return self.unknown_rename is UnknownRename.REJECT and entry.claim is None


@dataclass(frozen=True, slots=True)
class Create:
    """Create a subaccount."""

    name: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """A create may have happened: look for its subaccount.

    `name` is its new name; None if it is adopted only to be removed. If nothing is found and the event has
    had enough creates, the event is given up.
    """

    name: str | None


@dataclass(frozen=True, slots=True)
class Rename:
    """Change the subaccount's name."""

    auth_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Enable the subaccount again; `name` only if it differs."""

    auth_id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Disable:
    """Disable the subaccount."""

    auth_id: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the subaccount."""

    auth_id: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Make no call: the event changes nothing at the provider, or a newer one was answered.

    `name` is the department's new name, if the provider cannot be told.
    """

    outcome: ResultKind
    reason: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Republish:
    """The event was answered: publish what the broker has not confirmed."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Refuse:
    """The event cannot be carried out as it is."""

    reason: DeadReason
    detail: str


Step = Create | Adopt | Rename | Restore | Disable | Delete | Skip
Decision = Step | Republish | Refuse


def decide(event: Event, known: Recollection, policy: Policy, now: datetime) -> Decision:
    """What to do about `event`, given what is known of its department at `now`."""
    if known.answer is not None:
        return answered_before(event.payload_digest, known.answer)
    if _time_decides(event, known.entry) and event.version.time > now + CLOCK_TOLERANCE:
        return Refuse(DeadReason.INVALID, "time: more than 10 minutes ahead of the worker's clock")
    if not event.version.newer_than(known.entry.version):
        return Skip(ResultKind.SUPERSEDED)
    return _by_the_table(event, known.entry, policy)


def answered_before(payload_digest: str, answer: Answer) -> Republish | Refuse:
    """What to do about an event, or a request, that has an answer; its payload must be the same."""
    if answer.payload_digest == payload_digest:
        return Republish(answer)
    return Refuse(
        DeadReason.CONFLICTING_DUPLICATE,
        "an event of this source and id, with another payload, was answered before",
    )


def _time_decides(event: Event, entry: Entry) -> bool:
    newest = entry.version.sequence if entry.version else None
    return event.version.sequence == newest


def _by_the_table(event: Event, entry: Entry, policy: Policy) -> Decision:
    match entry.status, event.kind, entry.auth_id, event.name:
        case Status.CLAIMED, kind, _, name:
            return Adopt(None if kind is Kind.REMOVED else name)
        case Status.DELETING, _, str(auth_id), _:
            return Delete(auth_id)
        case Status.ABSENT, Kind.RENAMED, _, _ if policy.rejects_rename_of(entry):
            return Refuse(DeadReason.INVALID, "data.department_id: rename of an unknown department")
        case Status.ABSENT | Status.REMOVED, Kind.CREATED | Kind.RENAMED, _, str(name):
            enough = entry.unknown_creates(event.reference) >= ENOUGH_UNKNOWNS
            return Adopt(name) if enough else Create(name)
        case Status.ACTIVE, Kind.CREATED | Kind.RENAMED, _, str(name) if name == entry.name:
            return Skip(ResultKind.UNCHANGED)
        case Status.ACTIVE, Kind.CREATED | Kind.RENAMED, str(auth_id), str(name):
            return _rename(auth_id, name, policy)
        case Status.DISABLED, Kind.CREATED | Kind.RENAMED, str(auth_id), str(name):
            return Restore(auth_id, name if name != entry.name else None)
        case Status.ACTIVE, Kind.REMOVED, str(auth_id), _:
            return _remove(auth_id, policy)
        case Status.ABSENT | Status.DISABLED | Status.REMOVED, Kind.REMOVED, _, _:
            return Skip(ResultKind.UNCHANGED)
        case _:  # an event without a name that it must have
            raise ValueError(f"no decision for a {entry.status} entry and a {event.kind} event")


def _rename(auth_id: str, name: str, policy: Policy) -> Decision:
    if policy.capabilities.can_rename:
        return Rename(auth_id, name)
    return Skip(ResultKind.UNCHANGED, NAME_KEPT, name)


def _remove(auth_id: str, policy: Policy) -> Decision:
    match policy.removal:
        case Removal.DELETE if not policy.capabilities.can_delete:
            return Disable(auth_id)
        case Removal.DISABLE | Removal.DISABLE_THEN_DELETE:
            return Disable(auth_id)
        case Removal.DELETE:
            return Delete(auth_id)
        case Removal.IGNORE:
            return Skip(ResultKind.UNCHANGED, "removals are ignored here")
