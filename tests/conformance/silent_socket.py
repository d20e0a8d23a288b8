"""A connection with one channel that delivers only the frames a test asks for."""

import asyncio
from collections.abc import Mapping

from worker.adapters.amqp.codec.dispatch import Listener
from worker.adapters.amqp.codec.frames import RETURN


class Socket:
    """Connection and channel in one: records the sent frames and the listeners."""

    number, max_payload, is_closed = 1, 0, False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.listeners: Mapping[bytes, Listener] = {}

    def listen(self, _channel: int, listeners: Mapping[bytes, Listener]) -> None:
        self.listeners = listeners

    def on_closed(self, _tell: object) -> None:
        """Never calls back."""

    async def set_prefetch(self, _count: int) -> None:
        """Is answered at once."""

    async def consume(self, _queue: str, _tag: str) -> None:
        """Is answered at once, and delivers nothing."""

    def send(self, frames: bytes) -> None:
        self.sent.append(frames)

    async def unblocked(self) -> None:
        """Never returns."""
        await asyncio.get_running_loop().create_future()

    def confirms(self, method: bytes, tag: int, *, multiple: bool = False) -> None:
        self.listeners[method](tag.to_bytes(8) + bytes([multiple]), b"", b"")

    def returns(self, message_id: bytes) -> None:
        """Returns a message that was published to exchange `x` with routing key `k`."""
        flags, why = (1 << 7).to_bytes(2), b"\1\x38\x08NO_ROUTE"
        self.listeners[RETURN](why + b"\1x\1k", flags + bytes([len(message_id)]) + message_id, b"")
