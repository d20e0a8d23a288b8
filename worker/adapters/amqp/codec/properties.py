"""Encodes and decodes the properties of a message, including its headers.

An unchanged property is sent in the bytes it arrived in (`SentAs`). Only that preserves the widths of
numbers, milliseconds, and text that is not UTF-8.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from contracts.envelope import Message
from worker.adapters.amqp.codec.fields import (
    NO_TABLE,
    EncodeError,
    decode_lossy,
    field,
    fields_in,
    instant,
    long,
    seconds,
    short,
)
from worker.core.messages import LEFT_OUT, NEVER_SENT, Outgoing, SentAs, is_needed

# In the order of their flag bits, the highest first.
_NAMES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
_BITS = {name: 1 << (15 - place) for place, name in enumerate(_NAMES)}
_SIZES = {"delivery_mode": 1, "priority": 1, "timestamp": 8}

# Properties that a forwarded message keeps. Not `expiration` (a dead letter must not expire), and not
# `user_id` (the broker closes the channel for another user's name).
KEPT_PROPERTIES = frozenset({"priority", "correlation_id", "reply_to", "timestamp", "type", "app_id"})
MESSAGE_ID = "message_id"
"""Kept too, but only as bytes: it is not part of the content."""
_READ = KEPT_PROPERTIES | {"content_type", "content_encoding"}
_TEXTS = _READ - _SIZES.keys()

_PERSISTENT = b"\2"
_PLAIN_FLAGS = sum(_BITS[name] for name in ("content_type", "delivery_mode", MESSAGE_ID)).to_bytes(2)
_OVERHEAD = 6  # flags, and the length of the headers
_MAX_NEEDED = 5_000
_MAX_LEFT_OUT = 900
_RESERVED_FOR_LEFT_OUT = 1_000

_Parts = dict[str, tuple[Any, bytes]]
_UNREAD = (object(), b"")


def read(exchange: str, routing_key: bytes, properties: bytes, body: bytes) -> Outgoing:
    """Decodes a message. Never raises: unreadable properties are left out."""
    fields: _Parts = {"routing_key": (decode_lossy(routing_key), routing_key)}
    headers: _Parts = {}
    with suppress(*NO_TABLE):  # RabbitMQ parses tables, so no such bytes arrive
        for name, start, end in parts_of(properties):
            if name == "headers":
                _read_headers(properties, start + 4, end, headers)
            elif name in _READ or name == MESSAGE_ID:
                fields[name] = (_read_property(name, properties[start:end]), properties[start:end])
    known = {name: value for name, (value, _) in fields.items() if name != MESSAGE_ID}
    key, content_type = known.pop("routing_key"), known.pop("content_type", None)
    content = {name: value for name, (value, _) in headers.items()}
    message = Message(body, content_type, content, known.pop("content_encoding", None))
    return Outgoing(exchange, key, message, known, SentAs(fields, headers))


def parts_of(properties: bytes) -> Iterator[tuple[str, int, int]]:
    """Yields the properties that are present, with start and end in the bytes."""
    at = 2
    for name in _present(properties[:2]):
        if size := _SIZES.get(name):
            end = at + size
        elif name == "headers":
            end = at + 4 + int.from_bytes(properties[at : at + 4])
        else:
            end = at + 1 + properties[at]
        yield name, at, end
        at = end


@lru_cache(maxsize=128)
def _present(flags: bytes) -> tuple[str, ...]:
    bits = int.from_bytes(flags)
    return tuple(name for name in _NAMES if bits & _BITS[name])


def _read_headers(table: bytes, start: int, end: int, headers: _Parts) -> None:
    """Adds to `headers`. If a name occurs several times, the last value counts and all bytes are kept."""
    for name, value, first, last in fields_in(table, start, end):
        before = headers[name][1] if name in headers else b""
        headers[name] = (value, before + table[first:last])


def _read_property(name: str, encoded: bytes) -> Any:
    match name:
        case "priority":
            return encoded[0]
        case "timestamp":
            return instant(int.from_bytes(encoded))
        case _:
            return decode_lossy(encoded[1:])


def encode(outgoing: Outgoing, message_id: str, max_bytes: int) -> bytes:
    """Encodes flags and properties. A header names those that cannot be sent or do not fit.

    `message_id` is used if the message arrived without one.
    """
    # Fast path, in a tenth of the time: most messages are our own and have only a content type.
    message = outgoing.message
    simple = not (message.headers or message.content_encoding or outgoing.properties)
    ours = outgoing.sent_as is NEVER_SENT and simple
    if ours and (content_type := _encode_content_type(outgoing.message.content_type)):
        return _PLAIN_FLAGS + content_type + _PERSISTENT + short(message_id)
    fields, headers = _fields(outgoing), _headers(outgoing)
    _, received_id = outgoing.sent_as.fields.get(MESSAGE_ID, _UNREAD)
    fields |= {"delivery_mode": _PERSISTENT, MESSAGE_ID: received_id or short(message_id)}
    left_out = [name for parts in (fields, headers) for name in parts if parts[name] is None]
    parts, table = _sendable(fields), _sendable(headers)
    excess = _OVERHEAD + sum(map(len, parts.values())) + sum(map(len, table.values())) - max_bytes
    if left_out or excess > 0:
        table = _reduced(table, left_out, excess, outgoing.message.headers.get(LEFT_OUT))
    if table:
        parts["headers"] = long(b"".join(table.values()))
    flags = sum(_BITS[name] for name in parts)
    return flags.to_bytes(2) + b"".join([parts[name] for name in _NAMES if name in parts])


def routing_key(outgoing: Outgoing) -> bytes:
    """Encodes the routing key."""
    return (
        _as_sent(outgoing.sent_as.fields, "routing_key", outgoing.routing_key)
        or outgoing.routing_key.encode()
    )


def _fields(outgoing: Outgoing) -> dict[str, bytes | None]:
    """None for those that cannot be sent."""
    sent, message = outgoing.sent_as.fields, outgoing.message
    decoding = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    given = decoding | dict(outgoing.properties)
    return {
        name: _as_sent(sent, name, value) or _encode_property(name, value)
        for name, value in given.items()
        if value is not None
    }


def _headers(outgoing: Outgoing) -> dict[str, bytes | None]:
    """None for those that cannot be sent."""
    sent = outgoing.sent_as.headers
    return {
        name: _as_sent(sent, name, value) or _encode_header(name, value)
        for name, value in outgoing.message.headers.items()
    }


def _as_sent(sent: Mapping[str, tuple[Any, bytes]], name: str, value: Any) -> bytes | None:
    """The bytes that a value was decoded from; None if the value was replaced."""
    read_value, encoded = sent.get(name, _UNREAD)
    return encoded if read_value is value else None


@lru_cache(maxsize=128)
def _encode_content_type(value: str | None) -> bytes | None:
    return _encode_property("content_type", value)


def _encode_property(name: str, value: Any) -> bytes | None:
    with suppress(EncodeError, ValueError, OverflowError):
        if name == "timestamp":
            return seconds(value)
        if name == "priority" and isinstance(value, int):
            return value.to_bytes(1)
        if name in _TEXTS and isinstance(value, str):
            return short(value)
    return None


def _encode_header(name: str, value: Any) -> bytes | None:
    with suppress(EncodeError):
        return field(name, value)
    return None


def _sendable(parts: Mapping[str, bytes | None]) -> dict[str, bytes]:
    return {name: part for name, part in parts.items() if part is not None}


def _reduced(
    table: Mapping[str, bytes], left_out: Sequence[str], excess: int, left_out_before: Any
) -> dict[str, bytes]:
    """Drops the heaviest headers until the excess is gone, and adds one that names the missing ones."""
    kept = dict(table)
    earlier = [left_out_before] if kept.pop(LEFT_OUT, None) and isinstance(left_out_before, str) else []
    heaviest = _heaviest(kept, excess + _RESERVED_FOR_LEFT_OUT) if excess > 0 else []
    names = ", ".join([*earlier, *left_out, *heaviest]).encode(errors="replace")
    kept[LEFT_OUT] = field(LEFT_OUT, decode_lossy(names[:_MAX_LEFT_OUT]))
    return {name: part for name, part in kept.items() if name not in heaviest}


def _heaviest(table: Mapping[str, bytes], excess: int) -> Sequence[str]:
    """Names of headers that together have `excess` bytes; small ones that the worker needs come last."""

    def order(name: str) -> tuple[bool, int]:
        size = len(table[name])
        return is_needed(name) and size <= _MAX_NEEDED, -size

    heaviest: list[str] = []
    for name in sorted(table, key=order):
        if excess <= 0:
            break
        heaviest.append(name)
        excess -= len(table[name])
    return heaviest
