"""The waiting room: how long messages wait, and which are evicted."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.topology import retry_queue
from tests.support.builders import NOW, department_created
from tests.support.settling_loop import settled
from tests.support.world import World, fault
from worker.adapters.memory.clock import MemoryClock
from worker.core.model.departments import Department
from worker.flow.waiting import WaitingRoom, WaitOutcome


class Room:
    """A waiting room for four messages, with named waits."""

    def __init__(self) -> None:
        self.clock = MemoryClock(NOW)
        self.waiting = WaitingRoom(self.clock, 4)
        self.waits: dict[str, asyncio.Task[WaitOutcome]] = {}

    async def enter(self, name: str, seconds: float, messages: int = 1, *, paused: bool = False) -> None:
        wait = self.waiting.wait(seconds, lambda: messages, paused=paused)
        self.waits[name] = asyncio.create_task(wait)
        await self.clock.asleep()
        await settled()

    def ended(self) -> dict[str, WaitOutcome]:
        return {name: wait.result() for name, wait in self.waits.items() if wait.done()}

    async def pass_seconds(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settled()


@pytest.fixture
async def room() -> Any:
    room = Room()
    yield room
    room.waiting.close()
    await asyncio.gather(*room.waits.values())


async def test_each_wait_lasts_its_own_time(room):
    await room.enter("long", 10)
    await room.enter("short", 5)
    await room.pass_seconds(5)
    assert room.ended() == {"short": WaitOutcome.ELAPSED}
    await room.pass_seconds(5)
    assert room.ended() == {"short": WaitOutcome.ELAPSED, "long": WaitOutcome.ELAPSED}
    assert len(room.waiting) == 0


async def test_a_full_room_evicts_the_longest_wait(room):
    for number, seconds in enumerate((30, 120, 60, 90)):
        await room.enter(f"{number}", seconds)
    assert (room.ended(), len(room.waiting)) == ({}, 4)
    await room.enter("one too many", 100)
    assert room.ended() == {"1": WaitOutcome.EVICTED}
    await room.enter("longest of all", 1000)
    assert room.ended() == {"1": WaitOutcome.EVICTED, "longest of all": WaitOutcome.EVICTED}


async def test_messages_behind_a_waiting_one_count(room):
    await room.enter("a lane of three", 60, messages=3)
    await room.enter("one", 30)
    assert (room.ended(), len(room.waiting)) == ({}, 4)
    await room.enter("another", 10)
    assert room.ended() == {"a lane of three": WaitOutcome.EVICTED}
    assert len(room.waiting) == 2


async def test_a_growing_lane_can_be_evicted(room):
    behind = [1]
    waits = asyncio.create_task(room.waiting.wait(60, lambda: behind[0], paused=False))
    await settled()
    behind[0] = 5
    room.waiting.make_room()
    assert await waits is WaitOutcome.EVICTED


async def test_a_pause_is_evicted_like_any_wait_without_a_global_outage(room):
    for number in range(4):
        await room.enter(f"pause {number}", 10 + number, paused=True)
    await room.enter("one too many", 5)
    assert room.ended() == {"pause 3": WaitOutcome.EVICTED}


async def test_during_a_global_outage_pauses_take_no_room_and_are_not_evicted(room):
    room.waiting.global_outages.add("circuit")
    for number in range(10):
        await room.enter(f"stays {number}", 1000, paused=True)
    for number in range(4):
        await room.enter(f"may leave {number}", 10 + number)
    assert room.ended() == {}
    await room.enter("one too many", 5)
    assert room.ended() == {"may leave 3": WaitOutcome.EVICTED}


async def test_end_pauses_ends_only_pauses(room):
    await room.enter("stays", 1000, paused=True)
    await room.enter("may leave", 1000)
    room.waiting.end_pauses()
    await settled()
    assert room.ended() == {"stays": WaitOutcome.ELAPSED}


async def test_close_ends_all_waits_now_and_later(room):
    await room.enter("stays", 1000, paused=True)
    await room.enter("may leave", 1000)
    room.waiting.close()
    await settled()
    assert set(room.ended().values()) == {WaitOutcome.ELAPSED}
    assert await room.waiting.wait(1000, lambda: 1, paused=False) is WaitOutcome.ELAPSED
    assert len(room.waiting) == 0


async def test_a_cancelled_wait_leaves_nothing_behind(room):
    await room.enter("cut off", 1000)
    wait = room.waits.pop("cut off")
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    assert len(room.waiting) == 0
    await room.pass_seconds(1000)


# In the worker

DEPARTMENTS = [f"d{number}" for number in range(6)]


def create(department: str) -> Any:
    return department_created("New", id=department, department_id=department)


@pytest.fixture
def small_world(monkeypatch) -> World:
    """A prefetch of six: three messages may wait."""
    monkeypatch.setattr("tests.support.world.PREFETCH", 6)
    return World()


async def test_waits_beyond_half_of_the_prefetch_are_parked_uncounted(small_world):
    world = small_world
    world.witness.fail("create", fault("create"), times=len(DEPARTMENTS))
    async with world.working():
        await world.send(*map(create, DEPARTMENTS))
        await world.clock.asleep(len(DEPARTMENTS))
        await settled()
        parked = world.broker.ready(retry_queue(timedelta(seconds=30)))
        assert [letter.message.headers["x-attempts"] for letter in parked] == [0, 0, 0]
        await world.run_until_done()
    await all_well(world)
    assert world.witness.journal.count("create failed") == len(DEPARTMENTS)


async def test_other_messages_flow_while_half_of_the_prefetch_waits(small_world):
    world = small_world
    world.witness.fail("create", fault("create"), times=len(DEPARTMENTS))
    begun = world.clock.now()
    async with world.working():
        await world.send(*map(create, DEPARTMENTS))
        await world.clock.asleep(len(DEPARTMENTS))
        late = create("late")
        await world.send(late)
        await settled()
        world.answered(late, "created")
        assert world.clock.now() == begun
        await world.run_until_done()
    await all_well(world)


async def test_evicted_pauses_are_parked_without_counting_an_attempt(small_world):
    """Other messages then flow. In an outage none is consumed, and none is parked."""
    world = small_world
    world.retry = replace(world.retry, attempts=1)
    world.witness.fail("create", fault("create", 429, retry_after_seconds=5.0), times=3 * len(DEPARTMENTS))
    await world.handle_all(*map(create, DEPARTMENTS))
    await all_well(world)
    assert [noted for noted in world.witness.journal if "publish retry" in noted]


async def test_repeated_eviction_does_not_use_up_attempts(small_world):
    """A message parked by eviction keeps its number of attempts."""
    world = small_world
    world.retry = replace(world.retry, attempts=2)
    for _ in range(3):
        world.witness.fail("create", fault("create"), times=len(DEPARTMENTS))
        await world.handle_all(*map(create, DEPARTMENTS))
        world.witness.forget()
    await all_well(world)


async def test_with_a_prefetch_of_one_a_message_waits_and_is_finally_given_up(monkeypatch):
    monkeypatch.setattr("tests.support.world.PREFETCH", 1)
    world = World()
    world.witness.fail("create", fault("create", 403), times=None)
    await world.handle(create("d0"))
    world.dead_lettered("exhausted")


async def all_well(world: World) -> None:
    for one in DEPARTMENTS:
        await world.has_one_live_subaccount("New", Department("acme", one))
        world.answered(create(one), "created", times=None)
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


async def test_a_wait_that_is_not_evictable_is_never_evicted(room):
    stays = asyncio.create_task(room.waiting.wait(1000, lambda: 50, paused=True, evictable=False))
    for number in range(4):
        await room.enter(f"wait {number}", 10)
    assert room.ended() == {}
    assert not stays.done()
    room.waiting.close()
    await stays
