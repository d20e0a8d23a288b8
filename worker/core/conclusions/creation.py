"""The conclusions of a create, and of the scans that look for it.

A create ends in one of three ways. Created: the subaccount is on record and credentials are owed. Certainly
not: the claim is withdrawn, and only the count before it stays. Unknown: the claim stays; scans of the list
settle it (`adoption.py`). Three unknown creates of one event give it up, and its evidence goes into the dead
letter. The claim stays then too, with its count at zero, so a replay or a newer event looks first. An outage
counts no attempt.

A lost create leaves a duplicate check ten windows ahead, and so do duplicates: the check finds a create that
is carried out after the window.
"""

import dataclasses
from datetime import datetime

from contracts.subaccounts import DeadReason, ResultKind
from worker.core.adoption import MAX_UNKNOWN_CREATES, is_lost, seconds_to_next_scan
from worker.core.conclusions.conclusion import Conclusion, answered
from worker.core.debts import debt_of
from worker.core.decide import Adopt, Create, Policy
from worker.core.duties import DEBT_PAUSE, duplicates_check_time
from worker.core.judge import Failure, Permanent, Unknown, told
from worker.core.model.causes import Cause
from worker.core.model.credentials import IssuedCredentials
from worker.core.model.entry import Check, Claim, Entry, Status
from worker.core.model.replace import replace
from worker.core.outcomes import Found, Made

PAST_REMOVALS_KEPT = 50
"""Deletions of one department that stay counted, should it be created anew and again."""


def created(
    entry: Entry, cause: Cause, step: Create | Adopt, made: Made, policy: Policy, now: datetime
) -> Conclusion:
    """The subaccount is there: its credentials are owed. One adopted only to be removed is decided again."""
    active = _made(entry, cause, step, made, policy, now)
    if step.name is None:
        return Conclusion(active)
    return answered(active, cause, ResultKind.CREATED, now, _duplicates_reason(made))


def not_created(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Conclusion:
    """The create was refused or not sent, or its outcome is unknown."""
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


def nothing_seen(entry: Entry, cause: Cause, begun: datetime, policy: Policy, now: datetime) -> Conclusion:
    """A complete scan, begun at `begun`, saw no subaccount: the claim waits for more scans, or is lost."""
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
        debt=debt_of(policy.recipients, enable=not made.enabled, retry_at=now + DEBT_PAUSE),
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


def _given_up(entry: Entry, detail: str) -> Conclusion:
    """Gives the event up, with the evidence. A replay, or a newer event, counts from zero."""
    claim = _claim_of(entry)
    evidence = (
        f"{claim.attempt} creates ended without a clear response, the last begun at {claim.started_at:%FT%TZ}"
        f" with idempotency key {claim.idempotency_key}: {detail}"
    )
    failure = Permanent(DeadReason.CREATE_UNKNOWN, evidence)
    return Conclusion(replace(entry, claim=replace(claim, attempt=0), begun=None), failure=failure)


def _unclaimed(entry: Entry, claim: Claim | None) -> Entry:
    """The entry as before the create; `claim` keeps the count for the next create."""
    status = Status.REMOVED if entry.removal else Status.ABSENT
    return replace(entry, status=status, claim=claim, begun=None)


def _claim_of(entry: Entry) -> Claim:
    if entry.claim is None:
        raise ValueError(f"no create was claimed: the department is {entry.status}")
    return entry.claim
