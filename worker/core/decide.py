"""Decide: event, entry and policy make the next step. This is the decision table.

An event states what a department is, not what to change, so the newest one wins and order does not matter.
Version and answer are compared first: an event answered before is only published again, an older one is
skipped. Unfinished work comes next: a claimed department is adopted and a deletion completed before the event
is decided again, so a decision never rests on a state that may still change. Only then does the table in
`_by_the_table` compare states; a policy fills the cells that the operator chooses. ARCHITECTURE.md has the
same table, and a test compares the two. `decide` says what should happen; `conclude` says what has happened.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.departments import Kind, Version
from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from worker.core.adoption import MAX_UNKNOWN_CREATES
from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.inventory import Inspection
from worker.core.limits import RemovalLimit
from worker.core.model.answers import Answer
from worker.core.model.causes import Event, Reference
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.entry import BEGUN_FOR, Begun, Entry, NewerEvent, Status
from worker.core.model.holds import HoldReason
from worker.core.model.recollection import Recollection
from worker.core.protected import NOBODY_PROTECTED, Protected

CLOCK_TOLERANCE = timedelta(minutes=10)
"""How far an event's time may be ahead of our clock, if the time decides which event is newer."""

TIED = "tie: same time, no sequence"

NAME_KEPT = "the provider cannot rename a subaccount: it keeps its name there"


class Removal(StrEnum):
    """The treatment of a removed department's subaccount."""

    DISABLE_THEN_DELETE = "disable-then-delete"
    DELETE = "delete"
    DISABLE = "disable"
    IGNORE = "ignore"


class UnknownRename(StrEnum):
    """The treatment of a rename without an earlier `created` event."""

    CREATE = "create"
    REJECT = "reject"


class Enable(StrEnum):
    """The moment to enable a new subaccount: with its creation, or once its credentials are published."""

    CREATED = "created"
    PUBLISHED = "published"


class Superseding(StrEnum):
    """Why an event is superseded. All but `OLDER` may surprise its producer, and are told."""

    OLDER = "older"
    TIE = "tie"
    """The newest event has the same time, and neither has a sequence."""
    LOWER_SEQUENCE = "lower-sequence"
    """The newest event is of another source: perhaps a system was replaced, and its sequence began again."""
    NO_SEQUENCE = "no-sequence"
    """The newest event has a sequence, and this one has none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices, and the provider's capabilities.

    `grace`: the time between disabling a removed department's subaccount and deleting it. `limit`: how many
    removals are carried out without a person. `protected`: the departments that a person removes only.
    `plaintext`: credentials may go out in the clear even if the ledger has sealed some.
    """

    removal: Removal = Removal.DISABLE_THEN_DELETE
    grace: timedelta = timedelta(days=30)
    limit: RemovalLimit = ()
    protected: Protected = NOBODY_PROTECTED
    unknown_rename: UnknownRename = UnknownRename.CREATE
    recipients: frozenset[str] = frozenset({ANY_RECIPIENT})
    settle_window: timedelta = timedelta(seconds=120)
    enable: Enable = Enable.CREATED
    plaintext: bool = False
    capabilities: Capabilities = EVERYTHING

    def rejects_rename_of(self, entry: Entry) -> bool:
        """Whether to refuse a rename. A department whose create was taken for lost is not unknown."""
        return self.unknown_rename is UnknownRename.REJECT and entry.claim is None


@dataclass(frozen=True, slots=True)
class Create:
    """Create a subaccount."""

    name: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Look for the subaccount of a create that may have happened.

    `name` is its new name; None if it is adopted only to be removed. If nothing is found and the event has
    had its maximum of creates, the event is given up.
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
class Inspect:
    """See how the subaccount is and what hangs on it, before it is deleted."""

    auth_id: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the subaccount, as `inspection` has just shown it; with `cascade` its resources too."""

    auth_id: str
    cascade: bool = False
    inspection: Inspection | None = None


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Hold the removal for a person.

    `inspection`: the subaccount, if the provider has shown it. `accepted`: what a person has accepted before.
    """

    reason: HoldReason
    detail: str
    inspection: Inspection | None = None
    accepted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VoidHold:
    """Void the open hold, because there is a newer event. The event is decided again after it."""


@dataclass(frozen=True, slots=True)
class Reconsider:
    """See whether a deletion was carried out that a newer event does not want any more.

    The call may still be carried out within the settle window, so nothing is certain before its end.
    """

    auth_id: str


@dataclass(frozen=True, slots=True)
class Look:
    """See whether a subaccount that was gone is there again."""

    auth_id: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Make no call: the event changes nothing at the provider, or a newer one was answered.

    `name` is the department's new name, if the provider cannot rename its subaccount. `code`: that of the
    answer, if it is not the outcome.
    """

    outcome: ResultKind
    reason: str | None = None
    name: str | None = None
    code: ResultCode | None = None


@dataclass(frozen=True, slots=True)
class CountTenant:
    """Count the departments of the tenant, then decide again."""


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """A late removal has nothing to do any more, or not yet."""


@dataclass(frozen=True, slots=True)
class AwaitNewer:
    """The change of a newer event may be in effect: this event waits for that one's outcome.

    Otherwise a worker that died, or a lost response, would let an older name, or a removal, replace a newer
    one. The wait ends with the settle window, as nothing is carried out later, but not before `BEGUN_FOR`.
    """

    newer: Reference


@dataclass(frozen=True, slots=True)
class Republish:
    """The event was answered: publish again the messages that the broker has not confirmed."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Refuse:
    """The event cannot be carried out as it is.

    `code`: that of the result, if it is not the reason; `by_clock`: only the worker's clock says so.
    """

    reason: DeadReason
    detail: str
    code: ResultCode | None = None
    by_clock: bool = False


CallStep = Create | Rename | Restore | Disable | Delete | Reconsider | Look
"""The steps with one call to the provider, which has a permit before the step is claimed."""

Step = CallStep | Adopt | Inspect | HoldBack | VoidHold | Skip
Decision = Step | Republish | Refuse | AwaitNewer


def decide(event: Event, known: Recollection, policy: Policy, now: datetime) -> Decision:
    """The decision on `event`, from its department's entry and an earlier answer, at `now`."""
    if known.answer is not None:
        return answered_before(event.payload_digest, known.answer)
    if _time_decides(event, known.entry) and event.version.time > now + CLOCK_TOLERANCE:
        detail = "time: more than 10 minutes ahead of the worker's clock"
        return Refuse(DeadReason.INVALID, detail, by_clock=True)
    if newer := known.entry.newer_event(event.version):
        return _when_superseded(event, known.entry, newer)
    if (begun := known.entry.begun) and _is_behind(event, begun, policy, now):
        return AwaitNewer(begun.reference)
    if known.entry.hold is not None:
        return VoidHold()
    if known.entry.gone_at is not None and known.entry.claim is None:
        return _of_a_gone_department(event, known.entry)
    if known.entry.deletion is not None:
        auth_id = known.entry.existing.auth_id
        return Delete(auth_id) if event.kind is Kind.REMOVED else Reconsider(auth_id)
    return _by_the_table(event, known.entry, policy)


def answered_before(payload_digest: str, answer: Answer) -> Republish | Refuse:
    """The decision on an event, or a request, that has an answer: refused if its payload differs."""
    if answer.payload_digest == payload_digest:
        return Republish(answer)
    return Refuse(
        DeadReason.CONFLICTING_DUPLICATE,
        "an event of this source and id, with another payload, was answered before",
    )


def superseding(older: Version, newest: Version) -> Superseding:
    """Why the newest version supersedes the older one."""
    if (older.source, older.id) == (newest.source, newest.id):
        return Superseding.OLDER
    match older.sequence, newest.sequence:
        case None, None if older.time == newest.time:
            return Superseding.TIE
        case None, int():
            return Superseding.NO_SEQUENCE
        case int(lower), int(higher) if lower < higher and older.source != newest.source:
            return Superseding.LOWER_SEQUENCE
        case _:
            return Superseding.OLDER


def _when_superseded(event: Event, entry: Entry, newer: NewerEvent) -> Skip | Delete:
    """Superseded; but a deletion in doubt that the newer event waits for is seen to its end first."""
    if entry.deletion is not None and event.version.newer_than(entry.version):
        return Delete(entry.existing.auth_id)
    return _superseded(event.version, newer.version)


def _is_behind(event: Event, begun: Begun, policy: Policy, now: datetime) -> bool:
    waits_for = max(policy.settle_window, BEGUN_FOR)
    return begun.version.newer_than(event.version) and abs(now - begun.at) < waits_for


def _superseded(older: Version, newest: Version) -> Skip:
    match superseding(older, newest):
        case Superseding.TIE:
            return Skip(ResultKind.SUPERSEDED, TIED, code=ResultCode.TIE)
        case Superseding.NO_SEQUENCE | Superseding.LOWER_SEQUENCE:
            why = f"superseded by sequence {newest.sequence} of {newest.source}"
            return Skip(ResultKind.SUPERSEDED, why)
        case _:
            return Skip(ResultKind.SUPERSEDED)


def _time_decides(event: Event, entry: Entry) -> bool:
    newest = entry.version.sequence if entry.version else None
    return event.version.sequence == newest


def _by_the_table(event: Event, entry: Entry, policy: Policy) -> Decision:
    match entry.status, event.kind, entry.auth_id, event.name:
        case Status.CLAIMED, kind, _, name:
            return Adopt(None if kind is Kind.REMOVED else name)
        case Status.ABSENT, Kind.RENAMED, _, _ if policy.rejects_rename_of(entry):
            return Refuse(DeadReason.INVALID, "data.department_id: rename of an unknown department")
        case Status.ABSENT | Status.REMOVED, Kind.CREATED | Kind.RENAMED, _, str(name):
            enough = entry.unknown_creates(event.reference) >= MAX_UNKNOWN_CREATES
            return Adopt(name) if enough else Create(name)
        case Status.ACTIVE, Kind.CREATED | Kind.RENAMED, _, str(name) if name == entry.name:
            return Skip(ResultKind.UNCHANGED)
        case Status.ACTIVE, Kind.CREATED | Kind.RENAMED, str(auth_id), str(name):
            return _rename(auth_id, name, policy)
        case Status.DISABLED, Kind.CREATED | Kind.RENAMED, str(auth_id), str(name):
            return Restore(auth_id, name if name != entry.name else None)
        case Status.ACTIVE, Kind.REMOVED, str(auth_id), _:
            return removal_step(auth_id, policy)
        case Status.DISABLED, Kind.REMOVED, _, _ if _takes_up_the_deletion(entry, policy):
            return Skip(ResultKind.DISABLED)
        case Status.ABSENT | Status.DISABLED | Status.REMOVED, Kind.REMOVED, _, _:
            return Skip(ResultKind.UNCHANGED)
        case _:  # an event without a name that it must have
            raise ValueError(f"no decision for a {entry.status} entry and a {event.kind} event")


def _takes_up_the_deletion(entry: Entry, policy: Policy) -> bool:
    """Whether a deletion was cancelled that a newer removal makes its own.

    The answer is `disabled`, because `removed` may follow.
    """
    cancelled = entry.removal is not None and entry.removal.cancelled
    return cancelled and policy.removal is not Removal.IGNORE


def _of_a_gone_department(event: Event, entry: Entry) -> Decision:
    """Looks whether the subaccount is back. There is none to look for once a new one was asked for."""
    if entry.auth_id is not None:
        return Look(entry.auth_id)
    if event.kind is Kind.REMOVED:
        return Skip(ResultKind.REMOVED, code=ResultCode.GONE_AT_PROVIDER)
    return Refuse(DeadReason.REJECTED, gone_detail(entry), ResultCode.GONE_AT_PROVIDER)


def gone_detail(entry: Entry) -> str:
    """Says that the subaccount is gone, and what to do: for a dead letter, or a command."""
    which = f"subaccount {entry.auth_id}" if entry.auth_id else "the department's subaccount"
    return (
        f"{which} is not at Plivo any more (404): somebody deleted it there, or this is another account;"
        f" `provisioner departments recreate {entry.department.id}` makes a new one"
    )


def _rename(auth_id: str, name: str, policy: Policy) -> Decision:
    if policy.capabilities.can_rename:
        return Rename(auth_id, name)
    return Skip(ResultKind.UNCHANGED, NAME_KEPT, name)


def removal_step(auth_id: str, policy: Policy) -> Disable | Delete | Skip:
    """The removal of an active department's subaccount, as the policy wants it."""
    match policy.removal:
        case Removal.DELETE if not policy.capabilities.can_delete:
            return Disable(auth_id)
        case Removal.DISABLE | Removal.DISABLE_THEN_DELETE:
            return Disable(auth_id)
        case Removal.DELETE:
            return Delete(auth_id)
        case Removal.IGNORE:
            return Skip(ResultKind.UNCHANGED, "removals are ignored here")
