"""The worker's clock compared with the provider's, by the date of a response."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW
from worker.core.clock_skew import TOLERATED, Comparison, in_words, skew_of, trustworthy

SECOND = timedelta(seconds=1)


@given(
    ahead=st.integers(-10_000_000, 10_000_000),
    to_provider=st.integers(0, 60_000),
    back=st.integers(0, 60_000),
)
def test_the_skew_is_never_overrated_and_exact_up_to_the_time_of_the_call(ahead, to_provider, back):
    """All in milliseconds. The date has whole seconds."""
    skew = timedelta(milliseconds=ahead)
    answered = NOW + timedelta(milliseconds=to_provider)
    received = answered + timedelta(milliseconds=back)
    measured = skew_of((answered + skew).replace(microsecond=0), NOW, received)
    assert abs(measured) <= abs(skew)
    assert abs(skew) - abs(measured) <= (received - NOW) + SECOND


@pytest.mark.parametrize(
    ("skew", "off"),
    [
        (None, False),
        (timedelta(0), False),
        (TOLERATED, False),
        (-TOLERATED, False),
        (TOLERATED + SECOND, True),
        (-TOLERATED - SECOND, True),
        (timedelta(days=400), True),
    ],
)
def test_a_clock_is_off_by_more_than_a_minute(skew, off):
    comparison = Comparison(skew, 100.0)
    assert comparison.off is off
    assert trustworthy(comparison, 99.0) is not off


def test_only_a_later_comparison_makes_the_clock_trustworthy():
    comparison = Comparison(None, 100.0)
    assert not trustworthy(None, 99.0)
    assert not trustworthy(comparison, 100.0)
    assert trustworthy(comparison, 99.9)


def test_the_skew_is_told_in_seconds():
    assert "is 660 s behind Plivo's" in in_words(timedelta(minutes=11))
    assert "is 3600 s ahead of Plivo's" in in_words(timedelta(hours=-1))
