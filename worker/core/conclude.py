"""Conclude: entry, event, step and outcome make the next entry, and the answer if there is one.

`intend` comes before the call, `conclude` after it. The entry that `intend` returns must be durable before
the call is sent, because after a crash only the ledger can tell that a call may have been made:

- A create becomes a claim: since when, for which event, under which idempotency key, which attempt. While it
  is open, nothing else is due for the department.
- A rename, restore, disable or enable gets a check one settle window ahead. A call without a clear response
  may be carried out late, over a newer one; the check is one GET then. The record of the outcome clears it,
  unless an earlier call under it was never recorded.
- A deletion becomes DELETING until its outcome is known: it ends deleted, where 404 is success, or refused,
  which leaves the entry as before it. One in doubt stays on record, and is inspected before the next try.

A create ends in one of three ways. Created: the subaccount is on record and credentials are owed. Certainly
not: the claim is withdrawn, and only the count before it stays. Unknown: the claim stays; scans of the list
settle it (`adoption.py`). Three unknown creates of one event give it up, and its evidence goes into the dead
letter. The claim stays then too, with its count at zero, so a replay or a newer event looks first. An outage
counts no attempt.

A lost create leaves a duplicate check ten windows ahead, and so do duplicates: the check finds a create that
is carried out after the window. A conclusion without answer or failure means that the event is decided again
on the new entry.
"""

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import SecretStr

from contracts.departments import Kind, Version
from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from worker.core.adoption import MARGIN, MAX_UNKNOWN_CREATES, is_lost, seconds_to_next_scan
from worker.core.decide import (
    NAME_KEPT,
    Adopt,
    Create,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    Look,
    Policy,
    Reconsider,
    Rename,
    Restore,
    Skip,
    Step,
    VoidHold,
    gone_detail,
)
from worker.core.duties import (
    DEBT_PAUSE,
    arm_check,
    arm_late_check,
    clear_check,
    duplicates_check_time,
    put_off_debt,
)
from worker.core.gone import found as found_again
from worker.core.gone import not_found, seconds_until_gone, vacated
from worker.core.holds import held, owing_result, voided
from worker.core.inventory import Inspection
from worker.core.judge import Failure, Missing, Permanent, Unknown, told
from worker.core.limits import Admission
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, LateRemoval, Recreation
from worker.core.model.credentials import ANY_RECIPIENT, Debt, Fingerprint, IssuedCredentials
from worker.core.model.entry import Check, Claim, Entry, Status
from worker.core.model.holds import Hold, HoldState
from worker.core.model.removals import Deletion, Removed, Removing
from worker.core.model.replace import replace

PAST_REMOVALS_KEPT = 50
"""Deletions of one department that stay counted, should it be created anew and again."""


@dataclass(frozen=True, slots=True)
class Found:
    """An adopted subaccount as the provider shows it. A ledger that is behind knows neither field."""

    incarnation: int
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """The subaccount exists, is ours and is as wanted: just created, or found by its tag.

    `duplicates` are others with its tag; they have been disabled. If it is not `enabled`, it must be enabled
    later. `api_id` and `status`: those of its create, as in `Changed` and `Deleted` of theirs.
    """

    auth_id: str
    auth_token: SecretStr | None = field(repr=False)
    duplicates: tuple[str, ...] = ()
    found: Found | None = None
    enabled: bool = True
    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class NothingSeen:
    """A complete scan found no subaccount with the department's tag; it began at `begun`."""

    begun: datetime


@dataclass(frozen=True, slots=True)
class Changed:
    """The provider confirmed the new state: renamed, disabled, restored."""

    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The subaccount is gone: deleted now, or found gone."""

    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The subaccount is there."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """The provider has shown the subaccount, and what hangs on it."""

    inspection: Inspection


@dataclass(frozen=True, slots=True)
class NothingDone:
    """No call was due."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call did not succeed; `failure` says whether it may have had an effect."""

    failure: Failure


Outcome = Made | NothingSeen | Changed | Deleted | Seen | Inspected | NothingDone | Failed


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The next entry. Without an answer or a failure, the event is decided again on it.

    `holds`: made or changed. `answers`: to other events, whose removals were held. `inspection`: for the next
    decision; it is not recorded.
    """

    entry: Entry
    answer: Answer | None = None
    failure: Failure | None = None
    holds: tuple[Hold, ...] = ()
    answers: tuple[Answer, ...] = ()
    inspection: Inspection | None = None


def intend(
    step: Step, entry: Entry, cause: Cause | None, idempotency_key: str, policy: Policy, now: datetime
) -> Entry:
    """The entry to record before the step acts. Raises `ValueError` for one that lacks the cause it needs."""
    match step:
        case Create(name):
            cause = _required(cause)
            attempt = entry.unknown_creates(cause.reference) + 1
            claim = Claim(now, idempotency_key, cause.reference, attempt, trace=cause.trace)
            return replace(entry, status=Status.CLAIMED, name=name, claim=claim)
        case Delete(_, cascade, inspection):
            deletion = Deletion(now, cascade, in_doubt=entry.deletion is not None)
            reserved = _reserved(entry, _required(cause), now, inspection)
            looked = replace(reserved, missing_since=None, gone_at=None)  # the inspection has just looked
            return replace(looked, status=Status.DELETING, deletion=deletion, check=None)
        case Disable():
            return arm_check(_reserved(entry, _required(cause), now), policy, now)
        case Restore():
            return arm_check(_deletion_cancelled(entry, cause), policy, now)
        case Reconsider():
            return entry if _is_removal(cause) else _deletion_cancelled(entry, cause)
        case Rename():
            return arm_check(entry, policy, now)
        case _:
            return entry


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
        case ((Create(name) | Adopt(name)), Made()):
            made = _made(entry, _required(cause), step, outcome, policy, now)
            if name is None:  # adopted only to be removed: decided again
                return Conclusion(made)
            return _answered(made, cause, ResultKind.CREATED, now, _duplicates_reason(outcome))
        case Adopt(), NothingSeen(begun):
            return _nothing_seen(entry, _required(cause), begun, policy, now)
        case ((Rename() | Restore() | Disable()), Changed()):
            return _changed(found_again(clear_check(entry), policy, now), cause, step, policy, now)
        case Look(), Seen():
            return _seen(found_again(entry, policy, now), cause)
        case Skip(kind, reason, name, code), NothingDone():
            named = replace(entry, name=name) if name else entry
            skipped = replace(named, gone_at=None) if kind is ResultKind.REMOVED else named
            return _answered(skipped, cause, kind, now, reason, code=code)
        case _:
            return _removal_concluded(entry, _required(cause), step, outcome, policy, now)


def _removal_concluded(
    entry: Entry, cause: Cause, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    match step, outcome:
        case Inspect(), Inspected(inspection):
            return Conclusion(entry, inspection=inspection)
        case HoldBack(), NothingDone():
            return _held(entry, cause, step, policy, now)
        case VoidHold(), NothingDone():
            return _voided(entry, cause, now)
        case Delete(auth_id), Deleted():
            return _answered(_deleted(entry, cause, now), cause, ResultKind.REMOVED, now, auth_id=auth_id)
        case Reconsider(), Seen():
            return _still_there(entry, policy, now)
        case _:
            raise ValueError(f"{type(step).__name__} cannot end as {type(outcome).__name__}")


def _seen(entry: Entry, cause: Cause | None) -> Conclusion:
    """The event is decided again. A recreation has nothing to do."""
    if not isinstance(cause, Recreation):
        return Conclusion(entry)
    why = f"its subaccount {entry.auth_id} is at Plivo: there is nothing to recreate"
    return Conclusion(entry, failure=Permanent(DeadReason.INVALID, why, ResultCode.NOT_ALLOWED))


def _failed(
    entry: Entry, cause: Cause | None, step: Step, failure: Failure, policy: Policy, now: datetime
) -> Conclusion:
    match step, failure:
        case Create(), _:
            return _not_created(entry, failure, policy, now)
        case ((Rename() | Restore() | Disable() | Look()), Missing()):
            return _not_found(entry, _required(cause), failure, policy, now)
        case Reconsider(), Missing() if _is_removal(cause):
            return Conclusion(entry)  # inspected again: it is deleted
        case Reconsider(), Missing():
            return _reconsidered(entry, _deleted(entry, None, now), policy, now)
        case Delete(), _:
            return Conclusion(_not_deleted(entry, failure), failure=failure)
        case ((Inspect() | Reconsider()), _):  # a read that failed says nothing about an earlier call
            return Conclusion(entry, failure=failure)
        case _:
            return Conclusion(_not_changed(entry, failure, policy, now), failure=failure)


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
        versioned = replace(ruled.entry, version=cause.version, version_type=cause.reference.type)
        return Conclusion(_owing(versioned, ruled.answer, now), ruled.answer, holds=(ruled.hold,))
    # An event that was answered `disabled` keeps that answer.
    answers = () if ruled.hold.disabled else (ruled.answer,)
    owing = owing_result(ruled.entry, ruled.answer, now)
    return Conclusion(owing, holds=(ruled.hold,), answers=answers)


def _voided(entry: Entry, cause: Cause, now: datetime) -> Conclusion:
    if entry.hold is None:
        raise ValueError("there is no hold to void")
    ruled = voided(entry, entry.hold, cause.reference, now)
    without = ruled.entry
    if not _is_removal(cause):
        # The grace is over: without its hold, the deletion would be due before the event is decided again.
        without = _deletion_cancelled(without, cause)
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
    return replace(entry, status=status, deletion=None, removing=None)


def _not_deleted(entry: Entry, failure: Failure) -> Entry:
    """A deletion in doubt stays on record: the subaccount is inspected again before the next try."""
    in_doubt = entry.deletion is not None and entry.deletion.in_doubt
    return entry if in_doubt or isinstance(failure, Unknown) else _undeleted(entry)


def _changed(
    entry: Entry, cause: Cause | None, step: Rename | Restore | Disable, policy: Policy, now: datetime
) -> Conclusion:
    match step:
        case Rename(_, name):
            return _answered(replace(entry, name=name, kept_name=None), cause, ResultKind.RENAMED, now)
        case Restore(_, name):
            kept = NAME_KEPT if name and not policy.capabilities.can_rename else None
            return _answered(_restored(entry, name, now), cause, ResultKind.RESTORED, now, kept)
        case Disable():
            return _answered(_disabled(entry, cause, now), cause, ResultKind.DISABLED, now)


def retarget_debts(entry: Entry, recipients: frozenset[str]) -> Entry:
    """Replaces the debt to any recipient by a debt to `recipients`, once some are configured."""
    debt = entry.debt
    if debt is None or ANY_RECIPIENT not in debt.recipients - recipients:
        return entry
    return replace(entry, debt=replace(debt, recipients=debt.recipients - {ANY_RECIPIENT} | recipients))


def confirmed(entry: Entry, recipients: frozenset[str], token: Fingerprint | None = None) -> Entry:
    """The entry once the broker has confirmed the credentials of these recipients, with this token."""
    debt, issued = entry.debt, entry.issued
    if debt is not None:
        debt = _debt(debt.recipients - recipients, enable=debt.enable, retry_at=debt.retry_at)
    if issued is not None and token is not None:
        issued = replace(issued, fingerprint=token)
    return replace(entry, debt=debt, issued=issued, missing_since=None)


def written_off(entry: Entry) -> Entry:
    """The entry once its credentials can never be delivered: the provider showed their token once."""
    return confirmed(entry, entry.owed_to)


def enabled(entry: Entry) -> Entry:
    """The entry once the provider has enabled a subaccount that was created disabled."""
    debt = entry.debt and _debt(entry.debt.recipients, enable=False, retry_at=entry.debt.retry_at)
    return replace(clear_check(entry), debt=debt)


def _debt(recipients: frozenset[str], *, enable: bool, retry_at: datetime | None) -> Debt | None:
    return Debt(recipients, enable, retry_at) if recipients or enable else None


def _made(
    entry: Entry, cause: Cause, step: Create | Adopt, made: Made, policy: Policy, now: datetime
) -> Entry:
    claim, found = entry.claim, made.found or Found(entry.incarnation, "")
    before = entry.removal
    counted = [before.counted_at] if before and before.counted_at else []
    adopted = isinstance(step, Adopt)
    # A create taken for lost may still be carried out: the one found may be another.
    look_again = made.duplicates or (adopted and entry.duplicates_check_at)
    return replace(
        entry,
        status=Status.ACTIVE,
        auth_id=made.auth_id,
        incarnation=found.incarnation,
        name=step.name or entry.name or found.name,
        created_at=now,
        claim=None,
        issued=IssuedCredentials(
            cause=claim.event if claim else cause.reference,
            trace=claim.trace if claim else cause.trace,
            generation=max(entry.generation + 1, found.incarnation),  # a lost ledger has lost count
            supersedes=before.auth_id if before else None,
        ),
        debt=_debt(policy.recipients, enable=not made.enabled, retry_at=now + DEBT_PAUSE),
        # A worker that died while adopting it may have sent a change that arrives late.
        check=Check(now + policy.settle_window, late_call=True) if adopted else None,
        duplicates_check_at=duplicates_check_time(policy, now) if look_again else entry.duplicates_check_at,
        removal=None,
        past_removals=(*entry.past_removals, *counted)[-PAST_REMOVALS_KEPT:],
        missing_since=None,
        gone_at=None,
    )


def _duplicates_reason(made: Made) -> str | None:
    return f"disabled duplicates: {', '.join(made.duplicates)}" if made.duplicates else None


def _restored(entry: Entry, name: str | None, now: datetime) -> Entry:
    active = replace(
        entry,
        status=Status.ACTIVE,
        name=name or entry.name,
        kept_name=None if name else entry.kept_name,
        removal=None,
        debt=_debt_kept(entry),
    )
    return put_off_debt(active, now)


def _disabled(entry: Entry, cause: Cause | None, now: datetime) -> Entry:
    counted_at = entry.removing.counted_at if entry.removing else None
    removal = Removed(now, cause.bare if cause else None, counted_at)
    return replace(
        entry, status=Status.DISABLED, removal=removal, removing=None, debt=_debt_kept(entry), retry=None
    )


def _reserved(entry: Entry, cause: Cause, now: datetime, inspection: Inspection | None = None) -> Entry:
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


def _deletion_cancelled(entry: Entry, cause: Cause | None) -> Entry:
    """The entry once something newer says that the department exists."""
    if entry.removal is None:
        return entry
    before, by = entry.removal.cancelled_by, cause.version if cause else None
    newest = by if by is not None and by.newer_than(before) else before
    return replace(entry, removal=replace(entry.removal, cancelled=True, cancelled_by=newest), retry=None)


def admission_of(before: Entry, intended: Entry, policy: Policy, now: datetime) -> Admission | None:
    """The admission that the ledger must give to this write; None if it begins no removal that counts."""
    begins = intended.removing is not None and before.removing is None
    if not begins or not policy.limit or intended.removing is None or intended.removing.counted_at is None:
        return None
    return Admission(policy.limit, now)


def _debt_kept(entry: Entry) -> Debt | None:
    """The debt after a change of `enabled`: that change replaces an enabling that nothing holds back."""
    return entry.debt and _debt(entry.debt.recipients, enable=entry.debt.holds_back, retry_at=None)


def _deleted(entry: Entry, cause: Cause | None, now: datetime) -> Entry:
    before = entry.removal or entry.removing
    gone = replace(vacated(entry, now), gone_at=None)
    caused_by = cause.bare if cause else (entry.removal.cause if entry.removal else None)
    removal = Removed(now, caused_by, before.counted_at if before else None, entry.auth_id)
    return replace(gone, removal=removal)


def _not_found(entry: Entry, cause: Cause, missing: Missing, policy: Policy, now: datetime) -> Conclusion:
    """The provider does not find the subaccount on record: it is asked again, until it counts as gone."""
    without = not_found(clear_check(entry), policy, now)
    if without.gone_at is None:
        left = seconds_until_gone(without, policy, now)
        return Conclusion(without, failure=dataclasses.replace(missing, gone_in_seconds=left))
    if isinstance(cause, Recreation):
        return Conclusion(vacated(without, now))  # decided again: a new one is created
    if _is_removal(cause):
        removed, code = _deleted(without, cause, now), ResultCode.GONE_AT_PROVIDER
        return _answered(removed, cause, ResultKind.REMOVED, now, auth_id=entry.auth_id, code=code)
    code, api_id = ResultCode.GONE_AT_PROVIDER, missing.api_id
    refused = Permanent(DeadReason.REJECTED, gone_detail(without), code, api_id=api_id)
    return Conclusion(without, failure=refused)


def _not_changed(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Entry:
    """A change without a clear response may be carried out late, over a newer one.

    A deletion is sent again, and an adoption is checked once it succeeds.
    """
    if entry.status is Status.DELETING or entry.auth_id is None:
        return entry
    if isinstance(failure, Unknown):
        return arm_late_check(entry, policy, now)
    cleared = clear_check(entry)
    # A removal that certainly did not happen does not count. One in doubt does, until its check.
    return cleared if cleared.check is not None else replace(cleared, removing=None)


def _not_created(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Conclusion:
    claim = _claim_of(entry)
    if not isinstance(failure, Unknown):
        # The create certainly did not happen: its claim leaves only the count before it.
        before = replace(claim, attempt=claim.attempt - 1) if claim.attempt > 1 else None
        return Conclusion(_unclaimed(entry, before), failure=failure)
    if failure.outage:  # no call got a response: not counted against this event
        claim = replace(claim, attempt=claim.attempt - 1)
    if claim.attempt < MAX_UNKNOWN_CREATES:
        seconds = seconds_to_next_scan(now, claim.started_at, policy.settle_window)
        undecided = dataclasses.replace(failure, scan_in_seconds=seconds)
        return Conclusion(replace(entry, claim=claim), failure=undecided)
    return _given_up(replace(entry, claim=claim), told(failure))


def _given_up(entry: Entry, detail: str) -> Conclusion:
    """Gives the event up, with the evidence. A replay, or a newer event, counts from zero."""
    claim = _claim_of(entry)
    evidence = (
        f"{claim.attempt} creates ended without a clear response, the last begun at {claim.started_at:%FT%TZ}"
        f" with idempotency key {claim.idempotency_key}: {detail}"
    )
    failure = Permanent(DeadReason.CREATE_UNKNOWN, evidence)
    return Conclusion(replace(entry, claim=replace(claim, attempt=0)), failure=failure)


def _nothing_seen(entry: Entry, cause: Cause, begun: datetime, policy: Policy, now: datetime) -> Conclusion:
    if entry.status is not Status.CLAIMED:
        if entry.unknown_creates(cause.reference) < MAX_UNKNOWN_CREATES:
            return Conclusion(entry)
        return _given_up(entry, "the create was taken for lost, because the list has not shown it")
    claim = _claim_of(entry)
    looked = replace(claim, clean_scans=claim.clean_scans + 1)
    if is_lost(looked.clean_scans, begun, claim.started_at, policy.settle_window):
        # A create taken for lost may still be carried out very late, whatever the department is then.
        lost = _unclaimed(entry, replace(claim, clean_scans=0))
        return Conclusion(replace(lost, duplicates_check_at=duplicates_check_time(policy, now)))
    seconds = seconds_to_next_scan(now, claim.started_at, policy.settle_window)
    undecided = Unknown("it is not known yet whether a create was carried out", seconds)
    return Conclusion(replace(entry, claim=looked), failure=undecided)


def _unclaimed(entry: Entry, claim: Claim | None) -> Entry:
    """The entry as before the create; `claim` keeps the count for the next create."""
    return replace(entry, status=Status.REMOVED if entry.removal else Status.ABSENT, claim=claim)


def _claim_of(entry: Entry) -> Claim:
    if entry.claim is None:
        raise ValueError(f"no create was claimed: the department is {entry.status}")
    return entry.claim


def _is_removal(cause: Cause | None) -> bool:
    return cause is not None and cause.version is not None and cause.version.kind is Kind.REMOVED


def _required(cause: Cause | None) -> Cause:
    if cause is None:
        raise ValueError("a create, an adoption or a removal needs a cause")
    return cause


def _answered(
    entry: Entry,
    cause: Cause | None,
    outcome: ResultKind,
    now: datetime,
    reason: str | None = None,
    auth_id: str | None = None,
    code: ResultCode | None = None,
) -> Conclusion:
    if cause is None:
        return Conclusion(entry)
    superseded = outcome is ResultKind.SUPERSEDED
    answer = Answer(
        department=entry.department,
        event=cause.reference,
        payload_digest=cause.payload_digest,
        outcome=outcome,
        code=code or ResultCode(outcome),
        answered_at=now,
        name=cause.name or entry.name,
        auth_id=auth_id or entry.auth_id,
        reason=reason,
        superseded_by=entry.newest if superseded else None,
        trace=cause.trace,
    )
    match cause:
        case LateRemoval():
            return Conclusion(owing_result(replace(entry, hold=None, retry=None), answer, now), answer)
        case _ if superseded or cause.version is None:
            return Conclusion(entry, answer)
        case _:
            return Conclusion(_owing(_versioned(entry, cause, cause.version), answer, now), answer)


def _owing(entry: Entry, answer: Answer, now: datetime) -> Entry:
    """The entry that owes the answer until it is published, if another may take its place before that.

    Its message publishes it at once. The scheduler does if the message comes back too late.
    """
    return owing_result(entry, answer, now + DEBT_PAUSE) if answer.is_provisional else entry


def _versioned(entry: Entry, cause: Cause, version: Version) -> Entry:
    """The entry once `cause` is its newest event.

    A removal on its way does not count any more if the event is none. A newer removal takes up a deletion
    that was cancelled.
    """
    newest = replace(entry, version=version, version_type=cause.reference.type)
    if version.kind is not Kind.REMOVED:
        return replace(newest, removing=None)
    removal = newest.removal
    if newest.status is Status.DISABLED and removal is not None and version.newer_than(removal.cancelled_by):
        return replace(newest, removal=replace(removal, cancelled=False, cancelled_by=None))
    return newest
