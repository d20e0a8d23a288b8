"""Whether messages are taken. While anybody holds the intake, they stay in the queue."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from worker.flow.waiting import WaitingRoom
from worker.ports import Clock
from worker.telemetry.events import Telemetry

RELEASE_AFTER_SECONDS = 600.0
"""What was taken goes back then: well before the broker's own ack timeout, 30 minutes by default."""

SHORTLY_SECONDS = 60.0
"""Lifted for no longer, as by a half-open circuit, a hold goes on: what was taken waits all the while."""


class Tap(Protocol):
    """The part of a consumer that is turned on and off."""

    async def pause(self) -> None:
        """No more deliveries come once it returns; those taken can still be acked. Lasts over reconnects."""

    async def resume(self) -> None:
        """Takes deliveries again; after `stop`, does nothing."""

    async def release(self) -> None:
        """While paused: what is held goes back to the queue, and its deliveries are no longer live."""


@dataclass
class Intake:
    clock: Clock
    telemetry: Telemetry
    waiting: WaitingRoom
    _holds: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def holds(self) -> Mapping[str, str]:
        """Who holds it, and why."""
        return self._holds

    def hold(self, holder: str, why: str, *, everybodys: bool = True) -> None:
        """`everybodys`: all that is taken waits for the same, so nothing of it is moved meanwhile."""
        if holder not in self._holds:
            self.telemetry.intake_held(holder, why)
            self._holds[holder] = why
            self._changed.set()
            if everybodys:
                self.waiting.everybodys.add(holder)

    def lift(self, holder: str) -> None:
        if self._holds.pop(holder, None) is not None:
            self.telemetry.intake_lifted(holder)
            self._changed.set()
            self.waiting.everybodys.discard(holder)
            self.waiting.end_pauses()

    async def govern(self, tap: Tap) -> None:
        """Turns the tap as it is held and lifted, for ever."""
        release_at: float | None = None  # until something is taken again there is nothing to release
        lifted_at = 0.0
        while True:
            await self._until(held=True)
            now = self.clock.monotonic()
            if release_at is None or now - lifted_at > SHORTLY_SECONDS:
                release_at = now + RELEASE_AFTER_SECONDS
            await tap.pause()
            free = asyncio.create_task(self._until(held=False))
            late = asyncio.create_task(self.clock.sleep(max(0.0, release_at - now)))
            try:
                await asyncio.wait({free, late}, return_when=asyncio.FIRST_COMPLETED)
                if not free.done():
                    await tap.release()
                    release_at = None
                    await free
            finally:
                free.cancel()
                late.cancel()
            lifted_at = self.clock.monotonic()
            await tap.resume()

    async def _until(self, *, held: bool) -> None:
        while bool(self._holds) is not held:
            self._changed.clear()
            await self._changed.wait()
