"""Calls that may be executed late: unknown creates, and changes after newer ones."""

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from contracts.subaccounts import DeadReason, ResultKind
from tests.support.builders import AUTH_ID, IDEMPOTENCY_KEY, NOW, an_entry, created, removed, renamed
from worker.core.conclude import conclude, intend
from worker.core.conclusions.conclusion import Conclusion
from worker.core.decide import Adopt, Create, Delete, Disable, Policy, Rename, Restore, Step, decide
from worker.core.judge import Permanent, Transient, Unknown
from worker.core.model.entry import Check, Claim, Status
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Removed
from worker.core.outcomes import Changed, Deleted, Failed, Made, NothingSeen

LATER = NOW + timedelta(seconds=1)
POLICY = Policy()
WINDOW = POLICY.settle_window
TEN_WINDOWS = timedelta(minutes=20)
TICK = timedelta(microseconds=1)

EVENT = created("Sales", sequence=11)
MADE = Made("SA000000000000000002", SecretStr("made-up-token"))
MADE_WITH_DUPLICATES = replace(MADE, duplicates=("SA000000000000000008", "SA000000000000000009"))
TRANSIENT = Transient("Plivo answered 429 to create")
UNKNOWN = Unknown("no answer")
PERMANENT = Permanent(DeadReason.REJECTED, "Plivo answered 400 to create")
STEPS: dict[str, tuple[Step, Status]] = {
    "adopt": (Adopt("Marketing"), Status.CLAIMED),
    "rename": (Rename(AUTH_ID, "Marketing"), Status.ACTIVE),
    "restore": (Restore(AUTH_ID, "Marketing"), Status.DISABLED),
    "disable": (Disable(AUTH_ID), Status.ACTIVE),
}
with_every_failure = pytest.mark.parametrize("failure", [TRANSIENT, UNKNOWN, PERMANENT])
of_a_create_that_did_not_happen = pytest.mark.parametrize("failure", [TRANSIENT, PERMANENT])


def concluded(entry, event, step, outcome, now=LATER):
    return conclude(entry, event, step, outcome, POLICY, now)


def claimed(attempt=1, clean_scans=0, **fields):
    """Claimed for EVENT at NOW."""
    claim = Claim(NOW, IDEMPOTENCY_KEY, EVENT.reference, attempt, clean_scans)
    return an_entry(Status.CLAIMED, claim=claim, **fields)


def claimed_again(entry, event=EVENT):
    """The entry before the next create for `event`."""
    return intend(Create("Sales"), entry, event, IDEMPOTENCY_KEY, POLICY, LATER)


def after_empty_scan(entry, begun):
    return concluded(entry, EVENT, Adopt("Sales"), NothingSeen(begun), begun)


def changes(before, after):
    """The new values of the fields that differ."""
    old, new = vars(before), vars(after)
    return {name: new[name] for name in new if new[name] != old[name]}


class TestClaims:
    def test_a_claim_is_kept_while_the_create_may_have_happened(self):
        entry = claimed()

        conclusion = concluded(entry, EVENT, Create("Sales"), Failed(UNKNOWN))

        assert (conclusion.entry, conclusion.answer) == (entry, None)
        assert conclusion.failure == Unknown("no answer", 4.1)  # the first scan starts 5 s after the claim

    @of_a_create_that_did_not_happen
    def test_a_claim_is_withdrawn_if_the_create_did_not_happen(self, failure):
        conclusion = concluded(claimed(), EVENT, Create("Sales"), Failed(failure))

        assert changes(claimed(), conclusion.entry) == {"status": Status.ABSENT, "claim": None}
        assert conclusion.failure == failure

    @of_a_create_that_did_not_happen
    @pytest.mark.parametrize("attempt", [2, 3])
    def test_a_create_that_did_not_happen_is_not_counted(self, failure, attempt):
        left = concluded(claimed(attempt), EVENT, Create("Sales"), Failed(failure)).entry

        assert left.status is Status.ABSENT
        assert left.claim.attempt == attempt - 1
        assert claimed_again(left).claim.attempt == attempt

    @pytest.mark.parametrize("attempt", [1, 2, 3])
    def test_an_unknown_create_in_an_outage_is_scanned_for_not_counted(self, attempt):
        unknown_in_outage = Failed(replace(UNKNOWN, outage=True))

        conclusion = concluded(claimed(attempt), EVENT, Create("Sales"), unknown_in_outage)

        assert conclusion.entry == claimed(attempt - 1)
        assert conclusion.failure == Unknown("no answer", 4.1, outage=True)
        assert claimed_again(replace(conclusion.entry, status=Status.ABSENT)).claim.attempt == attempt

    @pytest.mark.parametrize("outcome", [Failed(TRANSIENT), Failed(PERMANENT)])
    def test_a_withdrawn_claim_restores_the_removed_status(self, outcome):
        entry = claimed(removal=Removed(NOW), incarnation=3)

        left = concluded(entry, EVENT, Create("Sales"), outcome).entry

        assert changes(entry, left) == {"status": Status.REMOVED, "claim": None}

    def test_each_create_makes_a_new_claim(self):
        lost = replace(claimed(2, removal=Removed(NOW)), status=Status.REMOVED)

        claim = claimed_again(lost).claim

        assert claim == Claim(LATER, IDEMPOTENCY_KEY, EVENT.reference, attempt=3)

    def test_another_event_counts_from_one(self):
        lost = replace(claimed(2), status=Status.ABSENT)

        assert claimed_again(lost, created(sequence=12)).claim.attempt == 1


class TestScans:
    @pytest.mark.parametrize(
        ("clean_scans", "begun", "next_in"),
        [(0, 5.1, 10.0), (1, 15.1, 30.0), (2, 45.1, 75.0), (0, 120.1, 0.1), (0, 500.0, 0.1), (9, 120.0, 0.1)],
    )
    def test_a_clean_scan_is_counted_and_the_next_is_on_schedule(self, clean_scans, begun, next_in):
        entry = claimed(2, clean_scans)

        conclusion = after_empty_scan(entry, NOW + timedelta(seconds=begun))

        assert conclusion.entry == claimed(2, clean_scans + 1)
        assert conclusion.answer is None
        assert isinstance(conclusion.failure, Unknown)
        assert conclusion.failure.scan_in_seconds == pytest.approx(next_in)

    @pytest.mark.parametrize(
        ("clean_scans", "begun", "lost"),
        [
            (0, WINDOW + TICK, False),
            (0, 100 * WINDOW, False),
            (1, timedelta(0), False),
            (1, WINDOW, False),
            (9, WINDOW, False),
            (1, WINDOW + TICK, True),
            (3, WINDOW + TICK, True),
        ],
    )
    def test_lost_after_two_clean_scans_the_last_begun_after_the_window(self, clean_scans, begun, lost):
        entry = claimed(2, clean_scans)

        conclusion = after_empty_scan(entry, NOW + begun)

        assert (conclusion.failure is None) is lost
        assert (conclusion.entry.status is Status.CLAIMED) is not lost

    @pytest.mark.parametrize(
        ("fields", "status"),
        [({}, Status.ABSENT), ({"removal": Removed(NOW), "incarnation": 2}, Status.REMOVED)],
    )
    def test_after_a_lost_create_the_event_is_decided_again(self, fields, status):
        entry = claimed(2, 3, **fields)
        begun = NOW + WINDOW + TICK

        conclusion = after_empty_scan(entry, begun)

        assert (conclusion.answer, conclusion.failure) == (None, None)
        lost = replace(claimed(2, 0, **fields), status=status, duplicates_check_at=begun + TEN_WINDOWS)
        assert conclusion.entry == lost
        assert claimed_again(lost).claim == Claim(LATER, IDEMPOTENCY_KEY, EVENT.reference, attempt=3)

    def test_the_start_of_a_scan_counts_not_its_end(self):
        late = NOW + 2 * WINDOW

        conclusion = concluded(claimed(1, 5), EVENT, Adopt("Sales"), NothingSeen(NOW + WINDOW), late)

        assert conclusion.entry.status is Status.CLAIMED

    @pytest.mark.parametrize(
        "entry",
        [
            an_entry(Status.ABSENT),
            an_entry(Status.REMOVED),
            replace(claimed(2, 1), status=Status.ABSENT),  # keeps the claim of a lost create for its count
        ],
    )
    def test_a_scan_without_a_claim_is_decided_immediately(self, entry):
        assert after_empty_scan(entry, NOW + 2 * WINDOW) == Conclusion(entry)

    @with_every_failure
    def test_a_failed_scan_is_not_counted(self, failure):
        left = concluded(claimed(2, 1), EVENT, Adopt("Sales"), Failed(failure)).entry

        assert left.claim == claimed(2, 1).claim


class TestGivingUp:
    GIVEN_UP = concluded(claimed(3), EVENT, Create("Sales"), Failed(UNKNOWN))

    def test_the_third_unknown_create_is_given_up_with_evidence(self):
        assert self.GIVEN_UP.failure == Permanent(
            DeadReason.CREATE_UNKNOWN,
            "3 creates ended without a clear response, the last begun at 2026-11-21T12:00:00Z"
            f" with idempotency key {IDEMPOTENCY_KEY}: no answer",
        )
        assert self.GIVEN_UP.answer is None

    def test_giving_up_keeps_the_claim_and_resets_its_count(self):
        assert self.GIVEN_UP.entry == claimed(0)

    @pytest.mark.parametrize("event", [EVENT, created(sequence=12)], ids=["replay", "newer"])
    def test_the_next_event_settles_the_claim_and_has_three_creates(self, event):
        entry = self.GIVEN_UP.entry
        for begun in (NOW + WINDOW, NOW + WINDOW + TICK):
            entry = concluded(entry, event, Adopt("Sales"), NothingSeen(begun), begun).entry

        assert entry.status is Status.ABSENT
        for attempt in (1, 2, 3):
            again = claimed_again(entry, event)
            assert again.claim.attempt == attempt
            failure = concluded(again, event, Create("Sales"), Failed(UNKNOWN)).failure
            assert isinstance(failure, Permanent) is (attempt == 3)
            entry = replace(again, status=Status.ABSENT)

    def test_the_next_event_may_adopt_the_subaccount(self):
        conclusion = concluded(self.GIVEN_UP.entry, EVENT, Adopt("Sales"), MADE)

        assert (conclusion.entry.status, conclusion.entry.claim) == (Status.ACTIVE, None)
        assert conclusion.answer.outcome is ResultKind.CREATED


class TestCrashes:
    """A claim whose outcome was never recorded counts as an unknown create."""

    BEGUN = NOW + WINDOW + TICK
    LOST = after_empty_scan(claimed(3, 1), BEGUN).entry
    GIVEN_UP = after_empty_scan(LOST, BEGUN)

    def test_after_the_third_lost_create_the_event_only_scans(self):
        assert decide(EVENT, Recollection(self.LOST), POLICY, self.BEGUN) == Adopt(EVENT.name)

    def test_an_empty_last_scan_is_given_up_with_evidence(self):
        assert self.GIVEN_UP.failure == Permanent(
            DeadReason.CREATE_UNKNOWN,
            "3 creates ended without a clear response, the last begun at 2026-11-21T12:00:00Z"
            f" with idempotency key {IDEMPOTENCY_KEY}:"
            " the create was taken for lost, because the list has not shown it",
        )
        assert self.GIVEN_UP.answer is None

    def test_a_replay_counts_its_creates_from_one(self):
        left = self.GIVEN_UP.entry

        assert left == replace(claimed(0), status=Status.ABSENT, duplicates_check_at=self.BEGUN + TEN_WINDOWS)
        assert decide(EVENT, Recollection(left), POLICY, self.BEGUN) == Create("Sales")
        assert claimed_again(left).claim.attempt == 1

    @pytest.mark.parametrize("by", [EVENT, created(sequence=12), removed(sequence=12)])
    def test_any_event_may_settle_a_lost_create(self, by):
        lost = concluded(claimed(3, 1), by, Adopt(by.name), NothingSeen(self.BEGUN), self.BEGUN)

        assert (lost.entry, lost.failure) == (self.LOST, None)

    def test_another_event_is_not_given_up(self):
        other = created(sequence=12)

        assert decide(other, Recollection(self.LOST), POLICY, self.BEGUN) == Create("Sales")
        assert claimed_again(self.LOST, other).claim.attempt == 1


class TestDuplicatesChecks:
    """A create taken for lost may still be executed, so the scheduler checks for duplicates later."""

    @pytest.mark.parametrize("step", [Create("Sales"), Adopt("Sales")])
    def test_no_check_is_due_after_a_single_create(self, step):
        assert concluded(claimed(), EVENT, step, MADE).entry.duplicates_check_at is None

    @pytest.mark.parametrize("event", [EVENT, created(sequence=12)], ids=["same", "newer"])
    def test_a_check_is_due_after_a_second_create_for_any_event(self, event):
        begun = NOW + WINDOW + TICK
        lost = after_empty_scan(claimed(1, 1), begun).entry

        made = concluded(claimed_again(lost, event), event, Create("Sales"), MADE).entry

        assert (made.status, made.duplicates_check_at) == (Status.ACTIVE, begun + TEN_WINDOWS)

    def test_an_adoption_postpones_the_check(self):
        entry = claimed(2, duplicates_check_at=LATER)

        adopted = concluded(entry, EVENT, Adopt("Sales"), MADE).entry

        assert adopted.duplicates_check_at == LATER + TEN_WINDOWS

    def test_a_check_is_due_after_duplicates_were_found(self):
        conclusion = concluded(claimed(), EVENT, Adopt("Sales"), MADE_WITH_DUPLICATES)

        assert conclusion.entry.duplicates_check_at == LATER + TEN_WINDOWS
        reason = "disabled duplicates: SA000000000000000008, SA000000000000000009"
        assert conclusion.answer.reason == reason

    def test_a_check_is_due_after_an_adoption_for_a_removal(self):
        event = removed(sequence=12)

        conclusion = concluded(claimed(), event, Adopt(None), MADE_WITH_DUPLICATES)

        assert (conclusion.entry.duplicates_check_at, conclusion.answer) == (LATER + TEN_WINDOWS, None)

    def test_a_due_duplicate_check_survives_a_deletion(self):
        entry = an_entry(Status.DELETING, duplicates_check_at=NOW + TEN_WINDOWS)

        left = concluded(entry, removed(sequence=11), Delete(AUTH_ID), Deleted()).entry

        assert (left.status, left.duplicates_check_at) == (Status.REMOVED, NOW + TEN_WINDOWS)


class TestChecks:
    """A change may be executed after a newer one, so entry and provider are compared later."""

    CHANGES = pytest.mark.parametrize("step", ["rename", "restore", "disable"])
    DEFINITE = pytest.mark.parametrize("outcome", [Changed(), Failed(TRANSIENT), Failed(PERMANENT)])

    def intended(self, step, **fields):
        decided, status = STEPS[step]
        entry = an_entry(status, **fields)
        return decided, intend(decided, entry, renamed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW)

    @CHANGES
    def test_a_check_is_recorded_before_the_change_is_sent(self, step):
        decided, intended = self.intended(step)

        assert changes(an_entry(STEPS[step][1]), intended)["check"] == Check(NOW + WINDOW)
        assert intended.due_at == NOW + WINDOW
        assert isinstance(decided, Rename | Restore | Disable)

    @DEFINITE
    @CHANGES
    def test_a_definite_outcome_clears_the_check(self, step, outcome):
        decided, intended = self.intended(step)

        left = concluded(intended, renamed(sequence=11), decided, outcome).entry

        assert left.check is None
        assert left.due_at == left.results_at  # `disabled` is owed until its delivery publishes it

    @CHANGES
    def test_an_unknown_outcome_moves_the_check_to_a_full_window(self, step):
        decided, intended = self.intended(step)

        left = concluded(intended, renamed(sequence=11), decided, Failed(UNKNOWN)).entry

        assert left.check == Check(LATER + WINDOW, late_call=True)

    @DEFINITE
    @CHANGES
    def test_a_check_of_a_late_call_survives_the_next_change(self, step, outcome):
        decided, intended = self.intended(step, check=Check(NOW + WINDOW / 2, late_call=True))

        left = concluded(intended, renamed(sequence=11), decided, outcome).entry

        assert left.check == Check(NOW + WINDOW, late_call=True)

    @DEFINITE
    @CHANGES
    def test_a_check_of_an_unrecorded_outcome_survives_the_next_change(self, step, outcome):
        """The worker crashed after the first change, which may have been sent or not."""
        decided, intended = self.intended(step, check=Check(NOW + WINDOW / 2))

        left = concluded(intended, renamed(sequence=11), decided, outcome).entry

        assert left.check == Check(NOW + WINDOW, late_call=True)

    @pytest.mark.parametrize("entry", [claimed(), an_entry(Status.ABSENT), an_entry(Status.REMOVED)])
    def test_an_unknown_adoption_needs_no_check(self, entry):
        assert concluded(entry, EVENT, Adopt("Sales"), Failed(UNKNOWN)).entry == entry

    def test_an_adoption_is_checked_for_unrecorded_earlier_calls(self):
        left = concluded(claimed(), EVENT, Adopt("Sales"), MADE).entry

        assert left.check == Check(LATER + WINDOW, late_call=True)

    def test_a_create_needs_no_check(self):
        left = concluded(claimed(), EVENT, Create("Sales"), MADE).entry

        assert left.check is None

    @pytest.mark.parametrize("event", [removed(sequence=11), created(sequence=12)])
    def test_no_check_survives_a_deletion(self, event):
        entry = an_entry(Status.ACTIVE, check=Check(NOW + WINDOW, late_call=True))
        deleting = intend(Delete(AUTH_ID), entry, event, IDEMPOTENCY_KEY, POLICY, NOW)

        left = concluded(deleting, event, Delete(AUTH_ID), Deleted()).entry

        assert left.check is None

    @with_every_failure
    def test_a_deletion_that_is_undone_has_a_check_again(self, failure):
        """Its claim ended the check of an earlier change, which may still be carried out late."""
        entry = an_entry(Status.ACTIVE, check=Check(NOW + WINDOW, late_call=True))
        deleting = intend(Delete(AUTH_ID), entry, removed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW)

        left = concluded(deleting, removed(sequence=11), Delete(AUTH_ID), Failed(failure)).entry

        undone = left.status is Status.ACTIVE
        assert undone is not isinstance(failure, Unknown)
        assert left.check == (entry.check if undone else None)
