"""Encodes and decodes the AMQP frames that carry messages: deliver, get, publish, return, ack and nack.

The client library raises on properties that RabbitMQ accepts: text that is not UTF-8, times beyond the year
9999, deeply nested tables. That ends the connection, and the message is redelivered on the next one. The
library also passes every frame from task to task, which would cost a fifth of the worker's CPU under load.
"""

import struct
from functools import lru_cache
from typing import NamedTuple

from contracts.topology import Namespace
from worker.adapters.amqp.codec.fields import decode_lossy, short
from worker.adapters.amqp.codec.properties import MESSAGE_ID, parts_of, read
from worker.core.messages import Outgoing

METHOD, HEADER, BODY = 1, 2, 3

HEAD = struct.Struct(">BHI")
"""Frame type, channel, payload size."""
FRAME_END = b"\xce"
FRAME_OVERHEAD = HEAD.size + len(FRAME_END)
CONTENT_HEAD = struct.Struct(">HHQ")
"""Class, weight and body size, which precede the properties in a content header."""
HEARTBEAT = HEAD.pack(8, 0, 0) + FRAME_END

_BASIC = 60
_PUBLISH = struct.pack(">HHH", _BASIC, 40, 0)
_MANDATORY = b"\1"
_ACK = struct.Struct(">HHQB")
_TAG_AND_FLAG = struct.Struct(">QB")


def _basic(method: int) -> bytes:
    return struct.pack(">HH", _BASIC, method)


RETURN, DELIVER, GET_OK, GET_EMPTY, ACK, NACK = map(_basic, (50, 60, 71, 72, 80, 120))
BLOCKED, UNBLOCKED = (struct.pack(">HH", 10, method) for method in (60, 61))
"""Connection.Blocked and Connection.Unblocked: https://www.rabbitmq.com/docs/connection-blocked"""
_CHANNEL_0_METHOD = b"\x01\x00\x00"
CONNECTION_CLOSE = struct.pack(">HH", 10, 50)
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = (struct.pack(">HH", 20, method) for method in (40, 41))


class Delivered(NamedTuple):
    """A message from a queue. `left` counts the messages behind it; only `basic.get` reports that."""

    tag: int
    exchange: str
    routing_key: bytes
    properties: bytes
    body: bytes
    left: int = 0

    def within(self, namespace: Namespace) -> "Delivered":
        """The same with the exchange's name inside the namespace."""
        return self._replace(exchange=namespace.without(self.exchange)) if namespace.prefix else self

    @property
    def original(self) -> Outgoing:
        """The message as it was sent."""
        return read(self.exchange, self.routing_key, self.properties, self.body)


def delivered(arguments: bytes, properties: bytes, body: bytes) -> Delivered:
    """Decodes `DELIVER`."""
    at = 1 + arguments[0]
    tag, _ = _TAG_AND_FLAG.unpack_from(arguments, at)
    exchange, key, _ = _address(arguments, at + _TAG_AND_FLAG.size)
    return Delivered(tag, exchange, key, properties, body)


def got(arguments: bytes, properties: bytes, body: bytes) -> Delivered:
    """Decodes `GET_OK`."""
    tag, _ = _TAG_AND_FLAG.unpack_from(arguments)
    exchange, key, end = _address(arguments, _TAG_AND_FLAG.size)
    return Delivered(tag, exchange, key, properties, body, int.from_bytes(arguments[end:]))


def confirmed(arguments: bytes) -> tuple[int, bool]:
    """Decodes `ACK` and `NACK`: a publish's number, and whether it covers all earlier ones too."""
    tag, flags = _TAG_AND_FLAG.unpack_from(arguments)
    return tag, bool(flags & 1)


def _address(arguments: bytes, at: int) -> tuple[str, bytes, int]:
    """Exchange, routing key, and the position behind them."""
    middle = at + 1 + arguments[at]
    end = middle + 1 + arguments[middle]
    return decode_lossy(arguments[at + 1 : middle]), arguments[middle + 1 : end], end


def returned(arguments: bytes, properties: bytes) -> tuple[str, bytes, bytes]:
    """Decodes `RETURN`: exchange, routing key and message id of an unroutable message."""
    exchange, key, _ = _address(arguments, 3 + arguments[2])
    return exchange, key, message_id(properties)


def close_text(frame: bytes) -> str | None:
    """The broker's reason, such as `NOT_ALLOWED - vhost x not found`, in a `CONNECTION_CLOSE`; else None."""
    if frame[:3] != _CHANNEL_0_METHOD or frame[7:11] != CONNECTION_CLOSE:
        return None
    text = frame[13:-1]  # after the reply code
    return decode_lossy(text[1 : 1 + text[0]])


def message_id(properties: bytes) -> bytes:
    """The message id among encoded properties; empty if there is none."""
    for name, start, end in parts_of(properties):
        if name == MESSAGE_ID:
            return properties[start + 1 : end]
    return b""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame: `kind` is `METHOD`, `HEADER` or `BODY`."""
    return HEAD.pack(kind, channel, len(payload)) + payload + FRAME_END


def ack(delivery_tag: int, channel: int, *, multiple: bool = False) -> bytes:
    """The frame of `basic.ack`; `multiple` acks all earlier deliveries of the channel too."""
    return frame(METHOD, channel, _ACK.pack(_BASIC, 80, delivery_tag, multiple))


def get(queue: str, channel: int) -> bytes:
    """The frame of `basic.get`; the message has to be acked."""
    return frame(METHOD, channel, _basic(70) + bytes(2) + short(queue) + bytes(1))


@lru_cache(maxsize=128)
def publish(exchange: str, routing_key: bytes, channel: int) -> bytes:
    """The frame of `basic.publish`, mandatory. Cached: except for dead letters there are few routing keys."""
    return frame(METHOD, channel, _PUBLISH + short(exchange) + short(routing_key) + _MANDATORY)


def content(properties: bytes, body: bytes, channel: int, max_payload: int) -> bytes:
    """The header and body frames of a message; no body frame has a payload above `max_payload` bytes."""
    header = CONTENT_HEAD.pack(_BASIC, 0, len(body)) + properties
    parts = [body[first : first + max_payload] for first in range(0, len(body), max_payload)]
    return b"".join([frame(HEADER, channel, header), *[frame(BODY, channel, part) for part in parts]])
