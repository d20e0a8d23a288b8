"""The socket to the broker: what is written in one turn of the event loop is sent together.

Without it each frame is a system call of its own, which under load is a tenth of the worker's CPU.
"""

import asyncio
from typing import Any, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from worker.adapters.amqp.codec.frames import DividingReader


class GatheringWriter:
    """As much of a `StreamWriter` as the client library uses."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._gathered: list[bytes] = []

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    def write(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(data)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and not self._writer.is_closing():  # else the reader has noticed, or will
            self._writer.write(b"".join(gathered))

    async def drain(self) -> None:
        self._flush()
        await self._writer.drain()

    def can_write_eof(self) -> bool:
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        self._flush()
        self._writer.write_eof()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def is_closing(self) -> bool:
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        await self._writer.wait_closed()


class Wire(TransportFactory):
    """Keeps hold of the socket: aiormq has no way to let go of a peer that does not answer."""

    reader: DividingReader | None = None
    writer: GatheringWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self.reader, self.writer = DividingReader(reader), GatheringWriter(writer)
        return cast(asyncio.StreamReader, self.reader), cast(asyncio.StreamWriter, self.writer)
