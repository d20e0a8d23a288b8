"""Encodes and decodes AMQP field tables: reads every table that the broker accepts, and writes without loss.

The client library's codec raises on values that other producers send, and loses some on the way out. Types
and their letters: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
"""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

MAX_DEPTH = 32
"""Deeper tables stay encoded: a producer must not exhaust Python's recursion."""

NO_TABLE = (struct.error, ValueError, IndexError, KeyError)
"""Raised for bytes that are not a table."""

_LONGEST_SHORT = 255
_LAST_SECOND = 0xFFFFFFFF
_LENGTH = struct.Struct(">I")


class EncodeError(ValueError):
    """AMQP cannot carry the value, or RabbitMQ would close the connection because of it."""


class Field(NamedTuple):
    """One entry of a table: name, value, and the position of both in the bytes."""

    name: str
    value: Any
    start: int
    end: int


def decode_lossy(text: bytes) -> str:
    """Decodes a short string; bytes that are not UTF-8 become question marks. Never longer than the input."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def fields_in(table: bytes, start: int, end: int, depth: int = 0) -> Iterator[Field]:
    """Decodes the entries between two positions; raises `NO_TABLE`."""
    while start < end:
        name_end = start + 1 + table[start]
        value, value_end = _value(table, name_end, depth)
        yield Field(decode_lossy(table[start + 1 : name_end]), value, start, value_end)
        start = value_end


def instant(count: int) -> datetime | int:
    """Decodes a timestamp: seconds, or, beyond the year 2106, the milliseconds that some libraries send."""
    try:
        return datetime.fromtimestamp(count if count <= _LAST_SECOND else count / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return count


def _decimal(places: int, digits: int) -> Decimal:
    return Decimal(digits).scaleb(-places)


def _value(table: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind, at = table[at], at + 1
    if fixed := _FIXED.get(kind):
        size, made = fixed
        return made(*size.unpack_from(table, at)), at + size.size
    start = at + _LENGTH.size
    end = start + _LENGTH.unpack_from(table, at)[0]
    if end > len(table):
        raise ValueError("a field is longer than its table")
    return _VARIABLE[kind](table, start, end, depth + 1), end


def _text(table: bytes, start: int, end: int, _depth: int) -> str | bytes:
    text = table[start:end]
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _octets(table: bytes, start: int, end: int, _depth: int) -> bytearray:
    return bytearray(table[start:end])


def _mapping(table: bytes, start: int, end: int, depth: int) -> dict[str, Any] | bytes:
    if depth > MAX_DEPTH:
        return table[start:end]
    return {field.name: field.value for field in fields_in(table, start, end, depth)}


def _array(table: bytes, start: int, end: int, depth: int) -> list[Any] | bytes:
    if depth > MAX_DEPTH:
        return table[start:end]
    items = []
    while start < end:
        item, start = _value(table, start, depth)
        items.append(item)
    return items


def _unchanged(value: Any) -> Any:
    return value


def _nothing() -> None:
    return None


_FIXED: dict[int, tuple[struct.Struct, Callable[..., Any]]] = {
    **{
        ord(kind): (struct.Struct(form), _unchanged)
        for kind, form in zip("tbBsuIilLfd", ("?", *(f">{c}" for c in "bBhHiIqQfd")), strict=True)
    },
    ord("D"): (struct.Struct(">Bi"), _decimal),
    ord("T"): (struct.Struct(">Q"), instant),
    ord("V"): (struct.Struct(""), _nothing),
}
_VARIABLE: dict[int, Callable[[bytes, int, int, int], Any]] = {
    ord("S"): _text,
    ord("x"): _octets,
    ord("F"): _mapping,
    ord("A"): _array,
}


def short(text: str | bytes) -> bytes:
    """Encodes a short string; raises `EncodeError` above 255 bytes."""
    encoded = text.encode() if isinstance(text, str) else text
    if len(encoded) > _LONGEST_SHORT:
        raise EncodeError("longer than 255 bytes")
    return bytes([len(encoded)]) + encoded


def long(encoded: bytes) -> bytes:
    """Prefixes bytes with their length in four bytes."""
    return _LENGTH.pack(len(encoded)) + encoded


def field(name: str, value: Any) -> bytes:
    """Encodes one entry of a table; raises `EncodeError`."""
    try:
        return short(name) + _encode(value)
    except (struct.error, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(str(error)) from None


def seconds(value: object) -> bytes:
    """Encodes a timestamp; raises `EncodeError`."""
    with suppress(struct.error, ValueError, OverflowError):
        if isinstance(value, datetime):
            since = value if value.tzinfo else value.replace(tzinfo=UTC)
            return struct.pack(">Q", int(since.timestamp()))
        if isinstance(value, int):
            return struct.pack(">Q", value)
    raise EncodeError("not a timestamp")


def _encode(value: Any) -> bytes:
    """Uses the widest AMQP type of its kind, which holds every value of the Python type."""
    for kind in type(value).__mro__:
        if writer := _WRITERS.get(kind):
            return writer(value)
    raise EncodeError("AMQP has no such type")


def _finite(value: float) -> bytes:
    if not math.isfinite(value):
        raise EncodeError("RabbitMQ accepts finite numbers only")
    return struct.pack(">d", value)


def _digits(value: Decimal) -> bytes:
    """Raises `struct.error` if there are too many digits."""
    places = max(0, -int(value.as_tuple().exponent))
    return struct.pack(">Bi", places, int(value.scaleb(places)))


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"V",
    bool: lambda value: b"t" + bytes([value]),
    int: lambda value: b"l" + struct.pack(">q", value),
    float: lambda value: b"d" + _finite(value),
    str: lambda value: b"S" + long(value.encode()),
    bytes: lambda value: b"S" + long(value),
    bytearray: lambda value: b"x" + long(bytes(value)),
    datetime: lambda value: b"T" + seconds(value),
    Decimal: lambda value: b"D" + _digits(value),
    dict: lambda value: b"F" + long(b"".join([field(name, part) for name, part in value.items()])),
    list: lambda value: b"A" + long(b"".join([_encode(part) for part in value])),
}
