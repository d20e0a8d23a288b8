"""Waiting events of one department collapse into one step to the newest; each gets its own answer."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from contracts.topology import WORK_QUEUE
from tests.support.builders import SALES, department_created, department_removed, department_renamed
from tests.support.settling_loop import settled
from tests.support.world import RESULTS_QUEUE, World, fault
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.provider import MemoryProvider
from worker.core.decide import Policy, UnknownRename
from worker.core.judge import Operation, RetryPolicy
from worker.core.model.departments import Department
from worker.ports import Call, Confirmed

CREATED = department_created("Sales", sequence=1)


def rename(sequence: int, department: str = "sales") -> Any:
    event = f"{department}-{sequence}"
    return department_renamed(f"Name {sequence}", id=event, sequence=sequence, department_id=department)


class SlowProvider(MemoryProvider):
    """Each change takes a second."""

    def __init__(self, clock: MemoryClock) -> None:
        super().__init__()
        self._clock = clock

    async def update(self, *call: Any, **changes: Any) -> Confirmed:
        await self._clock.sleep(1)
        return await super().update(*call, **changes)


class PermittingProvider(MemoryProvider):
    """Grants permits while `granted` is set; `waiting` is set when a call asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.granted = asyncio.Event()
        self.granted.set()
        self.waiting = asyncio.Event()

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[Call]:
        self.waiting.set()
        await self.granted.wait()
        async with super().permit(operation) as call:
            yield call


def superseded_by(world: World, event: Any) -> str:
    (result,) = world.results(event)
    return result.data["superseded_by"]["id"]


def count_calls(world: World, kind: str) -> int:
    return sum(call.startswith(kind) for call in world.witness.journal)


async def test_waiting_events_become_one_step_and_each_is_answered(world):
    await world.handle(CREATED)
    renames = [rename(sequence) for sequence in range(2, 12)]
    random.Random(1).shuffle(renames)
    await world.handle_all(*renames)
    assert count_calls(world, "update") == 1
    await world.has_one_live_subaccount("Name 11")
    for event in renames:
        if event.sequence == 11:
            world.answered(event, "renamed")
        else:
            world.answered(event, "superseded")
            assert superseded_by(world, event) == "sales-11"


@pytest.mark.parametrize("seed", range(3))
async def test_ten_renames_of_a_department_cost_at_most_two_calls(monkeypatch, seed):
    monkeypatch.setattr("tests.support.world.PREFETCH", 2000)
    world = World()
    world.provider = SlowProvider(world.clock)
    departments = [f"d{number}" for number in range(100)]
    await world.handle_all(
        *(department_created("New", id=one, department_id=one, sequence=1) for one in departments)
    )
    renames = [rename(sequence, one) for one in departments for sequence in range(2, 12)]
    random.Random(seed).shuffle(renames)
    async with world.working():
        for begin in range(0, len(renames), 100):  # they arrive during calls
            await world.send(*renames[begin : begin + 100])
            await world.clock.asleep(2)
            world.clock.advance(0.05)
        await world.run_until_done()
    updates = Counter(auth_id for operation, auth_id, _ in world.provider.calls if operation == "update")
    assert max(updates.values()) <= 2, f"seed {seed}"
    for one in departments:
        await world.has_one_live_subaccount("Name 11", Department(SALES.tenant, one))
    answered = Counter(result.data["event"]["id"] for result in world.events_in(RESULTS_QUEUE))
    assert {event.id: answered[event.id] for event in renames} == {event.id: 1 for event in renames}


async def test_the_next_newest_event_is_carried_out_if_the_newest_is_parked():
    world = World(retry=RetryPolicy(budget=timedelta(0)))
    await world.handle(CREATED)
    older, newer, newest = rename(2), rename(3), rename(4)
    world.witness.fail("update", fault("update", 403))
    async with world.working():
        await world.send(older, newer, newest)
        await world.clock.asleep()
        await world.has_one_live_subaccount("Name 3")
        world.answered(newer, "renamed")
        world.answered(older, "superseded")
        assert not world.results(newest)
        await world.run_until_done()
    await world.has_one_live_subaccount("Name 4")
    world.answered(newest, "renamed")
    assert superseded_by(world, older) == newer.id


async def test_the_next_newest_event_follows_a_dead_lettered_newest(world):
    await world.handle(CREATED)
    older, newer, newest = rename(2), rename(3), rename(4)
    world.witness.fail("update", fault("update", 400))
    await world.handle_all(older, newer, newest)
    await world.has_one_live_subaccount("Name 3")
    world.dead_lettered("rejected")
    world.answered(newest, "failed")
    world.answered(newer, "renamed")
    world.answered(older, "superseded")


async def test_older_events_are_answered_after_the_newest_is_recorded(world):
    await world.handle(CREATED)
    world.witness.journal.clear()
    await world.handle_all(rename(2), rename(3), rename(4))
    calls = [call for call in world.witness.journal if "record" in call or "results" in call]
    assert calls[:2] == ["record active", "record active renamed"]
    assert calls.index("record active renamed") < calls.index("record answer superseded")


async def test_a_recorded_outcome_is_kept(world):
    await world.crash_before("publish results", CREATED)
    newer = rename(2)
    await world.handle_all(newer)
    world.answered(CREATED, "created")
    world.answered(newer, "renamed")


@pytest.mark.parametrize("rejecting", [True, False])
async def test_a_waiting_create_and_rename_end_with_the_new_name(rejecting):
    """If a rename must not create, the create is carried out first."""
    choice = UnknownRename.REJECT if rejecting else UnknownRename.CREATE
    world = World(Policy(unknown_rename=choice))
    await world.handle_all(rename(2), CREATED)
    await world.has_one_live_subaccount("Name 2")
    world.has_dead_lettered_nothing()
    world.answered(CREATED, "created" if rejecting else "superseded")
    world.answered(rename(2), "renamed" if rejecting else "created")


async def test_a_waiting_create_and_removal_cause_no_create_call(world):
    await world.handle_all(CREATED, department_removed(sequence=2))
    await world.has_no_live_subaccount()
    assert count_calls(world, "create") == 0
    world.answered(CREATED, "superseded")


async def test_an_event_overtaken_while_it_waits_for_a_permit_makes_no_call():
    provider = PermittingProvider()
    world = World(provider=provider)
    await world.handle(CREATED)
    provider.granted.clear()
    provider.waiting.clear()
    async with world.working():
        await world.send(rename(2))
        await provider.waiting.wait()
        await world.send(rename(3))
        provider.granted.set()
        await world.run_until_done()
    assert count_calls(world, "update") == 1
    await world.has_one_live_subaccount("Name 3")
    world.answered(rename(2), "superseded")
    world.answered(rename(3), "renamed")


async def test_a_steady_stream_leaves_no_event_unanswered_for_long():
    """A newer event arrives during each call; the older events are answered nevertheless."""
    world = World()
    world.provider = SlowProvider(world.clock)
    await world.handle(CREATED)
    events = [rename(sequence) for sequence in range(2, 42)]
    async with world.working():
        for number, event in enumerate(events):
            await world.send(event)
            await world.clock.asleep()
            world.clock.advance(0.6)
            unanswered = [one for one in events[:number] if not world.results(one)]
            assert len(unanswered) <= 4, [one.id for one in unanswered]
        await world.run_until_done()
    await world.has_one_live_subaccount("Name 41")


async def test_a_stream_that_overtakes_every_permit_stops_at_the_prefetch(monkeypatch):
    monkeypatch.setattr("tests.support.world.PREFETCH", 8)
    provider = PermittingProvider()
    world = World(provider=provider)
    await world.handle(CREATED)
    events = [rename(sequence) for sequence in range(2, 30)]
    async with world.working():
        for event in events:
            provider.granted.clear()
            await world.send(event)
            await settled()
            provider.granted.set()
            await asyncio.sleep(0)
        await world.run_until_done()
    await world.has_one_live_subaccount("Name 29")
    assert all(len(world.results(event)) == 1 for event in events)
    assert not world.broker.ready(WORK_QUEUE)
