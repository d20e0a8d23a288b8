"""Requests to issue credentials again: the decision, and the entry and the answer after it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.reissues import REISSUE
from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from worker.core.decide import Policy, Refuse, Republish, Skip, answered_before, gone_detail
from worker.core.model.answers import Answer
from worker.core.model.causes import Reference, Reissue
from worker.core.model.credentials import ANY_RECIPIENT, Fingerprint, PartialReissue
from worker.core.model.entry import Entry, Status
from worker.core.model.recollection import Recollection
from worker.core.model.replace import replace
from worker.core.model.wishes import Reissuing, Wish

REISSUE_PAUSE = timedelta(seconds=60)
"""The minimum time between two reissues of a department."""

PARTIAL_REISSUES_KEPT = 10
"""Requests that failed for a recipient and were given up stay in the entry: only the newest are kept."""

CANNOT_REISSUE = "the provider shows an auth token only once: credentials cannot be issued again"

WISHES = "/subaccount-provisioner/wishes"


@dataclass(frozen=True, slots=True)
class Issue:
    """Issue the credentials again to these recipients."""

    recipients: frozenset[str]


def decide_reissue(
    request: Reissue, known: Recollection, policy: Policy, now: datetime
) -> Issue | Skip | Republish | Refuse:
    """Decides a request on the entry of its department and an earlier answer, at `now`.

    A request that is skipped has its answer, `failed`. One that is refused becomes a dead letter: an operator
    can correct the cause and replay it.
    """
    if known.answer is not None:
        return answered_before(request.payload_digest, known.answer)
    if not policy.capabilities.can_read_token:
        return Refuse(DeadReason.REJECTED, CANNOT_REISSUE, ResultCode.NOT_ALLOWED)
    recipients = policy.recipients
    if request.recipient is not None:
        if request.recipient not in recipients:
            why = "data.recipient: not one of the worker's recipients"
            return Refuse(DeadReason.INVALID, why, ResultCode.UNKNOWN_RECIPIENT)
        recipients = frozenset({request.recipient})
    if not known.entry.revision:
        return _declined(ResultCode.UNKNOWN_DEPARTMENT, "no event of the department was answered yet")
    if known.entry.gone_at is not None and known.entry.status is not Status.ACTIVE:
        return gone(known.entry)
    if known.entry.status is not Status.ACTIVE:
        return _declined(ResultCode.NOT_ACTIVE, "the department has no active subaccount")
    if _just_reissued(known.entry, now):
        why = f"the department's credentials were issued again less than {REISSUE_PAUSE.seconds} s ago"
        return _declined(ResultCode.TOO_SOON, why)
    return Issue(recipients)


def gone(entry: Entry) -> Skip:
    """The answer if the provider does not find the subaccount: it has no token to issue."""
    return _declined(ResultCode.GONE_AT_PROVIDER, gone_detail(entry))


def _declined(code: ResultCode, reason: str) -> Skip:
    return Skip(ResultKind.FAILED, reason, code=code)


def with_token(entry: Entry, found: Fingerprint) -> Entry:
    """The entry once its token was read: a changed one begins a new generation."""
    issued = entry.existing.issued
    changed = issued.fingerprint is not None and issued.fingerprint.differs(found)
    issued = replace(issued, generation=issued.generation + changed, fingerprint=found)
    return replace(entry, issued=issued)


def served_by(request: Reissue, entry: Entry) -> frozenset[str]:
    """The recipients to whom an earlier try of this request has published its credentials."""
    found = (
        one.recipients for one in entry.existing.issued.partial_reissues if one.request == request.reference
    )
    return next(found, frozenset())


def partly_reissued(request: Reissue, entry: Entry, recipients: frozenset[str]) -> Entry:
    """The entry once the broker has confirmed the credentials of only some recipients."""
    partial = PartialReissue(request.reference, served_by(request, entry) | recipients)
    others = _other_partial_reissues(request, entry)
    kept = (*others, partial)[-PARTIAL_REISSUES_KEPT:]
    return replace(entry, issued=replace(entry.existing.issued, partial_reissues=kept))


def reissued(request: Reissue, entry: Entry, now: datetime) -> Entry:
    """The entry once the broker has confirmed all credentials that a request asked for."""
    others = _other_partial_reissues(request, entry)
    return replace(entry, issued=replace(entry.existing.issued, reissued_at=now, partial_reissues=others))


def _other_partial_reissues(request: Reissue, entry: Entry) -> tuple[PartialReissue, ...]:
    partial = entry.existing.issued.partial_reissues
    return tuple(one for one in partial if one.request != request.reference)


def reissued_to(recipients: Iterable[str]) -> str:
    """The reason in the answer; it names the recipients."""
    named = ", ".join(sorted(recipient for recipient in recipients if recipient != ANY_RECIPIENT))
    return f"credentials issued again to {named}" if named else "credentials issued again"


def answer_to(
    request: Reissue,
    entry: Entry,
    code: ResultCode,
    reason: str | None,
    now: datetime,
    recipients: frozenset[str] = frozenset(),
) -> Answer:
    """The answer to a request, as it is recorded: `reissued`, or `failed` with any other code."""
    issued = code is ResultCode.REISSUED
    return Answer(
        department=request.department,
        event=request.reference,
        payload_digest=request.payload_digest,
        outcome=ResultKind.REISSUED if issued else ResultKind.FAILED,
        code=code,
        answered_at=now,
        name=entry.name,
        auth_id=entry.auth_id,
        reason=reason,
        trace=request.trace,
        recipients=recipients,
    )


def request_of(wish: Wish) -> Reissue:
    """A wish as a request; its reference identifies its answer in the ledger."""
    return Reissue(
        department=wish.department,
        reference=Reference(WISHES, wish.id, REISSUE),
        payload_digest=wish.id,
        recipient=wish.asks.recipient if isinstance(wish.asks, Reissuing) else None,
        cause=(wish.id,),
    )


def _just_reissued(entry: Entry, now: datetime) -> bool:
    # The clock may have been set back: a time in the future must not block requests.
    last = entry.issued.reissued_at if entry.issued else None
    return last is not None and timedelta(0) <= now - last < REISSUE_PAUSE
