"""The conclusions of a removal: held for a person, reserved before its call, deleted, or not.

A deletion is DELETING until its outcome is known: it ends deleted, where 404 is success, or refused, which
leaves the entry as before it. One in doubt stays on record, and is inspected before the next try.
"""

from datetime import datetime

from contracts.subaccounts import ResultKind
from worker.core.adoption import MARGIN
from worker.core.conclusions.conclusion import Conclusion, answered, is_removal, owing, versioned, wanted
from worker.core.decide import Delete, HoldBack, Inspect, Policy, Reconsider, Step, VoidHold
from worker.core.duties import arm_late_check
from worker.core.gone import vacated
from worker.core.holds import held, owing_result, voided
from worker.core.inventory import Inspection
from worker.core.judge import Failure, Missing, Unknown
from worker.core.limits import Admission
from worker.core.model.causes import Cause, LateRemoval
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.removals import Deletion, Removed, Removing
from worker.core.model.replace import replace
from worker.core.outcomes import Deleted, Inspected, NothingDone, Outcome, Seen


def removal_concluded(
    entry: Entry, cause: Cause, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    """The conclusion of a step of a removal. Raises `ValueError` for an outcome that the step cannot have."""
    match step, outcome:
        case Inspect(), Inspected(inspection):
            return Conclusion(entry, inspection=inspection)
        case HoldBack(), NothingDone():
            return _held(entry, cause, step, policy, now)
        case VoidHold(), NothingDone():
            return _voided(entry, cause, now)
        case Delete(auth_id), Deleted():
            return answered(deleted(entry, cause, now), cause, ResultKind.REMOVED, now, auth_id=auth_id)
        case Reconsider(), Seen():
            return _still_there(entry, policy, now)
        case _:
            raise ValueError(f"{type(step).__name__} cannot end as {type(outcome).__name__}")


def removal_failed(
    entry: Entry,
    cause: Cause | None,
    step: Delete | Inspect | Reconsider,
    failure: Failure,
    policy: Policy,
    now: datetime,
) -> Conclusion:
    """A call about a deletion failed. A read that failed says nothing about an earlier call."""
    match step, failure:
        case Reconsider(), Missing() if is_removal(cause):
            return Conclusion(entry)  # inspected again: it is deleted
        case Reconsider(), Missing():
            return _reconsidered(entry, deleted(entry, None, now), policy, now)
        case Delete(), _:
            return Conclusion(_not_deleted(entry, failure), failure=failure)
        case _:
            return Conclusion(entry, failure=failure)


def reserved(entry: Entry, cause: Cause, now: datetime, inspection: Inspection | None = None) -> Entry:
    """The entry with the removal of an active department under way, counted unless a person approved it.

    A deletion that turns out to be carried out is the approved one, whose hold a newer removal has voided.
    """
    if entry.removal is not None:
        return entry
    carried_out = entry.deletion is not None and inspection is not None and inspection.found is None
    counted_at = None if isinstance(cause, LateRemoval) or carried_out else now
    if entry.removing is not None:
        counted_at = entry.removing.counted_at
    return replace(entry, removing=Removing(cause.reference, counted_at))


def deletion_cancelled(entry: Entry) -> Entry:
    """The entry once its deletion is not wanted any more, or waits for the newer removal that takes it up."""
    if entry.removal is None:
        return entry
    return replace(entry, removal=replace(entry.removal, cancelled=True), retry=None)


def admission_of(before: Entry, intended: Entry, policy: Policy, now: datetime) -> Admission | None:
    """The admission that the ledger must give to this write; None if it begins no removal that counts."""
    begins = intended.removing is not None and before.removing is None
    if not begins or not policy.limit or intended.removing is None or intended.removing.counted_at is None:
        return None
    return Admission(policy.limit, now)


def deleted(entry: Entry, cause: Cause | None, now: datetime) -> Entry:
    """The entry once its subaccount is deleted, for `cause`, or else for the removal on record."""
    before = entry.removal or entry.removing
    gone = replace(vacated(entry, now), gone_at=None)
    caused_by = cause.bare if cause else (entry.removal.cause if entry.removal else None)
    removal = Removed(now, caused_by, before.counted_at if before else None, entry.auth_id)
    return replace(gone, removal=removal)


def _held(entry: Entry, cause: Cause, step: HoldBack, policy: Policy, now: datetime) -> Conclusion:
    """The removal is held, once a deletion that was under way cannot be carried out any more."""
    if entry.deletion is not None:
        if (undecided := _undecided(entry.deletion, policy, now)) is not None:
            return Conclusion(entry, failure=undecided)
        entry = arm_late_check(_undeleted(entry), policy, now)
    ruled = held(replace(entry, removing=None), cause, step, now)
    if ruled.answer is None:
        return Conclusion(ruled.entry, holds=(ruled.hold,))
    if not isinstance(cause, LateRemoval):
        newest = versioned(ruled.entry, cause)
        return Conclusion(owing(newest, ruled.answer, now), ruled.answer, holds=(ruled.hold,))
    # An event that was answered `disabled` keeps that answer.
    answers = () if ruled.hold.disabled else (ruled.answer,)
    owed = owing_result(ruled.entry, ruled.answer, now)
    return Conclusion(owed, holds=(ruled.hold,), answers=answers)


def _voided(entry: Entry, cause: Cause, now: datetime) -> Conclusion:
    if entry.hold is None:
        raise ValueError("there is no hold to void")
    ruled = voided(entry, entry.hold, cause.reference, now)
    without = wanted(ruled.entry, cause)
    # The grace is over: without its hold, the deletion would be due before the event is decided again.
    if not is_removal(cause) or entry.status is Status.DISABLED:  # the removal takes it up
        without = deletion_cancelled(without)
    return Conclusion(without, holds=(ruled.hold,), answers=(ruled.answer,) if ruled.answer else ())


def _still_there(entry: Entry, policy: Policy, now: datetime) -> Conclusion:
    """The deletion was not carried out, once the settle window is over: the event is decided again."""
    return _reconsidered(entry, arm_late_check(_undeleted(entry), policy, now), policy, now)


def _reconsidered(entry: Entry, settled: Entry, policy: Policy, now: datetime) -> Conclusion:
    undecided = _undecided(entry.deletion, policy, now) if entry.deletion else None
    return Conclusion(settled) if undecided is None else Conclusion(entry, failure=undecided)


def _undecided(deletion: Deletion, policy: Policy, now: datetime) -> Unknown | None:
    """The wait until a deletion cannot be carried out late any more; None if it is over."""
    left = (deletion.begun_at + policy.settle_window - now).total_seconds()
    if left <= 0:
        return None
    why = "it is not known yet whether a deletion was carried out"
    return Unknown(why, left + MARGIN.total_seconds())


def _undeleted(entry: Entry) -> Entry:
    """The entry as before its deletion."""
    status = Status.ACTIVE if entry.removal is None else Status.DISABLED
    check_at = entry.deletion.check_at if entry.deletion else None
    check = Check(check_at, late_call=True) if check_at else None
    return replace(entry, status=status, deletion=None, removing=None, check=check, begun=None)


def _not_deleted(entry: Entry, failure: Failure) -> Entry:
    """A deletion in doubt stays on record: the subaccount is inspected again before the next try."""
    in_doubt = entry.deletion is not None and entry.deletion.in_doubt
    return entry if in_doubt or isinstance(failure, Unknown) else _undeleted(entry)
