"""Sorts incoming frames: those with a listener are handled here, all others go to the client library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worker.adapters.amqp.codec.frames import (
    ACK,
    BLOCKED,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CONTENT_HEAD,
    GET_EMPTY,
    HEAD,
    HEADER,
    METHOD,
    NACK,
    UNBLOCKED,
)

_WITHOUT_CONTENT = {GET_EMPTY, ACK, NACK, BLOCKED, UNBLOCKED}
_CHANNEL_ENDS = {CHANNEL_CLOSE, CHANNEL_CLOSE_OK}

Listener = Callable[[bytes, bytes, bytes], None]
"""Called with a method's arguments and, for methods with content, the message's properties and body."""


@dataclass(slots=True)
class _Incoming:
    """A message that has not arrived completely."""

    listener: Listener
    arguments: bytes
    properties: bytes = b""
    missing: int = 0
    parts: list[bytes] = field(default_factory=list)


class Dispatcher:
    """Passes whole methods, with their messages, to the listeners."""

    def __init__(self) -> None:
        self._listeners: dict[int, Mapping[bytes, Listener]] = {}
        self._incoming: dict[int, _Incoming] = {}

    def listen(self, channel: int, listeners: Mapping[bytes, Listener]) -> None:
        """Registers listeners by method, until the channel closes. A listener must not raise."""
        self._listeners[channel] = listeners

    def take(self, frame: bytes) -> bool:
        """Consumes a whole frame if a listener wants it; False leaves it to the client library."""
        kind, channel, _ = HEAD.unpack_from(frame)
        if kind == METHOD:
            return self._take_method(channel, frame)
        incoming = self._incoming.get(channel)
        if incoming is None:
            return False
        if kind == HEADER:
            incoming.missing = CONTENT_HEAD.unpack_from(frame, HEAD.size)[2]
            incoming.properties = frame[HEAD.size + CONTENT_HEAD.size : -1]
        else:
            incoming.parts.append(frame[HEAD.size : -1])
            incoming.missing -= len(incoming.parts[-1])
        if incoming.missing <= 0:
            del self._incoming[channel]
            incoming.listener(incoming.arguments, incoming.properties, b"".join(incoming.parts))
        return True

    def _take_method(self, channel: int, frame: bytes) -> bool:
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
