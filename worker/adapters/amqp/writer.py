"""Writes to the socket: frames written in one turn of the event loop are sent together.

Otherwise each frame is a system call, which under load is a tenth of the worker's CPU.
"""

import asyncio


class CoalescingWriter:
    """Duck-typed `StreamWriter` for aiormq: the nine members that it uses."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._pending: list[bytes] = []

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    def write(self, data: bytes) -> None:
        """Sends the bytes at the end of this turn of the loop, after those written before."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(data)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and not self._writer.is_closing():  # a lost connection shows in the reader
            self._writer.write(b"".join(pending))

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
