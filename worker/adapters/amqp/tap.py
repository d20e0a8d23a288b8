"""Reads the socket for the client library, and takes the frames that this package handles itself."""

import asyncio
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Mapping

from worker.adapters.amqp.codec.dispatch import Dispatcher, Listener
from worker.adapters.amqp.codec.frames import (
    FRAME_END,
    FRAME_OVERHEAD,
    HEAD,
    HEARTBEAT,
    close_text,
)

READ_BYTES = 2**16

LAST_FRAME_KIND = HEARTBEAT[:1]
"""The types of frames are 1, 2, 3 and 8."""

HEARTBEAT_EVERY_SECONDS = 1.0
"""Interval of made-up heartbeats while only frames with listeners arrive: aiormq takes a broker without
frames for dead."""


class UnexpectedRead(AssertionError):
    """aiormq reads in a pattern that `FrameTap` does not support: see README.md, "Frame by frame"."""


class OtherProtocol(ConnectionError):
    """The first bytes of the peer are no AMQP."""


_OTHER_PROTOCOLS = {
    b"HTTP": "that port speaks HTTP, not AMQP: write the port of AMQP, usually 5672",
    b"\x15\x03": "that port speaks TLS: write amqps:// in AMQP_URL",
}


class FrameTap:
    """Duck-typed `StreamReader` for aiormq; frames with a listener are consumed here and never reach it.

    aiormq reads a frame as 1, 6 and n + 1 bytes. Any pattern that stays within a frame is served; a read
    across its end raises `UnexpectedRead`. `closed_with` is the broker's reason for closing the connection:
    aiormq drops that text during the handshake.
    """

    def __init__(self, reader: StreamReader) -> None:
        self.closed_with: str | None = None
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._dispatcher = Dispatcher()
        self._buffer = b""
        self._parsed = 0  # bytes of the buffer
        self._frame = b""  # aiormq reads this one
        self._served = 0  # bytes of that frame
        self._served_at = self._received_at = self._loop.time()

    def listen(self, channel: int, listeners: Mapping[bytes, Listener]) -> None:
        """Consumes these methods until the channel closes. A listener must not raise."""
        self._dispatcher.listen(channel, listeners)

    def at_eof(self) -> bool:
        """Whether the stream has ended and aiormq has read all of its frames."""
        return (
            self._reader.at_eof() and self._parsed == len(self._buffer) and self._served == len(self._frame)
        )

    async def readexactly(self, size: int) -> bytes:
        """The next bytes of a frame for aiormq; raises `IncompleteReadError` or `UnexpectedRead`."""
        if self._served == len(self._frame):
            self._frame, self._served = await self._next(), 0
        start, self._served = self._served, self._served + size
        if self._served > len(self._frame):
            left = len(self._frame) - start
            raise UnexpectedRead(f"aiormq asked for {size} bytes of a frame that has {left} left")
        return self._frame[start : self._served]

    async def read(self, _size: int = -1) -> bytes:
        """Raises: aiormq has a call for bytes that are no frame, but never reaches it."""
        raise UnexpectedRead("aiormq reads without a size")

    async def _next(self) -> bytes:
        """The next frame for aiormq."""
        while True:
            while len(self._buffer) < (end := self._end_of_frame()):
                await self._receive(end - len(self._buffer))
            frame, self._parsed = self._buffer[self._parsed : end], end
            if frame[-1:] != FRAME_END or not self._dispatcher.take(frame):  # no frame: aiormq raises
                self._served_at = self._received_at
                self.closed_with = close_text(frame) or self.closed_with
                return frame
            if self._received_at - self._served_at > HEARTBEAT_EVERY_SECONDS:
                self._served_at = self._received_at
                return HEARTBEAT

    def _end_of_frame(self) -> int:
        """The end of the frame in the buffer; of its head, while that is incomplete."""
        head = self._buffer[self._parsed : self._parsed + HEAD.size]
        if head[:1] > LAST_FRAME_KIND:
            for begin, what in _OTHER_PROTOCOLS.items():
                if head.startswith(begin):
                    raise OtherProtocol(what)
            if head.startswith(b"AMQP"):  # the broker speaks another version
                return self._parsed + HEAD.size
        if len(head) < HEAD.size:
            return self._parsed + HEAD.size
        return self._parsed + int.from_bytes(head[3:]) + FRAME_OVERHEAD

    async def _receive(self, missing: int) -> None:
        if missing > READ_BYTES:
            more = await self._reader.readexactly(missing)
        elif not (more := await self._reader.read(READ_BYTES)):
            raise IncompleteReadError(self._buffer[self._parsed :], missing)
        self._buffer, self._parsed = self._buffer[self._parsed :] + more, 0
        self._received_at = self._loop.time()
