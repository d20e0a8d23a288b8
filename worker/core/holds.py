"""Holds: a removal that waits for a person, from its hold to the person's ruling and its end.

An entry carries its open hold; the ledger keeps them all. A hold ends by a ruling or by a newer event, never
by time alone. An approval that was not carried out within `APPROVAL_VALID_FOR` lapses: the hold waits again.
Each function returns the entry after it, with the hold to record, and the answer that the removal gets.
"""

from dataclasses import dataclass
from datetime import datetime

from contracts.subaccounts import ResultCode, ResultKind
from worker.core.decide import HoldBack
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, LateRemoval, Reference
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, HoldState, Ruling
from worker.core.model.replace import replace
from worker.core.removal import hold_id

RECREATED = "a person has asked for a new subaccount of the department"


@dataclass(frozen=True, slots=True)
class Ruled:
    """An entry after something happened to its hold. `answer`: to the removal event, if it gets one."""

    entry: Entry
    hold: Hold
    answer: Answer | None = None


def held(entry: Entry, cause: Cause, step: HoldBack, now: datetime) -> Ruled:
    """The entry once its removal is held. A hold for the same reason, whose approval failed, waits again."""
    before = entry.hold
    counts = step.inspection.inventory.counts if step.inspection and step.inspection.found else None
    if before is not None and before.reason is step.reason:
        again = replace(before, state=HoldState.WAITING, ruling=None, detail=step.detail, resources=counts)
        return Ruled(replace(entry, hold=again, retry=None), again)
    auth_id, name, _ = entry.existing
    number = entry.holds_made + 1
    made = Hold(
        id=hold_id(entry.department, cause.reference, number),
        department=entry.department,
        reason=step.reason,
        detail=step.detail,
        cause=cause.bare,
        auth_id=auth_id,
        name=name,
        held_at=now,
        resources=counts,
        disabled=before.disabled if before else isinstance(cause, LateRemoval),
        accepted=step.accepted,
    )
    answer = _answer(made, ResultKind.HELD, ResultCode(step.reason), step.detail, now, hold_id=made.id)
    return Ruled(replace(entry, hold=made, holds_made=number, retry=None), made, answer)


def voided(entry: Entry, hold: Hold, newer: Reference | None, now: datetime) -> Ruled:
    """The entry once its hold is void, for a newer event, or for a person who recreates the subaccount."""
    void = replace(hold, state=HoldState.VOID)
    without = replace(entry, hold=None, retry=None, removing=None)
    if hold.disabled:
        return Ruled(without, void)
    reason = None if newer else RECREATED
    answer = _answer(void, ResultKind.SUPERSEDED, ResultCode.SUPERSEDED, reason, now, superseded_by=newer)
    return Ruled(owing_result(without, answer, now), void, answer)


def approved(entry: Entry, hold: Hold, ruling: Ruling) -> Ruled:
    """The entry once a person has approved its removal. The worker carries it out from there."""
    ruled = replace(hold, state=HoldState.APPROVED, ruling=ruling)
    return Ruled(replace(entry, hold=ruled, retry=None), ruled)


def rejected(entry: Entry, hold: Hold, ruling: Ruling) -> Ruled:
    """The entry once a person has rejected its removal. A disabled department stays disabled, for good."""
    ruled = replace(hold, state=HoldState.REJECTED, ruling=ruling)
    removal = entry.removal and replace(entry.removal, cancelled=True)
    without = replace(entry, hold=None, retry=None, removal=removal)
    if hold.disabled:
        return Ruled(without, ruled)
    reason = f"removal rejected by {ruling.by}"
    answer = _answer(ruled, ResultKind.UNCHANGED, ResultCode.UNCHANGED, reason, ruling.at)
    return Ruled(owing_result(without, answer, ruling.at), ruled, answer)


def lapsed(entry: Entry, hold: Hold) -> Ruled:
    """The entry once an approval was not carried out in time: the hold waits again."""
    waiting = replace(hold, state=HoldState.WAITING, ruling=None)
    return Ruled(replace(entry, hold=waiting, retry=None), waiting)


def owing_result(entry: Entry, answer: Answer, at: datetime) -> Entry:
    """The entry with one more answer that the scheduler has to publish, at `at` or before."""
    results_at = min(entry.results_at or at, at)
    return replace(entry, owed_results=(*entry.owed_results, answer), results_at=results_at)


def result_published(entry: Entry, answer: Answer) -> Entry:
    """The entry once the broker has confirmed an owed answer; the same if it does not owe this one."""
    if answer not in entry.owed_results:
        return entry
    left = tuple(one for one in entry.owed_results if one != answer)
    return replace(entry, owed_results=left, results_at=entry.results_at if left else None)


def results_put_off(entry: Entry, until: datetime) -> Entry:
    """The entry once an owed answer could not be published."""
    return replace(entry, results_at=until) if entry.owed_results else entry


def _answer(
    hold: Hold,
    outcome: ResultKind,
    code: ResultCode,
    reason: str | None,
    now: datetime,
    *,
    hold_id: str | None = None,
    superseded_by: Reference | None = None,
) -> Answer:
    return Answer(
        department=hold.department,
        event=hold.cause.reference,
        payload_digest=hold.cause.payload_digest,
        outcome=outcome,
        code=code,
        answered_at=now,
        name=hold.cause.name or hold.name,
        auth_id=hold.auth_id,
        reason=reason,
        superseded_by=superseded_by,
        trace=hold.cause.trace,
        hold_id=hold_id,
        version=hold.cause.version,
    )
