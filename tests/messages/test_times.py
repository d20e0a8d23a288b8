"""Times as producers write them."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from contracts.departments import Kind, Version
from contracts.times import from_milliseconds, instant

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("2026-11-21T12:00:00Z", NOON),
        ("2026-11-21t12:00:00z", NOON),
        ("2026-11-21 12:00:00Z", NOON),
        ("2026-11-21T12:00Z", NOON),
        ("2026-11-21 12:00+0000", NOON),
        ("2026-11-21T12:00:00+00", NOON),
        ("2026-11-21T12:00:00-00:00", NOON),
        ("2026-11-21T17:45:00+0545", NOON),
        ("2026-11-21T13:30:00+01:30", NOON),
        ("2026-11-21T07:00:00.000-05", NOON),
        ("2026-11-21T12:00:00.5Z", NOON.replace(microsecond=500_000)),
        ("2026-11-21T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
        ("2026-11-21T11:59:60Z", NOON - timedelta(microseconds=1)),
        ("2026-12-31T23:59:60.7Z", datetime(2026, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("9999-12-31T23:59:60Z", datetime.max.replace(tzinfo=UTC)),
        (NOON.replace(tzinfo=None), NOON),
        (NOON.astimezone(timezone(timedelta(hours=9))), NOON),
    ],
    ids=str,
)
def test_accepted(sent: Any, meant: datetime) -> None:
    assert instant(sent) == meant
    assert instant(sent).tzinfo is UTC


def test_a_leap_second_is_between_the_seconds_around_it() -> None:
    """Also if these are given to the microsecond, except the last one."""
    before, leap, after = (
        Version(None, instant(f"2026-12-31T{clock}Z"), Kind.CREATED, "/hr", id_)
        for clock, id_ in (("23:59:59.999998", "3"), ("23:59:60", "2"), ("24:00:00"[:0] + "23:59:60", "2"))
    )
    midnight = leap._replace(time=instant("2027-01-01T00:00:00Z"), id="1")
    assert leap.newer_than(before)
    assert midnight.newer_than(leap)
    assert after == leap


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("2026-11-21T12:00:00", "ambiguous"),
        ("2026-11-21 12:00", "ambiguous"),
        ("2026-11-21T24:00:00Z", "no hour 24"),
        ("2026-02-30T12:00:00Z", "no such day"),
        ("2026-11-21T25:00:00Z", "no such day, hour"),
        ("2026-11-21T12:00:61Z", "no such"),
        ("2026-11-21T12:00:00+24:00", "no such"),
        ("2026-11-21T12:00:00+05:60", "no such"),
        ("0001-01-01T00:00:00+00:01", "outside the years"),
        ("/Date(1795000000000)/", "an OData date"),
        ("/date(1795000000000+0100)/", "an OData date"),
        ("1795000000000", "seconds or milliseconds"),
        ("1795000000.5", "seconds or milliseconds"),
        ("2026-11-21", "not an RFC 3339 time"),
        ("2026-11-21T12:00:00,5Z", "not an RFC 3339 time"),
        ("2026-11-21T12:00:00Z\n", "not an RFC 3339 time"),
        ("21 Nov 2026 12:00:00 GMT", "not an RFC 3339 time"),
        ("\u0662026-11-21T12:00:00Z", "not an RFC 3339 time"),
        (1_795_000_000_000, "not an RFC 3339 time"),
        (None, "not an RFC 3339 time"),
    ],
)
def test_refused_with_the_reason(sent: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        instant(sent)


@pytest.mark.parametrize("sent", [1_795_262_400_000, 1_795_262_400_000.0, Decimal(1_795_262_400_000)])
def test_milliseconds(sent: Any) -> None:
    assert from_milliseconds(sent) == datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize("sent", ["2026-11-21T12:00:00Z", 1.5, True, None, NOON, [1]])
def test_what_counts_no_milliseconds_is_left_to_the_rules_of_time(sent: Any) -> None:
    assert from_milliseconds(sent) is sent


@pytest.mark.parametrize(
    ("sent", "why"), [(1_795_000_000, "is it seconds"), (0, "is it seconds"), (10**18, "outside the years")]
)
def test_milliseconds_that_are_none(sent: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        from_milliseconds(sent)
