"""Field tables: our decoder and encoder agree with those of the client library."""

import math
import re
import struct
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.raw_amqp import entry, long, nested, timestamp
from worker.adapters.amqp.codec.fields import (
    MAX_DEPTH,
    NO_TABLE,
    EncodeError,
    decode_lossy,
    field,
    fields_in,
    short,
)

NAMES = st.text(max_size=30).filter(lambda name: len(name.encode()) <= 128)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary().map(bytearray)
    | st.datetimes(datetime(1970, 1, 1), datetime(2105, 1, 1)).map(  # noqa: DTZ001 - hypothesis requires naive bounds
        lambda at: at.replace(microsecond=0, tzinfo=UTC)
    )
    | st.integers(-(2**31), 2**31 - 1).map(lambda digits: Decimal(digits).scaleb(-2))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)


def read(fields: bytes) -> dict[str, Any]:
    return {one.name: one.value for one in fields_in(fields, 0, len(fields))}


def written(table: dict[str, Any]) -> bytes:
    return b"".join(field(name, value) for name, value in table.items())


@given(TABLES)
def test_tables_of_the_library_are_decoded_as_it_decodes_them(table):
    try:
        encoded = pamqp.encode.field_table(table)
    except OverflowError:  # a double that is no float: the library can decode it but not encode it
        return
    assert read(encoded[4:]) == pamqp.decode.field_table(encoded)[1]


@given(TABLES)
def test_our_tables_are_decoded_by_us_and_by_the_library(table):
    encoded = written(table)
    assert read(encoded) == table
    assert pamqp.decode.field_table(long(encoded))[1] == table


@given(st.binary(max_size=40))
def test_arbitrary_bytes_raise_only_known_errors(table):
    with suppress(*NO_TABLE):
        read(table)


@given(st.binary(max_size=255))
def test_lossy_decoding_gives_text_that_is_not_longer(text):
    assert len(short(decode_lossy(text))) <= len(text) + 1


KINDS = {
    "t": (b"\1", True),
    "b": (b"\xff", -1),
    "B": (b"\xff", 255),
    "s": (b"\xff\xfe", -2),
    "u": (b"\xff\xfe", 65534),
    "I": (b"\xff" * 4, -1),
    "i": (b"\xff" * 4, 2**32 - 1),
    "l": (b"\x80" + b"\0" * 7, -(2**63)),
    "L": (b"\xff" * 8, 2**64 - 1),
    "f": (struct.pack(">f", 0.5), 0.5),
    "d": (struct.pack(">d", 1e300), 1e300),
    "D": (b"\2\0\0\1\0", Decimal("2.56")),
    "S": (long("Ärzte".encode()), "Ärzte"),
    "x": (long(b"\xff\xfe"), bytearray(b"\xff\xfe")),
    "V": (b"", None),
    "T": (timestamp(1700000000), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
    "A": (long(b"t\1V"), [True, None]),
    "F": (long(entry("a", "V")), {"a": None}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_type(kind):
    encoded, value = KINDS[kind]
    assert read(entry("one", kind, encoded) + entry("other", "t", b"\0")) == {"one": value, "other": False}


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        (entry("at", "T", timestamp(1700000000123)), {"at": datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)}),
        (entry("at", "T", timestamp(1700000000000000)), {"at": 1700000000000000}),
        (entry("at", "T", b"\xff" * 8), {"at": 2**64 - 1}),
        (entry("bin", "S", long(b"\xff\xfe")), {"bin": b"\xff\xfe"}),
        (entry(b"Stra\xdfe", "V"), {"Stra?e": None}),
        (entry("", "V") + entry("n" * 255, "V"), {"": None, "n" * 255: None}),
        (entry("a", "t", b"\1") + entry("a", "V"), {"a": None}),
    ],
    ids=["milliseconds", "microseconds", "far", "octets", "name", "long-name", "twice"],
)
def test_unusual_fields(fields, values):
    assert read(fields) == values


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1_000, 9_000])
def test_tables_nested_too_deep_stay_bytes(depth):
    value = read(entry("a", "F", nested(depth)))["a"]
    while isinstance(value, dict):
        (value,) = value.values()
    assert isinstance(value, bytes)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        math.nan,
        math.inf,
        "\ud800",
        object(),
        Decimal(2**31),
        datetime(1969, 1, 1, tzinfo=UTC),
        [object()],
        {"n" * 256: 1},
        {"a": [math.inf]},
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", ascii(value))[:40],
)
def test_values_that_cannot_be_encoded_are_refused(value):
    with pytest.raises(EncodeError):
        field("name", value)


def test_a_name_has_at_most_255_bytes():
    assert read(field("ä" * 127, 1)) == {"ä" * 127: 1}
    with pytest.raises(EncodeError):
        field("ä" * 128, 1)
