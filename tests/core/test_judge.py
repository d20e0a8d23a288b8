"""What a failed call leaves behind, and what becomes of the delivery."""

from datetime import timedelta
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.subaccounts import DeadReason
from worker.core.judge import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    CallFault,
    DeadLetter,
    Missing,
    Operation,
    Park,
    Patience,
    Pause,
    Permanent,
    Stay,
    Transient,
    Unavailable,
    Unknown,
    Wait,
    accuses_the_account,
    classify,
    judge,
    parking_delay,
)

OPERATIONS = get_args(Operation)
BELOW_ONE = 0.9999999
SECOND = timedelta(seconds=1)
PATIENCE = Patience()

TRANSIENT, UNKNOWN, PERMANENT = "transient", "unknown", "permanent"
UNAVAILABLE, MISSING = "unavailable", "missing"

# The contract's words for a create: certainly not, where Plivo has read and refused it; else unknown.
REFUSED_CREATES = {
    400: PERMANENT,
    401: UNAVAILABLE,
    403: TRANSIENT,
    404: TRANSIENT,
    405: PERMANENT,
    422: PERMANENT,
    429: UNAVAILABLE,
}
# On a subaccount that should be there. All may be repeated, for these calls set a state; but what got no
# answer, or none that decides it, may be carried out late.
NOT_OURS = {401: UNAVAILABLE, 402: UNAVAILABLE, 429: UNAVAILABLE}
REFUSED_CHANGES = NOT_OURS | {400: PERMANENT, 405: PERMANENT, 422: PERMANENT}
IN_DOUBT = dict.fromkeys([None, 408, 409, *range(500, 600)], UNKNOWN)

REFUSED = {
    "create": (REFUSED_CREATES, UNKNOWN),
    "update": (REFUSED_CHANGES | IN_DOUBT | {404: MISSING}, TRANSIENT),
    "delete": (REFUSED_CHANGES | IN_DOUBT | {404: PERMANENT}, TRANSIENT),
    "get": (NOT_OURS | {404: MISSING}, TRANSIENT),
    "list": ({}, UNAVAILABLE),
}


def stay(tries: int = 1, spent_seconds: float = 0.0, attempts: int = 0) -> Stay:
    return Stay(attempts, tries, spent_seconds)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_each_status_and_none_at_all_leave_behind(operation):
    refused, all_else = REFUSED[operation]

    left = {
        status: type(classify(CallFault(operation, "told", status=status))).__name__.lower()
        for status in (None, *range(100, 600))
    }

    assert left == dict.fromkeys(left, all_else) | refused


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_was_never_sent_can_be_tried_again(operation):
    again = Unavailable if operation == "list" else Transient
    assert classify(CallFault(operation, "told", sent=False)) == again("told")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [None, 400, 401, 404, 429, 500, 503])
def test_the_detail_is_kept(operation, status):
    assert classify(CallFault(operation, "Plivo said so", status=status)).detail == "Plivo said so"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [401, 402])
def test_a_login_or_credit_that_is_refused_is_never_held_against_a_message(operation, status):
    """Whether it is an outage or not: a probe may pass where the call does not."""
    verdict = judge(classify(CallFault(operation, "refused", status=status)), stay(50, 1e6, 7), PATIENCE, 0.5)

    assert isinstance(verdict, Pause)
    assert verdict.cost_seconds == 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_how_long_plivo_asks_to_wait_is_kept(operation):
    fault = CallFault(operation, "too fast", status=429, retry_after_seconds=7.5)

    assert classify(fault) == Unavailable("too fast", 7.5)


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_wrong_request_is_rejected(operation):
    assert classify(CallFault(operation, "wrong", status=422)) == Permanent(DeadReason.REJECTED, "wrong")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [None, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("sent", [True, False])
def test_in_an_outage_nothing_is_held_against_a_message(operation, status, sent):
    fault = CallFault(operation, "away", sent=sent, status=status, took_seconds=20.0, outage=True)

    verdict = judge(classify(fault), stay(50, 1e6, 7), PATIENCE, 0.5)

    assert isinstance(verdict, Pause)
    assert verdict.cost_seconds == 0


# Whose fault it may be


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_may_be_everybodys_trouble(operation):
    accusing = {
        status
        for status in range(200, 600)
        if accuses_the_account(CallFault(operation, "told", status=status))
    }

    missing = {404} if operation in {"create", "list"} else set()
    assert accusing == {401, 402, 403, 408, *range(300, 400), *range(500, 600)} | missing
    assert accuses_the_account(CallFault(operation, "no answer"))
    assert accuses_the_account(CallFault(operation, "refused", sent=False))


# Verdicts


@pytest.mark.parametrize("reason", DeadReason)
@pytest.mark.parametrize("tries", [1, 2, 50])
def test_a_permanent_failure_is_a_dead_letter_whenever_it_comes(reason, tries):
    assert judge(Permanent(reason, "why"), stay(tries), PATIENCE, 0.5) == DeadLetter(reason, "why")


@pytest.mark.parametrize("seconds", [119.9, 5.1, 0.1])
@pytest.mark.parametrize("spent", [0.0, 1e6])
@pytest.mark.parametrize("jitter", [0.0, BELOW_ONE])
def test_an_unknown_create_is_looked_into_when_it_is_worth_it_at_no_cost(seconds, spent, jitter):
    unknown = Unknown("no answer", seconds, took_seconds=20.0)

    assert judge(unknown, stay(50, spent, 7), PATIENCE, jitter) == Wait(seconds)


@pytest.mark.parametrize("tries", [1, 7, 50])
@pytest.mark.parametrize("spent", [0.0, 59.0, 61.0])
def test_an_unknown_that_may_be_repeated_is_tried_again_like_a_transient(tries, spent):
    verdicts = [
        judge(failure, stay(tries, spent), PATIENCE, 0.5)
        for failure in (Unknown("no answer", took_seconds=2.0), Transient("no answer", took_seconds=2.0))
    ]

    assert verdicts[0] == verdicts[1]


# Waits grow from the first to the longest; jitter spreads each over its last nine tenths.
@pytest.mark.parametrize(
    ("tries", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30), (1000, 30)]
)
def test_a_transient_failure_waits_longer_each_time(tries, longest):
    shortest, middling, greatest = (
        judge(Transient("again"), stay(tries), PATIENCE, jitter) for jitter in (0.0, 0.5, BELOW_ONE)
    )

    for verdict, part in ((shortest, 0.1), (middling, 0.55), (greatest, 1.0)):
        assert verdict == Wait(
            pytest.approx(longest * part, rel=1e-6), pytest.approx(longest * part, rel=1e-6)
        )


def test_the_bounds_of_a_wait():
    assert (FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) == (0.5, 30.0)


@given(
    tries=st.integers(1, 10**9),
    jitter=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 10_000),
)
def test_a_failure_never_spins_and_never_comes_early(tries, jitter, asked):
    patience = Patience(budget=timedelta(days=1))
    for failure in (Transient("again", asked), Unavailable("later", asked)):
        seconds = judge(failure, stay(tries), patience, jitter).seconds

        assert FIRST_WAIT_SECONDS / 10 <= seconds <= max(LONGEST_WAIT_SECONDS, asked or 0)
        assert seconds >= (asked or 0)


def test_a_call_that_took_long_costs_as_much():
    assert judge(Transient("no answer", took_seconds=20.0), stay(), PATIENCE, BELOW_ONE) == Wait(
        pytest.approx(0.5, rel=1e-6), pytest.approx(20.5, rel=1e-6)
    )


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        (0, Park(timedelta(seconds=30), 1)),
        (1, Park(timedelta(minutes=5), 2)),
        (2, Park(timedelta(hours=1), 3)),
        (3, Park(timedelta(hours=1), 4)),
        (6, Park(timedelta(hours=1), 7)),
        (7, DeadLetter(DeadReason.EXHAUSTED, "given up after 8 attempts: again")),
        (1000, DeadLetter(DeadReason.EXHAUSTED, "given up after 1001 attempts: again")),
    ],
)
def test_beyond_the_budget_it_is_parked_longer_each_time_and_given_up_in_the_end(attempts, verdict):
    assert judge(Transient("again"), stay(9, 59.9, attempts), PATIENCE, 0.5) == verdict


@pytest.mark.parametrize("failure", [Unavailable("the broker is away"), Unknown("away", outage=True)])
@given(
    tries=st.integers(1, 1000),
    spent=st.floats(0, 1e9),
    attempts=st.integers(0, 1000),
    jitter=st.floats(0, 0.99),
)
def test_what_is_nobodys_fault_costs_nothing_for_ever(failure, tries, spent, attempts, jitter):
    verdict = judge(failure, stay(tries, spent, attempts), PATIENCE, jitter)

    assert isinstance(verdict, Pause)
    assert verdict.cost_seconds == 0


def test_what_is_missing_is_asked_for_through_a_settle_window_and_rejected_then():
    missing = Missing("Plivo answered 404", 1.0)

    assert judge(missing, stay(3, 100.0), PATIENCE, 0.5) == Wait(pytest.approx(1.1), pytest.approx(2.1))
    assert judge(missing, stay(9, 119.0), PATIENCE, 0.5) == DeadLetter(
        DeadReason.REJECTED, "Plivo answered 404"
    )


@given(
    budget=st.floats(0.01, 100),
    delays=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    most=st.integers(1, 12),
    failures=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 0.99), st.none() | st.floats(0, 60)), min_size=1
    ),
)
def test_a_message_is_never_given_more_than_its_attempts_nor_more_than_its_budget(
    budget, delays, most, failures
):
    """Whatever fails how often, however long it takes: followed to its dead letter."""
    patience = Patience(timedelta(seconds=budget), [delay * SECOND for delay in delays], most)
    parked: list[Park] = []
    now = Stay()
    for turn in range(100_000):
        took, jitter, asked = failures[turn % len(failures)]
        now = now.tried()
        verdict = judge(Transient("again", asked, took), now, patience, jitter)
        if isinstance(verdict, Wait):
            now = now.spent(verdict.cost_seconds)
            assert now.spent_seconds <= patience.budget.total_seconds() + 1e-6
        elif isinstance(verdict, Park):
            parked.append(verdict)
            now = Stay(verdict.attempts)
        else:
            break
    assert verdict == DeadLetter(DeadReason.EXHAUSTED, f"given up after {most} attempts: again")
    assert [park.attempts for park in parked] == list(range(1, most))
    for index, park in enumerate(parked):
        assert park.delay == patience.delays[min(index, len(delays) - 1)]


@pytest.mark.parametrize(
    ("seconds", "delay"), [(0.0, 30), (29.0, 30), (31.0, 30), (300.0, 300), (3599.0, 300), (9999.0, 3600)]
)
def test_what_makes_room_is_parked_for_about_as_long_as_it_would_wait(seconds, delay):
    assert parking_delay(seconds, PATIENCE.delays) == delay * SECOND
    assert parking_delay(seconds, tuple(reversed(PATIENCE.delays))) == delay * SECOND


def test_by_default_delays_grow():
    assert all(first < second for first, second in pairwise(PATIENCE.delays))


def test_after_a_long_outage_the_first_failure_is_the_first():
    now = Stay()
    for _ in range(50):
        now = now.tried().paused()
    now = now.tried()

    assert judge(Transient("again"), now, PATIENCE, BELOW_ONE).seconds == pytest.approx(0.5, rel=1e-6)
    assert judge(Unavailable("away"), now, PATIENCE, BELOW_ONE).seconds == pytest.approx(30.0, rel=1e-6)
