"""Reads the bodies of requests: none too large or too slowly, and all of them within one budget of memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from contracts.intake import MAX_BODY_BYTES
from worker.service.intake.replies import Refused, refused, try_again
from worker.telemetry.metrics import Refusal

READ_SECONDS = 10.0
"""A sender that takes longer for a body is refused, so that slow ones cannot use up the connections."""
MAX_HELD_BYTES = 64 << 20
"""The bodies in memory, of all requests together."""


class Bodies:
    """The bodies in memory."""

    def __init__(self, read_seconds: float = READ_SECONDS, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._read_seconds = read_seconds
        self._max_held = max_held_bytes
        self._held = 0

    @asynccontextmanager
    async def of(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body of a request, which counts until the end of the block. Raises `Refused`."""
        body = bytearray()
        try:
            if request.content.is_eof():  # it came with the headers, as small ones do
                self._add(body, request.content.read_nowait())
            else:
                await self._read(request, body)
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def measure(self, request: web.BaseRequest) -> None:
        """Reads a body of unknown length and drops it; raises `Refused` if it is too large."""
        size = 0
        await self._expect(request)
        try:
            async with asyncio.timeout(self._read_seconds):
                while size <= MAX_BODY_BYTES and (chunk := await request.content.readany()):
                    size += len(chunk)
        except TimeoutError:
            raise _slow() from None
        if size > MAX_BODY_BYTES:
            raise too_large()

    async def _read(self, request: web.BaseRequest, body: bytearray) -> None:
        await self._expect(request)
        try:
            async with asyncio.timeout(self._read_seconds):
                while chunk := await request.content.readany():
                    self._add(body, chunk)
        except TimeoutError:
            raise _slow() from None

    def _add(self, body: bytearray, chunk: bytes) -> None:
        if len(body) + len(chunk) > MAX_BODY_BYTES:
            raise too_large()
        if self._held + len(chunk) > self._max_held:
            raise try_again(503, Refusal.BUSY, "too many bytes of requests are in memory; try again")
        self._held += len(chunk)
        body += chunk

    async def _expect(self, request: web.BaseRequest) -> None:
        """Asks for the body of a sender that waits for that (RFC 9110, section 10.1.1), as curl does."""
        if request.headers.get("Expect", "").strip().lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # no part of the response was sent


def check_length(request: web.BaseRequest) -> None:
    """Raises `Refused` for a body that says that it is too large."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large()


def too_large() -> Refused:
    """The refusal of a body above the limit."""
    return refused(413, Refusal.TOO_LARGE, f"the body has more than {MAX_BODY_BYTES:,} bytes")


def _slow() -> Refused:
    return refused(408, Refusal.SLOW, "the body did not arrive in time", headers={"Connection": "close"})
