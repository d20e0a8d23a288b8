"""The gate decides whether messages are consumed. While it is blocked, they stay in the queue.

It is cheaper to leave a message that cannot succeed now in the queue than to consume, retry and park it: a
parked message loses its place, and a retry costs a call.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from worker.flow.waiting import WaitingRoom
from worker.ports import Clock
from worker.telemetry.events import Telemetry

RELEASE_AFTER_SECONDS = 600.0
"""After this long a blocked consumer returns its unacked messages. RabbitMQ closes the channel of a consumer
that does not ack for 30 minutes by default: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout"""

SAME_BLOCK_WITHIN_SECONDS = 60.0
"""A gate that opens for no longer than this (for a half-open circuit) is still within the same block. The
messages already consumed have waited all along, so the time until their release runs on."""


class Pausable(Protocol):
    """The part of a consumer that the gate controls."""

    async def pause(self) -> None:
        """See `Consumer.pause` in `worker/ports.py`."""

    async def resume(self) -> None:
        """See `Consumer.resume`."""

    async def release(self) -> None:
        """See `Consumer.release`."""


@dataclass
class Gate:
    """Pauses the consumer while there is at least one block."""

    clock: Clock
    telemetry: Telemetry
    waiting: WaitingRoom
    _blocks: dict[str, str] = field(default_factory=dict)
    _returning: bool = False
    """Whether the unacked messages are to be returned without delay."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def blocks(self) -> Mapping[str, str]:
        """The reason of each block, by its blocker. Empty while messages are consumed."""
        return self._blocks

    def block(self, blocker: str, reason: str, *, affects_all: bool = True) -> None:
        """Adds a block, or changes the reason of the one that the blocker already has.

        `affects_all`: all consumed messages wait for the end of the same outage. Parking some would not help,
        so none is evicted from the waiting room meanwhile.
        """
        if blocker in self._blocks:
            self._blocks[blocker] = reason
            return
        self.telemetry.intake_held(blocker, reason)
        self._blocks[blocker] = reason
        self._changed.set()
        if affects_all:
            self.waiting.global_outages.add(blocker)

    def unblock(self, blocker: str) -> None:
        """Removes the block of this blocker, if it has one, and ends the pauses of waiting messages."""
        if self._blocks.pop(blocker, None) is None:
            return
        self.telemetry.intake_lifted(blocker)
        self._changed.set()
        self.waiting.global_outages.discard(blocker)
        self.waiting.end_pauses()

    def return_messages(self) -> None:
        """Returns the unacked messages at once, for other workers too. It pauses the consumer for that."""
        self._returning = True
        self._changed.set()

    async def control(self, consumer: Pausable) -> None:
        """Pauses and resumes the consumer as blocks come and go. Never returns."""
        release_at: float | None = None  # until messages are consumed again there is nothing to release
        opened_at = 0.0
        while True:
            await self._until(lambda: bool(self._blocks) or self._returning)
            now = self.clock.monotonic()
            if release_at is None or now - opened_at > SAME_BLOCK_WITHIN_SECONDS:
                release_at = now + RELEASE_AFTER_SECONDS
            await consumer.pause()
            if not await self._opens_within(max(0.0, release_at - now)):
                self._returning = False
                await consumer.release()
                release_at = None
                await self._until(lambda: not self._blocks)
            opened_at = self.clock.monotonic()
            await consumer.resume()

    async def _opens_within(self, seconds: float) -> bool:
        """Whether the last block ends in time, and before the messages are to be returned."""
        ended = asyncio.create_task(self._until(lambda: not self._blocks or self._returning))
        elapsed = asyncio.create_task(self.clock.sleep(seconds))
        try:
            await asyncio.wait({ended, elapsed}, return_when=asyncio.FIRST_COMPLETED)
            return ended.done() and not self._returning
        finally:
            ended.cancel()
            elapsed.cancel()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
