"""Writes to the socket: sends the frames of one turn of the event loop together.

One system call per frame would cost a tenth of the worker's CPU under load.
"""

import asyncio


class CoalescingWriter:
    """Duck-typed `StreamWriter` for aiormq: the nine members that it uses."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._pending: list[bytes] = []

    @property
    def transport(self) -> asyncio.WriteTransport:
        """The transport of the socket."""
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
        """Sends pending bytes at once, and waits while the socket's buffer is full."""
        self._flush()
        await self._writer.drain()

    def can_write_eof(self) -> bool:
        """Whether the transport supports `write_eof`; TLS does not."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """Sends pending bytes and closes the sending side."""
        self._flush()
        self._writer.write_eof()

    def close(self) -> None:
        """Sends pending bytes and closes the socket."""
        self._flush()
        self._writer.close()

    def is_closing(self) -> bool:
        """Whether the socket is closed or closing."""
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        """Returns once the socket is closed."""
        await self._writer.wait_closed()
