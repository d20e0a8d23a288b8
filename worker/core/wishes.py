"""Wishes: the references of their answers, and how long they are valid.

A wish that no worker has granted in time is answered `failed`: what a person wanted then may be wrong now.
One that has begun is carried on, however old it is.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from contracts.reissues import REISSUE
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.dead_letters import AuditLine
from worker.core.model.answers import Answer
from worker.core.model.causes import Reference
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, HoldState, Ruling
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving, Wish
from worker.core.recreation import RECREATE
from worker.core.reissue import WISHES
from worker.core.removal import APPROVAL_VALID_FOR

_TYPES: Mapping[str, str] = {
    "reissue": REISSUE,
    "recreate": RECREATE,
    "approve": "hold.approve.v1",
    "reject": "hold.reject.v1",
    "correct": "subaccount.correct.v1",
    "adopt": "department.adopt.v1",
    "sweep": "departments.sweep.v1",
}

VALID_FOR: Mapping[str, timedelta] = {
    "reissue": timedelta(seconds=60),
    "approve": APPROVAL_VALID_FOR,
    "reject": APPROVAL_VALID_FOR,
    "correct": timedelta(hours=1),
    "adopt": timedelta(hours=1),
    "sweep": timedelta(hours=1),
}
"""How long a worker may begin with a wish, by its kind. `decide_recreation` decides that of a recreation."""


def reference_of(wish: Wish) -> Reference:
    """The reference under which the answer to a wish is on record."""
    return Reference(WISHES, wish.id, _TYPES[wish.asks.kind])


def is_too_late(wish: Wish, now: datetime) -> bool:
    """Whether no worker may begin with the wish any more."""
    valid_for = VALID_FOR.get(wish.asks.kind)
    return valid_for is not None and now - wish.asked_at >= valid_for


def has_begun(wish: Wish, entry: Entry) -> bool:
    """Whether a worker has bound a subaccount, or owes or has issued credentials, for this wish."""
    return entry.auth_id is not None and entry.existing.issued.cause == reference_of(wish)


def too_late(wish: Wish, entry: Entry, now: datetime) -> Answer:
    """The answer to a wish that no worker has granted in time. It is recorded and never published."""
    hours = VALID_FOR[wish.asks.kind] / timedelta(hours=1)
    within = f"{hours:g} h" if hours >= 1 else f"{hours * 3600:g} s"
    return Answer(
        department=wish.department,
        event=reference_of(wish),
        payload_digest=wish.id,
        outcome=ResultKind.FAILED,
        code=ResultCode.NOT_ALLOWED,
        answered_at=now,
        name=entry.name,
        auth_id=entry.auth_id,
        reason=f"too late: no worker has done it within {within}; ask again",
        confirmed=True,
    )


def audit_of(wish: Wish, selection: str, outcome: str, at: datetime) -> AuditLine:
    """The line of the audit for what has become of a wish. `selection`: the command's words."""
    reference = reference_of(wish)
    return AuditLine(
        at=at,
        by=wish.asked_by,
        action=wish.asks.kind,
        run=wish.id,
        selection=selection,
        event_id=wish.id,
        source=reference.source,
        tenant=wish.department.tenant,
        department_id=wish.department.id,
        reason="",
        outcome=outcome,
    )


def with_approvals(found: Sequence[Hold], wishes: Sequence[Wish], now: datetime) -> Sequence[Hold]:
    """The holds; a waiting one is approved while an approval that has not lapsed waits for the worker."""
    approvals = {
        wish.asks.hold_id: Ruling(wish.asked_by, wish.asked_at, wish.asks.cascade)
        for wish in wishes
        if isinstance(wish.asks, Approving) and not is_too_late(wish, now)
    }
    return [
        replace(hold, state=HoldState.APPROVED, ruling=approvals[hold.id])
        if hold.state is HoldState.WAITING and hold.id in approvals
        else hold
        for hold in found
    ]
