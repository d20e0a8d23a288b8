"""The duty of an entry that is due, and the entry after its result."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import NOW, an_entry, owing, renamed
from worker.core.decide import Policy
from worker.core.duties import (
    DEBT_PAUSE,
    MAX_REPAIRS,
    Duty,
    arm_check,
    arm_late_check,
    check_done,
    check_repaired,
    clear_check,
    due_duty,
    duplicates_check_time,
    duplicates_checked,
    put_off_debt,
    put_off_due,
    suspend_debt,
)
from worker.core.model.entry import BEGUN_FOR, Begun, Check, Status

POLICY = Policy(settle_window=timedelta(minutes=2))
NEXT = NOW + POLICY.settle_window
LATER, BEFORE, TICK = NOW + timedelta(hours=1), NOW - timedelta(hours=1), timedelta(microseconds=1)
CHECK, LATE_CHECK = Check(NOW), Check(NOW, late_call=True)
DEBT = owing("crm", retry_at=NOW)


@pytest.mark.parametrize(
    ("status", "fields", "duty"),
    [
        (Status.ACTIVE, {}, None),
        (Status.ACTIVE, {"check": CHECK}, Duty.CHECK),
        (Status.ACTIVE, {"check": Check(NOW + TICK)}, None),
        (Status.ACTIVE, {"check": Check(BEFORE, late_call=True)}, Duty.CHECK),
        (Status.DISABLED, {"check": CHECK}, Duty.CHECK),
        (Status.DELETING, {"check": CHECK}, Duty.CHECK),
        (Status.ACTIVE, {"duplicates_check_at": NOW}, Duty.CHECK_DUPLICATES),
        (Status.ACTIVE, {"duplicates_check_at": NOW + TICK}, None),
        (Status.ABSENT, {"duplicates_check_at": NOW}, Duty.CHECK_DUPLICATES),
        (Status.REMOVED, {"duplicates_check_at": NOW}, Duty.CHECK_DUPLICATES),
        (Status.CLAIMED, {"duplicates_check_at": NOW}, None),
        (Status.ACTIVE, {"debt": DEBT}, Duty.PAY_DEBT),
        (Status.ACTIVE, {"debt": owing(enable=True, retry_at=NOW)}, Duty.PAY_DEBT),
        (Status.ACTIVE, {"debt": owing("crm", retry_at=NOW + TICK)}, None),
        (Status.ACTIVE, {"debt": owing("crm")}, None),
        (Status.DISABLED, {"debt": DEBT}, Duty.SUSPEND_DEBT),
        (Status.DISABLED, {"debt": owing("crm")}, None),
        (Status.DELETING, {"debt": DEBT}, Duty.SUSPEND_DEBT),
        (Status.ACTIVE, {"check": CHECK, "duplicates_check_at": BEFORE, "debt": DEBT}, Duty.CHECK),
        (Status.ACTIVE, {"duplicates_check_at": NOW, "debt": DEBT}, Duty.CHECK_DUPLICATES),
    ],
)
def test_the_most_urgent_due_duty_is_chosen(status, fields, duty):
    assert due_duty(an_entry(status, **fields), NOW) is duty


@pytest.mark.parametrize(
    ("done", "before", "after"),
    [
        (check_done, {"check": CHECK}, {"check": None}),
        (check_done, {"check": LATE_CHECK, "debt": DEBT}, {"check": None, "debt": DEBT}),
        (clear_check, {"check": CHECK}, {"check": None}),
        (clear_check, {"check": LATE_CHECK}, {"check": LATE_CHECK}),
        (clear_check, {}, {}),
        (duplicates_checked, {"duplicates_check_at": NOW}, {"duplicates_check_at": None}),
        (suspend_debt, {"debt": DEBT}, {"debt": owing("crm")}),
        (suspend_debt, {}, {}),
    ],
)
def test_a_completed_duty_clears_its_field(done, before, after):
    assert done(an_entry(**before)) == an_entry(**after)


@pytest.mark.parametrize(
    ("before", "armed"),
    [(None, Check(NEXT)), (CHECK, Check(NEXT, late_call=True)), (LATE_CHECK, Check(NEXT, late_call=True))],
)
def test_arming_a_check_over_a_pending_one_marks_a_late_call(before, armed):
    entry = an_entry(check=before)

    assert arm_check(entry, POLICY, NOW) == replace(entry, check=armed)
    assert arm_late_check(entry, POLICY, NOW).check == Check(NEXT, late_call=True)


@pytest.mark.parametrize("repairs", range(2 * MAX_REPAIRS + 1))
def test_a_repair_is_checked_again_up_to_a_limit(repairs):
    entry = an_entry(check=CHECK, repairs=repairs)

    repaired = check_repaired(entry, POLICY, NOW)

    at_limit = repairs + 1 in {MAX_REPAIRS, 2 * MAX_REPAIRS}
    again = None if at_limit else Check(NEXT, late_call=True)
    assert repaired == replace(entry, repairs=repairs + 1, check=again)


def test_duplicates_are_checked_after_ten_settle_windows():
    assert duplicates_check_time(POLICY, NOW) == NOW + timedelta(minutes=20)


@pytest.mark.parametrize("debt", [DEBT, owing("crm"), owing(enable=True, retry_at=BEFORE)])
def test_a_debt_is_postponed(debt):
    entry = an_entry(debt=debt)

    assert put_off_debt(entry, NOW) == replace(entry, debt=replace(debt, retry_at=NOW + DEBT_PAUSE))
    assert put_off_debt(an_entry(), NOW) == an_entry()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"check": CHECK}, {"check": Check(NEXT)}),
        ({"check": LATE_CHECK}, {"check": Check(NEXT, late_call=True)}),
        ({"check": Check(LATER)}, {"check": Check(LATER)}),
        ({"duplicates_check_at": BEFORE}, {"duplicates_check_at": NEXT}),
        ({"duplicates_check_at": LATER}, {"duplicates_check_at": LATER}),
        ({"debt": DEBT}, {"debt": owing("crm", retry_at=NOW + DEBT_PAUSE)}),
        ({"debt": owing("crm", retry_at=LATER)}, {"debt": owing("crm", retry_at=LATER)}),
        ({"debt": owing("crm")}, {"debt": owing("crm")}),
        (
            {"check": CHECK, "duplicates_check_at": NOW, "debt": DEBT},
            {
                "check": Check(NEXT),
                "duplicates_check_at": NEXT,
                "debt": owing("crm", retry_at=NOW + DEBT_PAUSE),
            },
        ),
    ],
)
def test_a_failed_duty_postpones_all_due_duties(before, after):
    put_off = put_off_due(an_entry(**before), POLICY, NOW)

    assert put_off == an_entry(**after)
    assert due_duty(put_off, NOW) is None


@pytest.mark.parametrize("answered", [False, True], ids=["in doubt", "answered"])
def test_a_check_waits_for_the_outcome_of_a_change(answered):
    newer = renamed("North", sequence=12)
    begun = None if answered else Begun(newer.version, newer.reference, NOW)
    entry = an_entry(check=Check(NOW + timedelta(seconds=2)), begun=begun)
    due_at = NOW + (timedelta(seconds=2) if answered else BEGUN_FOR)

    assert (entry.check_due_at, entry.due_at) == (due_at, due_at)
    assert due_duty(entry, due_at - timedelta(seconds=1)) is None
    assert due_duty(entry, due_at) is Duty.CHECK
