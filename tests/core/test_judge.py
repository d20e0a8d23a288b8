"""The class of a failed call, and the verdict on its delivery."""

from datetime import timedelta
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.subaccounts import DeadReason
from worker.adapters.plivo.status import kind_of
from worker.core.judge import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    CallFault,
    DeadLetter,
    FaultKind,
    Missing,
    Operation,
    Park,
    Pause,
    Permanent,
    RetryPolicy,
    RetryState,
    Transient,
    Unavailable,
    Unknown,
    Verdict,
    Wait,
    blames_request,
    classify,
    judge,
    parking_delay,
    suggests_outage,
)

OPERATIONS = get_args(Operation)
BELOW_ONE = 0.9999999
SECOND = timedelta(seconds=1)
POLICY = RetryPolicy()

TRANSIENT, UNKNOWN, PERMANENT = "transient", "unknown", "permanent"
UNAVAILABLE, MISSING = "unavailable", "missing"

KINDS = set(FaultKind)
# A create certainly did not happen if the provider read and refused it. Otherwise it may have happened.
REFUSED_CREATES = {
    FaultKind.NOT_SENT: TRANSIENT,
    FaultKind.REJECTED: PERMANENT,
    FaultKind.LOGIN_REFUSED: UNAVAILABLE,
    FaultKind.FORBIDDEN: TRANSIENT,
    FaultKind.NOT_FOUND: TRANSIENT,
    FaultKind.RATE_LIMITED: UNAVAILABLE,
}
# Calls on a subaccount that should exist. All are safe to repeat because they set a state, but one without a
# definite response may be executed late.
NOT_OURS = dict.fromkeys([FaultKind.LOGIN_REFUSED, FaultKind.NO_CREDIT, FaultKind.RATE_LIMITED], UNAVAILABLE)
LOST = {FaultKind.TOKEN_LOST: PERMANENT}
REFUSED_CHANGES = NOT_OURS | LOST | {FaultKind.REJECTED: PERMANENT}
IN_DOUBT = dict.fromkeys(
    [
        FaultKind.NO_ANSWER,
        FaultKind.TIMED_OUT,
        FaultKind.CONFLICT,
        FaultKind.SERVER_ERROR,
        FaultKind.UNEXPECTED,
    ],
    UNKNOWN,
)

REFUSED = {
    "create": (REFUSED_CREATES, UNKNOWN),
    "update": (REFUSED_CHANGES | IN_DOUBT | {FaultKind.NOT_FOUND: MISSING}, TRANSIENT),
    "delete": (REFUSED_CHANGES | IN_DOUBT | {FaultKind.NOT_FOUND: PERMANENT}, TRANSIENT),
    "get": (NOT_OURS | LOST | {FaultKind.NOT_FOUND: MISSING}, TRANSIENT),
    "list": ({}, UNAVAILABLE),
    "count": (NOT_OURS | LOST, TRANSIENT),
}


def retry_state(tries: int = 1, spent_seconds: float = 0.0, attempts: int = 0) -> RetryState:
    return RetryState(attempts, tries, spent_seconds)


def about(seconds: float) -> Any:
    """Equal to these seconds but for rounding; typed to stand in a `Wait`."""
    return pytest.approx(seconds, rel=1e-6)


def seconds_of(verdict: Verdict) -> float:
    assert isinstance(verdict, Wait | Pause)
    return verdict.seconds


@pytest.mark.parametrize("operation", OPERATIONS)
def test_classes_of_failure_by_kind_of_fault(operation):
    refused, all_else = REFUSED[operation]

    left = {kind: type(classify(CallFault(operation, kind, "told"))).__name__.lower() for kind in KINDS}

    assert left == dict.fromkeys(KINDS, all_else) | refused


# The same for HTTP statuses, which the adapter maps to kinds: in Plivo's own words, and in anybody's.
ANYBODYS = {401: UNAVAILABLE, 429: UNAVAILABLE}
PLIVOS = {
    "create": {400: PERMANENT, 403: TRANSIENT, 404: TRANSIENT, 405: PERMANENT, 422: PERMANENT},
    "update": {400: PERMANENT, 403: TRANSIENT, 404: MISSING, 405: PERMANENT, 422: PERMANENT},
    "delete": {400: PERMANENT, 403: TRANSIENT, 404: PERMANENT, 405: PERMANENT, 422: PERMANENT},
    "get": {404: MISSING},
    "list": {},
    "count": {},
}
OTHERS = {
    "create": UNKNOWN,
    "update": UNKNOWN,
    "delete": UNKNOWN,
    "get": TRANSIENT,
    "list": UNAVAILABLE,
    "count": TRANSIENT,
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_classes_of_failure_by_status(operation, own):
    left = {
        status: type(classify(CallFault(operation, kind_of(status, own=own), "told"))).__name__.lower()
        for status in range(300, 600)
    }

    refused = ANYBODYS | (PLIVOS[operation] if own else {})
    refused |= {402: UNAVAILABLE} if operation != "create" else {}
    assert left == dict.fromkeys(left, OTHERS[operation]) | refused


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_call_that_was_not_sent_is_retried(operation):
    again = Unavailable if operation == "list" else Transient
    assert classify(CallFault(operation, FaultKind.NOT_SENT, "told")) == again("told")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", FaultKind)
def test_a_failure_keeps_the_detail(operation, kind):
    assert classify(CallFault(operation, kind, "Plivo said so")).detail == "Plivo said so"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", [FaultKind.LOGIN_REFUSED, FaultKind.NO_CREDIT])
def test_a_refused_login_or_credit_never_costs_an_attempt(operation, kind):
    """Even without an outage: a probe may pass while the call fails."""
    verdict = judge(classify(CallFault(operation, kind, "refused")), retry_state(50, 1e6, 7), POLICY, 0.5)

    assert isinstance(verdict, Pause)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failure_keeps_the_retry_after_time(operation):
    fault = CallFault(operation, FaultKind.RATE_LIMITED, "too fast", retry_after_seconds=7.5)

    assert classify(fault) == Unavailable("too fast", 7.5)


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_rejected_request_is_permanent(operation):
    fault = CallFault(operation, FaultKind.REJECTED, "wrong")
    assert classify(fault) == Permanent(DeadReason.REJECTED, "wrong")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS - {FaultKind.TOKEN_LOST})
def test_faults_in_an_outage_never_cost_an_attempt(operation, kind):
    fault = CallFault(operation, kind, "away", took_seconds=20.0, outage=True)

    verdict = judge(classify(fault), retry_state(50, 1e6, 7), POLICY, 0.5)

    assert isinstance(verdict, Pause)


# Faults that ask for a probe


BLAMES_REQUEST = {
    "create": {FaultKind.REJECTED},
    "update": {FaultKind.REJECTED, FaultKind.NOT_FOUND},
    "delete": {FaultKind.REJECTED, FaultKind.NOT_FOUND},
    "get": {FaultKind.REJECTED, FaultKind.NOT_FOUND},
    "list": set(),
    "count": {FaultKind.REJECTED, FaultKind.NOT_FOUND},
}
ASKS_FOR_NO_PROBE = {FaultKind.RATE_LIMITED, FaultKind.TOKEN_LOST}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_fault_blames_the_request_or_suggests_an_outage(operation):
    blaming = {kind for kind in KINDS if blames_request(CallFault(operation, kind, "told"))}
    suggesting = {kind for kind in KINDS if suggests_outage(CallFault(operation, kind, "told"))}

    assert blaming == BLAMES_REQUEST[operation]
    assert suggesting == KINDS - blaming - ASKS_FOR_NO_PROBE


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_status_that_plivo_did_not_write_blames_no_request(operation):
    faults = [CallFault(operation, kind_of(status, own=False), "told") for status in range(300, 600)]

    assert not [fault for fault in faults if blames_request(fault)]
    assert not [fault for fault in faults if isinstance(classify(fault), Permanent | Missing)]


# Verdicts


@pytest.mark.parametrize("reason", DeadReason)
@pytest.mark.parametrize("tries", [1, 2, 50])
def test_a_permanent_failure_is_a_dead_letter_on_any_try(reason, tries):
    assert judge(Permanent(reason, "why"), retry_state(tries), POLICY, 0.5) == DeadLetter(reason, "why")


@pytest.mark.parametrize("seconds", [119.9, 5.1, 0.1])
@pytest.mark.parametrize("spent", [0.0, 1e6])
@pytest.mark.parametrize("jitter", [0.0, BELOW_ONE])
def test_an_unknown_create_waits_for_its_scan_at_no_cost(seconds, spent, jitter):
    unknown = Unknown("no answer", seconds, took_seconds=20.0)

    assert judge(unknown, retry_state(50, spent, 7), POLICY, jitter) == Wait(seconds)


@pytest.mark.parametrize("tries", [1, 7, 50])
@pytest.mark.parametrize("spent", [0.0, 59.0, 61.0])
def test_an_unknown_that_may_be_repeated_is_retried_as_transient(tries, spent):
    verdicts = [
        judge(failure, retry_state(tries, spent), POLICY, 0.5)
        for failure in (Unknown("no answer", took_seconds=2.0), Transient("no answer", took_seconds=2.0))
    ]

    assert verdicts[0] == verdicts[1]


# Waits grow from the first to the longest. Jitter takes off up to nine tenths of each.
@pytest.mark.parametrize(
    ("tries", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30), (1000, 30)]
)
def test_a_transient_failure_waits_longer_each_time(tries, longest):
    shortest, middling, greatest = (
        judge(Transient("again"), retry_state(tries), POLICY, jitter) for jitter in (0.0, 0.5, BELOW_ONE)
    )

    for verdict, part in ((shortest, 0.1), (middling, 0.55), (greatest, 1.0)):
        assert verdict == Wait(about(longest * part), about(longest * part))


def test_the_first_and_the_longest_wait():
    assert (FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) == (0.5, 30.0)


@given(
    tries=st.integers(1, 10**9),
    jitter=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 10_000),
)
def test_a_wait_is_never_zero_nor_shorter_than_asked(tries, jitter, asked):
    policy = RetryPolicy(budget=timedelta(days=1))
    for failure in (Transient("again", asked), Unavailable("later", asked)):
        seconds = seconds_of(judge(failure, retry_state(tries), policy, jitter))

        assert FIRST_WAIT_SECONDS / 10 <= seconds <= max(LONGEST_WAIT_SECONDS, asked or 0)
        assert seconds >= (asked or 0)


def test_the_duration_of_a_call_is_part_of_its_cost():
    assert judge(Transient("no answer", took_seconds=20.0), retry_state(), POLICY, BELOW_ONE) == Wait(
        about(0.5), about(20.5)
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
def test_over_budget_is_parked_ever_longer_then_given_up(attempts, verdict):
    assert judge(Transient("again"), retry_state(9, 59.9, attempts), POLICY, 0.5) == verdict


@pytest.mark.parametrize("failure", [Unavailable("the broker is away"), Unknown("away", outage=True)])
@given(
    tries=st.integers(1, 1000),
    spent=st.floats(0, 1e9),
    attempts=st.integers(0, 1000),
    jitter=st.floats(0, 0.99),
)
def test_an_outage_pauses_without_cost_forever(failure, tries, spent, attempts, jitter):
    verdict = judge(failure, retry_state(tries, spent, attempts), POLICY, jitter)

    assert isinstance(verdict, Pause)


def test_a_missing_subaccount_is_asked_for_until_it_counts_as_gone_without_cost():
    assert judge(Missing("404", 1.0), retry_state(3, 100.0), POLICY, 0.5) == Wait(about(1.1))
    assert judge(Missing("404", 1.0, 60.0), retry_state(3, 100.0), POLICY, 0.5) == Wait(about(1.1))
    assert judge(Missing("404", 1.0, 0.5), retry_state(9, 119.0), POLICY, 0.5) == Wait(about(0.6))


@given(
    budget=st.floats(0.01, 100),
    delays=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    most=st.integers(1, 12),
    failures=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 0.99), st.none() | st.floats(0, 60)), min_size=1
    ),
)
def test_a_message_never_exceeds_its_attempts_or_its_budget(budget, delays, most, failures):
    """Follows any sequence of failures to the dead letter."""
    policy = RetryPolicy(timedelta(seconds=budget), [delay * SECOND for delay in delays], most)
    parked: list[Park] = []
    now = RetryState()
    for turn in range(100_000):
        took, jitter, asked = failures[turn % len(failures)]
        now = now.tried()
        verdict = judge(Transient("again", asked, took), now, policy, jitter)
        if isinstance(verdict, Wait):
            now = now.spent(verdict.cost_seconds)
            assert now.spent_seconds <= policy.budget.total_seconds() + 1e-6
        elif isinstance(verdict, Park):
            parked.append(verdict)
            now = RetryState(verdict.attempts)
        else:
            break
    assert verdict == DeadLetter(DeadReason.EXHAUSTED, f"given up after {most} attempts: again")
    assert [park.attempts for park in parked] == list(range(1, most))
    for index, park in enumerate(parked):
        assert park.delay == policy.delays[min(index, len(delays) - 1)]


@pytest.mark.parametrize(
    ("seconds", "delay"), [(0.0, 30), (29.0, 30), (31.0, 30), (300.0, 300), (3599.0, 300), (9999.0, 3600)]
)
def test_an_evicted_message_is_parked_for_about_its_wait(seconds, delay):
    assert parking_delay(seconds, POLICY.delays) == delay * SECOND
    assert parking_delay(seconds, tuple(reversed(POLICY.delays))) == delay * SECOND


def test_the_default_delays_grow():
    assert all(first < second for first, second in pairwise(POLICY.delays))


def test_pauses_of_an_outage_do_not_count_as_tries():
    now = RetryState()
    for _ in range(50):
        now = now.tried().paused()
    now = now.tried()

    assert seconds_of(judge(Transient("again"), now, POLICY, BELOW_ONE)) == about(0.5)
    assert seconds_of(judge(Unavailable("away"), now, POLICY, BELOW_ONE)) == about(30.0)
