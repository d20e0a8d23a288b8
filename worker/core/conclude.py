"""What has happened: entry, event and outcome make the next entry, and the answer where there is one."""

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import SecretStr

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.adoption import DUPLICATES_CHECK_WINDOWS, ENOUGH_UNKNOWNS, is_lost, seconds_to_next_scan
from worker.core.decide import NAME_KEPT, Adopt, Create, Delete, Disable, Policy, Rename, Restore, Skip, Step
from worker.core.judge import Failure, Permanent, Unknown
from worker.core.model import EVERYBODY, Answer, Claim, Entry, Event, Fingerprint, Status, replace


@dataclass(frozen=True, slots=True)
class Found:
    """What the provider shows of one that was adopted: a ledger that is behind knows neither."""

    incarnation: int
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """The subaccount exists, is ours and is as wanted: just created, or found by its tag.

    `doubles` are others of its tag; they have been disabled. One that is not `enabled` is to be so later.
    """

    auth_id: str
    auth_token: SecretStr | None = field(repr=False)
    doubles: tuple[str, ...] = ()
    found: Found | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class NothingSeen:
    """A complete scan of the list, begun at this time, saw no subaccount of the department's tag."""

    begun: datetime


@dataclass(frozen=True, slots=True)
class Changed:
    """The provider confirmed the new state: renamed, disabled, restored."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """The subaccount is gone: deleted now, or found gone."""


@dataclass(frozen=True, slots=True)
class NothingDone:
    """No call was due."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call did not succeed; `failure` says what is known of its effect."""

    failure: Failure


OWED_PAUSE = timedelta(minutes=1)
"""Between two tries of the scheduler to deliver credentials; whoever makes them delivers them at once."""

Outcome = Made | NothingSeen | Changed | Deleted | NothingDone | Failed


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The entry as it now stands. Without answer or failure, the event is decided again on it."""

    entry: Entry
    answer: Answer | None = None
    failure: Failure | None = None


def intend(
    step: Step, entry: Entry, event: Event, idempotency_key: str, policy: Policy, now: datetime
) -> Entry:
    """The entry as it must be durable before the step acts."""
    match step:
        case Create(name):
            attempt = entry.unknown_creates(event.reference) + 1
            claim = Claim(now, idempotency_key, event.reference, attempt, trace=event.trace)
            return replace(entry, status=Status.CLAIMED, name=name, claim=claim)
        case Delete():
            return replace(entry, status=Status.DELETING)
        case Rename() | Restore() | Disable():
            return _to_check(entry, policy, now)
        case _:
            return entry


def conclude(
    entry: Entry, event: Event, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    """`entry` is the one `intend` made of it."""
    match step, outcome:
        case Create(), Failed(failure):
            return _not_created(entry, failure, policy, now)
        case _, Failed(failure):
            return Conclusion(_not_changed(entry, failure, policy, now), failure=failure)
        case Create(), Made():
            return _made(entry, event, outcome, policy, now)
        case Adopt(), Made():
            # A worker that died adopting it before us may have sent a change that comes late.
            checked = to_be_checked(entry, policy, now)
            if entry.recount_at is not None:  # it may be of a create taken for lost, and the last yet to come
                checked = replace(checked, recount_at=_recount_at(policy, now))
            return _made(checked, event, outcome, policy, now)
        case Adopt(), NothingSeen(begun):
            return _nothing_seen(entry, event, begun, policy, now)
        case Rename(_, name), Changed():
            return _answered(replace(_sure(entry), name=name), event, ResultKind.RENAMED, now)
        case Restore(_, name), Changed():
            restored = replace(_sure(entry), status=Status.ACTIVE, name=name or entry.name, removed_at=None)
            restored = put_off_owed(replace(restored, enable_owed=entry.held_back), now)
            kept = NAME_KEPT if name and not policy.capabilities.can_rename else None
            return _answered(restored, event, ResultKind.RESTORED, now, kept)
        case Disable(), Changed():
            disabled = replace(_sure(entry), status=Status.DISABLED, removed_at=now, owed_at=None)
            disabled = replace(disabled, enable_owed=entry.held_back)
            return _answered(disabled, event, ResultKind.DISABLED, now)
        case Delete(auth_id), Deleted():
            return _deleted(entry, event, auth_id, now)
        case Skip(kind, reason, name), NothingDone():
            named = replace(entry, name=name) if name is not None else entry
            return _answered(named, event, kind, now, reason)
        case _:
            raise ValueError(f"{type(step).__name__} cannot come to {type(outcome).__name__}")


def readdressed(entry: Entry, recipients: frozenset[str]) -> Entry:
    """What was owed to whoever is bound is owed to the recipients, once there are any."""
    if EVERYBODY not in entry.owed_to - recipients:
        return entry
    return replace(entry, owed_to=entry.owed_to - {EVERYBODY} | recipients)


def confirmed(entry: Entry, recipients: frozenset[str], token: Fingerprint | None = None) -> Entry:
    """The entry once the broker has confirmed the credentials of these recipients, with this token."""
    left = entry.owed_to - recipients
    owed_at = entry.owed_at if left or entry.enable_owed else None
    return replace(entry, owed_to=left, owed_at=owed_at, fingerprint=token or entry.fingerprint)


def to_enable(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry as it must be durable before what was made disabled is enabled: as before any change."""
    return _to_check(entry, policy, now)


def enabled(entry: Entry) -> Entry:
    """The entry once the provider has enabled what was made disabled."""
    return confirmed(replace(_sure(entry), enable_owed=False), frozenset())


def to_be_checked(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """For the scheduler to compare with the provider, where something may have been set over it."""
    return replace(entry, check_at=now + policy.settle_window, late_call=True)


def put_off_owed(entry: Entry, now: datetime) -> Entry:
    """For the scheduler to try again, where something is still owed."""
    return replace(entry, owed_at=now + OWED_PAUSE if entry.owes else None)


def _to_check(entry: Entry, policy: Policy, now: datetime) -> Entry:
    # A check still set is that of a change whose outcome was never recorded: it may come late.
    unrecorded = entry.check_at is not None
    return replace(entry, check_at=now + policy.settle_window, late_call=unrecorded)


def _not_created(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Conclusion:
    if not isinstance(failure, Unknown):
        return Conclusion(_withdrawn(entry), failure=failure)
    claim = _claim_of(entry)
    if failure.outage:  # nobody got an answer: not held against this event
        claim = replace(claim, attempt=claim.attempt - 1)
    if claim.attempt < ENOUGH_UNKNOWNS:
        seconds = seconds_to_next_scan(now, claim.started_at, policy.settle_window)
        undecided = dataclasses.replace(failure, scan_in_seconds=seconds)
        return Conclusion(replace(entry, claim=claim), failure=undecided)
    return _given_up(replace(entry, claim=claim), failure.detail)


def _given_up(entry: Entry, detail: str) -> Conclusion:
    """With the evidence; a replay, or a newer event, counts from zero."""
    claim = _claim_of(entry)
    evidence = (
        f"{claim.attempt} creates ended without a clear answer, the last begun at {claim.started_at:%FT%TZ}"
        f" with idempotency key {claim.idempotency_key}: {detail}"
    )
    failure = Permanent(DeadReason.CREATE_UNKNOWN, evidence)
    return Conclusion(replace(entry, claim=replace(claim, attempt=0)), failure=failure)


def _nothing_seen(entry: Entry, event: Event, begun: datetime, policy: Policy, now: datetime) -> Conclusion:
    if entry.status is not Status.CLAIMED:
        if entry.unknown_creates(event.reference) < ENOUGH_UNKNOWNS:
            return Conclusion(entry)
        return _given_up(entry, "it was taken for lost, for the list has not shown it")
    claim = _claim_of(entry)
    looked = replace(claim, clean_scans=claim.clean_scans + 1)
    if is_lost(looked.clean_scans, begun, claim.started_at, policy.settle_window):
        # Whatever becomes of the department: taken for lost, it may still be carried out, only very late.
        lost = replace(entry, claim=replace(claim, clean_scans=0), recount_at=_recount_at(policy, now))
        return Conclusion(replace(lost, status=_before_claim(entry)))
    seconds = seconds_to_next_scan(now, claim.started_at, policy.settle_window)
    undecided = Unknown("whether a create was carried out is not known yet", seconds)
    return Conclusion(replace(entry, claim=looked), failure=undecided)


def _made(entry: Entry, event: Event, made: Made, policy: Policy, now: datetime) -> Conclusion:
    claim, found = entry.claim, made.found or Found(entry.incarnation, event.name or "")
    active = replace(
        entry,
        status=Status.ACTIVE,
        auth_id=made.auth_id,
        incarnation=found.incarnation,
        generation=max(entry.generation + 1, found.incarnation),  # a lost ledger has lost count
        name=event.name if event.kind is not Kind.REMOVED else entry.name or found.name,
        owed_to=policy.recipients,
        issued_for=claim.event if claim else event.reference,
        issued_trace=claim.trace if claim else event.trace,
        owed_at=now + OWED_PAUSE,
        enable_owed=not made.enabled,
        fingerprint=None,
        reissued_at=None,
        claim=None,
        created_at=now,
        removed_at=None,
        recount_at=_recount_at(policy, now) if made.doubles else entry.recount_at,
    )
    if event.kind is Kind.REMOVED:  # adopted only to be removed: decided again
        return Conclusion(active)
    doubles = f"disabled doubles: {', '.join(made.doubles)}" if made.doubles else None
    return _answered(active, event, ResultKind.CREATED, now, doubles)


def _recount_at(policy: Policy, now: datetime) -> datetime:
    return now + DUPLICATES_CHECK_WINDOWS * policy.settle_window


def _deleted(entry: Entry, event: Event, auth_id: str, now: datetime) -> Conclusion:
    gone = replace(
        entry,
        status=Status.REMOVED,
        auth_id=None,
        incarnation=entry.incarnation + 1,
        owed_to=frozenset(),
        owed_at=None,
        enable_owed=False,
        removed_at=now,
        check_at=None,
        late_call=False,
    )
    if event.kind is not Kind.REMOVED:  # the deletion begun before is through: the event is decided again
        return Conclusion(gone)
    return _answered(gone, event, ResultKind.REMOVED, now, auth_id=auth_id)


def _not_changed(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Entry:
    """A change that was not answered may be carried out late, over a newer one."""
    if entry.status is Status.DELETING:
        return entry
    if isinstance(failure, Unknown):
        return replace(entry, check_at=now + policy.settle_window, late_call=True)
    return _sure(entry)


def _sure(entry: Entry) -> Entry:
    """The check set before a change is off once its outcome is known, unless an earlier one may come late."""
    return entry if entry.late_call else replace(entry, check_at=None)


def _withdrawn(entry: Entry) -> Entry:
    """The claim of a create that certainly did not happen leaves nothing behind but the count before it."""
    claim = _claim_of(entry)
    before = replace(claim, attempt=claim.attempt - 1) if claim.attempt > 1 else None
    return replace(entry, status=_before_claim(entry), claim=before)


def _before_claim(entry: Entry) -> Status:
    return Status.REMOVED if entry.removed_at else Status.ABSENT


def _claim_of(entry: Entry) -> Claim:
    if entry.claim is None:
        raise ValueError(f"a {entry.status} entry has no claim")
    return entry.claim


def _answered(
    entry: Entry,
    event: Event,
    outcome: ResultKind,
    now: datetime,
    reason: str | None = None,
    auth_id: str | None = None,
) -> Conclusion:
    overtaken = outcome is ResultKind.SUPERSEDED
    answer = Answer(
        department=event.department,
        event=event.reference,
        payload_digest=event.payload_digest,
        outcome=outcome,
        answered_at=now,
        name=event.name or entry.name,
        auth_id=auth_id or entry.auth_id,
        reason=reason,
        superseded_by=entry.newest if overtaken else None,
        trace=event.trace,
    )
    if overtaken:
        return Conclusion(entry, answer)
    return Conclusion(replace(entry, version=event.version, version_type=event.reference.type), answer)
