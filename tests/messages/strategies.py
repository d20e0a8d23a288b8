"""Hypothesis strategies and settings for random tests of the messages."""

import json
from datetime import timedelta, timezone
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from contracts.envelope import HEADER_PREFIX, JSON, STRUCTURED, Message

# Every run draws new examples; the blob printed with a failure reproduces it.
replayable = settings(derandomize=False, print_blob=True, deadline=None, max_examples=150)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included
PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20
).filter(str.isprintable)

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(1, 300).map(lambda digits: 10**digits)
    | st.floats()
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
HEADER_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.binary()
    | st.binary().map(bytearray)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
CONTENT_TYPES = (
    st.sampled_from(
        [
            STRUCTURED,
            f"{STRUCTURED}; charset=utf-8",
            "Application/CloudEvents+JSON",
            "application/cloudevents-batch+json",
            "application/cloudevents",
            JSON,
            "application/vnd.hr+json",
            "text/plain",
            "",
            ";",
            None,
        ]
    )
    | st.none()
    | ANY_TEXT
)

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ODD_TIMES = st.builds(
    "{}-{}T{}{}{}".format,
    st.sampled_from(["0001", "1970", "9999"]),
    st.sampled_from(["01-01", "02-29", "12-31"]),
    st.sampled_from(["00:00:00", "23:59:59", "23:59:60", "24:00:00"]),
    st.sampled_from(["", ".5", ".123456", ".123456789", ".0123456789012"]),
    st.sampled_from(["Z", "z", "-00:00", "+23:59", "-23:59", "+24:00"]),
)
TIMES = (
    st.datetimes(timezones=OFFSETS).map(lambda time: time.isoformat())
    | st.datetimes().map(lambda time: time.isoformat() + "Z")
    | ODD_TIMES
)
NAMES = (
    PRINTABLE
    | st.text(st.characters(codec="utf-8"), max_size=30)
    | st.text("Ae\u0301\u0323 \u00a0\t", max_size=30)
)
SEQUENCES = st.integers(-1, 10**20) | st.integers(-1, 10**20).map(str) | st.integers(0, 9).map(float)

DATA = st.fixed_dictionaries(
    {"department_id": PRINTABLE, "name": NAMES},
    optional={
        "parent_id": st.none() | PRINTABLE,
        "previous_name": st.none() | NAMES,
        "cause": st.sampled_from([None, "deleted", "merged", "deactivated"]),
        "merged_into": st.none() | PRINTABLE,
        "attributes": st.none() | st.dictionaries(PRINTABLE, JSON_VALUES, max_size=3),
        "unknown": JSON_VALUES,
    },
)
# JSON text that no Python value is encoded as.
RAW_JSON = st.one_of(
    st.integers(0, 400).map(lambda depth: "[" * depth + "1" + "]" * depth),
    st.integers(0, 400).map(lambda depth: '{"a":' * depth + "1" + "}" * depth),
    st.integers(1, 6000).map("9".__mul__),
    st.sampled_from(["1e999", "-1e999", "1e-999", "NaN", "-Infinity", "01", "1.", "+1", "'a'", "1,", "{}"]),
    st.sampled_from([r'"\ud800"', r'"\udc00\ud800"', r'"\x"', '"\t"', '{"a":1,"a":2}', '{"a":1,}', "/**/1"]),
)
# Mostly valid events, with some invalid values.
EVENTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": PRINTABLE,
        "source": PRINTABLE,
        "type": st.builds(
            "{}department.{}{}".format,
            st.sampled_from(["", "com.example.hr."]),
            st.sampled_from(["created", "renamed", "removed"]),
            st.sampled_from(["", ".v1"]),
        ),
        "time": TIMES,
        "data": DATA,
    },
    optional={
        "sequence": SEQUENCES,
        "tenant": st.none() | PRINTABLE,
        "traceparent": PRINTABLE,
        "correlationid": PRINTABLE,
        "unknown": JSON_VALUES,
    },
)


def structured(event: Any) -> Message:
    """Encodes NaN, infinities and lone surrogates as a careless producer's library does."""
    return Message(json.dumps(event).encode(), STRUCTURED)


def binary(event: dict[str, Any], prefix: str = HEADER_PREFIX) -> Message:
    headers = {prefix + name: value for name, value in event.items() if name != "data"}
    return Message(json.dumps(event["data"]).encode(), JSON, headers)
