"""What has happened: entry, event and outcome make the next entry, and the answer where there is one."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import SecretStr

from contracts.departments import Kind
from contracts.subaccounts import ResultKind
from worker.core.decide import Adopt, Create, Delete, Disable, Policy, Rename, Restore, Skip, Step
from worker.core.judge import Failure, Unknown
from worker.core.model import Answer, Claim, Entry, Event, Status, reference_of


@dataclass(frozen=True, slots=True)
class Made:
    """The subaccount exists, is ours and is as wanted: just created, or found by its tag."""

    auth_id: str
    auth_token: SecretStr = field(repr=False)


@dataclass(frozen=True, slots=True)
class NothingMade:
    """The claimed create came to nothing: no subaccount bears its tag."""


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


Outcome = Made | NothingMade | Changed | Deleted | NothingDone | Failed


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The entry as it now stands. Without answer or failure, the event is decided again on it."""

    entry: Entry
    answer: Answer | None = None
    failure: Failure | None = None


def intend(step: Step, entry: Entry, event: Event, idempotency_key: str, now: datetime) -> Entry:
    """The entry as it must be durable before the step acts."""
    match step:
        case Create(name):
            claim = Claim(now, idempotency_key, event.reference)
            return replace(entry, status=Status.CLAIMED, name=name, claim=claim)
        case Delete():
            return replace(entry, status=Status.DELETING)
        case _:
            return entry


def conclude(
    entry: Entry, event: Event, step: Step, outcome: Outcome, policy: Policy, now: datetime
) -> Conclusion:
    """`entry` is the one `intend` made of it."""
    match step, outcome:
        case _, Failed(failure):
            return Conclusion(_after_failure(step, entry, failure), failure=failure)
        case Create() | Adopt(), Made(auth_id, _):
            return _made(entry, event, auth_id, policy, now)
        case Adopt(), NothingMade():
            return Conclusion(_unclaimed(entry))
        case Rename(_, name), Changed():
            return _answered(replace(entry, name=name), event, ResultKind.RENAMED, now)
        case Restore(_, name), Changed():
            restored = replace(entry, status=Status.ACTIVE, name=name or entry.name, removed_at=None)
            return _answered(restored, event, ResultKind.RESTORED, now)
        case Disable(), Changed():
            return _answered(
                replace(entry, status=Status.DISABLED, removed_at=now), event, ResultKind.DISABLED, now
            )
        case Delete(auth_id), Deleted():
            return _deleted(entry, event, auth_id, now)
        case Skip(kind, reason), NothingDone():
            return _answered(entry, event, kind, now, reason)
        case _:
            raise ValueError(f"{type(step).__name__} cannot come to {type(outcome).__name__}")


def confirmed(entry: Entry, recipients: frozenset[str]) -> Entry:
    """The entry once the broker has confirmed the credentials of these recipients."""
    return replace(entry, owed_to=entry.owed_to - recipients)


def _made(entry: Entry, event: Event, auth_id: str, policy: Policy, now: datetime) -> Conclusion:
    active = replace(
        entry,
        status=Status.ACTIVE,
        auth_id=auth_id,
        generation=entry.generation + 1,
        owed_to=policy.recipients,
        issued_for=entry.claim.event if entry.claim else event.reference,
        claim=None,
        created_at=now,
        removed_at=None,
    )
    if event.kind is Kind.REMOVED:  # adopted only to be removed: decided again
        return Conclusion(active)
    return _answered(replace(active, name=event.name), event, ResultKind.CREATED, now)


def _deleted(entry: Entry, event: Event, auth_id: str, now: datetime) -> Conclusion:
    gone = replace(
        entry,
        status=Status.REMOVED,
        auth_id=None,
        incarnation=entry.incarnation + 1,
        owed_to=frozenset(),
        removed_at=now,
    )
    if event.kind is not Kind.REMOVED:  # the deletion begun before is through: the event is decided again
        return Conclusion(gone)
    return _answered(gone, event, ResultKind.REMOVED, now, auth_id=auth_id)


def _after_failure(step: Step, entry: Entry, failure: Failure) -> Entry:
    claim_void = isinstance(step, Create) and not isinstance(failure, Unknown)
    return _unclaimed(entry) if claim_void else entry


def _unclaimed(entry: Entry) -> Entry:
    status = Status.REMOVED if entry.removed_at else Status.ABSENT
    return replace(entry, status=status, claim=None)


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
        superseded_by=reference_of(entry.version) if overtaken and entry.version else None,
        trace=event.trace,
    )
    return Conclusion(entry if overtaken else replace(entry, version=event.version), answer)
