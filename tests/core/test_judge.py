"""What a failed call leaves behind, and what becomes of the delivery."""

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
    Operation,
    Permanent,
    Transient,
    Unknown,
    Wait,
    classify,
    judge,
)

OPERATIONS = get_args(Operation)
BELOW_ONE = 0.9999999

TRANSIENT, UNKNOWN, PERMANENT = "transient", "unknown", "permanent"

# The contract's words for a create: certainly not, where Plivo has read and refused it; else unknown.
REFUSED_CREATES = {
    400: PERMANENT,
    401: TRANSIENT,
    403: TRANSIENT,
    404: TRANSIENT,
    405: PERMANENT,
    422: PERMANENT,
    429: TRANSIENT,
}
# On a subaccount that should be there. All may be repeated, for these calls set a state; but what got no
# answer, or none that decides it, may be carried out late.
REFUSED_CHANGES = {400: PERMANENT, 404: PERMANENT, 405: PERMANENT, 422: PERMANENT}
IN_DOUBT = dict.fromkeys([None, 408, 409, *range(500, 600)], UNKNOWN)

REFUSED = {
    "create": (REFUSED_CREATES, UNKNOWN),
    "update": (REFUSED_CHANGES | IN_DOUBT, TRANSIENT),
    "delete": (REFUSED_CHANGES | IN_DOUBT, TRANSIENT),
    "get": ({}, TRANSIENT),
    "list": ({}, TRANSIENT),
}


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
    assert classify(CallFault(operation, "told", sent=False)) == Transient("told")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [None, 400, 401, 404, 429, 500, 503])
def test_the_detail_is_kept(operation, status):
    assert classify(CallFault(operation, "Plivo said so", status=status)).detail == "Plivo said so"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_how_long_plivo_asks_to_wait_is_kept(operation):
    fault = CallFault(operation, "too fast", status=429, retry_after_seconds=7.5)

    assert classify(fault) == Transient("too fast", 7.5)


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_wrong_request_is_rejected(operation):
    assert classify(CallFault(operation, "wrong", status=422)) == Permanent(DeadReason.REJECTED, "wrong")


@pytest.mark.parametrize("reason", DeadReason)
@pytest.mark.parametrize("tries", [1, 2, 50])
def test_a_permanent_failure_is_a_dead_letter_whenever_it_comes(reason, tries):
    assert judge(Permanent(reason, "why"), tries, 0.5) == DeadLetter(reason, "why")


@pytest.mark.parametrize("seconds", [119.9, 5.1, 0.1])
@pytest.mark.parametrize("tries", [1, 50])
@pytest.mark.parametrize("jitter", [0.0, BELOW_ONE])
def test_an_unknown_is_looked_into_when_it_is_worth_it(seconds, tries, jitter):
    assert judge(Unknown("no answer", seconds), tries, jitter) == Wait(seconds)


@pytest.mark.parametrize("tries", [1, 7, 50])
@pytest.mark.parametrize("jitter", [0.0, 0.5, BELOW_ONE])
def test_an_unknown_that_may_be_repeated_is_tried_again_like_a_transient(tries, jitter):
    assert judge(Unknown("no answer"), tries, jitter) == judge(Transient("no answer"), tries, jitter)


# Waits grow from the first to the longest; jitter spreads each over its last nine tenths.
@pytest.mark.parametrize(
    ("tries", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30), (1000, 30)]
)
def test_a_transient_failure_waits_longer_each_time(tries, longest):
    shortest = judge(Transient("again"), tries, 0.0)
    middling = judge(Transient("again"), tries, 0.5)
    greatest = judge(Transient("again"), tries, BELOW_ONE)

    assert shortest == Wait(pytest.approx(longest * 0.1))
    assert middling == Wait(pytest.approx(longest * 0.55))
    assert greatest == Wait(pytest.approx(longest, rel=1e-6))


def test_the_bounds_of_a_wait():
    assert (FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) == (0.5, 30.0)


@given(
    tries=st.integers(1, 10**9),
    jitter=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 10_000),
)
def test_a_transient_failure_never_spins_and_never_comes_early(tries, jitter, asked):
    seconds = judge(Transient("again", asked), tries, jitter).seconds

    assert FIRST_WAIT_SECONDS / 10 <= seconds <= max(LONGEST_WAIT_SECONDS, asked or 0)
    assert seconds >= (asked or 0)


def test_a_short_wish_of_plivo_does_not_shorten_the_wait():
    assert judge(Transient("again", 0.1), 7, 0.5) == judge(Transient("again"), 7, 0.5)
