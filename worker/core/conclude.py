"""Conclude: entry, event, step and outcome make the next entry, and the answer if there is one.

`intend` comes before the call, `conclude` after it. The entry that `intend` returns must be durable before
the call is sent, because after a crash only the ledger can tell that a call may have been made:

- A create becomes a claim: since when, for which event, under which idempotency key, which attempt. While it
  is open, nothing else is due for the department.
- A rename, restore, disable or enable gets a check one settle window ahead. A call without a clear response
  may be carried out late, over a newer one; the check is one GET then. The record of the outcome clears it,
  unless an earlier call under it was never recorded.
- A deletion becomes DELETING until its outcome is known.
- An event that says that the department exists is noted, so that no older removal acts until it is answered.
- An event whose change is sent is noted, so that older events wait while the change may be in effect.

Here the step and its outcome choose the conclusion; `conclusions/` has those of a creation, a change and a
removal. A conclusion without answer or failure means that the event is decided again on the new entry.
"""

import dataclasses
from datetime import datetime

from contracts.subaccounts import ResultKind
from worker.core import gone
from worker.core.conclusions.change import changed, not_changed, not_found, seen
from worker.core.conclusions.conclusion import Conclusion, answered, begun, is_removal, required, wanted
from worker.core.conclusions.creation import created, not_created, nothing_seen
from worker.core.conclusions.removal import (
    deletion_cancelled,
    removal_concluded,
    removal_failed,
    reserved,
)
from worker.core.decide import (
    Adopt,
    Create,
    Delete,
    Disable,
    Inspect,
    Look,
    Policy,
    Reconsider,
    Rename,
    Restore,
    Skip,
    Step,
    VoidHold,
)
from worker.core.duties import arm_check, clear_check
from worker.core.holds import voided
from worker.core.judge import Failure, Missing
from worker.core.model.causes import Cause, LateRemoval
from worker.core.model.entry import Claim, Entry, Status
from worker.core.model.holds import HoldState
from worker.core.model.removals import Deletion
from worker.core.model.replace import replace
from worker.core.outcomes import (
    Changed,
    Deleted,
    Failed,
    Made,
    NothingDone,
    NothingSeen,
    Outcome,
    Seen,
)


def intend(
    step: Step, entry: Entry, cause: Cause | None, idempotency_key: str, policy: Policy, now: datetime
) -> Entry:
    """The entry to record before the step acts. Raises `ValueError` for one that lacks the cause it needs."""
    if not isinstance(step, Skip | VoidHold):  # those end in this same write
        entry = wanted(entry, cause)
    if _begins(step, entry, cause):
        entry = begun(entry, cause, now)
    match step:
        case Create(name):
            cause = required(cause)
            attempt = entry.unknown_creates(cause.reference) + 1
            claim = Claim(now, idempotency_key, cause.reference, attempt, trace=cause.trace)
            return replace(entry, status=Status.CLAIMED, name=name, claim=claim)
        case Delete(_, cascade, inspection):
            before = entry.deletion
            check_at = entry.check.at if entry.check else (before.check_at if before else None)
            deletion = Deletion(now, cascade, in_doubt=before is not None, check_at=check_at)
            counted = reserved(entry, required(cause), now, inspection)
            looked = replace(counted, missing_since=None, gone_at=None)  # the inspection has just looked
            return replace(looked, status=Status.DELETING, deletion=deletion, check=None)
        case Disable():
            return arm_check(reserved(entry, required(cause), now), policy, now)
        case Restore():
            return arm_check(deletion_cancelled(entry), policy, now)
        case Reconsider():
            return entry if is_removal(cause) else deletion_cancelled(entry)
        case Rename():
            return arm_check(entry, policy, now)
        case _:
            return entry


def _begins(step: Step, entry: Entry, cause: Cause | None) -> bool:
    """Whether a change may be sent next. An adoption is noted once: most of its tries only scan."""
    match step:
        case Create() | Rename() | Restore() | Disable() | Delete():
            return True
        case Adopt():
            return cause is None or entry.begun is None or entry.begun.reference != cause.reference
        case _:
            return False


def conclude(
    entry: Entry, cause: Cause | None, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    """Records an outcome: `entry`, as `intend` returned it, becomes the next one.

    Without a `cause` there is no answer. Raises `ValueError` for an outcome that the step cannot have.
    """
    conclusion = _with_hold_closed(entry, cause, _concluded(entry, cause, step, outcome, policy, now), now)
    api_id = _api_id_of(outcome)
    if api_id is None:
        return conclusion
    return dataclasses.replace(conclusion, entry=replace(conclusion.entry, api_id=api_id))


def _with_hold_closed(
    before: Entry, cause: Cause | None, conclusion: Conclusion, now: datetime
) -> Conclusion:
    """Records the end of a hold that the next entry does not have any more."""
    hold, after = before.hold, conclusion.entry
    kept = {one.id for one in conclusion.holds} | {after.hold.id if after.hold else None}
    if hold is None or hold.id in kept:
        return conclusion
    if isinstance(cause, LateRemoval):
        done = replace(hold, state=HoldState.DONE)
        return dataclasses.replace(conclusion, holds=(done, *conclusion.holds))
    ruled = voided(after, hold, None, now)
    answers = (ruled.answer,) if ruled.answer else ()
    return dataclasses.replace(
        conclusion, entry=ruled.entry, holds=(ruled.hold, *conclusion.holds), answers=answers
    )


def _api_id_of(outcome: Outcome) -> str | None:
    """The provider's id of the call that ended the step, if it named one."""
    match outcome:
        case Made() | Changed() | Deleted():
            return outcome.api_id
        case Failed(failure):
            return failure.api_id
        case _:
            return None


def _concluded(
    entry: Entry, cause: Cause | None, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    match step, outcome:
        case _, Failed(failure):
            return _failed(entry, cause, step, failure, policy, now)
        case ((Create() | Adopt()), Made()):
            return created(entry, required(cause), step, outcome, policy, now)
        case Adopt(), NothingSeen(begun):
            return nothing_seen(entry, required(cause), begun, policy, now)
        case ((Rename() | Restore() | Disable()), Changed()):
            return changed(gone.found(clear_check(entry), policy, now), cause, step, policy, now)
        case Look(), Seen():
            return seen(gone.found(entry, policy, now), cause)
        case Skip(kind, reason, name, code), NothingDone():
            named = replace(entry, name=name) if name else entry
            skipped = replace(named, gone_at=None) if kind is ResultKind.REMOVED else named
            return answered(skipped, cause, kind, now, reason, code=code)
        case _:
            return removal_concluded(entry, required(cause), step, outcome, policy, now)


def _failed(
    entry: Entry, cause: Cause | None, step: Step, failure: Failure, policy: Policy, now: datetime
) -> Conclusion:
    match step, failure:
        case Create(), _:
            return not_created(entry, failure, policy, now)
        case ((Rename() | Restore() | Disable() | Look()), Missing()):
            return not_found(entry, required(cause), failure, policy, now)
        case ((Delete() | Inspect() | Reconsider()), _):
            return removal_failed(entry, cause, step, failure, policy, now)
        case _:
            return Conclusion(not_changed(entry, failure, policy, now), failure=failure)
