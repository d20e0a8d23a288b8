"""What a failed call leaves behind, and what becomes of the delivery."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise, product
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
READS = ("get", "list")
BELOW_ONE = 0.9999999
PATIENCE = Patience()
DELAYS = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))

TRANSIENT, UNAVAILABLE, UNKNOWN, PERMANENT = "transient", "unavailable", "unknown", "permanent"

# The contract's words for a create: certainly not, where Plivo has read and refused it; else unknown.
REFUSED_CREATES = {
    400: PERMANENT,
    401: TRANSIENT,
    403: TRANSIENT,
    404: TRANSIENT,
    405: PERMANENT,
    422: PERMANENT,
    429: UNAVAILABLE,
}
# On a subaccount that should be there. All may be repeated, for these calls set a state; but what got no
# answer, or none that decides it, may be carried out late.
REFUSED_CHANGES = {400: PERMANENT, 404: PERMANENT, 405: PERMANENT, 422: PERMANENT, 429: UNAVAILABLE}
IN_DOUBT = dict.fromkeys([None, 408, 409, *range(500, 600)], UNKNOWN)

REFUSED = {
    "create": (REFUSED_CREATES, UNKNOWN),
    "update": (REFUSED_CHANGES | IN_DOUBT, TRANSIENT),
    "delete": (REFUSED_CHANGES | IN_DOUBT, TRANSIENT),
    "get": ({429: UNAVAILABLE}, TRANSIENT),
    "list": ({429: UNAVAILABLE}, TRANSIENT),
}
EVERYBODYS = {None, 401, 402, 403, 408, *range(300, 400), *range(500, 600)}
EVERY_STATUS = (None, *range(100, 600))

tries = st.integers(1, 10**9)
jitters = st.floats(0, 1, exclude_max=True)
wishes = st.none() | st.floats(0, 10_000)
seconds_taken = st.floats(0, 1000)
costly = st.builds(Transient, st.just("again"), wishes, seconds_taken) | st.builds(
    Unknown, st.just("no answer"), took_seconds=seconds_taken
)
free = (
    st.builds(Unavailable, st.just("away"), wishes)
    | st.builds(Unknown, st.just("no answer"), st.floats(0.1, 1000), seconds_taken, st.booleans())
    | st.builds(Unknown, st.just("no answer"), took_seconds=seconds_taken, outage=st.sampled_from([True]))
)
patiences = st.builds(
    Patience,
    st.integers(0, 3600).map(lambda seconds: timedelta(seconds=seconds)),
    st.lists(st.sampled_from(DELAYS), min_size=1, max_size=4),
    st.integers(1, 12),
)


class TestClassify:
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_what_each_status_and_none_at_all_leave_behind(self, operation):
        refused, all_else = REFUSED[operation]

        left = {
            status: type(classify(CallFault(operation, "told", status=status))).__name__.lower()
            for status in EVERY_STATUS
        }

        assert left == dict.fromkeys(left, all_else) | refused

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_what_was_never_sent_can_be_tried_again(self, operation):
        assert classify(CallFault(operation, "told", sent=False)) == Transient("told")

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_an_outage_is_nobodys_fault_here_and_open_where_it_may_have_happened(self, operation):
        for status, sent in [*product(EVERY_STATUS, [True]), (None, False)]:
            fault = CallFault(operation, "told", sent=sent, status=status)
            within_it = classify(replace(fault, outage=True))

            may_have_happened = isinstance(classify(fault), Unknown)
            assert type(within_it) is (Unknown if may_have_happened else Unavailable), (status, sent)
            assert within_it == (Unknown("told", outage=True) if may_have_happened else Unavailable("told"))

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("status", [None, 400, 401, 404, 429, 500, 503])
    def test_the_detail_is_kept(self, operation, status):
        assert classify(CallFault(operation, "Plivo said so", status=status)).detail == "Plivo said so"

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_how_long_plivo_asks_to_wait_is_kept(self, operation):
        fault = CallFault(operation, "too fast", status=429, retry_after_seconds=7.5)

        assert classify(fault) == Unavailable("too fast", 7.5)

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("status", [None, 401, 503])
    def test_how_long_a_call_took_is_kept(self, operation, status):
        left = classify(CallFault(operation, "slow", status=status, took_seconds=20.0))

        assert left.took_seconds == 20.0

    @pytest.mark.parametrize("operation", ["create", "update", "delete"])
    def test_a_wrong_request_is_rejected(self, operation):
        assert classify(CallFault(operation, "wrong", status=422)) == Permanent(DeadReason.REJECTED, "wrong")


class TestAccusesTheAccount:
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_by_status(self, operation):
        accusing = {
            status for status in EVERY_STATUS if accuses_the_account(CallFault(operation, "", status=status))
        }

        not_found = {404} if operation in {"create", "list"} else set()
        assert accusing == EVERYBODYS | not_found

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_what_never_reached_plivo(self, operation):
        assert accuses_the_account(CallFault(operation, "cannot be reached", sent=False))


class TestForGood:
    @pytest.mark.parametrize("reason", DeadReason)
    @pytest.mark.parametrize("stay", [Stay(0, 1), Stay(0, 50, 59.0), Stay(7, 2)])
    def test_a_permanent_failure_is_a_dead_letter_whenever_it_comes(self, reason, stay):
        assert judge(Permanent(reason, "why"), stay, PATIENCE, 0.5) == DeadLetter(reason, "why")


class TestWithoutCost:
    @pytest.mark.parametrize("seconds", [119.9, 5.1, 0.1])
    @pytest.mark.parametrize("stay", [Stay(0, 1), Stay(7, 50, 60.0)])
    @pytest.mark.parametrize("jitter", [0.0, BELOW_ONE])
    @pytest.mark.parametrize("outage", [False, True])
    def test_an_unknown_is_looked_into_when_it_is_worth_it(self, seconds, stay, jitter, outage):
        unknown = Unknown("no answer", seconds, took_seconds=20, outage=outage)

        assert judge(unknown, stay, PATIENCE, jitter) == Wait(seconds, cost_seconds=0.0)

    @pytest.mark.parametrize("failure", [Unavailable("away"), Unknown("no answer", outage=True)])
    @pytest.mark.parametrize(("count", "seconds"), [(1, 0.5), (3, 2.0), (7, 30.0), (1000, 30.0)])
    def test_somebody_elses_outage_is_waited_out(self, failure, count, seconds):
        verdict = judge(failure, Stay(7, count, 60.0), PATIENCE, BELOW_ONE)

        assert verdict == Pause(pytest.approx(seconds, rel=1e-6), cost_seconds=0.0)

    @given(free, st.builds(Stay, st.integers(0, 1000), tries, seconds_taken), patiences, jitters)
    def test_it_costs_nothing_ever(self, failure, stay, patience, jitter):
        verdict = judge(failure, stay, patience, jitter)

        assert isinstance(verdict, Wait | Pause)
        assert verdict.cost_seconds == 0.0
        assert verdict.seconds > 0


class TestWithinTheBudget:
    @pytest.mark.parametrize("count", [1, 7, 50])
    @pytest.mark.parametrize("jitter", [0.0, 0.5, BELOW_ONE])
    def test_an_unknown_that_may_be_repeated_is_tried_again_like_a_transient(self, count, jitter):
        stay = Stay(tries=count)

        unknown = judge(Unknown("no answer", took_seconds=3), stay, PATIENCE, jitter)

        assert unknown == judge(Transient("no answer", took_seconds=3), stay, PATIENCE, jitter)

    # Waits grow from the first to the longest; jitter spreads each over its last nine tenths.
    @pytest.mark.parametrize(
        ("count", "longest"),
        [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30), (1000, 30)],
    )
    def test_a_transient_failure_waits_longer_each_time(self, count, longest):
        def waited(jitter):
            return judge(Transient("again"), Stay(tries=count), PATIENCE, jitter)

        for jitter, part in ((0.0, 0.1), (0.5, 0.55), (BELOW_ONE, 1.0)):
            seconds = pytest.approx(longest * part, rel=1e-6)
            assert waited(jitter) == Wait(seconds, cost_seconds=seconds)

    def test_the_bounds_of_a_wait(self):
        assert (FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) == (0.5, 30.0)

    def test_the_time_the_call_took_is_part_of_the_cost(self):
        verdict = judge(Transient("slow", took_seconds=20.0), Stay(tries=1), PATIENCE, 0.0)

        assert verdict == Wait(0.05, cost_seconds=20.05)

    @given(tries=tries, jitter=jitters, asked=wishes)
    def test_it_never_spins_and_never_comes_early(self, tries, jitter, asked):
        endless = Patience(budget=timedelta(days=1))

        seconds = judge(Transient("again", asked), Stay(tries=tries), endless, jitter).seconds

        assert FIRST_WAIT_SECONDS / 10 <= seconds <= max(LONGEST_WAIT_SECONDS, asked or 0)
        assert seconds >= (asked or 0)

    @given(tries=tries, jitter=jitters, asked=wishes)
    def test_nor_does_a_pause(self, tries, jitter, asked):
        seconds = judge(Unavailable("away", asked), Stay(tries=tries), PATIENCE, jitter).seconds

        assert FIRST_WAIT_SECONDS / 10 <= seconds <= max(LONGEST_WAIT_SECONDS, asked or 0)
        assert seconds >= (asked or 0)

    @pytest.mark.parametrize("failure", [Transient, Unavailable])
    def test_a_short_wish_of_plivo_does_not_shorten_the_wait(self, failure):
        stay = Stay(tries=7)

        assert judge(failure("again", 0.1), stay, PATIENCE, 0.5) == judge(
            failure("again"), stay, PATIENCE, 0.5
        )

    def test_exactly_the_budget_is_within_it(self):
        stay = Stay(tries=1, spent_seconds=59.5)

        assert isinstance(judge(Transient("again", 0.5), stay, PATIENCE, 0.0), Wait)
        assert isinstance(judge(Transient("again", 0.51), stay, PATIENCE, 0.0), Park)


class TestBeyondTheBudget:
    SPENT = 60.0

    @pytest.mark.parametrize(
        ("attempts", "delay"),
        [(0, DELAYS[0]), (1, DELAYS[1]), (2, DELAYS[2]), (3, DELAYS[2]), (6, DELAYS[2])],
    )
    def test_it_is_parked_longer_each_time(self, attempts, delay):
        stay = Stay(attempts, 1, self.SPENT)

        assert judge(Transient("again"), stay, PATIENCE, 0.0) == Park(delay, attempts + 1)

    @pytest.mark.parametrize("attempts", [7, 8, 1000])
    @pytest.mark.parametrize("failure", [Transient("Plivo said no"), Unknown("Plivo said no")])
    def test_at_the_last_attempt_it_is_exhausted(self, attempts, failure):
        verdict = judge(failure, Stay(attempts, 3, self.SPENT), PATIENCE, 0.5)

        assert verdict == DeadLetter(
            DeadReason.EXHAUSTED, f"given up after {attempts + 1} attempts: Plivo said no"
        )

    def test_one_attempt_means_that_nothing_is_parked(self):
        verdict = judge(Transient("no"), Stay(0, 1, self.SPENT), Patience(attempts=1), 0.5)

        assert verdict == DeadLetter(DeadReason.EXHAUSTED, "given up after 1 attempts: no")

    @given(st.lists(st.tuples(costly | free, jitters), max_size=300), patiences)
    def test_a_message_has_so_many_stays_of_so_long_and_no_more(self, failures, patience):
        """The way of one message: tried, waiting, parked, back again, until it is given up."""
        stays = [Stay()]
        for failure, jitter in failures:
            stay = stays[-1].tried()
            verdict = judge(failure, stay, patience, jitter)
            match verdict:
                case Wait() | Pause():
                    stays[-1] = stay.spent(verdict.cost_seconds)
                case Park(_, attempts):
                    stays.append(Stay(attempts))
                case DeadLetter():
                    assert len(stays) == patience.attempts
                    break
        assert len(stays) <= patience.attempts
        assert all(stay.spent_seconds <= patience.budget.total_seconds() for stay in stays)
        assert all(later.attempts == earlier.attempts + 1 for earlier, later in pairwise(stays))


@pytest.mark.parametrize(
    ("seconds", "delay"),
    [
        (0.1, DELAYS[0]),
        (29.9, DELAYS[0]),
        (30, DELAYS[0]),
        (299, DELAYS[0]),
        (300, DELAYS[1]),
        (3599, DELAYS[1]),
        (3600, DELAYS[2]),
        (10**6, DELAYS[2]),
    ],
)
@pytest.mark.parametrize("delays", [DELAYS, DELAYS[::-1]], ids=["ascending", "descending"])
def test_who_makes_room_is_back_by_the_time_it_would_have_tried_again(seconds, delay, delays):
    assert parking_delay(seconds, delays) == delay
