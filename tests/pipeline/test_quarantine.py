"""The quarantine of poison messages: often redelivered, worked on alone, and given up after crashes."""

import asyncio

from tests.support.builders import SALES, department_created, department_renamed
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.core.messages import message_digest
from worker.operations.emit import inbound
from worker.pipeline.quarantine import MAX_CRASHES, QUARANTINE_AFTER_DELIVERIES

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
OTHER = department_created("Other", department_id="other", id="other")


async def test_a_message_that_crashed_its_workers_alone_is_dead_lettered(world):
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES
    for _ in range(MAX_CRASHES):
        await world.crash_before("create", CREATED)
        world.broker.purge("provisioner.departments")
        await forget_the_claim(world)
    await world.handle(CREATED)
    letter = world.dead_lettered("delivery-limit")
    assert letter.message.body == inbound(CREATED).message.body
    world.answered(CREATED, "failed")
    assert world.provider.subaccounts == []


async def forget_the_claim(world: World) -> None:
    """So that each worker crashes at the same place."""
    world.ledger._entries.clear()


async def test_its_replay_starts_without_poison_marks(world):
    for _ in range(MAX_CRASHES + 1):
        await world.ledger.mark_poison(message_digest(inbound(CREATED)))
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES
    await world.handle(CREATED)
    world.dead_lettered("delivery-limit")
    world.earlier_deliveries = 0
    await world.replay_dead_letters()
    await world.handle()
    await world.has_one_live_subaccount("Sales")
    assert await world.ledger.mark_poison(message_digest(inbound(CREATED))) == 1


async def test_redeliveries_by_lost_connections_leave_no_poison_mark(world):
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES * 5
    for _ in range(3):
        await world.handle(CREATED)
    world.answered(CREATED, "created")
    assert await world.ledger.mark_poison(message_digest(inbound(CREATED))) == 1
    world.has_dead_lettered_nothing()


async def test_fewer_deliveries_leave_no_poison_mark(world):
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES - 1
    await world.handle(CREATED)
    assert "mark_poison" not in world.witness.journal


async def test_a_suspected_message_runs_alone(world):
    at_the_provider, may_end = asyncio.Event(), asyncio.Event()

    async def stay() -> None:
        at_the_provider.set()
        await may_end.wait()

    third = department_created("Third", department_id="third", id="third")
    world.witness.before("create", stay)
    async with world.working():
        await world.send(OTHER)
        await at_the_provider.wait()
        world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES
        await world.send(CREATED)
        world.earlier_deliveries = 0
        await asyncio.sleep(0)
        await world.send(third)
        await settled()
        assert world.witness.journal == ["recall", "record claimed"]
        may_end.set()
        await world.run_until_done()
    journal = world.witness.journal
    assert journal.index("clear_poison") < [at for at, what in enumerate(journal) if what == "recall"][2]
    for name, department in (("Sales", "sales"), ("Other", "other"), ("Third", "third")):
        await world.has_one_live_subaccount(name, SALES._replace(id=department))
