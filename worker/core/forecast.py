"""The forecast for an event now: its decision in one word, the outcome, and the calls that it takes.

It asks the same functions as the worker. They may want to see the provider first, so a forecast assumes that
the provider is as the ledger has it, and that each call succeeds.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.decide import (
    Adopt,
    AwaitNewer,
    CountTenant,
    Create,
    Decision,
    Delete,
    Disable,
    Enable,
    HoldBack,
    Inspect,
    Look,
    NothingLeft,
    Policy,
    Reconsider,
    Refuse,
    Removal,
    Rename,
    Republish,
    Restore,
    Skip,
    Step,
    VoidHold,
    gone_detail,
)
from worker.core.inventory import ResourceKind
from worker.core.model.answers import Answer
from worker.core.model.causes import Event
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold
from worker.core.model.recollection import Recollection
from worker.core.model.replace import replace
from worker.core.next_step import next_step

DELETION_CALLS = 1 + len(ResourceKind) + 1
"""The subaccount is read, each kind of resource listed, and the subaccount deleted."""

ANSWERED = "answered before"

LATER_LOOK = "drift or resources found at Plivo hold it"


class Planned(StrEnum):
    """The decision on an event, in one word."""

    CREATE = "create"
    ADOPT = "adopt"
    """A create was started: it is looked for first, and sent again if it was not carried out."""
    RENAME = "rename"
    RESTORE = "restore"
    DISABLE = "disable"
    DELETE = "delete"
    HOLD = "hold"
    SKIP = "skip"
    """Nothing is called for, or the event was answered and its result is confirmed."""
    REPUBLISH = "republish"
    """The event was answered, and the confirm of its result is not on record."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts an event.

    `outcome`: that of its answer; None if only the provider can tell. `reason`: that of a hold or of a dead
    letter, as a code, or the answer's own. `detail`: more, for a person. `calls`: the least that it takes.
    """

    decision: Planned
    outcome: ResultKind | None
    calls: int
    reason: str | None = None
    detail: str | None = None


def forecast(event: Event, known: Recollection, policy: Policy, now: datetime) -> Forecast | CountTenant:
    """The forecast for an event, or the wish for the counts of its tenant, to be added to `known`."""
    match next_step(event, known, policy, now):
        case CountTenant() as wanted:
            return wanted
        case VoidHold():
            return _after_void(event, known, policy, now)
        case NothingLeft():  # of late removals only
            raise ValueError("an event always has something to be done about it")
        case decision:
            return _told(decision, event, known.entry, policy)


def _after_void(event: Event, known: Recollection, policy: Policy, now: datetime) -> Forecast | CountTenant:
    """A newer event voids the hold, and is then decided like any other."""
    hold = known.entry.hold
    without = dataclasses.replace(known, entry=replace(known.entry, hold=None, retry=None))
    found = forecast(event, without, policy, now)
    if isinstance(found, CountTenant) or hold is None:
        return found
    return dataclasses.replace(found, detail=_joined(found.detail, _void(hold)))


def _void(hold: Hold) -> str:
    return f"hold {hold.id} ({hold.reason}) becomes void"


def _joined(*texts: str | None) -> str | None:
    return "; ".join(text for text in texts if text) or None


def _told(decision: Decision, event: Event, entry: Entry, policy: Policy) -> Forecast:
    owed = owed_calls(entry)
    match decision:
        case Refuse(reason, detail):
            return Forecast(Planned.REFUSE, ResultKind.FAILED, 0, reason, detail)
        case AwaitNewer(newer):
            detail = f"a newer event is being carried out: {newer.id} of {newer.source}"
            return Forecast(Planned.SKIP, ResultKind.SUPERSEDED, 0, detail=detail)
        case Republish(answer):
            return _answered(answer, owed)
        case Skip(outcome, reason):
            return Forecast(Planned.SKIP, outcome, owed, reason or _why_superseded(outcome, event, entry))
        case HoldBack(reason, detail):
            return Forecast(Planned.HOLD, ResultKind.HELD, owed, reason, detail)
        case Look() if event.kind is Kind.REMOVED:
            return Forecast(Planned.SKIP, ResultKind.REMOVED, 1, detail=gone_detail(entry))
        case Look():
            return Forecast(Planned.REFUSE, ResultKind.FAILED, 1, DeadReason.REJECTED, gone_detail(entry))
        case step:
            return _carried_out(step, entry, policy)


def _carried_out(step: Step, entry: Entry, policy: Policy) -> Forecast:
    match step:
        case Create():
            enabling = 1 if policy.enable is Enable.PUBLISHED else 0
            return Forecast(Planned.CREATE, ResultKind.CREATED, 1 + enabling)
        case Adopt(name):
            return _adopted(name, policy)
        case Rename():
            return Forecast(Planned.RENAME, ResultKind.RENAMED, 1 + owed_calls(entry))
        case Restore():
            return Forecast(Planned.RESTORE, ResultKind.RESTORED, 1 + (1 if entry.owed_to else 0))
        case Disable():
            return Forecast(Planned.DISABLE, ResultKind.DISABLED, 1)
        case Inspect() | Delete():
            return Forecast(Planned.DELETE, ResultKind.REMOVED, DELETION_CALLS, detail=LATER_LOOK)
        case Reconsider():
            again = "a deletion is under way; if it was not carried out, the subaccount is restored instead"
            return Forecast(Planned.CREATE, ResultKind.CREATED, 2, detail=again)
        case _:
            raise ValueError(f"{type(step).__name__} is no step of an event")


def _answered(answer: Answer, owed: int) -> Forecast:
    when = f"{answer.outcome} at {answer.answered_at:%F %T}Z"
    if answer.confirmed:
        return Forecast(Planned.SKIP, answer.outcome, owed, ANSWERED, when)
    return Forecast(Planned.REPUBLISH, answer.outcome, owed, ANSWERED, f"{when}; its result goes out again")


def _adopted(name: str | None, policy: Policy) -> Forecast:
    """At least a page of the list, and GET for the token; a removal goes on from there."""
    if name is not None:
        return Forecast(Planned.ADOPT, ResultKind.CREATED, 2, detail="a create is under way")
    removing = {Removal.DELETE: DELETION_CALLS, Removal.IGNORE: 0}.get(policy.removal, 1)
    detail = "a create is under way; what it made is removed"
    return Forecast(Planned.ADOPT, None, 2 + removing, detail=detail)


def _why_superseded(outcome: ResultKind, event: Event, entry: Entry) -> str | None:
    newer = entry.newer_event(event.version)
    if outcome is not ResultKind.SUPERSEDED or newer is None:
        return None
    state = "was answered" if newer.version == entry.version else "is being carried out"
    return f"a newer event {state}: {newer.reference.id} of {newer.reference.source}"


def owed_calls(entry: Entry) -> int:
    """The calls for what an active department is owed: its token is read, and it is enabled."""
    if entry.status is not Status.ACTIVE or entry.debt is None:
        return 0
    return (1 if entry.debt.recipients else 0) + (1 if entry.debt.enable else 0)
