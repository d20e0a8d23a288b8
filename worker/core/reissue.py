"""Credentials asked for once more: what is to be done about it, and what it leaves on record."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.reissues import REISSUE
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.decide import Policy, Refuse, Republish, Skip, answered_before
from worker.core.model import (
    EVERYBODY,
    Answer,
    Entry,
    Fingerprint,
    Recollection,
    Reference,
    Reissue,
    Status,
    Wish,
)

REISSUE_PAUSE = timedelta(seconds=60)
"""At least so long after a department's last reissue comes its next."""

WISH_GOOD_FOR = timedelta(seconds=60)
"""Nobody is to be surprised by what was asked for while no worker ran."""

CANNOT_REISSUE = "the provider shows an auth token only once: credentials cannot be issued again"

WISHES = "/subaccount-provisioner/wishes"


@dataclass(frozen=True, slots=True)
class Issue:
    recipients: frozenset[str]


def decide_reissue(
    request: Reissue, known: Recollection, policy: Policy, now: datetime
) -> Issue | Skip | Republish | Refuse:
    """What is to be done about a request, by what is known of its department at `now`."""
    if known.answer is not None:
        return answered_before(request.payload_digest, known.answer)
    if not policy.capabilities.can_read_token:
        return Refuse(DeadReason.REJECTED, CANNOT_REISSUE)
    recipients = policy.recipients
    if request.recipient is not None:
        if request.recipient not in recipients:
            return Refuse(DeadReason.INVALID, "data.recipient: not one of the worker's recipients")
        recipients = frozenset({request.recipient})
    if known.entry.status is not Status.ACTIVE:
        return Skip(ResultKind.UNCHANGED, "the department has no active subaccount")
    if _just_reissued(known.entry, now):
        return Skip(
            ResultKind.UNCHANGED,
            f"the department's credentials were issued again less than {REISSUE_PAUSE.seconds} s ago",
        )
    return Issue(recipients)


def with_token(entry: Entry, found: Fingerprint) -> Entry:
    """The entry once its token was read: a changed one begins a new generation."""
    changed = entry.fingerprint is not None and entry.fingerprint.differs(found)
    return replace(entry, generation=entry.generation + changed, fingerprint=found)


def reissued_to(recipients: Iterable[str]) -> str:
    named = ", ".join(sorted(recipient for recipient in recipients if recipient != EVERYBODY))
    return f"credentials issued again to {named}" if named else "credentials issued again"


def answer_to(
    request: Reissue, entry: Entry, outcome: ResultKind, reason: str | None, now: datetime
) -> Answer:
    return Answer(
        department=request.department,
        event=request.reference,
        payload_digest=request.payload_digest,
        outcome=outcome,
        answered_at=now,
        name=entry.name,
        auth_id=entry.auth_id,
        reason=reason,
        trace=request.trace,
    )


def request_of(wish: Wish) -> Reissue:
    """A wish as a request: its answer, under this reference, is what came of it."""
    return Reissue(
        department=wish.department,
        reference=Reference(WISHES, wish.id, REISSUE),
        payload_digest=wish.id,
        recipient=wish.recipient,
        cause=(wish.id,),
    )


def _just_reissued(entry: Entry, now: datetime) -> bool:
    # A time ahead of the clock is of one that was set back since: nobody is to wait for that.
    return entry.reissued_at is not None and timedelta(0) <= now - entry.reissued_at < REISSUE_PAUSE
