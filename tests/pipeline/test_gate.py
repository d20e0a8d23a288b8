"""When messages are taken, and when those taken go back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.builders import NOW
from worker.adapters.memory.clock import MemoryClock
from worker.flow.gate import RELEASE_AFTER_SECONDS, SAME_BLOCK_WITHIN_SECONDS, Gate
from worker.flow.waiting import WaitingRoom
from worker.telemetry.events import Telemetry


class Tap:
    """Notes how it was turned, and when."""

    def __init__(self, clock: MemoryClock) -> None:
        self.clock = clock
        self.begun = clock.monotonic()
        self.turned: list[tuple[str, float]] = []

    async def pause(self) -> None:
        self._note("pause")

    async def resume(self) -> None:
        self._note("resume")

    async def release(self) -> None:
        self._note("release")

    def _note(self, how: str) -> None:
        self.turned.append((how, self.clock.monotonic() - self.begun))

    def times(self, how: str) -> list[float]:
        return [at for turned, at in self.turned if turned == how]


class Scene:
    def __init__(self) -> None:
        self.clock = MemoryClock(NOW)
        self.gate = Gate(self.clock, Telemetry(), WaitingRoom(self.clock, 10))
        self.tap = Tap(self.clock)

    async def held(self, seconds: float) -> None:
        self.gate.block("circuit", "for a test")
        await self._passes(seconds)

    async def free(self, seconds: float) -> None:
        self.gate.unblock("circuit")
        await self._passes(seconds)

    async def _passes(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        alarm = asyncio.create_task(self.clock.sleep(seconds))
        while self.clock.monotonic() < end:
            for _ in range(10):
                await asyncio.sleep(0)
            self.clock.advance(min(self.clock.seconds_to_next(), end - self.clock.monotonic()))
        await alarm
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    controlling = asyncio.create_task(scene.gate.control(scene.tap))
    yield scene
    controlling.cancel()
    await asyncio.wait([controlling])


async def test_what_is_held_goes_back_after_a_while_and_once(scene):
    await scene.held(3 * RELEASE_AFTER_SECONDS)
    assert scene.tap.times("release") == [RELEASE_AFTER_SECONDS]
    await scene.free(1)
    assert [how for how, _ in scene.tap.turned] == ["pause", "release", "resume"]


async def test_it_is_taken_again_as_soon_as_nobody_holds_it(scene):
    await scene.held(5)
    await scene.free(5)
    assert scene.tap.turned == [("pause", 0), ("resume", 5)]


async def test_lifted_for_a_moment_the_hold_goes_on(scene):
    """As by a half-open circuit: what was taken waits through all of it."""
    for _ in range(int(3.5 * RELEASE_AFTER_SECONDS / 15)):
        await scene.held(14)
        await scene.free(1)
    released = scene.tap.times("release")
    assert len(released) == 3
    assert released[0] == pytest.approx(RELEASE_AFTER_SECONDS, abs=15)


async def test_after_a_time_of_peace_a_hold_is_a_new_one(scene):
    await scene.held(RELEASE_AFTER_SECONDS - 10)
    await scene.free(SAME_BLOCK_WITHIN_SECONDS + 1)
    await scene.held(RELEASE_AFTER_SECONDS + 1)
    assert scene.tap.times("release") == [2 * RELEASE_AFTER_SECONDS - 10 + SAME_BLOCK_WITHIN_SECONDS + 1]
