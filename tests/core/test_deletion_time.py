"""When a removed department's subaccount is deleted, as people are told."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import NOW, an_entry, department_removed
from worker.core.capabilities import EVERYTHING
from worker.core.decide import Policy, Removal
from worker.core.model.causes import Cause, Event
from worker.core.model.entry import Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.removals import Removed, Retry
from worker.core.removal import deletion_due_at

EVENT = Event.of(department_removed(sequence=11), "department.removed.v1", "digest")
CAUSE = Cause(EVENT.reference, EVENT.payload_digest, EVENT.version)
DISABLED = an_entry(Status.DISABLED, removal=Removed(NOW, CAUSE))
HOLD = Hold("H1", DISABLED.department, HoldReason.RESOURCES, "", CAUSE, "SA1", "Sales", NOW, disabled=True)
APPROVED = replace(HOLD, state=HoldState.APPROVED, ruling=Ruling("ada", NOW))
LATER = NOW + timedelta(hours=3)


@pytest.mark.parametrize(
    ("removal", "due_at"),
    [
        (Removal.DISABLE_THEN_DELETE, NOW + timedelta(days=7)),
        (Removal.DELETE, NOW),
        (Removal.DISABLE, None),
        (Removal.IGNORE, None),
    ],
)
def test_the_policy_of_today_decides(removal, due_at):
    policy = Policy(removal=removal, grace=timedelta(days=7))
    assert deletion_due_at(DISABLED, policy) == due_at
    keeps = replace(policy, capabilities=replace(EVERYTHING, can_delete=False))
    assert deletion_due_at(DISABLED, keeps) is None


@pytest.mark.parametrize(
    "entry",
    [
        an_entry(),
        an_entry(Status.REMOVED, removal=Removed(NOW, CAUSE)),
        replace(DISABLED, removal=Removed(NOW, CAUSE, cancelled=True)),
        replace(DISABLED, hold=HOLD),
        replace(an_entry(), hold=APPROVED),
    ],
)
def test_nothing_is_due(entry):
    assert deletion_due_at(entry, Policy()) is None


def test_a_deletion_that_failed_is_due_at_its_next_try():
    failing = replace(DISABLED, retry=Retry(NOW, LATER, 2, "503"))
    assert deletion_due_at(failing, Policy()) == LATER
