"""Removal: the guard of an event's removal, late removals, and what must hold before a deletion."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from contracts.subaccounts import ResultKind
from tests.support.builders import (
    AUTH_ID,
    IDEMPOTENCY_KEY,
    NOW,
    SALES,
    an_entry,
    created,
    removed,
)
from worker.core.capabilities import Capabilities
from worker.core.conclude import Changed, Conclusion, Deleted, NothingDone, admission_of, conclude, intend
from worker.core.decide import (
    CountTenant,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    NothingLeft,
    Policy,
    Removal,
    Skip,
    decide,
)
from worker.core.holds import approved, rejected, voided
from worker.core.inventory import NOTHING, Inspection, Inventory
from worker.core.limits import DEFAULT_LIMIT, TenantCounts, Window, WindowCount
from worker.core.listed import ListedSubaccount
from worker.core.model import (
    Cause,
    Check,
    Deletion,
    Department,
    Entry,
    Event,
    Hold,
    HoldReason,
    HoldState,
    LateRemoval,
    Recollection,
    Removed,
    Removing,
    Retry,
    Ruling,
    Status,
)
from worker.core.next_step import next_step
from worker.core.protected import Protected
from worker.core.removal import (
    APPROVAL_VALID_FOR,
    deletable_before,
    deletion_due_at,
    drift_of,
    guard,
    has_lapsed,
    hold_id,
    is_removal_due,
    may_approve,
)

LATER = NOW + timedelta(hours=1)
GRACE = timedelta(days=30)
OVER = NOW + GRACE
EVENT = removed(sequence=11)
LATE = LateRemoval.of(SALES, EVENT)

STAGED = Policy()
DELETES = Policy(removal=Removal.DELETE)
DISABLES = Policy(removal=Removal.DISABLE)
IGNORES = Policy(removal=Removal.IGNORE)
PROTECTS = Protected((SALES.id,))
LIMITED = Policy(limit=DEFAULT_LIMIT)
CANNOT_DELETE = Capabilities(can_delete=False)

RULES = [HoldReason.PROTECTED, HoldReason.MERGED, HoldReason.LAST_ACTIVE, HoldReason.LIMIT]
PLENTY = TenantCounts(40, (WindowCount(0, 0), WindowCount(0, 0)))
LAST = TenantCounts(1, (WindowCount(0, 0), WindowCount(0, 0)))
USED_UP = TenantCounts(36, (WindowCount(4, 4), WindowCount(4, 4)))
"""40 departments, of which 4 were removed within a day."""

SOME = Inventory(numbers=("1",), applications=("a", "b"), endpoints=("e",))


def inspected(
    *, enabled: bool = True, tagged: bool = True, inventory: Inventory = NOTHING, name: str = "Sales [TAG]"
) -> Inspection:
    return Inspection(ListedSubaccount(AUTH_ID, name, enabled, NOW.date()), tagged, inventory, 1.0)


NOTHING_DONE = NothingDone()
GONE = Inspection(None, tagged=False, inventory=NOTHING, begun=1.0)
BARE = inspected(enabled=False)
HUNG = inspected(enabled=False, inventory=SOME)


def disabled(status: Status = Status.DISABLED, **fields: Any) -> Any:
    """A department whose removal was answered `disabled` at NOW."""
    given = {"removal": Removed(NOW, EVENT.bare, counted_at=NOW), "version": EVENT.version}
    return an_entry(status, **given | fields)


def held(
    reason: HoldReason,
    entry: Entry | None = None,
    *,
    approved_at: Any = LATER,
    cascade: int | None = None,
    accepted: frozenset[str] = frozenset(),
    cause: Cause = EVENT,
) -> Any:
    """An entry with a hold; approved, unless `approved_at` is None."""
    before = entry or an_entry(version=EVENT.version)
    hold = Hold(
        "H1",
        SALES,
        reason,
        "why",
        cause.bare,
        AUTH_ID,
        "Sales",
        NOW,
        state=HoldState.APPROVED if approved_at else HoldState.WAITING,
        ruling=Ruling("ada", approved_at, cascade) if approved_at else None,
        disabled=before.removal is not None,
        accepted=accepted,
    )
    return replace(before, hold=hold, holds_made=1)


def stepped(
    asked: Event | LateRemoval, entry: Entry, step: Any, outcome: Any, policy: Policy = STAGED
) -> Conclusion:
    """The conclusion of a step that was intended before."""
    intended = intend(step, entry, asked, IDEMPOTENCY_KEY, policy, LATER)
    return conclude(intended, asked, step, outcome, policy, LATER)


def late(entry: Entry, policy: Policy = STAGED, now: Any = OVER, inspection: Inspection | None = None) -> Any:
    """The next step of the entry's late removal."""
    assert entry.late_removal is not None
    asked = LateRemoval.of(entry.department, entry.late_removal)
    return next_step(asked, Recollection(entry, inspection=inspection), policy, now)


def asks(event: Event, entry: Entry, policy: Policy = STAGED, **known: Any) -> Any:
    """The decision on an event, guarded."""
    return next_step(event, Recollection(entry, **known), policy, NOW)


class TestTheEndOfAnApprovedRemoval:
    @pytest.mark.parametrize("reason", RULES)
    def test_an_approved_disable_ends_its_hold_and_waits_for_the_grace(self, reason):
        entry = held(reason)
        assert late(entry, now=LATER) == Disable(AUTH_ID)

        conclusion = stepped(LATE, entry, Disable(AUTH_ID), Changed())

        after = conclusion.entry
        assert [(one.id, one.state) for one in conclusion.holds] == [("H1", HoldState.DONE)]
        assert (after.status, after.hold) == (Status.DISABLED, None)
        assert late(after, now=LATER) == NothingLeft()
        assert deletion_due_at(after, STAGED) == LATER + GRACE

    def test_one_that_the_settings_ignore_by_now_ends_unchanged(self):
        entry = held(HoldReason.LIMIT)
        skip = late(entry, IGNORES, LATER)
        assert skip == Skip(ResultKind.UNCHANGED, "removals are ignored here")

        conclusion = conclude(entry, LATE, skip, NOTHING_DONE, IGNORES, LATER)

        assert [one.state for one in conclusion.holds] == [HoldState.DONE]
        assert (conclusion.entry.status, conclusion.entry.late_removal) == (Status.ACTIVE, None)
        assert [one.outcome for one in conclusion.entry.owed_results] == [ResultKind.UNCHANGED]


@pytest.mark.parametrize("policy", [DISABLES, IGNORES, replace(DELETES, capabilities=CANNOT_DELETE)])
def test_an_approved_deletion_is_not_due_once_nothing_is_deleted_any_more(policy):
    entry = held(HoldReason.RESOURCES, disabled())

    assert late(entry, STAGED, LATER) == Inspect(AUTH_ID)
    assert late(entry, policy, LATER, BARE) == NothingLeft()
    assert not is_removal_due(entry, policy, OVER)


class TestANewerRemovalDuringADeletion:
    """The department was disabled for one event; a newer removal finds its deletion in doubt."""

    NEWER = removed(sequence=12)
    DELETING = disabled(status=Status.DELETING, deletion=Deletion(NOW), removal=Removed(NOW, EVENT.bare))

    def held(self) -> Any:
        step = HoldBack(HoldReason.RESOURCES, "4 hang on it", HUNG)
        return conclude(self.DELETING, self.NEWER, step, NOTHING_DONE, STAGED, LATER).entry

    def test_a_rejection_answers_it_and_cancels_the_deletion(self):
        entry = self.held()
        assert (entry.status, entry.hold.disabled) == (Status.DISABLED, False)

        ruled: Any = rejected(entry, entry.hold, Ruling("ada", LATER))

        assert (ruled.answer.event, ruled.answer.outcome) == (self.NEWER.reference, ResultKind.UNCHANGED)
        assert (ruled.entry.removal.cancelled, ruled.entry.late_removal) == (True, None)

    def test_a_newer_event_answers_it(self):
        entry = self.held()

        ruled: Any = voided(entry, entry.hold, created(sequence=13).reference, LATER)

        assert (ruled.answer.event, ruled.answer.outcome) == (self.NEWER.reference, ResultKind.SUPERSEDED)

    def test_its_next_hold_is_for_it_too(self):
        entry = self.held()
        approved_one: Any = approved(entry, entry.hold, Ruling("ada", LATER)).entry
        drifted = late(approved_one, now=LATER, inspection=inspected())
        assert (drifted.reason, drifted.accepted) == (HoldReason.DRIFT, {HoldReason.RESOURCES})

        asked = LateRemoval.of(SALES, self.NEWER)
        conclusion: Any = conclude(approved_one, asked, drifted, NOTHING_DONE, STAGED, LATER)

        assert conclusion.entry.hold.disabled is False
        assert [one.event for one in conclusion.answers] == [self.NEWER.reference]


class TestANewerRemovalWhileOneIsInDoubt:
    """The call for an older removal had no response: it is counted, but the newer event has rules of its own."""

    DOUBTFUL = an_entry(removing=Removing(EVENT.reference, counted_at=NOW), check=Check(LATER))
    DELETING = an_entry(
        Status.DELETING, deletion=Deletion(NOW), removing=Removing(EVENT.reference, counted_at=NOW)
    )

    @pytest.mark.parametrize("entry", [DOUBTFUL, DELETING], ids=["disable", "delete"])
    def test_it_is_held_for_reasons_of_its_own(self, entry):
        merged = replace(removed(sequence=12), merged_into="marketing")
        protects = replace(LIMITED, protected=PROTECTS)

        assert asks(merged, entry, LIMITED).reason is HoldReason.MERGED
        assert asks(removed(sequence=12), entry, protects).reason is HoldReason.PROTECTED

    def test_it_is_not_counted_again(self):
        assert asks(removed(sequence=12), self.DOUBTFUL, LIMITED) == Disable(AUTH_ID)
        assert asks(removed(sequence=12), self.DELETING, LIMITED) == Inspect(AUTH_ID)

    @pytest.mark.parametrize("status", [Status.ACTIVE, Status.DELETING])
    def test_one_that_a_person_had_approved_is_counted_for_the_newer_event(self, status):
        """Its approval is void, and covered no other event."""
        entry = held(HoldReason.LIMIT, self.DELETING if status is Status.DELETING else self.DOUBTFUL)
        entry = replace(entry, removing=Removing(EVENT.reference, None))
        newer = removed(sequence=12)

        entry = voided(entry, entry.hold, newer.reference, LATER).entry

        assert asks(newer, entry, LIMITED) == CountTenant()
        intended = intend(Delete(AUTH_ID), entry, newer, IDEMPOTENCY_KEY, LIMITED, LATER)
        assert intended.removing == Removing(newer.reference, counted_at=LATER)
        assert admission_of(entry, intended, LIMITED, LATER) is not None


class TestLapsed:
    """An approval that was not carried out within a day."""

    LAPSED = NOW + APPROVAL_VALID_FOR
    DELETING = disabled(status=Status.DELETING, deletion=Deletion(NOW))

    @pytest.mark.parametrize("entry", [an_entry(version=EVENT.version), disabled()])
    def test_it_is_not_carried_out(self, entry):
        approved_one = held(HoldReason.RESOURCES, entry, approved_at=NOW)

        assert has_lapsed(approved_one.hold, self.LAPSED)
        assert not has_lapsed(approved_one.hold, self.LAPSED - timedelta(seconds=1))
        assert not has_lapsed(held(HoldReason.RESOURCES, approved_at=None).hold, self.LAPSED)
        assert late(approved_one, DELETES, self.LAPSED, BARE) == NothingLeft()

    @pytest.mark.parametrize("reason", [*RULES, HoldReason.DRIFT, HoldReason.RESOURCES])
    def test_a_deletion_under_way_is_inspected_and_waits_again_under_its_id(self, reason):
        entry = held(reason, self.DELETING, approved_at=NOW)
        assert late(entry, now=self.LAPSED) == Inspect(AUTH_ID)
        step = late(entry, now=self.LAPSED, inspection=BARE)
        assert step == HoldBack(reason, "why", BARE)

        conclusion: Any = conclude(entry, LATE, step, NOTHING_DONE, STAGED, self.LAPSED)

        after = conclusion.entry
        assert (after.status, after.hold.id, after.hold.state) == (Status.DISABLED, "H1", HoldState.WAITING)
        assert (after.late_removal, after.owed_results, conclusion.answers) == (None, (), ())
        assert after.check == Check(self.LAPSED + STAGED.settle_window, late_call=True)

    def test_a_deletion_that_was_carried_out_is_done(self):
        entry = held(HoldReason.RESOURCES, self.DELETING, approved_at=NOW)

        assert late(entry, now=self.LAPSED, inspection=GONE) == Delete(AUTH_ID, inspection=GONE)
