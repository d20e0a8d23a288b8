"""AMQP's frames, where the client library's reading or writing of them will not do.

It raises on properties that RabbitMQ lets through: text that is not UTF-8, times beyond the year 9999, tables
nested too deep. That ends the connection, and the message is there again on the next one. So what it gets to
decode are properties of ours, with those of the message as bytes inside; they are read by whoever takes the
message up.
"""

import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiormq.abc import DeliveredMessage

from worker.adapters.rabbitmq_fields import legible, long, short
from worker.adapters.rabbitmq_properties import parts_of, read
from worker.core.messages import Outgoing

METHOD, HEADER, BODY = 1, 2, 3

_HEAD = struct.Struct(">BHI")
_END = b"\xce"
_AROUND = _HEAD.size + len(_END)
_AT_ONCE = 2**16
_SIZES = struct.Struct(">HHQ")
SIZES = _SIZES.size
"""Of what stands before the properties in the frame of a header."""
_BASIC = 60
_PUBLISH = struct.pack(">HHH", _BASIC, 40, 0)
_MANDATORY = b"\1"

_RETURN, _DELIVER, _GET_OK = (struct.pack(">HH", _BASIC, method) for method in (50, 60, 71))

# Methods that name a routing key, after other short strings: where these begin, and how many they are.
_NAMING: dict[bytes, tuple[Callable[[bytes], int], int]] = {
    _RETURN: (lambda _: 13, 3),
    _DELIVER: (lambda deliver: 21 + deliver[11], 2),
    _GET_OK: (lambda _: 20, 2),
}

_PROPERTIES, _ROUTING_KEY = "properties", "routing_key"
_PROPERTIES_FIELD, _ROUTING_KEY_FIELD = (short(name) + b"x" for name in (_PROPERTIES, _ROUTING_KEY))
_HEADERS_ONLY, _AND_MESSAGE_ID = struct.pack(">H", 1 << 13), struct.pack(">H", 1 << 13 | 1 << 7)


class TolerantReader:
    """As much of a `StreamReader` as the client library uses. It shows frames that the library can decode."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._arrived = b""
        self._begin = 0  # of what was not shown yet
        self._frame = b""
        self._shown = 0
        self._keys: dict[int, bytes] = {}  # by channel, of the message whose header comes next
        self._returned: set[int] = set()  # channels on which the header comes next of what was returned

    def at_eof(self) -> bool:
        return self._reader.at_eof() and self._begin == len(self._arrived) and self._shown == len(self._frame)

    async def readexactly(self, size: int) -> bytes:
        if self._shown == len(self._frame):
            self._frame, self._shown = await self._next(), 0
        start, self._shown = self._shown, self._shown + size
        return self._frame[start : self._shown]

    async def _next(self) -> bytes:
        while len(self._arrived) < (end := self._end_of_frame()):
            await self._arrive(end - len(self._arrived))
        arrived, self._begin = self._arrived[self._begin : end], end
        if arrived[-1:] != _END:  # no frame at all: the library says so
            return arrived
        if arrived[0] == METHOD:
            return self._method(arrived)
        return self._header(arrived) if arrived[0] == HEADER else arrived

    def _end_of_frame(self) -> int:
        """As far as what has arrived tells."""
        head = self._arrived[self._begin : self._begin + _HEAD.size]
        if len(head) < _HEAD.size or head.startswith(b"AMQP"):  # the broker speaks another version
            return self._begin + _HEAD.size
        return self._begin + int.from_bytes(head[3:]) + _AROUND

    async def _arrive(self, missing: int) -> None:
        if missing > _AT_ONCE:
            more = await self._reader.readexactly(missing)
        elif not (more := await self._reader.read(_AT_ONCE)):
            raise IncompleteReadError(self._arrived[self._begin :], missing)
        self._arrived, self._begin = self._arrived[self._begin :] + more, 0

    def _method(self, arrived: bytes) -> bytes:
        """One whose strings are UTF-8. The routing key as it was is kept for the header that follows."""
        method = arrived[7:11]
        if method not in _NAMING:
            return arrived
        channel = _HEAD.unpack_from(arrived)[1]
        if method == _RETURN:
            self._returned.add(channel)
        begin, count = _NAMING[method]
        at = begin(arrived)
        if arrived[at:-1].isascii():
            return arrived
        shown = arrived[7:at]
        for _ in range(count):
            text = arrived[at + 1 : at + 1 + arrived[at]]
            shown, at = shown + short(legible(text)), at + 1 + len(text)
        self._keys[channel] = text
        return frame(METHOD, channel, shown + arrived[at:-1])

    def _header(self, arrived: bytes) -> bytes:
        """One with properties that surely can be decoded, and those of the message as bytes among them."""
        channel = _HEAD.unpack_from(arrived)[1]
        sizes, properties = arrived[7 : 7 + SIZES], arrived[7 + SIZES : -1]
        table = _PROPERTIES_FIELD + long(properties)
        if channel in self._keys:
            table += _ROUTING_KEY_FIELD + long(self._keys.pop(channel))
        shown = sizes + _HEADERS_ONLY + long(table)
        if channel in self._returned:
            self._returned.remove(channel)
            shown = sizes + _AND_MESSAGE_ID + long(table) + short(_message_id(properties))
        return frame(HEADER, channel, shown)


def _message_id(properties: bytes) -> bytes:
    """By which the library tells what comes back to us."""
    try:
        for name, start, end in parts_of(properties):
            if name == "message_id":
                return properties[start + 1 : end]
    except IndexError:
        pass
    return b""


def unwrapped(message: DeliveredMessage) -> Outgoing:
    """The message as it was sent."""
    inside: Any = message.header.properties.headers
    key = inside.get(_ROUTING_KEY)
    routing_key = (message.routing_key or "").encode() if key is None else bytes(key)
    return read(message.exchange or "", routing_key, bytes(inside[_PROPERTIES]), message.body)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _HEAD.pack(kind, channel, len(payload)) + payload + _END


@lru_cache(maxsize=128)
def publish(exchange: str, routing_key: bytes, channel: int) -> bytes:
    """The frame of `basic.publish`. There are few routing keys, but for those of dead letters."""
    return frame(METHOD, channel, _PUBLISH + short(exchange) + short(routing_key) + _MANDATORY)


def content(properties: bytes, body: bytes, channel: int, longest: int) -> bytes:
    """The frames of a message, none with a payload beyond the longest."""
    header = _SIZES.pack(_BASIC, 0, len(body)) + properties
    parts = [body[first : first + longest] for first in range(0, len(body), longest)]
    return b"".join([frame(HEADER, channel, header), *[frame(BODY, channel, part) for part in parts]])
