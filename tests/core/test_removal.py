"""Removal: the guard of an event's removal, late removals, and what must hold before a deletion."""

import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from contracts.subaccounts import ResultKind
from tests.core.rehearsal import counts_of
from tests.support.builders import (
    AUTH_ID,
    IDEMPOTENCY_KEY,
    NOW,
    SALES,
    an_entry,
    created,
    removed,
    renamed,
)
from worker.core.capabilities import Capabilities
from worker.core.conclude import conclude, intend
from worker.core.conclusions.creation import PAST_REMOVALS_KEPT
from worker.core.conclusions.removal import admission_of
from worker.core.decide import (
    Adopt,
    CountTenant,
    Create,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    NothingLeft,
    Policy,
    Reconsider,
    Removal,
    Rename,
    Restore,
    Skip,
    VoidHold,
    decide,
)
from worker.core.holds import approved, rejected, voided
from worker.core.inventory import NOTHING, Inspection, Inventory
from worker.core.judge import Transient, Unknown
from worker.core.limits import DEFAULT_LIMIT, TenantCounts, WindowCount
from worker.core.listed import ListedSubaccount
from worker.core.model.causes import Cause, Event, LateRemoval
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.core.next_step import next_step
from worker.core.outcomes import Changed, Deleted, Failed, Made, NothingDone, Seen
from worker.core.protected import Protected
from worker.core.removal import (
    APPROVAL_VALID_FOR,
    deletable_before,
    deletion_due_at,
    drift_of,
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
) -> Any:
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
    """The call for an older removal had no response. It is counted, but the newer event has its own rules."""

    DOUBTFUL = an_entry(removing=Removing(EVENT.reference, counted_at=NOW), check=Check(LATER))
    DELETING = an_entry(
        Status.DELETING, deletion=Deletion(NOW), removing=Removing(EVENT.reference, counted_at=NOW)
    )

    @pytest.mark.parametrize("entry", [DOUBTFUL, DELETING], ids=["disable", "delete"])
    def test_it_is_held_for_reasons_of_its_own(self, entry):
        merged = replace(removed(sequence=12), merged_into="marketing")
        protects = replace(LIMITED, protected=PROTECTS)

        assert asks(merged, entry, LIMITED, inspection=BARE).reason is HoldReason.MERGED
        assert asks(removed(sequence=12), entry, protects, inspection=BARE).reason is HoldReason.PROTECTED

    def test_a_deletion_that_may_be_carried_out_is_looked_at_before_any_rule(self):
        """Held, the department would count as active without a subaccount."""
        merged = replace(removed(sequence=12), merged_into="marketing")

        assert asks(merged, self.DELETING, LIMITED) == Inspect(AUTH_ID)
        assert asks(merged, self.DELETING, LIMITED, inspection=GONE) == Delete(AUTH_ID, inspection=GONE)

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

        assert asks(newer, entry, LIMITED, inspection=BARE) == CountTenant()
        intended = intend(Delete(AUTH_ID), entry, newer, IDEMPOTENCY_KEY, LIMITED, LATER)
        assert intended.removing == Removing(newer.reference, counted_at=LATER)
        assert admission_of(entry, intended, LIMITED, LATER) is not None

    def test_an_approved_one_that_turns_out_to_be_carried_out_needs_no_admission(self):
        """Nothing more is removed, and a refused admission would be asked for again without end."""
        entry = held(HoldReason.LIMIT, replace(self.DELETING, removing=Removing(EVENT.reference, None)))
        newer = removed(sequence=12)
        entry = voided(entry, entry.hold, newer.reference, LATER).entry

        step: Any = asks(newer, entry, LIMITED, inspection=GONE)
        intended = intend(step, entry, newer, IDEMPOTENCY_KEY, LIMITED, LATER)

        assert (step, intended.removing) == (
            Delete(AUTH_ID, inspection=GONE),
            Removing(newer.reference, None),
        )
        assert admission_of(entry, intended, LIMITED, LATER) is None


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


APPLIES: dict[HoldReason, tuple[Event, Policy, TenantCounts]] = {
    HoldReason.PROTECTED: (EVENT, replace(LIMITED, protected=PROTECTS), PLENTY),
    HoldReason.MERGED: (replace(EVENT, merged_into="marketing"), LIMITED, PLENTY),
    HoldReason.LAST_ACTIVE: (EVENT, LIMITED, LAST),
    HoldReason.LIMIT: (EVENT, LIMITED, USED_UP),
}
DETAILS = {
    HoldReason.PROTECTED: "PROVISIONER_PROTECTED names it",
    HoldReason.MERGED: "it is merged into department marketing",
    HoldReason.LAST_ACTIVE: "it is the last active one of tenant acme",
    HoldReason.LIMIT: "the removals of PROVISIONER_REMOVAL_LIMIT 10%/24h are used up",
}


class TestGuard:
    """The reasons to hold the removal of an event, before it is carried out."""

    both_removals = pytest.mark.parametrize("removal", [Removal.DISABLE_THEN_DELETE, Removal.DELETE])

    @both_removals
    @pytest.mark.parametrize("reason", RULES)
    def test_each_reason_holds(self, reason, removal):
        event, policy, counts = APPLIES[reason]

        step = asks(event, an_entry(), replace(policy, removal=removal), counts=counts)

        assert step == HoldBack(reason, DETAILS[reason])

    @both_removals
    def test_nothing_is_held_without_a_reason(self, removal):
        step = asks(EVENT, an_entry(), replace(LIMITED, removal=removal), counts=PLENTY)

        assert step == (Inspect(AUTH_ID) if removal is Removal.DELETE else Disable(AUTH_ID))

    @pytest.mark.parametrize(("first", "second"), list(combinations(RULES, 2)))
    def test_the_first_reason_that_applies_is_named(self, first, second):
        both = [APPLIES[first], APPLIES[second]]
        event = next((one for one, _, _ in both if one.merged_into), EVENT)
        protected = next((by.protected for _, by, _ in both if by.protected != Protected()), Protected())
        used_up = {HoldReason.LAST_ACTIVE, HoldReason.LIMIT} == {first, second}
        last_of_many = TenantCounts(1, (WindowCount(4, 4), WindowCount(4, 4)))
        counts = last_of_many if used_up else both[1][2]

        step = asks(event, an_entry(), replace(LIMITED, protected=protected), counts=counts)

        assert step.reason is first

    def test_a_tenant_is_counted_before_its_first_removal_only_with_a_limit(self):
        assert asks(EVENT, an_entry(), LIMITED) == CountTenant()
        assert asks(EVENT, an_entry()) == Disable(AUTH_ID)

    @pytest.mark.parametrize("counts", [LAST, USED_UP])
    def test_off_lifts_the_limit_and_the_last_active_department(self, counts):
        assert asks(EVENT, an_entry(), STAGED, counts=counts) == Disable(AUTH_ID)

    @pytest.mark.parametrize("event", [created(sequence=11), renamed(sequence=11)])
    @pytest.mark.parametrize("status", Status)
    def test_other_events_are_never_held(self, event, status):
        entry = an_entry(status)
        policy = replace(LIMITED, protected=PROTECTS)
        decision = decide(event, Recollection(entry), policy, NOW)

        assert asks(event, entry, policy, counts=LAST) == decision

    @pytest.mark.parametrize("status", [Status.ABSENT, Status.DISABLED, Status.REMOVED])
    def test_a_removal_that_changes_nothing_is_not_held(self, status):
        policy = replace(LIMITED, protected=PROTECTS)

        assert asks(EVENT, an_entry(status), policy, counts=LAST) == Skip(ResultKind.UNCHANGED)
        assert isinstance(asks(EVENT, an_entry(), replace(policy, removal=Removal.IGNORE)), Skip)

    def test_a_newer_removal_is_decided_anew(self):
        """Its predecessor's hold is voided first."""
        entry = held(HoldReason.LIMIT, approved_at=None)
        newer = removed(sequence=12)
        assert asks(newer, entry, LIMITED, counts=PLENTY) == VoidHold()

        after = conclude(entry, newer, VoidHold(), NOTHING_DONE, LIMITED, LATER).entry

        assert asks(newer, after, LIMITED, counts=PLENTY) == Disable(AUTH_ID)
        assert asks(newer, after, LIMITED, counts=USED_UP).reason is HoldReason.LIMIT

    def test_an_org_chart_of_forty_that_is_wiped_loses_four(self):
        departments = [Department("acme", f"d{number}") for number in range(40)]
        entries = {one: replace(an_entry(), department=one, auth_id=f"SA{one.id}") for one in departments}
        steps = []
        for one in departments:
            event = removed(sequence=11, department_id=one.id, id=one.id)
            since = [NOW - window.length for window in LIMITED.limit]
            counts = counts_of(entries.values(), since)
            step = asks(event, entries[one], LIMITED, counts=counts)
            steps.append(type(step))
            outcome = Changed() if isinstance(step, Disable) else NOTHING_DONE
            entries[one] = stepped(event, entries[one], step, outcome, LIMITED).entry

        assert (steps.count(Disable), steps.count(HoldBack)) == (4, 36)
        assert Counter(one.status for one in entries.values()) == {Status.DISABLED: 4, Status.ACTIVE: 36}


class TestBeforeADeletion:
    """The subaccount is looked at as it is then: of an event under `delete`, and of a late removal."""

    WAYS = pytest.mark.parametrize("way", ["event", "late"])

    def next(self, way: str, inspection: Inspection | None, **policy: Any) -> Any:
        if way == "event":
            return asks(EVENT, an_entry(), replace(DELETES, **policy), inspection=inspection)
        return late(disabled(), replace(STAGED, **policy), inspection=inspection)

    def bare(self, way: str, **fields: Any) -> Inspection:
        return inspected(**{"enabled": way == "event"} | fields)

    @WAYS
    def test_it_is_inspected_first(self, way):
        assert self.next(way, None) == Inspect(AUTH_ID)

    @WAYS
    def test_one_with_nothing_on_it_is_deleted_without_cascade(self, way):
        bare = self.bare(way)

        assert self.next(way, bare) == Delete(AUTH_ID, cascade=False, inspection=bare)

    @WAYS
    def test_one_that_is_gone_is_deleted_all_the_same(self, way):
        assert self.next(way, GONE) == Delete(AUTH_ID, inspection=GONE)

    @WAYS
    def test_one_without_our_tag_is_held(self, way):
        foreign = self.bare(way, tagged=False, name="Theirs", inventory=SOME)

        detail = "its name at Plivo does not carry the department's tag: Theirs"
        assert self.next(way, foreign) == HoldBack(HoldReason.DRIFT, detail, foreign)

    @WAYS
    def test_one_with_resources_is_held(self, way):
        hung = self.bare(way, inventory=SOME)

        detail = "1 number, 2 applications, 1 endpoint hang on it"
        assert self.next(way, hung) == HoldBack(HoldReason.RESOURCES, detail, hung)

    def test_one_that_somebody_has_enabled_is_held(self):
        enabled = inspected(enabled=True)

        step = late(disabled(), inspection=enabled)

        detail = "it is enabled at Plivo, although it was disabled when the department was removed"
        assert step == HoldBack(HoldReason.DRIFT, detail, enabled)

    def test_an_enabled_one_without_our_tag_differs_in_both(self):
        drift = drift_of(disabled(), inspected(enabled=True, tagged=False, name="Theirs"))

        assert drift == (
            "it is enabled at Plivo, although it was disabled when the department was removed;"
            " its name at Plivo does not carry the department's tag: Theirs"
        )

    def test_one_that_keeps_its_name_needs_no_tag(self):
        entry = disabled(keeps_name=True)

        assert late(entry, inspection=inspected(enabled=False, tagged=False)).auth_id == AUTH_ID
        assert drift_of(entry, GONE) is None

    def test_drift_is_named_before_resources_and_protected_before_drift(self):
        both = inspected(enabled=True, inventory=SOME)

        assert late(disabled(), inspection=both).reason is HoldReason.DRIFT
        protects = replace(STAGED, protected=PROTECTS)
        assert late(disabled(), protects, inspection=both).reason is HoldReason.PROTECTED

    @pytest.mark.parametrize("counts", [LAST, USED_UP])
    def test_neither_limit_nor_last_active_nor_merged_is_looked_at_again(self, counts):
        entry = disabled()
        asked = LateRemoval.of(SALES, entry.late_removal)

        step = next_step(asked, Recollection(entry, None, counts, BARE), LIMITED, OVER)

        assert step == Delete(AUTH_ID, inspection=BARE)

    def test_protected_is_looked_at_again(self):
        """The settings have changed since the disable."""
        step = late(disabled(), replace(STAGED, protected=PROTECTS), inspection=BARE)

        assert step == HoldBack(HoldReason.PROTECTED, "PROVISIONER_PROTECTED names it", BARE)


class TestApproved:
    """The scope of an approval."""

    @pytest.mark.parametrize("policy", [STAGED, DISABLES, replace(DELETES, capabilities=CANNOT_DELETE)])
    @pytest.mark.parametrize("reason", RULES)
    def test_an_active_department_is_disabled_by_the_policy(self, policy, reason):
        assert late(held(reason), replace(policy, protected=PROTECTS), LATER) == Disable(AUTH_ID)

    @pytest.mark.parametrize("reason", RULES)
    def test_an_approval_of_a_rule_covers_protected(self, reason):
        protects = replace(DELETES, protected=PROTECTS)
        bare = inspected()

        assert late(held(reason), protects, LATER) == Inspect(AUTH_ID)
        assert late(held(reason), protects, LATER, bare) == Delete(AUTH_ID, inspection=bare)

    @pytest.mark.parametrize("reason", [*RULES, HoldReason.DRIFT])
    def test_it_does_not_cover_resources(self, reason):
        hung = inspected(inventory=SOME)

        step = late(held(reason), DELETES, LATER, hung)

        assert (step.reason, step.inspection) == (HoldReason.RESOURCES, hung)
        assert reason in step.accepted

    @pytest.mark.parametrize("reason", [*RULES, HoldReason.RESOURCES])
    def test_it_does_not_cover_drift(self, reason):
        foreign = inspected(enabled=False, tagged=False)

        step = late(held(reason, disabled()), now=LATER, inspection=foreign)

        assert (step.reason, reason in step.accepted) == (HoldReason.DRIFT, True)

    @pytest.mark.parametrize("reason", [HoldReason.DRIFT, HoldReason.RESOURCES])
    def test_neither_covers_protected(self, reason):
        protects = replace(STAGED, protected=PROTECTS)

        step = late(held(reason, disabled()), protects, LATER, BARE)

        assert step.reason is HoldReason.PROTECTED

    def test_an_approval_of_drift_accepts_the_state_as_found_then(self):
        foreign = inspected(enabled=True, tagged=False, name="Theirs")

        step = late(held(HoldReason.DRIFT, disabled()), now=LATER, inspection=foreign)

        assert step == Delete(AUTH_ID, inspection=foreign)

    def test_an_accepted_drift_is_accepted_until_it_changes(self):
        accepting = held(HoldReason.DRIFT, disabled())
        hung = inspected(enabled=True, inventory=SOME)
        accepted = late(accepting, now=LATER, inspection=hung).accepted
        entry = held(HoldReason.RESOURCES, disabled(), accepted=accepted)

        assert late(entry, now=LATER, inspection=hung) == Delete(AUTH_ID, inspection=hung)
        other = inspected(enabled=True, tagged=False, name="Theirs", inventory=SOME)
        assert late(entry, now=LATER, inspection=other).reason is HoldReason.DRIFT

    def test_an_approval_of_resources_deletes_without_cascade(self):
        step = late(held(HoldReason.RESOURCES, disabled()), now=LATER, inspection=HUNG)

        assert step == Delete(AUTH_ID, cascade=False, inspection=HUNG)

    def test_the_right_count_deletes_with_cascade(self):
        entry = held(HoldReason.RESOURCES, disabled(), cascade=4)

        assert late(entry, now=LATER, inspection=HUNG) == Delete(AUTH_ID, cascade=True, inspection=HUNG)

    @pytest.mark.parametrize("count", [0, 1, 3, 5])
    def test_another_count_changes_nothing(self, count):
        entry = held(HoldReason.RESOURCES, disabled(), cascade=count)

        step = late(entry, now=LATER, inspection=HUNG)

        detail = f"1 number, 2 applications, 1 endpoint hang on it, 4 in all; the approval was for {count}"
        assert step == HoldBack(HoldReason.RESOURCES, detail, HUNG, frozenset({HoldReason.RESOURCES}))

    @pytest.mark.parametrize(("cascade", "holds"), [(None, False), (0, False), (4, True)])
    def test_resources_that_went_away_meanwhile(self, cascade, holds):
        entry = held(HoldReason.RESOURCES, disabled(), cascade=cascade)

        step = late(entry, now=LATER, inspection=BARE)

        assert isinstance(step, HoldBack) is holds
        assert holds or step == Delete(AUTH_ID, cascade=False, inspection=BARE)

    def test_no_other_hold_sends_cascade(self):
        for reason in set(HoldReason) - {HoldReason.RESOURCES}:
            entry = held(reason, disabled(), cascade=0)
            assert late(entry, now=LATER, inspection=BARE).cascade is False

    def test_it_does_not_wait_for_the_grace(self):
        assert late(held(HoldReason.RESOURCES, disabled()), now=LATER) == Inspect(AUTH_ID)

    def test_another_event_has_nothing_to_do(self):
        entry = held(HoldReason.LIMIT)
        other = LateRemoval.of(SALES, removed(sequence=9))

        assert next_step(other, Recollection(entry), STAGED, LATER) == NothingLeft()

    def test_what_may_be_approved(self):
        entry = held(HoldReason.RESOURCES, disabled(), approved_at=None)
        other = replace(entry.hold, id="H2", state=HoldState.VOID)
        moved = replace(entry.hold, auth_id="SA000000000000000009")

        assert may_approve(entry.hold, entry, STAGED) is None
        assert may_approve(other, entry, STAGED) == "it is void"
        assert may_approve(replace(entry.hold, state=HoldState.DONE), disabled(), STAGED) == "it is done"
        assert may_approve(moved, entry, STAGED) == "the department has another subaccount now"
        never = "PROVISIONER_REMOVAL=disable never deletes a subaccount"
        assert may_approve(entry.hold, entry, DISABLES) == never
        assert may_approve(held(HoldReason.LIMIT).hold, held(HoldReason.LIMIT), DISABLES) is None


RETRY = Retry(OVER, OVER + timedelta(minutes=7), 3, "no answer")
STATES: list[tuple[str, Any, Any]] = [
    ("absent", an_entry(Status.ABSENT), None),
    ("claimed", an_entry(Status.CLAIMED), None),
    ("active", an_entry(), None),
    ("active, held", held(HoldReason.LIMIT, approved_at=None), None),
    ("active, approved", held(HoldReason.LIMIT), None),
    ("disabled", disabled(), OVER),
    ("disabled without a cause", disabled(removal=Removed(NOW)), None),
    ("cancelled", disabled(removal=Removed(NOW, EVENT.bare, cancelled=True)), None),
    ("disabled, held", held(HoldReason.DRIFT, disabled(), approved_at=None), None),
    ("tried again", disabled(retry=RETRY), RETRY.at),
    ("deleting", disabled(Status.DELETING, deletion=Deletion(OVER)), OVER),
    ("deleting, tried again", disabled(Status.DELETING, deletion=Deletion(OVER), retry=RETRY), RETRY.at),
    ("deleting for an event", an_entry(Status.DELETING), None),
    ("removed", an_entry(Status.REMOVED), None),
]


class TestGrace:
    CHANGED = pytest.mark.parametrize(
        ("policy", "due_at"),
        [
            (STAGED, OVER),
            (replace(STAGED, grace=timedelta(hours=1)), LATER),
            (DELETES, NOW),
            (DISABLES, None),
            (IGNORES, None),
            (replace(STAGED, capabilities=CANNOT_DELETE), None),
            (replace(DELETES, capabilities=CANNOT_DELETE), None),
        ],
    )

    @CHANGED
    def test_the_settings_of_the_moment_apply_to_those_that_wait(self, policy, due_at):
        entry, tick = disabled(), timedelta(microseconds=1)

        assert deletion_due_at(entry, policy) == due_at
        if due_at is None:
            assert late(entry, policy, OVER + GRACE) == NothingLeft()
        else:
            assert late(entry, policy, due_at) == Inspect(AUTH_ID)
            assert late(entry, policy, due_at - tick) == NothingLeft()

    @CHANGED
    def test_the_ledger_looks_for_those_whose_grace_is_over(self, policy, due_at):
        before = deletable_before(policy, OVER)

        assert (before is None) == (due_at is None)
        assert before is None or (OVER - before) == (due_at - NOW)
        assert disabled().deletable_since == NOW

    def test_it_counts_from_the_confirmed_disable(self):
        after = stepped(EVENT, an_entry(), Disable(AUTH_ID), Changed()).entry

        assert after.removal.removed_at == LATER
        assert deletion_due_at(after, STAGED) == LATER + GRACE

    @pytest.mark.parametrize(("entry", "due_at"), [one[1:] for one in STATES], ids=[one[0] for one in STATES])
    def test_when_each_department_is_deleted(self, entry, due_at):
        assert deletion_due_at(entry, STAGED) == due_at
        assert deletion_due_at(entry, DISABLES) is None
        assert due_at is not None or entry.late_removal is None or entry.hold is not None

    def test_a_retry_waits_for_its_time(self):
        entry = disabled(retry=RETRY)

        assert late(entry, now=RETRY.at - timedelta(seconds=1)) == NothingLeft()
        assert late(entry, now=RETRY.at) == Inspect(AUTH_ID)
        assert entry.due_at == RETRY.at
        assert entry.deletable_since is None


class TestDeletingResumed:
    """A worker died after it had announced the deletion, or the call had no response."""

    DELETING = disabled(Status.DELETING, deletion=Deletion(OVER))

    def test_it_is_inspected_and_sent_again(self):
        assert self.DELETING.due_at == OVER
        assert late(self.DELETING) == Inspect(AUTH_ID)
        assert late(self.DELETING, inspection=BARE) == Delete(AUTH_ID, inspection=BARE)

    def test_one_that_was_carried_out_is_answered(self):
        step = late(self.DELETING, inspection=GONE)

        after = stepped(LATE, self.DELETING, step, Deleted()).entry

        assert (after.status, after.removal.auth_id, after.removal.counted_at) == (
            Status.REMOVED,
            AUTH_ID,
            NOW,
        )
        assert [one.outcome for one in after.owed_results] == [ResultKind.REMOVED]

    def test_what_is_found_meanwhile_holds_it_and_is_checked_for_a_late_call(self):
        step = late(self.DELETING, inspection=HUNG)

        settled = OVER + STAGED.settle_window
        after: Any = conclude(self.DELETING, LATE, step, NOTHING_DONE, STAGED, settled).entry

        assert (after.status, after.deletion, after.hold.reason) == (
            Status.DISABLED,
            None,
            HoldReason.RESOURCES,
        )
        assert after.check == Check(settled + STAGED.settle_window, late_call=True)

    def test_one_of_an_event_is_carried_on_by_the_event_only(self):
        entry = stepped(EVENT, an_entry(), Delete(AUTH_ID), Failed(Unknown("no answer")), DELETES).entry

        assert (entry.status, entry.late_removal, entry.due_at) == (Status.DELETING, None, None)
        assert asks(EVENT, entry, DELETES) == Inspect(AUTH_ID)

    @pytest.mark.parametrize("policy", [DISABLES, IGNORES])
    def test_it_is_carried_on_whatever_the_settings_are_by_now(self, policy):
        assert late(self.DELETING, policy) == Inspect(AUTH_ID)


class TestSomethingNewer:
    def test_a_restore_cancels_the_deletion_and_a_newer_removal_takes_it_up(self):
        back = created(sequence=12)
        failed = stepped(back, disabled(), Restore(AUTH_ID, None), Failed(Transient("503"))).entry
        assert (failed.status, deletion_due_at(failed, STAGED)) == (Status.DISABLED, None)
        assert (failed.deletable_since, failed.late_removal) == (None, None)

        newer = removed(sequence=13)
        skip = asks(newer, failed)
        after = conclude(failed, newer, skip, NOTHING_DONE, STAGED, LATER).entry

        assert skip == Skip(ResultKind.DISABLED)
        assert deletion_due_at(after, STAGED) == OVER
        assert after.late_removal == newer.bare
        assert late(after).auth_id == AUTH_ID

    def test_a_removal_that_is_older_than_what_cancelled_the_deletion_leaves_it_cancelled(self):
        back = created(sequence=13)
        failed = stepped(back, disabled(), Restore(AUTH_ID, None), Failed(Transient("503"))).entry

        older = removed(sequence=12)
        skip = asks(older, failed)
        after = conclude(failed, older, skip, NOTHING_DONE, STAGED, LATER).entry

        assert skip == Skip(ResultKind.SUPERSEDED)
        assert after == failed

    @pytest.mark.parametrize("policy", [STAGED, DELETES, DISABLES])
    @pytest.mark.parametrize(
        ("step", "status"),
        [
            (Rename(AUTH_ID, "Sales B"), Status.ACTIVE),
            (Restore(AUTH_ID, None), Status.DISABLED),
            (Create("Sales B"), Status.ABSENT),
            (Adopt("Sales B"), Status.CLAIMED),
        ],
    )
    def test_an_older_removal_is_superseded_while_the_event_waits(self, policy, step, status):
        """Its failed step has left no other trace: the removal would delete what the event says exists."""
        waits = renamed("Sales B", sequence=13)
        entry = an_entry(status) if status is not Status.DISABLED else disabled()
        failed = stepped(waits, entry, step, Failed(Transient("503"))).entry

        older, newer = removed(sequence=12), removed(sequence=14)
        skip = asks(older, failed, policy)
        answer: Any = conclude(failed, older, skip, NOTHING_DONE, policy, LATER).answer

        assert skip == Skip(ResultKind.SUPERSEDED)
        assert answer.superseded_by == waits.reference
        assert asks(newer, failed, policy) != skip

    def test_a_deletion_in_doubt_that_the_event_waits_for_is_seen_to_its_end(self):
        """Of an immediate deletion, whose removal comes again before the settle window is over."""
        older, waits = removed(sequence=12), created(sequence=13)
        begun = stepped(older, an_entry(), Delete(AUTH_ID), Failed(Unknown("no answer")), DELETES).entry
        entry = stepped(waits, begun, Reconsider(AUTH_ID), Seen(), DELETES).entry

        assert entry.status is Status.DELETING
        assert asks(older, entry, DELETES) == Inspect(AUTH_ID)
        assert asks(older, entry, DELETES, inspection=GONE) == Delete(AUTH_ID, inspection=GONE)
        there = inspected()
        assert asks(older, entry, DELETES, inspection=there) == Reconsider(AUTH_ID)

        looked = intend(Reconsider(AUTH_ID), entry, older, IDEMPOTENCY_KEY, DELETES, OVER)
        settled = conclude(looked, older, Reconsider(AUTH_ID), Seen(), DELETES, OVER).entry
        assert settled.status is Status.ACTIVE
        assert asks(older, settled, DELETES) == Skip(ResultKind.SUPERSEDED)

    @pytest.mark.parametrize("answers", [created(sequence=13), removed(sequence=14)])
    def test_the_event_waits_until_it_or_a_newer_one_is_answered(self, answers):
        waits = created("Sales B", sequence=13)
        failed = stepped(waits, an_entry(), Rename(AUTH_ID, "Sales B"), Failed(Transient("503"))).entry

        after = conclude(failed, answers, Skip(ResultKind.UNCHANGED), NOTHING_DONE, STAGED, LATER).entry

        assert (failed.wanted_by.reference, after.wanted_by) == (waits.reference, None)

    def test_an_older_event_that_is_answered_leaves_it_waiting(self):
        waits, older = created("Sales B", sequence=13), renamed("Sales C", sequence=12)
        failed = stepped(waits, an_entry(), Rename(AUTH_ID, "Sales B"), Failed(Transient("503"))).entry

        after = stepped(older, failed, Rename(AUTH_ID, "Sales C"), Changed()).entry

        assert (after.version, after.wanted_by) == (older.version, failed.wanted_by)

    def test_a_removal_that_is_ignored_is_unchanged_and_leaves_the_deletion_to_its_event(self):
        failed = stepped(created(sequence=12), disabled(), Restore(AUTH_ID, None), Failed(Transient("503")))

        newer = removed(sequence=13)
        skip = asks(newer, failed.entry, IGNORES)
        after: Any = conclude(failed.entry, newer, skip, NOTHING_DONE, IGNORES, LATER).entry

        assert skip == Skip(ResultKind.UNCHANGED)
        assert after.removal == disabled().removal

    def test_a_restored_department_does_not_count_any_more(self):
        restored = stepped(created(sequence=12), disabled(), Restore(AUTH_ID, None), Changed()).entry

        assert (disabled().counted_removals, restored.counted_removals) == ((NOW,), ())
        assert (restored.auth_id, restored.issued) == (AUTH_ID, disabled().issued)

    def test_an_older_event_cancels_nothing(self):
        step = asks(created(sequence=9), disabled())

        after = conclude(disabled(), created(sequence=9), step, NOTHING_DONE, STAGED, LATER).entry

        assert after == disabled()

    def test_removals_of_earlier_subaccounts_stay_counted_and_each_supersedes_the_last(self):
        entry = an_entry(Status.ABSENT)
        superseded, counted = [], []
        for number in range(PAST_REMOVALS_KEPT + 2):
            made = created(sequence=2 * number + 1)
            step = asks(made, entry, DELETES)
            entry = stepped(made, entry, step, Made(f"SA{number}", None), DELETES).entry
            superseded.append(entry.issued.supersedes)
            gone = removed(sequence=2 * number + 2)
            entry = stepped(gone, entry, Delete(entry.auth_id), Deleted(), DELETES).entry
            counted.append(len(entry.counted_removals))

        assert superseded == [None, *(f"SA{number}" for number in range(PAST_REMOVALS_KEPT + 1))]
        most = PAST_REMOVALS_KEPT + 1
        assert counted == [*range(1, most + 1), most]
        assert entry.generation == entry.incarnation - 1 == PAST_REMOVALS_KEPT + 2


def test_the_id_of_a_hold_is_short_and_its_own():
    other = Department("acme", "marketing")
    ids = [
        hold_id(SALES, EVENT.reference, 1),
        hold_id(SALES, EVENT.reference, 2),
        hold_id(other, EVENT.reference, 1),
        hold_id(SALES, removed(sequence=12).reference, 1),
    ]

    assert len(set(ids)) == len(ids)
    assert ids[0] == hold_id(SALES, EVENT.reference, 1)
    assert all(re.fullmatch(r"H[A-Z2-7]{11}", one) for one in ids)
