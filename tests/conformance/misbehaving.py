"""A scripted HTTP server that can send any bytes and close its connection at any point."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Reply = Callable[[asyncio.StreamWriter], Awaitable[bool]]
"""Writes a response. Returns True to keep the connection open."""


@dataclass(frozen=True)
class Asked:
    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """Answers the n-th request with the n-th reply, and all later requests with the last reply."""

    replies: list[Reply]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    open_requests: int = 0
    most_open_requests: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def waiting(self, requests: int) -> None:
        """Returns once this number of requests waits for a response."""
        while self.open_requests < requests:
            self.arrived.clear()
            await self.arrived.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep and (asked := await _request(reader)):
            self.asked.append(asked)
            reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
            self.open_requests += 1
            self.most_open_requests = max(self.most_open_requests, self.open_requests)
            self.arrived.set()
            try:
                keep = await reply(writer)
            finally:
                self.open_requests -= 1
        writer.close()


@asynccontextmanager
async def misbehaving(*replies: Reply) -> AsyncIterator[Server]:
    server, connections = Server(list(replies)), set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await server.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)


def raw(*lines: str, body: bytes = b"") -> Reply:
    """A reply of exactly these lines and this body."""

    async def reply(writer: asyncio.StreamWriter) -> bool:
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)
        await writer.drain()
        return True

    return reply


def answer(status: str, body: bytes = b"", *headers: str) -> Reply:
    """A complete response: a status such as `201 Created`, a body and headers."""
    length = () if status.startswith("204") else (f"Content-Length: {len(body)}",)
    return raw(f"HTTP/1.1 {status}", "Content-Type: application/json", *length, *headers, body=body)


async def hang_up(_writer: asyncio.StreamWriter) -> bool:
    return False


async def reset(writer: asyncio.StreamWriter) -> bool:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def silence(_writer: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ")
    fields = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(asyncio.get_running_loop().time(), method, path, headers, body)
