"""Frames written in one turn of the event loop are sent together, and none is lost."""

import asyncio
from dataclasses import dataclass, field

from worker.adapters.amqp.writer import CoalescingWriter


@dataclass
class Socket:
    """What a `StreamWriter` was told."""

    told: list[bytes | str] = field(default_factory=list)
    closed: bool = False

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.told.append("closed")

    async def drain(self) -> None:
        self.told.append("drained")


async def test_what_is_written_in_one_turn_is_one_write():
    socket = Socket()
    writer = CoalescingWriter(socket)
    writer.write(b"a")
    writer.write(b"b")
    assert socket.told == []
    await asyncio.sleep(0)
    writer.write(b"c")
    await asyncio.sleep(0)
    assert socket.told == [b"ab", b"c"]


async def test_a_drain_and_a_close_send_what_was_written_before_them():
    socket = Socket()
    writer = CoalescingWriter(socket)
    writer.write(b"a")
    await writer.drain()
    writer.write(b"b")
    writer.close()
    await asyncio.sleep(0)
    assert socket.told == [b"a", "drained", b"b", "closed"]


async def test_what_can_no_longer_be_sent_disturbs_nobody():
    socket = Socket()
    writer = CoalescingWriter(socket)
    writer.write(b"a")
    socket.closed = True
    await asyncio.sleep(0)
    assert socket.told == []
