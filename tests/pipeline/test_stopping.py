"""Ends of all kinds: a drain, a connection that is lost, a worker that is cut off."""

import asyncio

import pytest

from contracts.topology import WORK_QUEUE
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.world import World, fault
from worker.adapters.memory.broker import MemoryConsumer
from worker.bootstrap import RunningWorker
from worker.core.model import Status
from worker.flow.supervise import supervised
from worker.ports import Delivery
from worker.telemetry.events import Telemetry

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
OTHER = department_created("Other", department_id="other", id="other")
THIRD = department_created("Third", department_id="third", id="third")


class Gate:
    """Holds a port call up until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


def queued(world: World) -> int:
    return len(world.broker.ready(WORK_QUEUE))


async def test_a_drain_stops_calls_from_beginning_even_if_the_broker_does_not_answer(world, monkeypatch):
    gate, silence = Gate(), asyncio.Event()

    async def stop(_consumer: MemoryConsumer) -> None:
        await silence.wait()

    monkeypatch.setattr(MemoryConsumer, "stop", stop)
    world.witness.before("recall", gate)
    async with world.working() as running:
        await world.send(CREATED)
        await gate.reached.wait()
        draining = asyncio.create_task(running.drain())
        await running.worker.handler.stopping.wait()
        await world.send(OTHER)  # the broker goes on delivering
        gate.opened.set()
        await running.worker.lanes.idle()
        silence.set()
        assert await draining
    world.answered(CREATED, "created")
    assert not world.results(OTHER)
    assert len(world.provider.subaccounts) == 1


async def test_a_drain_finishes_what_runs_and_leaves_what_waits(world):
    gate = Gate()
    world.witness.fail("create", fault("create", 429))
    async with world.working() as running:
        await world.send(OTHER)
        await world.clock.asleep()  # one department waits for its next try
        world.witness.before("create", gate)
        await world.send(CREATED)
        await gate.reached.wait()
        await world.send(RENAMED)  # one is at the provider, with more of the same behind it
        draining = asyncio.create_task(running.drain())
        await running.worker.handler.stopping.wait()
        await world.send(THIRD)  # too late
        gate.opened.set()
        assert await draining
        assert len(running.worker.lanes) == 0
        assert not running.consumer.consuming
    world.answered(CREATED, "created")
    await world.has_one_live_subaccount("Sales")
    assert not world.results(RENAMED)
    assert not world.results(OTHER)
    assert not world.results(THIRD)
    assert queued(world) == 3

    await world.handle()
    await world.has_one_live_subaccount("Marketing")
    await world.has_one_live_subaccount("Other", SALES._replace(id="other"))
    await world.has_one_live_subaccount("Third", SALES._replace(id="third"))
    assert world.witness.journal.count("create") == 3


async def test_a_drain_does_not_wait_for_what_sleeps(world):
    world.witness.fail("create", fault("create"))
    begun = world.clock.now()
    async with world.working() as running:
        await world.send(CREATED)
        await world.clock.asleep()  # for the whole window
        assert await running.drain()
        assert running.worker.handler.left == 1
    assert world.clock.now() == begun
    assert queued(world) == 1
    await world.handle()
    await world.has_one_live_subaccount("Sales")


async def test_what_comes_during_a_drain_is_left_alone(world):
    async with world.working() as running:
        running.worker.handler.stopping.set()
        await world.send(CREATED)
        await asyncio.sleep(0)
        await running.drain()
        assert running.worker.handler.left == 1
    assert world.witness.journal == []
    assert queued(world) == 1


async def test_a_worker_with_nothing_to_do_drains_at_once(world):
    async with world.working() as running:
        assert await running.drain()


async def test_a_call_that_does_not_end_in_time_ends_the_drain(world, monkeypatch):
    gate = Gate()
    world.witness.before("create", gate)
    async with world.working() as running:
        monkeypatch.setitem(running.settings.__dict__, "drain", running.settings.drain * 0)
        await world.send(CREATED)
        await gate.reached.wait()
        assert not await running.drain()
        assert len(running.worker.lanes) == 1
    assert queued(world) == 1
    assert (await world.entry()).status is Status.CLAIMED


def lose_the_connection(running: RunningWorker) -> None:
    assert isinstance(running.consumer, MemoryConsumer)
    running.consumer.disconnect()


@pytest.mark.parametrize("moment", ["recall", "record claimed", "create", "publish", "record active", "ack"])
async def test_a_delivery_whose_connection_is_lost_is_finished_but_not_acked(world, moment):
    gate = Gate()
    world.witness.before(moment, gate)
    async with world.working() as running:
        await world.send(CREATED)
        await gate.reached.wait()
        lose_the_connection(running)
        gate.opened.set()
        await running.worker.lanes.idle()
    assert queued(world) == 1
    world.answered(CREATED, "created")

    world.witness.journal.clear()
    await world.handle()
    assert world.witness.journal == ["recall", "ack"]
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")


async def test_deliveries_of_a_lost_connection_that_wait_are_dropped(world):
    gate = Gate()
    world.witness.before("create", gate)
    world.witness.fail("create", fault("create", 429))
    async with world.working() as running:
        await world.send(CREATED, RENAMED)
        await gate.reached.wait()
        lose_the_connection(running)
        gate.opened.set()
        await world.clock.asleep()
        world.clock.advance(60)
        await running.worker.lanes.idle()
    assert world.witness.journal == ["recall", "record claimed", "create failed", "record absent"]
    assert queued(world) == 2
    await world.handle()
    await world.has_one_live_subaccount("Marketing")


async def test_what_comes_back_runs_behind_what_still_runs(world):
    """A new connection brings it again while the old one's work is not over: one create all the same."""
    gate, is_back = Gate(), asyncio.Event()
    world.witness.before("create", gate)
    async with world.working() as running:

        def receive(delivery: Delivery) -> None:
            running.worker.handler.receive(delivery)
            is_back.set()

        await world.send(CREATED)
        await gate.reached.wait()
        lose_the_connection(running)
        async with world.broker.consumer(WORK_QUEUE, 10, receive):
            await is_back.wait()
            gate.opened.set()
            await world.done()
    assert world.witness.journal.count("create") == 1
    world.answered(CREATED, "created")


async def test_a_worker_that_is_cut_off_leaves_everything_to_the_next(world):
    async with world.working():
        await world.send(CREATED, RENAMED, OTHER)
    await world.handle()
    await world.has_one_live_subaccount("Marketing")
    await world.has_one_live_subaccount("Other", SALES._replace(id="other"))


async def test_what_runs_beside_is_begun_again_should_a_fault_of_ours_end_it(world):
    """Else the worker would be deaf, or its duties undone, without a word."""
    begun, telemetry = asyncio.Event(), Telemetry()
    times = []

    async def forever() -> None:
        times.append(world.clock.monotonic())
        if len(times) == 1:
            raise RuntimeError("a fault of ours")
        begun.set()
        await asyncio.Event().wait()

    async with supervised(forever, world.clock, telemetry):
        await world.clock.asleep()
        world.clock.advance(world.clock.seconds_to_next())
        await begun.wait()
    assert len(times) == 2
