"""Putting an answer on the wire, whole or the way a fault wants it seen."""

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
    return b"" if body is None else json.dumps(body).encode()


def whole(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    response = web.Response(status=status, body=body or None, headers=headers)
    response.headers["Content-Type"] = JSON
    return response


def error_page(status: int) -> web.StreamResponse:
    reason = HTTPStatus(status).phrase
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1></body></html>"
    return web.Response(status=status, text=page, content_type="text/html")


def half_json(status: int, body: bytes) -> web.StreamResponse:
    """Promise exactly what is sent, and send half of the document."""
    return whole(status, body[: len(body) // 2])


class _Unfinished(web.StreamResponse):
    """A response that writes to the connection by itself, past every rule of HTTP."""

    def __init__(self, status: int, body: bytes = b"", promised: int = 0) -> None:
        super().__init__(status=status)
        self._sent = body
        self._promised = promised

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        await self.write_to(request)
        return None

    async def write_to(self, request: web.BaseRequest) -> None:
        raise NotImplementedError

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: all that is to be sent has been written."""

    def head(self) -> bytes:
        reason = HTTPStatus(self.status).phrase
        lines = (
            f"HTTP/1.1 {self.status} {reason}",
            f"Content-Type: {JSON}",
            f"Content-Length: {self._promised}",
        )
        return "\r\n".join((*lines, "", "")).encode()


class Reset(_Unfinished):
    """Break the connection off with a TCP reset, after the bytes given (if any)."""

    async def write_to(self, request: web.BaseRequest) -> None:
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


class BodyAfter204(_Unfinished):
    """A 204 followed by a body, on a connection that stays open."""

    @property
    def keep_alive(self) -> bool:
        return True

    async def write_to(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            request.transport.write(self.head() + self._sent)


def reset() -> web.StreamResponse:
    return Reset(200)


def cut_off(status: int, body: bytes) -> web.StreamResponse:
    """Promise the whole document, send half of it, and close."""
    return Reset(status, body[: len(body) // 2] or b" ", len(body) or 2)


def body_after_204() -> web.StreamResponse:
    return BodyAfter204(204, b"{}", 2)


async def drip(request: web.BaseRequest, status: int, body: bytes, seconds: float) -> web.StreamResponse:
    """Send the body in small pieces over so many seconds."""
    response = web.StreamResponse(status=status)
    response.headers["Content-Type"] = JSON
    response.content_length = len(body)
    await response.prepare(request)
    size = max(len(body) // _DRIPS, 1)
    for start in range(0, len(body), size):
        await asyncio.sleep(seconds / _DRIPS)
        await response.write(body[start : start + size])
    return response
