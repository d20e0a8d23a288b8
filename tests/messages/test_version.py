"""The total order of events, as described in the README."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.departments import Kind, Version, department_event
from contracts.envelope import read
from tests.messages.strategies import OFFSETS, replayable, structured

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
RISING = [Kind.CREATED, Kind.RENAMED, Kind.REMOVED]

# Few values of each kind, so that ties are common.
TIMES = st.builds(
    lambda seconds, offset: (NOON + timedelta(seconds=seconds)).astimezone(offset),
    st.integers(0, 2),
    st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-11))]),
)
VERSIONS = st.builds(
    Version,
    st.none() | st.sampled_from([0, 1, 2**60, 10**20 - 1]),
    TIMES,
    st.sampled_from(RISING),
    st.sampled_from(["/a", "/b", "/Ä"]),
    st.sampled_from(["1", "2", "10"]),
)


def as_the_rules_say(one: Version, other: Version) -> bool:
    if (one.sequence is None) is not (other.sequence is None):
        return one.sequence is not None
    if one.sequence is not None and other.sequence is not None and one.sequence != other.sequence:
        return one.sequence > other.sequence
    if one.time != other.time:
        return one.time > other.time
    if one.kind is not other.kind:
        return RISING.index(one.kind) > RISING.index(other.kind)
    return (one.source, one.id) > (other.source, other.id)


def version_of(**attributes: Any) -> Version:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/hr",
        "type": "department.created.v1",
        "time": "2026-11-21T12:00:00Z",
        "data": {"department_id": "ENG-042", "name": "Engineering"},
    }
    return department_event(read(structured(event | attributes))).version


@replayable
@given(VERSIONS, VERSIONS)
def test_newer_follows_the_rules(one: Version, other: Version) -> None:
    assert one.newer_than(other) is as_the_rules_say(one, other)


@replayable
@given(VERSIONS, VERSIONS)
def test_of_two_exactly_one_is_newer_unless_they_are_equal(one: Version, other: Version) -> None:
    assert one.newer_than(other) + other.newer_than(one) + (one == other) == 1


@replayable
@given(VERSIONS, VERSIONS, VERSIONS)
def test_newer_than_the_newer_is_newer(one: Version, two: Version, three: Version) -> None:
    oldest, middle, newest = sorted([one, two, three], key=Version.rank)
    assert not oldest.newer_than(middle)
    assert not middle.newer_than(newest)
    assert newest.newer_than(oldest) is (newest != oldest)


@replayable
@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), OFFSETS, OFFSETS)  # noqa: DTZ001
def test_the_same_instant_with_two_offsets_is_one_version(
    time: datetime, here: timezone, there: timezone
) -> None:
    written = [time.replace(tzinfo=UTC).astimezone(offset).isoformat() for offset in (here, there)]
    one, other = (version_of(time=text) for text in written)
    assert one == other
    assert not one.newer_than(other)
    assert not other.newer_than(one)


def test_every_version_is_newer_than_none() -> None:
    assert version_of().newer_than(None)


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ({"sequence": 0, "time": "2020-01-01T00:00:00Z"}, {"time": "2026-01-01T00:00:00Z"}),
        ({"sequence": "10"}, {"sequence": "9"}),
        ({"sequence": 10, "time": "2020-01-01T00:00:00Z"}, {"sequence": 9}),
        ({"time": "2026-11-21T12:00:00.000001Z"}, {}),
        ({"time": "2026-11-21T12:00:00+01:00"}, {"time": "2026-11-21T12:00:00+02:00"}),
        ({"type": "department.removed.v1"}, {"type": "department.renamed.v1", "id": "9", "source": "/z"}),
        ({"type": "department.renamed.v1"}, {"type": "department.created.v1", "id": "9", "source": "/z"}),
        ({"source": "/z"}, {"id": "9"}),
        ({"id": "2"}, {"id": "10"}),
    ],
    ids=str,
)
def test_newer(newer: dict[str, Any], older: dict[str, Any]) -> None:
    assert version_of(**newer).newer_than(version_of(**older))
    assert not version_of(**older).newer_than(version_of(**newer))
