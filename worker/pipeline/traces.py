"""Traces of steps: the calls and the audit lines that are recorded together with an entry."""

from datetime import datetime
from functools import partial

from worker.core.dead_letters import AuditLine
from worker.core.decide import Adopt, Create, Delete, Disable, HoldBack, Rename, Restore, Step
from worker.core.inventory import Inventory
from worker.core.judge import classify
from worker.core.model.calls import CallNote
from worker.core.model.causes import Cause, LateRemoval
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, Ruling
from worker.core.outcomes import Changed, Deleted, Failed, Made, NothingDone, NothingSeen, Outcome, Seen
from worker.ports import CallFailed, Confirmed

WORKER = "worker"
"""The actor in audit lines of steps that no person has asked for."""


def call_notes(step: Step, entry: Entry, key: str, outcome: Outcome, now: datetime) -> tuple[CallNote, ...]:
    """The step's own call, if it is one that changes something."""
    operation = _operation(step)
    if operation is None or isinstance(outcome, NothingDone | NothingSeen | Seen):
        return ()
    note = partial(CallNote, now, operation, key)
    match outcome:
        case Made(auth_id):
            return (note(auth_id, outcome.status, outcome.api_id),)
        case Changed() | Deleted():
            return (note(entry.auth_id, outcome.status, outcome.api_id),)
        case Failed(failure):
            return (note(entry.auth_id, failure.status, failure.api_id, failure.detail),)
        case _:
            return ()


def update_note(key: str, auth_id: str, outcome: Confirmed | CallFailed, now: datetime) -> CallNote:
    """An update that a person has asked for, as it ended."""
    note = partial(CallNote, now, "update", key, auth_id)
    if isinstance(outcome, Confirmed):
        return note(outcome.status, outcome.api_id)
    failure = classify(outcome.fault)
    return note(failure.status, failure.api_id, failure.detail)


def deletion_audit(step: Step, entry: Entry, cause: Cause, now: datetime) -> tuple[AuditLine, ...]:
    """The line for a deletion that is about to be sent, with all that hangs on the subaccount."""
    if not isinstance(step, Delete) or step.inspection is None:
        return ()
    outcome = f"deletes subaccount {step.auth_id}{' with cascade' if step.cascade else ''}"
    ruling = entry.hold.ruling if entry.hold and isinstance(cause, LateRemoval) else None
    return (_line("delete", entry.department, cause, outcome, now, ruling, step.inspection.inventory),)


def hold_audit(step: Step, holds: tuple[Hold, ...], cause: Cause, now: datetime) -> tuple[AuditLine, ...]:
    """A line for each hold that a step has made or ended."""
    inspection = step.inspection if isinstance(step, HoldBack) else None
    inventory = inspection.inventory if inspection is not None else None
    lines = []
    for hold in holds:
        outcome = f"hold {hold.id} ({hold.reason}) is {hold.state}"
        lines.append(_line("hold", hold.department, cause, outcome, now, None, inventory))
    return tuple(lines)


def in_words(inventory: Inventory) -> str:
    """All ids of an inventory, by kind."""
    kinds = {
        "numbers": inventory.numbers,
        "applications": inventory.applications,
        "endpoints": inventory.endpoints,
    }
    named = (f"{len(ids)} {kind}{': ' if ids else ''}{', '.join(ids)}" for kind, ids in kinds.items())
    return "; ".join(named)


def _line(
    action: str,
    department: Department,
    cause: Cause,
    outcome: str,
    now: datetime,
    ruling: Ruling | None,
    inventory: Inventory | None,
) -> AuditLine:
    return AuditLine(
        at=now,
        by=ruling.by if ruling else WORKER,
        action=action,
        run=cause.reference.id,
        selection=department.id,
        event_id=cause.reference.id,
        source=cause.reference.source,
        tenant=department.tenant,
        department_id=department.id,
        reason="",
        outcome=outcome,
        detail=in_words(inventory) if inventory else None,
    )


def _operation(step: Step) -> str | None:
    match step:
        case Create():
            return "create"
        case Rename() | Restore() | Disable():
            return "update"
        case Delete():
            return "delete"
        case Adopt():
            return "adopt"
        case _:
            return None
