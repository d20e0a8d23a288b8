"""Correction: what to do about one finding of a sweep, decided again on fresh state.

A finding is a statement about the past. A person, or the worker itself, asks for its correction later; by
then an event may have changed the department, or somebody the subaccount. So the decision rests on the entry
as it is now and on a new look at the provider, and may be that nothing is left to do.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime

from contracts.subaccounts import ResultCode, ResultKind
from worker.core.adoption import Update
from worker.core.dead_letters import AuditLine
from worker.core.decide import Policy, gone_detail
from worker.core.drift import (
    FindingKind,
    Seen,
    has_other_token,
    has_wrong_name,
    is_under_way,
    tags_of,
    wanted_enabled,
)
from worker.core.duties import DEBT_PAUSE
from worker.core.model.answers import Answer
from worker.core.model.causes import NO_TRACE, Reference
from worker.core.model.credentials import Debt, Fingerprint
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.replace import replace
from worker.core.model.wishes import Correcting, Wish
from worker.core.naming import Names
from worker.core.reissue import with_token
from worker.core.wishes import audit_of, reference_of


@dataclass(frozen=True, slots=True)
class Look:
    """The fresh state at the provider.

    `shown`: the subaccount of the finding; None if it is not there. `holder`: the department it is on record
    for. `own_is_there`: whether the subaccount on record for the department is.
    """

    shown: Seen | None
    holder: Department | None
    own_is_there: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Send this update of the subaccount. `outcome`: of the correction, once it is confirmed."""

    update: Update
    outcome: ResultKind


@dataclass(frozen=True, slots=True)
class IssueNext:
    """Issue the credentials with the token that the provider has now."""

    token: Fingerprint


@dataclass(frozen=True, slots=True)
class AsWanted:
    """Nothing is left to do."""

    why: str


@dataclass(frozen=True, slots=True)
class Decline:
    """It is not corrected."""

    why: str
    code: ResultCode = ResultCode.NOT_ALLOWED


Correction = Change | IssueNext | AsWanted | Decline


def decide_correction(
    asked: Correcting, entry: Entry, look: Look, names: Names, policy: Policy
) -> Correction:
    """Decides the correction of a finding of the entry's department."""
    if is_under_way(entry):
        return Decline("a create or a removal of the department is under way; sweep again later")
    match asked.finding:
        case FindingKind.DOUBLE:
            return _of_double(asked.auth_id, entry, look, names)
        case FindingKind.NAME | FindingKind.ENABLED | FindingKind.TOKEN:
            return _of_own(FindingKind(asked.finding), asked.auth_id, entry, look.shown, names, policy)
        case other:
            return Decline(f"a finding of the kind {other} cannot be corrected")


def next_generation(
    entry: Entry, token: Fingerprint, cause: Reference, policy: Policy, now: datetime
) -> Entry:
    """The entry that owes the credentials with a changed token to every recipient."""
    entry = with_token(entry, token)
    recipients = policy.recipients | entry.owed_to
    enable = entry.debt is not None and entry.debt.enable
    return replace(
        entry,
        issued=replace(entry.existing.issued, cause=cause, trace=NO_TRACE),
        debt=Debt(recipients, enable, retry_at=now + DEBT_PAUSE),
    )


def corrected(
    wish: Wish,
    entry: Entry,
    outcome: ResultKind,
    now: datetime,
    why: str | None = None,
    code: ResultCode | None = None,
) -> Answer:
    """The answer to a wish to correct; `failed` if it was not done. It is recorded and never published."""
    return Answer(
        department=wish.department,
        event=reference_of(wish),
        payload_digest=wish.id,
        outcome=outcome,
        code=code or ResultCode(outcome),
        answered_at=now,
        name=entry.name,
        auth_id=wish.asks.auth_id if isinstance(wish.asks, Correcting) else None,
        reason=why,
        confirmed=True,
    )


def _of_double(auth_id: str, entry: Entry, look: Look, names: Names) -> Correction:
    if look.holder is not None:
        return Decline(f"it is on record for department {look.holder.id} of tenant {look.holder.tenant} now")
    if look.shown is None:
        return AsWanted("it is not at Plivo any more")
    shown = look.shown.subaccount
    if names.template.tag_in(shown.name) not in tags_of(entry, names):
        return Decline("it carries no tag of the department any more")
    if not shown.enabled:
        return AsWanted("it is disabled")
    if not look.own_is_there:
        why = f"{gone_detail(entry)}; {auth_id} may be the one in use, so it stays enabled"
        return Decline(why, ResultCode.GONE_AT_PROVIDER)
    return Change(Update(enabled=False), ResultKind.DISABLED)


def _of_own(
    kind: FindingKind, auth_id: str, entry: Entry, seen: Seen | None, names: Names, policy: Policy
) -> Correction:
    if entry.auth_id != auth_id:
        return Decline("it is not the department's subaccount on record any more", ResultCode.NOT_ACTIVE)
    if seen is None:
        return Decline(gone_detail(entry), ResultCode.GONE_AT_PROVIDER)
    shown = seen.subaccount
    match kind:
        case FindingKind.NAME if has_wrong_name(entry, shown, names, policy.capabilities):
            return Change(Update(name=names.on_record(entry)), ResultKind.RENAMED)
        case FindingKind.ENABLED if (wanted := wanted_enabled(entry)) not in {None, shown.enabled}:
            outcome = ResultKind.RESTORED if wanted else ResultKind.DISABLED
            return Change(Update(enabled=wanted), outcome)
        case FindingKind.TOKEN if entry.status is not Status.ACTIVE:
            return Decline(
                "the department is not active: its credentials are not issued", ResultCode.NOT_ACTIVE
            )
        case FindingKind.TOKEN if seen.token is not None and has_other_token(entry, seen.token):
            return IssueNext(seen.token)
        case _:
            return AsWanted("it is as the ledger says")


def audit_of_correction(wish: Wish, answer: Answer, finding: str) -> AuditLine:
    """The line of the audit for a correction that was done, or was not."""
    line = audit_of(wish, finding, answer.outcome, answer.answered_at)
    detail = f"{answer.auth_id}: {answer.reason}" if answer.reason else answer.auth_id
    return dataclasses.replace(line, reason=finding, detail=detail)
