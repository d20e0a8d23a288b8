"""Shutdown, lost connections and killed workers."""

import asyncio

import pytest

from contracts.topology import WORK_QUEUE
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.world import World, fault
from worker.adapters.memory.broker import MemoryConsumer
from worker.bootstrap.running import RunningWorker
from worker.core.model.entry import Status
from worker.flow.supervise import supervised
from worker.ports import Delivery
from worker.telemetry.events import Telemetry

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
OTHER = department_created("Other", department_id="other", id="other")
THIRD = department_created("Third", department_id="third", id="third")


class Barrier:
    """Blocks a port call until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


def queued(world: World) -> int:
    return len(world.broker.ready(WORK_QUEUE))


async def test_a_drain_starts_no_call_even_if_the_broker_does_not_respond(world, monkeypatch):
    barrier, silence = Barrier(), asyncio.Event()

    async def stop(_consumer: MemoryConsumer) -> None:
        await silence.wait()

    monkeypatch.setattr(MemoryConsumer, "stop", stop)
    world.witness.before("recall", barrier)
    async with world.working() as running:
        await world.send(CREATED)
        await barrier.reached.wait()
        draining = asyncio.create_task(running.drain())
        await running.worker.handler.stopping.wait()
        await world.send(OTHER)  # the broker continues to deliver
        barrier.opened.set()
        await running.worker.lanes.idle()
        silence.set()
        assert await draining
    world.answered(CREATED, "created")
    assert not world.results(OTHER)
    assert len(world.provider.subaccounts) == 1


async def test_a_drain_finishes_running_work_and_leaves_waiting_work(world):
    barrier = Barrier()
    world.witness.fail("create", fault("create", 429))
    async with world.working() as running:
        await world.send(OTHER)
        await world.clock.asleep()  # one department waits for its retry
        world.witness.before("create", barrier)
        await world.send(CREATED)
        await barrier.reached.wait()
        await world.send(RENAMED)  # one call is running, with an event of its department behind it
        draining = asyncio.create_task(running.drain())
        await running.worker.handler.stopping.wait()
        await world.send(THIRD)  # too late
        barrier.opened.set()
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


async def test_a_drain_does_not_wait_for_retries(world):
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


async def test_a_delivery_during_a_drain_is_not_started(world):
    async with world.working() as running:
        running.worker.handler.stopping.set()
        await world.send(CREATED)
        await asyncio.sleep(0)
        await running.drain()
        assert running.worker.handler.left == 1
    assert world.witness.journal == []
    assert queued(world) == 1


async def test_an_idle_worker_drains_at_once(world):
    async with world.working() as running:
        assert await running.drain()


async def test_a_drain_gives_up_on_a_call_after_its_timeout(world, monkeypatch):
    barrier = Barrier()
    world.witness.before("create", barrier)
    async with world.working() as running:
        monkeypatch.setitem(running.settings.__dict__, "drain", running.settings.drain * 0)
        await world.send(CREATED)
        await barrier.reached.wait()
        assert not await running.drain()
        assert len(running.worker.lanes) == 1
    assert queued(world) == 1
    assert (await world.entry()).status is Status.CLAIMED


def lose_the_connection(running: RunningWorker) -> None:
    assert isinstance(running.consumer, MemoryConsumer)
    running.consumer.disconnect()


@pytest.mark.parametrize("moment", ["recall", "record claimed", "create", "publish", "record active", "ack"])
async def test_a_delivery_of_a_lost_connection_is_finished_but_not_acked(world, moment):
    barrier = Barrier()
    world.witness.before(moment, barrier)
    async with world.working() as running:
        await world.send(CREATED)
        await barrier.reached.wait()
        lose_the_connection(running)
        barrier.opened.set()
        await running.worker.lanes.idle()
    assert queued(world) == 1
    world.answered(CREATED, "created")

    world.witness.journal.clear()
    await world.handle()
    assert world.witness.journal == ["recall", "ack"]
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")


async def test_waiting_deliveries_of_a_lost_connection_are_dropped(world):
    barrier = Barrier()
    world.witness.before("create", barrier)
    world.witness.fail("create", fault("create", 429))
    async with world.working() as running:
        await world.send(CREATED, RENAMED)
        await barrier.reached.wait()
        lose_the_connection(running)
        barrier.opened.set()
        await world.clock.asleep()
        world.clock.advance(60)
        await running.worker.lanes.idle()
    assert world.witness.journal == ["recall", "record claimed", "create failed", "record absent"]
    assert queued(world) == 2
    await world.handle()
    await world.has_one_live_subaccount("Marketing")


async def test_a_redelivery_runs_after_the_work_that_still_runs(world):
    """A new connection redelivers the message while its first delivery is in work: still one create."""
    barrier, redelivered = Barrier(), asyncio.Event()
    world.witness.before("create", barrier)
    async with world.working() as running:

        def receive(delivery: Delivery) -> None:
            running.worker.handler.receive(delivery)
            redelivered.set()

        await world.send(CREATED)
        await barrier.reached.wait()
        lose_the_connection(running)
        async with world.broker.consumer(WORK_QUEUE, 10, receive):
            await redelivered.wait()
            barrier.opened.set()
            await world.done()
    assert world.witness.journal.count("create") == 1
    world.answered(CREATED, "created")


async def test_a_killed_worker_loses_no_event(world):
    async with world.working():
        await world.send(CREATED, RENAMED, OTHER)
    await world.handle()
    await world.has_one_live_subaccount("Marketing")
    await world.has_one_live_subaccount("Other", SALES._replace(id="other"))


async def test_a_supervised_task_is_restarted_after_an_unexpected_error(world):
    """Otherwise the worker would silently stop consuming or stop its duties."""
    begun, telemetry = asyncio.Event(), Telemetry()
    times = []

    async def forever() -> None:
        times.append(world.clock.monotonic())
        if len(times) == 1:
            raise RuntimeError("unexpected")
        begun.set()
        await asyncio.Event().wait()

    async with supervised(forever, world.clock, telemetry):
        await world.clock.asleep()
        world.clock.advance(world.clock.seconds_to_next())
        await begun.wait()
    assert len(times) == 2
