"""Writes a response to the connection, whole or damaged by a fault."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

JSON = "application/json"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_DRIPS = 10


def encode(body: Mapping[str, Any] | None) -> bytes:
    """Encode a JSON body."""
    return b"" if body is None else json.dumps(body).encode()


def json_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    """Return a complete JSON response."""
    response = web.Response(status=status, body=body or None, headers=headers)
    response.headers["Content-Type"] = JSON
    return response


def error_page(status: int) -> web.StreamResponse:
    """Return an HTML error page, as a proxy would send it."""
    reason = HTTPStatus(status).phrase
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1></body></html>"
    return web.Response(status=status, text=page, content_type="text/html")


def half_json(status: int, body: bytes) -> web.StreamResponse:
    """Send half of the document with a matching Content-Length."""
    return json_response(status, body[: len(body) // 2])


class _RawResponse(web.StreamResponse):
    """A response that writes its own bytes, so that it can break HTTP."""

    def __init__(self, status: int, body: bytes = b"", content_length: int = 0) -> None:
        super().__init__(status=status)
        self._sent = body
        self._content_length = content_length

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        await self.write_to(request)
        return None

    async def write_to(self, request: web.BaseRequest) -> None:
        """Write everything that is to be sent."""
        raise NotImplementedError

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: everything has been written."""

    def head(self) -> bytes:
        """Return the status line and headers."""
        reason = HTTPStatus(self.status).phrase
        lines = (
            f"HTTP/1.1 {self.status} {reason}",
            f"Content-Type: {JSON}",
            f"Content-Length: {self._content_length}",
        )
        return "\r\n".join((*lines, "", "")).encode()


class Reset(_RawResponse):
    """Reset the TCP connection, or close it after the given bytes."""

    async def write_to(self, request: web.BaseRequest) -> None:
        """Cut the connection."""
        transport = request.transport
        if transport is None:
            return
        if self._sent:
            transport.write(self.head() + self._sent)
            await request.writer.drain()
        else:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.force_close()
        transport.close() if self._sent else transport.abort()


class BodyAfter204(_RawResponse):
    """A 204 with a body, which RFC 9110 forbids, on a connection that stays open."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return True

    async def write_to(self, request: web.BaseRequest) -> None:
        """Write the prepared bytes."""
        if request.transport is not None:
            request.transport.write(self.head() + self._sent)


def reset() -> web.StreamResponse:
    """Reset the TCP connection without sending anything."""
    return Reset(200)


def cut_off(status: int, body: bytes) -> web.StreamResponse:
    """Send half of the document with the Content-Length of the whole, and close."""
    return Reset(status, body[: len(body) // 2] or b" ", len(body) or 2)


def body_after_204() -> web.StreamResponse:
    """Send `{}` behind a 204."""
    return BodyAfter204(204, b"{}", 2)


async def drip(request: web.BaseRequest, status: int, body: bytes, seconds: float) -> web.StreamResponse:
    """Send the body in small pieces, spread over `seconds`."""
    response = web.StreamResponse(status=status)
    response.headers["Content-Type"] = JSON
    response.content_length = len(body)
    await response.prepare(request)
    size = max(len(body) // _DRIPS, 1)
    for start in range(0, len(body), size):
        await asyncio.sleep(seconds / _DRIPS)
        await response.write(body[start : start + size])
    return response
