"""AMQP's frames. What the broker says of messages is read here; all else is for the client library.

The library raises on properties that RabbitMQ lets through: text that is not UTF-8, times beyond the year
9999, tables nested too deep. That ends the connection, and the message is there again on the next one. And it
hands every frame from task to task, which under load was a fifth of the worker's CPU.
"""

import asyncio
import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from worker.adapters.amqp.codec.fields import legible, short
from worker.adapters.amqp.codec.properties import MESSAGE_ID, parts_of, read
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
_ACKED = struct.Struct(">HHQB")
_TAG_AND_FLAG = struct.Struct(">QB")


def _basic(method: int) -> bytes:
    return struct.pack(">HH", _BASIC, method)


RETURN, DELIVER, GET_OK, GET_EMPTY, ACK, NACK = map(_basic, (50, 60, 71, 72, 80, 120))
_WITHOUT_CONTENT = {GET_EMPTY, ACK, NACK}
_CHANNEL_ENDS = {struct.pack(">HH", 20, method) for method in (40, 41)}

_HEARTBEAT = _HEAD.pack(8, 0, 0) + _END
SHOWN_EVERY_SECONDS = 1.0
"""While nothing but messages come: the library takes a broker for dead of which it sees nothing."""

Listener = Callable[[bytes, bytes, bytes], None]
"""Gets a method's arguments, and what goes with it: properties and body of a message, else nothing."""


async def taken_elsewhere(_message: object) -> None:
    """A consumer's callback for the library, which gets none of its messages."""


class Delivered(NamedTuple):
    """A message from a queue. `left` is how many are behind it, where it was asked for (`basic.get`)."""

    tag: int
    exchange: str
    routing_key: bytes
    properties: bytes
    body: bytes
    left: int = 0

    @property
    def original(self) -> Outgoing:
        """The message as it was sent."""
        return read(self.exchange, self.routing_key, self.properties, self.body)


@dataclass(slots=True)
class _Incoming:
    """A message of which not all has arrived."""

    listener: Listener
    arguments: bytes
    properties: bytes = b""
    missing: int = 0
    parts: list[bytes] = field(default_factory=list)


class DividingReader:
    """As much of a `StreamReader` as the client library uses. What somebody listens for, it does not get."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._arrived = b""
        self._begin = 0  # of what was not looked at yet
        self._frame = b""
        self._shown = 0
        self._shown_at = self._arrived_at = self._loop.time()
        self._listeners: dict[int, Mapping[bytes, Listener]] = {}
        self._incoming: dict[int, _Incoming] = {}

    def listen(self, channel: int, listeners: Mapping[bytes, Listener]) -> None:
        """From now on these methods are theirs, until the channel closes. None may raise."""
        self._listeners[channel] = listeners

    def at_eof(self) -> bool:
        return self._reader.at_eof() and self._begin == len(self._arrived) and self._shown == len(self._frame)

    async def readexactly(self, size: int) -> bytes:
        if self._shown == len(self._frame):
            self._frame, self._shown = await self._next(), 0
        start, self._shown = self._shown, self._shown + size
        return self._frame[start : self._shown]

    async def _next(self) -> bytes:
        """The next frame for the library."""
        while True:
            while len(self._arrived) < (end := self._end_of_frame()):
                await self._arrive(end - len(self._arrived))
            frame, self._begin = self._arrived[self._begin : end], end
            if frame[-1:] != _END or not self._is_taken(frame):  # no frame at all: the library says so
                self._shown_at = self._arrived_at
                return frame
            if self._arrived_at - self._shown_at > SHOWN_EVERY_SECONDS:
                self._shown_at = self._arrived_at
                return _HEARTBEAT

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
        self._arrived_at = self._loop.time()

    def _is_taken(self, frame: bytes) -> bool:
        kind, channel, _ = _HEAD.unpack_from(frame)
        if kind == METHOD:
            return self._is_method_taken(channel, frame)
        incoming = self._incoming.get(channel)
        if incoming is None:
            return False
        if kind == HEADER:
            incoming.missing = _SIZES.unpack_from(frame, _HEAD.size)[2]
            incoming.properties = frame[_HEAD.size + SIZES : -1]
        else:
            incoming.parts.append(frame[_HEAD.size : -1])
            incoming.missing -= len(incoming.parts[-1])
        if incoming.missing <= 0:
            del self._incoming[channel]
            incoming.listener(incoming.arguments, incoming.properties, b"".join(incoming.parts))
        return True

    def _is_method_taken(self, channel: int, frame: bytes) -> bool:
        method, arguments = frame[7:11], frame[11:-1]
        if method in _CHANNEL_ENDS:
            self._listeners.pop(channel, None)
            self._incoming.pop(channel, None)
        listener = self._listeners.get(channel, {}).get(method)
        if listener is None:
            return False
        if method in _WITHOUT_CONTENT:
            listener(arguments, b"", b"")
        else:
            self._incoming[channel] = _Incoming(listener, arguments)
        return True


def delivered(arguments: bytes, properties: bytes, body: bytes) -> Delivered:
    """What `DELIVER` tells."""
    at = 1 + arguments[0]
    tag, _ = _TAG_AND_FLAG.unpack_from(arguments, at)
    exchange, key, _ = _address(arguments, at + _TAG_AND_FLAG.size)
    return Delivered(tag, exchange, key, properties, body)


def got(arguments: bytes, properties: bytes, body: bytes) -> Delivered:
    """What `GET_OK` tells."""
    tag, _ = _TAG_AND_FLAG.unpack_from(arguments)
    exchange, key, end = _address(arguments, _TAG_AND_FLAG.size)
    return Delivered(tag, exchange, key, properties, body, int.from_bytes(arguments[end:]))


def confirmed(arguments: bytes) -> tuple[int, bool]:
    """What `ACK` and `NACK` tell: a publish's number, and whether it goes for all before it too."""
    tag, flags = _TAG_AND_FLAG.unpack_from(arguments)
    return tag, bool(flags & 1)


def _address(arguments: bytes, at: int) -> tuple[str, bytes, int]:
    """Exchange and routing key, and where they end."""
    middle = at + 1 + arguments[at]
    end = middle + 1 + arguments[middle]
    return legible(arguments[at + 1 : middle]), arguments[middle + 1 : end], end


def returned(arguments: bytes, properties: bytes) -> tuple[str, bytes, bytes]:
    """What `RETURN` tells: exchange, routing key and message id of what nobody is bound for."""
    exchange, key, _ = _address(arguments, 3 + arguments[2])
    return exchange, key, message_id(properties)


def message_id(properties: bytes) -> bytes:
    for name, start, end in parts_of(properties):
        if name == MESSAGE_ID:
            return properties[start + 1 : end]
    return b""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _HEAD.pack(kind, channel, len(payload)) + payload + _END


def ack(delivery_tag: int, channel: int, *, multiple: bool = False) -> bytes:
    """The frame of `basic.ack`."""
    return frame(METHOD, channel, _ACKED.pack(_BASIC, 80, delivery_tag, multiple))


def get(queue: str, channel: int) -> bytes:
    """The frame of `basic.get`; what it gets is to be acked."""
    return frame(METHOD, channel, _basic(70) + bytes(2) + short(queue) + bytes(1))


@lru_cache(maxsize=128)
def publish(exchange: str, routing_key: bytes, channel: int) -> bytes:
    """The frame of `basic.publish`. There are few routing keys, but for those of dead letters."""
    return frame(METHOD, channel, _PUBLISH + short(exchange) + short(routing_key) + _MANDATORY)


def content(properties: bytes, body: bytes, channel: int, longest: int) -> bytes:
    """The frames of a message, none with a payload beyond the longest."""
    header = _SIZES.pack(_BASIC, 0, len(body)) + properties
    parts = [body[first : first + longest] for first in range(0, len(body), longest)]
    return b"".join([frame(HEADER, channel, header), *[frame(BODY, channel, part) for part in parts]])
