"""The gate pauses the consumer, and returns unacked messages after a while."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.builders import NOW
from tests.support.settling_loop import settled
from worker.adapters.memory.clock import MemoryClock
from worker.flow.gate import RELEASE_AFTER_SECONDS, SAME_BLOCK_WITHIN_SECONDS, Gate
from worker.flow.waiting import WaitingRoom
from worker.telemetry.events import Telemetry


class Consumer:
    """Logs the calls and their times."""

    def __init__(self, clock: MemoryClock) -> None:
        self.clock = clock
        self.begun = clock.monotonic()
        self.calls: list[tuple[str, float]] = []

    async def pause(self) -> None:
        self._note("pause")

    async def resume(self) -> None:
        self._note("resume")

    async def release(self) -> None:
        self._note("release")

    def _note(self, how: str) -> None:
        self.calls.append((how, self.clock.monotonic() - self.begun))

    def times(self, how: str) -> list[float]:
        return [at for turned, at in self.calls if turned == how]


class Scene:
    def __init__(self) -> None:
        self.clock = MemoryClock(NOW)
        self.gate = Gate(self.clock, Telemetry(), WaitingRoom(self.clock, 10))
        self.consumer = Consumer(self.clock)

    async def blocked(self, seconds: float) -> None:
        self.gate.block("circuit", "for a test")
        await self._passes(seconds)

    async def open(self, seconds: float) -> None:
        self.gate.unblock("circuit")
        await self._passes(seconds)

    async def _passes(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        alarm = asyncio.create_task(self.clock.sleep(seconds))
        while self.clock.monotonic() < end:
            await settled()
            self.clock.advance(min(self.clock.seconds_to_next(), end - self.clock.monotonic()))
        await alarm
        await settled()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    controlling = asyncio.create_task(scene.gate.control(scene.consumer))
    yield scene
    controlling.cancel()
    await asyncio.wait([controlling])


async def test_unacked_messages_are_returned_once_after_a_while(scene):
    await scene.blocked(3 * RELEASE_AFTER_SECONDS)
    assert scene.consumer.times("release") == [RELEASE_AFTER_SECONDS]
    await scene.open(1)
    assert [how for how, _ in scene.consumer.calls] == ["pause", "release", "resume"]


async def test_the_consumer_resumes_when_the_last_block_is_removed(scene):
    await scene.blocked(5)
    await scene.open(5)
    assert scene.consumer.calls == [("pause", 0), ("resume", 5)]


async def test_a_short_opening_does_not_restart_the_time_until_release(scene):
    """A half-open circuit opens it so: the consumed messages wait all the while."""
    for _ in range(int(3.5 * RELEASE_AFTER_SECONDS / 15)):
        await scene.blocked(14)
        await scene.open(1)
    released = scene.consumer.times("release")
    assert len(released) == 3
    assert released[0] == pytest.approx(RELEASE_AFTER_SECONDS, abs=15)


async def test_a_longer_opening_restarts_the_time_until_release(scene):
    await scene.blocked(RELEASE_AFTER_SECONDS - 10)
    await scene.open(SAME_BLOCK_WITHIN_SECONDS + 1)
    await scene.blocked(RELEASE_AFTER_SECONDS + 1)
    assert scene.consumer.times("release") == [2 * RELEASE_AFTER_SECONDS - 10 + SAME_BLOCK_WITHIN_SECONDS + 1]
