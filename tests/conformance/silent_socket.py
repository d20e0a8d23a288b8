"""A connection with one channel that sends only what a test tells it to."""

import asyncio
from collections.abc import Mapping

from worker.adapters.amqp.codec.dispatch import Listener
from worker.adapters.amqp.codec.frames import RETURN


class Socket:
    """Connection and channel in one: records what was sent, and who listens."""

    number, max_payload, is_closed = 1, 0, False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.listeners: Mapping[bytes, Listener] = {}

    def listen(self, _channel: int, listeners: Mapping[bytes, Listener]) -> None:
        self.listeners = listeners

    def on_closed(self, _tell: object) -> None:
        """Never."""

    def send(self, frames: bytes) -> None:
        self.sent.append(frames)

    async def unblocked(self) -> None:
        """Never."""
        await asyncio.get_running_loop().create_future()

    def confirms(self, method: bytes, tag: int, *, multiple: bool = False) -> None:
        self.listeners[method](tag.to_bytes(8) + bytes([multiple]), b"", b"")

    def returns(self, message_id: bytes) -> None:
        """What was sent to `x` under `k`."""
        flags, why = (1 << 7).to_bytes(2), b"\1\x38\x08NO_ROUTE"
        self.listeners[RETURN](why + b"\1x\1k", flags + bytes([len(message_id)]) + message_id, b"")
