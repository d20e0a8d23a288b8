"""The next step of anything that takes the line: an event, a late removal, a recreation."""

from datetime import datetime

from worker.core.decide import CountTenant, Decision, NothingLeft, Policy, decide
from worker.core.model.causes import Event, LateRemoval, Recreation
from worker.core.model.recollection import Recollection
from worker.core.recreation import decide_recreation
from worker.core.removal import decide_late_removal, guard

Asked = Event | LateRemoval | Recreation
"""The causes of steps: department events, removals without their message, requests of people."""


def next_step(
    asked: Asked, known: Recollection, policy: Policy, now: datetime
) -> Decision | CountTenant | NothingLeft:
    """The decision on `asked`, from what is known of its department at `now`."""
    match asked:
        case Event():
            return guard(decide(asked, known, policy, now), asked, known, policy, now)
        case LateRemoval():
            return decide_late_removal(asked, known, policy, now)
        case Recreation():
            return decide_recreation(asked, known, now)
