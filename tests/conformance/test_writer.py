"""Frames written in one iteration of the event loop are sent together, and none is lost."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from worker.adapters.amqp.writer import CoalescingWriter


@dataclass
class Socket:
    """Records the calls of a `StreamWriter`."""

    calls: list[bytes | str] = field(default_factory=list)
    closed: bool = False

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.calls.append("closed")

    async def drain(self) -> None:
        self.calls.append("drained")


def writing_to(socket: Socket) -> CoalescingWriter:
    return CoalescingWriter(cast(asyncio.StreamWriter, socket))


async def test_writes_of_one_loop_iteration_become_one_write():
    socket = Socket()
    writer = writing_to(socket)
    writer.write(b"a")
    writer.write(b"b")
    assert socket.calls == []
    await asyncio.sleep(0)
    writer.write(b"c")
    await asyncio.sleep(0)
    assert socket.calls == [b"ab", b"c"]


async def test_drain_and_close_flush_earlier_writes():
    socket = Socket()
    writer = writing_to(socket)
    writer.write(b"a")
    await writer.drain()
    writer.write(b"b")
    writer.close()
    await asyncio.sleep(0)
    assert socket.calls == [b"a", "drained", b"b", "closed"]


async def test_writes_to_a_closed_socket_are_dropped():
    socket = Socket()
    writer = writing_to(socket)
    writer.write(b"a")
    socket.closed = True
    await asyncio.sleep(0)
    assert socket.calls == []
