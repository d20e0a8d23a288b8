"""A fault proxy between a client and any server, RabbitMQ or PostgreSQL.

A fault that affects nothing fails its test at the end of the block. Refused connections and resets are not
counted.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TypeVar

from yarl import URL

FRAME_HEADER = struct.Struct(">BHI")
METHOD_FRAME = 1
BASIC_ACK = struct.pack(">HH", 60, 80)


class FaultProxy:
    """Passes everything on until a fault is set. Data that it delays arrives later, as with TCP.

    `unspent` has the names of the faults that have not affected anything yet.
    """

    def __init__(self, target: URL) -> None:
        self._target = target
        self._listening: asyncio.Server | None = None
        self._port = 0
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_seconds = 0.0
        self.unspent: set[str] = set()
        self._accepted = 0
        self._accept = asyncio.Condition()

    @property
    def url(self) -> str:
        return str(self._target.with_port(self._port))

    @asynccontextmanager
    async def connected_anew(self, times: int = 1) -> AsyncIterator[None]:
        """Waits at the end of the block until `times` more connections were made than before it."""
        enough = self._accepted + times
        yield
        async with self._accept:
            await self._accept.wait_for(lambda: self._accepted >= enough)

    async def listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._listening.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuses new connections; those that exist stay."""
        if self._listening is not None:
            self._listening.close()

    def reset(self) -> None:
        """Ends every connection with a TCP reset."""
        for writers in list(self._connections.values()):
            for writer in writers:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    def black_hole(self) -> None:
        """Holds up all data in both directions; the connections stay open."""
        self.unspent.add("black hole")
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Delays each piece of data."""
        self.unspent.add("delay")
        self._delay_seconds = seconds

    def heal(self) -> None:
        """Ends all faults but a refusal, which `listen` ends."""
        self._delay_seconds = 0.0
        self._flowing.set()

    async def end(self) -> None:
        self.refuse()
        self.heal()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = [writer]
        async with self._accept:
            self._accepted += 1
            self._accept.notify_all()
        try:
            server = await asyncio.open_connection(self._target.host, self._target.port)
            self._connections[task].append(server[1])
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pass_on(reader, server[1]))
                pumps.create_task(self._pass_back(server[0], writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            for one in self._connections.pop(task):
                one.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            await self._write(writer, data)
        raise ConnectionError

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pass_on(reader, writer)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._delay_seconds:
            self.unspent.discard("delay")
        if not self._flowing.is_set():
            self.unspent.discard("black hole")
        await asyncio.sleep(self._delay_seconds)
        await self._flowing.wait()
        writer.write(data)
        await writer.drain()


class BrokerProxy(FaultProxy):
    """Tells the frames of the broker apart."""

    def __init__(self, target: URL) -> None:
        super().__init__(target)
        self._confirming = True
        self._frames_left: int | None = None

    def reset_after(self, frames: int) -> None:
        """Resets the connections once, after this many frames from the broker."""
        self.unspent.add("reset after frames")
        self._frames_left = frames

    def withhold_confirms(self) -> None:
        """Drops publisher confirms; everything else arrives."""
        self.unspent.add("withheld confirms")
        self._confirming = False

    def heal(self) -> None:
        super().heal()
        self._confirming = True

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                header = await reader.readexactly(FRAME_HEADER.size)
                kind, _, size = FRAME_HEADER.unpack(header)
                payload = await reader.readexactly(size + 1)
                self._count_down()
                if not self._confirming and kind == METHOD_FRAME and payload.startswith(BASIC_ACK):
                    self.unspent.discard("withheld confirms")
                else:
                    await self._write(writer, header + payload)
        raise ConnectionError

    def _count_down(self) -> None:
        if self._frames_left is not None:
            self._frames_left -= 1
            if self._frames_left < 0:
                self._frames_left = None
                self.unspent.discard("reset after frames")
                self.reset()


class DatabaseProxy(FaultProxy):
    """Recognises what PostgreSQL has executed.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, target: URL) -> None:
        super().__init__(target)
        self._lost: bytes | None = None

    def lose_response(self, tag: str = "COMMIT") -> None:
        """Resets the connections once, in place of the response to the next statement with this tag.

        The client cannot know that the statement was executed.
        """
        self.unspent.add("lost response")
        text = tag.encode() + b"\0"
        self._lost = b"C" + struct.pack(">I", len(text) + 4) + text  # CommandComplete

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if self._lost is not None and self._lost in data:
                self._lost = None
                self.unspent.discard("lost response")
                self.reset()
            await self._write(writer, data)
        raise ConnectionError


P = TypeVar("P", bound=FaultProxy)


@asynccontextmanager
async def _running(proxy: P) -> AsyncIterator[P]:
    await proxy.listen()
    try:
        yield proxy
        assert not proxy.unspent, f"these faults affected nothing: {sorted(proxy.unspent)}"
    finally:
        await proxy.end()


def fault_proxy(broker_url: str) -> AbstractAsyncContextManager[BrokerProxy]:
    """Runs a proxy in front of the RabbitMQ at this URL."""
    return _running(BrokerProxy(URL(broker_url)))


def server_proxy(url: str) -> AbstractAsyncContextManager[FaultProxy]:
    """Runs a proxy in front of any server."""
    return _running(FaultProxy(URL(url)))


def database_proxy(url: str) -> AbstractAsyncContextManager[DatabaseProxy]:
    """Runs a proxy in front of the PostgreSQL at this URL, which names host and port."""
    return _running(DatabaseProxy(URL(url)))
