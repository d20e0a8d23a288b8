"""A forward proxy with a login: `CONNECT` for https, absolute URLs for http."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from yarl import URL

PASSWORD = "pa55-of-the-proxy"
LOGIN = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()


@dataclass
class ForwardProxy:
    """Passes everything on to one local port, whatever host is asked for. `asked`: host and port of each."""

    to_port: int
    port: int = 0
    asked: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)

    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def end(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.logins.append(headers.get("proxy-authorization"))
        if self.logins[-1] != LOGIN:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        self.asked.append(target if method == "CONNECT" else f"{URL(target).host}:{URL(target).port}")
        try:
            server = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            kept = [line for line in lines if not line.lower().startswith("proxy-")]
            head = "\r\n".join([f"{method} {URL(target).raw_path_qs} HTTP/1.1", *kept])
            server[1].write(head.encode())
        try:
            await asyncio.gather(_pass_on(reader, server[1]), _pass_on(server[0], writer))
        finally:
            server[1].transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def forward_proxy(to_port: int) -> AsyncIterator[ForwardProxy]:
    """Runs a proxy for the time of the block."""
    proxy = ForwardProxy(to_port)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        await proxy.end()
