"""What is to be done about an event: the decision table.

The same table stands in ARCHITECTURE.md, where a test compares the two.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.adoption import ENOUGH_UNKNOWNS
from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.model import EVERYBODY, Answer, Entry, Event, Recollection, Status

CLOCK_TOLERANCE = timedelta(minutes=10)
"""How far ahead of our clock a time may be where it decides what is newer."""


NAME_KEPT = "the provider cannot rename a subaccount: it keeps its name there"


class Removal(StrEnum):
    """What a removed department's subaccount comes to."""

    DISABLE_THEN_DELETE = "disable-then-delete"
    DELETE = "delete"
    DISABLE = "disable"
    IGNORE = "ignore"


class UnknownRename(StrEnum):
    """What the rename of a department nobody told us of comes to."""

    CREATE = "create"
    REJECT = "reject"


class Enable(StrEnum):
    """When a new subaccount is enabled: as it is created, or once its credentials are published."""

    CREATED = "created"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices that decisions follow, and what the provider can do at all."""

    removal: Removal = Removal.DISABLE_THEN_DELETE
    unknown_rename: UnknownRename = UnknownRename.CREATE
    recipients: frozenset[str] = frozenset({EVERYBODY})
    settle_window: timedelta = timedelta(seconds=120)
    enable: Enable = Enable.CREATED
    capabilities: Capabilities = EVERYTHING

    def rejects_rename_of(self, entry: Entry) -> bool:
        """Whether nobody told us of that department: one whose create was taken for lost is no stranger."""
        return self.unknown_rename is UnknownRename.REJECT and entry.claim is None


@dataclass(frozen=True, slots=True)
class Create:
    name: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """A create may have happened: find out. `name` is what it is to be called; None only to be removed.

    Where nothing is found, and the event has had enough creates, it is given up.
    """

    name: str | None


@dataclass(frozen=True, slots=True)
class Rename:
    auth_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Enable again; `name` only where it differs."""

    auth_id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Disable:
    auth_id: str


@dataclass(frozen=True, slots=True)
class Delete:
    auth_id: str


@dataclass(frozen=True, slots=True)
class Skip:
    """No call: the event changes nothing at the provider, or a newer one holds.

    `name`: what the department is called from now on, where the provider cannot be told.
    """

    outcome: ResultKind
    reason: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Republish:
    """Answered: what of it the broker has not confirmed goes out (once more)."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Refuse:
    """The event cannot be carried out as it is."""

    reason: DeadReason
    detail: str


Step = Create | Adopt | Rename | Restore | Disable | Delete | Skip
Decision = Step | Republish | Refuse


def decide(event: Event, known: Recollection, policy: Policy, now: datetime) -> Decision:
    """What is to be done about `event`, by what is known of its department at `now`."""
    if known.answer is not None:
        return answered_before(event.payload_digest, known.answer)
    if _time_decides(event, known.entry) and event.version.time > now + CLOCK_TOLERANCE:
        return Refuse(DeadReason.INVALID, "time: more than 10 minutes ahead of the worker's clock")
    if not event.version.newer_than(known.entry.version):
        return Skip(ResultKind.SUPERSEDED)
    return _by_the_table(event, known.entry, policy)


def answered_before(payload_digest: str, answer: Answer) -> Republish | Refuse:
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
        case _:  # an entry no write of ours leaves behind
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
