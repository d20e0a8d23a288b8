"""Wishes: the references of their answers, how long they are valid, whether a worker grants them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from contracts.reissues import REISSUE
from worker.core.model.causes import Reference
from worker.core.model.holds import Hold, HoldState, Ruling
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving, Wish
from worker.core.recreation import RECREATE
from worker.core.reissue import WISHES
from worker.core.removal import APPROVAL_VALID_FOR

PRESENT_FOR = timedelta(seconds=5)
"""A worker says each second that it runs; it counts as running for this long."""

_TYPES: Mapping[str, str] = {
    "reissue": REISSUE,
    "recreate": RECREATE,
    "approve": "hold.approve.v1",
    "reject": "hold.reject.v1",
    "correct": "subaccount.correct.v1",
    "adopt": "department.adopt.v1",
    "sweep": "departments.sweep.v1",
}


def reference_of(wish: Wish) -> Reference:
    """The reference under which the answer to a wish is on record."""
    return Reference(WISHES, wish.id, _TYPES[wish.asks.kind])


def is_present(running_at: datetime | None, now: datetime) -> bool:
    """Whether a worker runs that has last said so at `running_at`.

    A time far ahead does not count: a clock was set back since.
    """
    return running_at is not None and abs(now - running_at) <= PRESENT_FOR


def with_approvals(found: Sequence[Hold], wishes: Sequence[Wish], now: datetime) -> Sequence[Hold]:
    """The holds; a waiting one is approved while an approval that has not lapsed waits for the worker."""
    approvals = {
        wish.asks.hold_id: Ruling(wish.asked_by, wish.asked_at, wish.asks.cascade)
        for wish in wishes
        if isinstance(wish.asks, Approving) and now - wish.asked_at < APPROVAL_VALID_FOR
    }
    return [
        replace(hold, state=HoldState.APPROVED, ruling=approvals[hold.id])
        if hold.state is HoldState.WAITING and hold.id in approvals
        else hold
        for hold in found
    ]
