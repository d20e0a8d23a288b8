"""Holds: the hold of a removal, from its result to a ruling, a newer event, or its end."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from tests.support.builders import AUTH_ID, IDEMPOTENCY_KEY, NOW, an_entry, created, removed
from worker.core.conclude import conclude, intend
from worker.core.conclusions.conclusion import Conclusion
from worker.core.decide import (
    Create,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    Look,
    Policy,
    Skip,
    Step,
    VoidHold,
    decide,
)
from worker.core.duties import DEBT_PAUSE
from worker.core.holds import (
    RECREATED,
    approved,
    held,
    lapsed,
    owing_result,
    rejected,
    result_published,
    results_put_off,
    voided,
)
from worker.core.inventory import Counts, Inspection, Inventory
from worker.core.judge import Missing, Permanent, Transient, Unknown
from worker.core.listed import ListedSubaccount
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, LateRemoval, Recreation, Reference, Trace
from worker.core.model.entry import Check, Entry, NewerEvent, Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.core.outcomes import Changed, Deleted, Failed, Inspected, NothingDone

LATER = NOW + timedelta(hours=1)
POLICY = Policy()
EVENT = replace(removed("Sales (old)", sequence=11), trace=Trace("00-parent-01", None, "order-7"))
LATE = LateRemoval.of(EVENT.department, EVENT)
NEWER = created(sequence=12)
RULING = Ruling("ada", LATER)
RETRY = Retry(NOW, LATER, 3, "no answer")

RULES = [HoldReason.PROTECTED, HoldReason.MERGED, HoldReason.LAST_ACTIVE, HoldReason.LIMIT]
INVENTORY = Inventory(numbers=("1", "2"), endpoints=("e",))
HUNG = Inspection(
    ListedSubaccount(AUTH_ID, "Sales", enabled=False, created=NOW.date()),
    tagged=True,
    inventory=INVENTORY,
    begun=1.0,
)
RESOURCES = HoldBack(HoldReason.RESOURCES, "3 hang on it", HUNG)
DRIFT = HoldBack(HoldReason.DRIFT, "it is enabled at Plivo", HUNG)
ACTIVE = an_entry()
DISABLED = an_entry(Status.DISABLED, removal=Removed(NOW, EVENT.bare, counted_at=NOW), version=EVENT.version)


def of_rule(reason: HoldReason) -> HoldBack:
    return HoldBack(reason, "why")


def concluded(entry: Entry, cause: Cause, step: Step, outcome: Any = NothingDone()) -> Any:  # noqa: B008
    """The conclusion of a step that was intended before."""
    intended = intend(step, entry, cause, IDEMPOTENCY_KEY, POLICY, LATER)
    return conclude(intended, cause, step, outcome, POLICY, LATER)


def waiting(step: HoldBack, entry: Entry = ACTIVE) -> Any:
    """The entry once its removal is held: for the event, or late if the department is disabled.

    The result of a hold that was made for the event is published.
    """
    conclusion = concluded(entry, EVENT if entry.removal is None else LATE, step)
    return result_published(conclusion.entry, conclusion.answer) if conclusion.answer else conclusion.entry


def ruled_approved(entry: Any, cascade: int | None = None) -> Any:
    return approved(entry, entry.hold, replace(RULING, cascade=cascade)).entry


class TestHeldForAnEvent:
    @pytest.mark.parametrize("step", [*map(of_rule, RULES), RESOURCES, DRIFT], ids=lambda step: step.reason)
    def test_the_event_is_answered_at_once_with_the_reason(self, step):
        conclusion = concluded(ACTIVE, EVENT, step)

        [hold] = conclusion.holds
        assert conclusion.answer == Answer(
            department=EVENT.department,
            event=EVENT.reference,
            payload_digest=EVENT.payload_digest,
            outcome=ResultKind.HELD,
            code=ResultCode(step.reason),
            answered_at=LATER,
            name="Sales (old)",
            auth_id=AUTH_ID,
            reason=step.detail,
            trace=EVENT.trace,
            hold_id=hold.id,
            version=EVENT.version,
        )
        assert (conclusion.answers, conclusion.failure) == ((), None)

    def test_its_result_is_owed_if_its_delivery_does_not_publish_it(self):
        """Something else may answer the event before it is delivered again, and the hold keeps its result."""
        held = concluded(ACTIVE, EVENT, of_rule(HoldReason.LIMIT))
        voided = concluded(held.entry, NEWER, VoidHold())

        assert (held.entry.owed_results, held.entry.results_at) == ((held.answer,), LATER + DEBT_PAUSE)
        assert voided.entry.owed_results == (held.answer, *voided.answers)
        assert result_published(held.entry, held.answer) == replace(
            held.entry, owed_results=(), results_at=None
        )

    def test_the_hold_knows_its_event_and_its_subaccount(self):
        conclusion = concluded(ACTIVE, EVENT, replace(RESOURCES, accepted=frozenset({"limit"})))

        [hold] = conclusion.holds
        assert hold == Hold(
            id=hold.id,
            department=EVENT.department,
            reason=HoldReason.RESOURCES,
            detail="3 hang on it",
            cause=EVENT.bare,
            auth_id=AUTH_ID,
            name="Sales",
            held_at=LATER,
            resources=Counts(2, 0, 1),
            accepted=frozenset({"limit"}),
        )
        assert conclusion.entry.hold == hold

    def test_the_department_stays_active_and_the_event_is_its_newest(self):
        entry = waiting(of_rule(HoldReason.LIMIT))

        assert (entry.status, entry.version, entry.newest) == (
            Status.ACTIVE,
            EVENT.version,
            EVENT.reference,
        )
        assert (entry.late_removal, entry.due_at, entry.counted_removals) == (None, None, ())
        assert entry.is_counted_active

    def test_one_that_was_under_way_is_so_no_more(self):
        """The ledger did not admit it, or what was found forbids it."""
        entry = replace(ACTIVE, removing=Removing(EVENT.reference, NOW), retry=RETRY)

        assert (waiting(RESOURCES, entry).removing, waiting(RESOURCES, entry).retry) == (None, None)

    @pytest.mark.parametrize("removal", [None, Removed(NOW, EVENT.bare)])
    def test_a_deletion_in_doubt_is_undone_and_checked(self, removal):
        deleting = an_entry(Status.DELETING, deletion=Deletion(NOW), removal=removal)

        entry = concluded(deleting, EVENT if removal is None else LATE, RESOURCES).entry

        assert (entry.status, entry.deletion) == (Status.DISABLED if removal else Status.ACTIVE, None)
        assert entry.check == Check(LATER + POLICY.settle_window, late_call=True)

    @pytest.mark.parametrize("removal", [None, Removed(NOW, EVENT.bare)])
    def test_a_deletion_that_may_still_be_carried_out_is_waited_for(self, removal):
        """Else a newer event could restore what the late call then deletes."""
        begun_at = LATER - timedelta(seconds=1)
        deleting = an_entry(Status.DELETING, deletion=Deletion(begun_at), removal=removal)

        conclusion = concluded(deleting, EVENT if removal is None else LATE, RESOURCES)

        assert (conclusion.entry, conclusion.holds, conclusion.answer) == (deleting, (), None)
        assert conclusion.failure.scan_in_seconds == pytest.approx(POLICY.settle_window.total_seconds() - 0.9)

    def test_one_without_an_inspection_has_no_counts(self):
        gone = Inspection(None, tagged=False, inventory=Inventory(), begun=1.0)

        assert waiting(of_rule(HoldReason.LIMIT)).hold.resources is None
        assert waiting(replace(DRIFT, inspection=gone)).hold.resources is None


class TestHeldLate:
    @pytest.mark.parametrize("step", [RESOURCES, DRIFT, of_rule(HoldReason.PROTECTED)])
    def test_its_result_is_owed_once_and_the_event_keeps_its_answer(self, step):
        conclusion = concluded(DISABLED, LATE, step)

        [hold] = conclusion.holds
        [owed] = conclusion.entry.owed_results
        assert (owed.outcome, owed.code, owed.hold_id) == (ResultKind.HELD, ResultCode(step.reason), hold.id)
        assert (owed.event, conclusion.entry.results_at) == (EVENT.reference, LATER)
        assert (conclusion.answer, conclusion.answers) == (None, ())
        assert hold.disabled
        assert conclusion.entry.version == DISABLED.version

    def test_it_waits_for_a_person_however_long(self):
        entry = replace(waiting(DRIFT, DISABLED), owed_results=(), results_at=None)

        assert (entry.late_removal, entry.due_at, entry.deletable_since) == (None, None, None)

    def test_another_reason_is_another_hold_with_a_result_of_its_own(self):
        """An approved removal met resources: the first hold is done, the event has no final answer yet."""
        first = waiting(of_rule(HoldReason.LIMIT))

        conclusion = concluded(ruled_approved(first), LATE, RESOURCES)

        done, hold = conclusion.holds
        assert (done.id, done.state) == (first.hold.id, HoldState.DONE)
        assert (hold.state, hold.disabled) == (HoldState.WAITING, False)
        assert hold.id != first.hold.id
        [answer] = conclusion.answers
        assert answer.hold_id == hold.id
        assert conclusion.entry.owed_results == (answer,)
        assert conclusion.entry.holds_made == 2

    def test_the_same_reason_waits_again_under_its_id_with_the_new_counts(self):
        first = waiting(RESOURCES, DISABLED)
        more = replace(HUNG, inventory=Inventory(numbers=("1", "2", "3", "4")))
        again = HoldBack(HoldReason.RESOURCES, "the approval was for 3", more)

        conclusion = concluded(ruled_approved(first, cascade=3), LATE, again)

        [hold] = conclusion.holds
        assert hold == replace(
            first.hold, detail="the approval was for 3", resources=Counts(numbers=4), ruling=None
        )
        assert hold.state is HoldState.WAITING
        assert (conclusion.answer, conclusion.answers) == (None, ())
        assert conclusion.entry.owed_results == first.owed_results
        assert conclusion.entry.holds_made == 1

    def test_a_second_hold_of_an_event_has_another_id_at_each_try(self):
        first = waiting(DRIFT, DISABLED)
        without = voided(first, first.hold, NEWER.reference, LATER).entry

        second = held(without, LATE, DRIFT, LATER)

        assert second.hold.id != first.hold.id
        assert second.hold.id == held(without, LATE, DRIFT, LATER + timedelta(days=1)).hold.id


class TestVoided:
    """A newer event has arrived."""

    @pytest.mark.parametrize("state", [HoldState.WAITING, HoldState.APPROVED])
    @pytest.mark.parametrize("newer", [created(sequence=12), removed(sequence=12)], ids=lambda e: e.kind)
    def test_a_removal_without_a_final_answer_is_superseded(self, newer, state):
        before = waiting(of_rule(HoldReason.LIMIT))
        before = before if state is HoldState.WAITING else ruled_approved(before)

        conclusion = concluded(before, newer, VoidHold())

        [answer] = conclusion.answers
        assert (answer.outcome, answer.code) == (ResultKind.SUPERSEDED, ResultCode.SUPERSEDED)
        assert (answer.event, answer.superseded_by) == (EVENT.reference, newer.reference)
        assert (answer.hold_id, answer.reason) == (None, None)
        assert [hold.state for hold in conclusion.holds] == [HoldState.VOID]
        after = conclusion.entry
        assert (after.hold, after.late_removal) == (None, None)
        assert (after.owed_results, after.results_at) == ((answer,), LATER)
        assert (conclusion.answer, conclusion.failure) == (None, None)
        assert after.version == EVENT.version

    def test_one_that_was_answered_disabled_gets_nothing_further(self):
        before = waiting(DRIFT, DISABLED)

        conclusion = concluded(before, NEWER, VoidHold())

        assert [hold.state for hold in conclusion.holds] == [HoldState.VOID]
        assert (conclusion.answers, conclusion.entry.owed_results) == ((), before.owed_results)
        removal = conclusion.entry.removal
        assert removal is not None
        assert removal.cancelled
        assert conclusion.entry.wanted_by == NewerEvent(NEWER.version, NEWER.reference)
        assert conclusion.entry.late_removal is None

    def test_a_newer_removal_takes_the_deletion_up_as_its_own(self):
        newer = removed(sequence=12)

        without = concluded(waiting(DRIFT, DISABLED), newer, VoidHold()).entry
        assert (without.late_removal, without.wanted_by) == (None, None)
        step: Any = decide(newer, Recollection(without), POLICY, LATER)
        conclusion = concluded(without, newer, step)

        assert step == Skip(ResultKind.DISABLED)
        assert (conclusion.answer.event, conclusion.answer.outcome) == (newer.reference, ResultKind.DISABLED)
        assert conclusion.entry.removal == Removed(NOW, newer.bare, counted_at=NOW)
        assert conclusion.entry.late_removal == newer.bare

    def test_a_newer_removal_leaves_a_deletion_in_doubt_to_be_inspected(self):
        doubtful = replace(DISABLED, status=Status.DELETING, deletion=Deletion(NOW), hold=waiting(DRIFT).hold)

        conclusion = concluded(doubtful, removed(sequence=12), VoidHold())

        assert conclusion.entry.removal == DISABLED.removal

    def test_a_hold_is_needed(self):
        with pytest.raises(ValueError, match="no hold to void"):
            conclude(ACTIVE, NEWER, VoidHold(), NothingDone(), POLICY, LATER)

    def test_a_recreation_voids_the_hold_of_a_lost_subaccount(self):
        asked = Recreation(
            Reference("/wishes", "w1", "department.recreate.v1"),
            "w1",
            department=EVENT.department,
            asked_at=NOW,
        )
        entry = replace(waiting(of_rule(HoldReason.LIMIT)), missing_since=NOW)
        over = NOW + POLICY.settle_window

        conclusion: Any = conclude(entry, asked, Look(AUTH_ID), Failed(Missing("404")), POLICY, over)

        assert [hold.state for hold in conclusion.holds] == [HoldState.VOID]
        assert [(one.outcome, one.reason) for one in conclusion.answers] == [
            (ResultKind.SUPERSEDED, RECREATED)
        ]
        assert conclusion.entry.owed_results == conclusion.answers


class TestApproved:
    def test_it_is_due_from_then_on(self):
        before = waiting(of_rule(HoldReason.LIMIT))

        ruled = approved(before, before.hold, RULING)

        assert (ruled.hold.state, ruled.hold.ruling, ruled.answer) == (HoldState.APPROVED, RULING, None)
        assert ruled.entry.hold == ruled.hold
        assert (ruled.entry.due_at, ruled.entry.late_removal) == (LATER, EVENT.bare)

    def test_a_disable_ends_it_with_a_result_that_is_owed(self):
        before = ruled_approved(waiting(of_rule(HoldReason.LIMIT)))

        conclusion = concluded(before, LATE, Disable(AUTH_ID), Changed())

        assert [hold.state for hold in conclusion.holds] == [HoldState.DONE]
        answer = conclusion.answer
        assert (answer.outcome, answer.event, answer.name) == (
            ResultKind.DISABLED,
            EVENT.reference,
            "Sales (old)",
        )
        assert conclusion.entry.owed_results == (answer,)
        assert conclusion.entry.removal == Removed(LATER, EVENT.bare, counted_at=None)
        assert (conclusion.entry.hold, conclusion.entry.counted_removals) == (None, ())

    @pytest.mark.parametrize("entry", [ACTIVE, DISABLED])
    def test_a_deletion_ends_it(self, entry):
        before = ruled_approved(waiting(RESOURCES, entry))

        conclusion = concluded(before, LATE, Delete(AUTH_ID), Deleted())

        assert [hold.state for hold in conclusion.holds] == [HoldState.DONE]
        assert (conclusion.answer.outcome, conclusion.answer.event) == (ResultKind.REMOVED, EVENT.reference)
        assert conclusion.entry.owed_results[-1] == conclusion.answer
        assert (conclusion.entry.status, conclusion.entry.hold) == (Status.REMOVED, None)
        assert conclusion.entry.counted_removals == entry.counted_removals

    def test_a_subaccount_that_others_deleted_ends_it(self):
        over = NOW + POLICY.settle_window
        before = replace(ruled_approved(waiting(of_rule(HoldReason.LIMIT))), missing_since=NOW)

        conclusion: Any = conclude(before, LATE, Disable(AUTH_ID), Failed(Missing("404")), POLICY, over)

        assert [hold.state for hold in conclusion.holds] == [HoldState.DONE]
        assert (conclusion.answer.outcome, conclusion.answer.code) == (
            ResultKind.REMOVED,
            ResultCode.GONE_AT_PROVIDER,
        )

    @pytest.mark.parametrize("failure", [Transient("503"), Permanent(DeadReason.REJECTED, "400")])
    @pytest.mark.parametrize("step", [Disable(AUTH_ID), Delete(AUTH_ID)])
    def test_one_that_fails_stays_approved(self, step, failure):
        before = ruled_approved(waiting(of_rule(HoldReason.LIMIT)))

        conclusion = concluded(before, LATE, step, Failed(failure))

        assert (conclusion.entry, conclusion.failure) == (before, failure)
        assert (conclusion.holds, conclusion.answer) == ((), None)

    def test_one_in_doubt_stays_approved_and_deleting(self):
        before = ruled_approved(waiting(RESOURCES))

        conclusion = concluded(before, LATE, Delete(AUTH_ID), Failed(Unknown("no answer")))

        assert (conclusion.entry.status, conclusion.entry.hold) == (Status.DELETING, before.hold)
        assert conclusion.entry.late_removal == EVENT.bare

    def test_an_inspection_is_handed_to_the_next_decision(self):
        before = ruled_approved(waiting(RESOURCES))

        assert concluded(before, LATE, Inspect(AUTH_ID), Inspected(HUNG)) == Conclusion(
            before, inspection=HUNG
        )

    def test_it_lapses_to_waiting_under_its_id(self):
        before = waiting(RESOURCES, DISABLED)

        ruled = lapsed(ruled_approved(before), ruled_approved(before).hold)

        assert (ruled.entry, ruled.hold, ruled.answer) == (before, before.hold, None)


class TestRejected:
    def test_a_removal_without_a_final_answer_is_unchanged(self):
        before = waiting(of_rule(HoldReason.MERGED))

        ruled: Any = rejected(before, before.hold, RULING)

        answer = ruled.answer
        assert (answer.outcome, answer.code, answer.event) == (
            ResultKind.UNCHANGED,
            ResultCode.UNCHANGED,
            EVENT.reference,
        )
        assert (answer.reason, answer.trace) == ("removal rejected by ada", EVENT.trace)
        assert (ruled.hold.state, ruled.hold.ruling) == (HoldState.REJECTED, RULING)
        assert (ruled.entry.status, ruled.entry.hold) == (Status.ACTIVE, None)
        assert ruled.entry.owed_results == (answer,)

    def test_a_deletion_is_cancelled_and_nothing_further_is_published(self):
        before = waiting(DRIFT, DISABLED)

        ruled: Any = rejected(before, before.hold, RULING)

        assert (ruled.answer, ruled.entry.owed_results) == (None, before.owed_results)
        assert (ruled.entry.status, ruled.entry.removal) == (
            Status.DISABLED,
            Removed(NOW, EVENT.bare, counted_at=NOW, cancelled=True),
        )
        assert (ruled.entry.late_removal, ruled.entry.deletable_since) == (None, None)

    def test_its_removal_stays_counted(self):
        before = waiting(DRIFT, DISABLED)

        assert rejected(before, before.hold, RULING).entry.counted_removals == (NOW,)


class TestOwedResults:
    ANSWERS = tuple(replace(concluded(ACTIVE, EVENT, RESOURCES).answer, hold_id=f"H{n}") for n in range(3))

    def owing(self) -> Entry:
        entry = ACTIVE
        for number, answer in enumerate(self.ANSWERS):
            entry = owing_result(entry, answer, NOW + timedelta(minutes=number))
        return entry

    def test_the_oldest_is_due_first(self):
        assert (self.owing().owed_results, self.owing().results_at) == (self.ANSWERS, NOW)
        assert self.owing().due_at == NOW

    def test_each_is_owed_until_it_is_published(self):
        entry = self.owing()
        for number, answer in enumerate(self.ANSWERS):
            entry = result_published(entry, answer)
            assert entry.owed_results == self.ANSWERS[number + 1 :]
        assert entry == ACTIVE

    def test_the_rest_is_put_off(self):
        later = results_put_off(result_published(self.owing(), self.ANSWERS[0]), LATER)

        assert (later.owed_results, later.due_at) == (self.ANSWERS[1:], LATER)
        assert results_put_off(ACTIVE, LATER) == ACTIVE

    def test_they_are_published_while_a_create_is_open(self):
        gone = replace(an_entry(Status.REMOVED), owed_results=self.ANSWERS, results_at=NOW)
        claimed = intend(Create("Sales"), gone, NEWER, IDEMPOTENCY_KEY, POLICY, LATER)

        assert (claimed.status, claimed.due_at) == (Status.CLAIMED, NOW)
