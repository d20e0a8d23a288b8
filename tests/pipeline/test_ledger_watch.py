"""A ledger that takes no writes: nothing is taken from the queue, and nothing is moved or counted."""

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.outages import pass_seconds, settled, working_with_duties
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.world import World
from worker.core.model import Wish
from worker.flow.ledger_watch import RETRY_SECONDS
from worker.pipeline.quarantine import QUARANTINE_AFTER_DELIVERIES
from worker.ports import LedgerFailed

CREATED = department_created("Sales", sequence=1)
FULL = LedgerFailed("the ledger cannot be written: database or disk is full")


@pytest.fixture
def world() -> World:
    return World()


async def test_while_it_takes_no_writes_nothing_is_taken(world):
    world.witness.fail("record claimed", FULL, times=100)
    world.witness.fail("bind", FULL, times=5)
    async with world.working() as running:
        await world.send(CREATED)
        await settled()
        assert running.blocks() == [str(FULL)]
        assert not running.consumer.consuming
        await world.send(department_created("Support", id="other", department_id="other"))
        await pass_seconds(world, 3 * RETRY_SECONDS)
        assert len(world.broker.ready(WORK_QUEUE)) == 1
        world.witness.forget()
        await pass_seconds(world, 3 * RETRY_SECONDS)
        assert running.blocks() == []
        await world.done_in_time()
    await world.has_one_live_subaccount("Sales")
    assert not [noted for noted in world.witness.journal if "publish retry" in noted]
    world.has_dead_lettered_nothing()


async def test_what_could_not_be_noted_is_not_done_again_meanwhile(world):
    world.witness.fail("record active created confirmed", FULL, times=100)
    world.witness.fail("bind", FULL, times=100)
    async with working_with_duties(world):
        await world.send(CREATED)
        await pass_seconds(world, 90)
        assert len(world.broker.ready(SECRETS_QUEUE)) == 1
        world.witness.forget()
        await pass_seconds(world, 3 * RETRY_SECONDS)
        assert len(world.broker.ready(SECRETS_QUEUE)) == 2
        await world.done_in_time()
    assert len({result.id for result in world.results(CREATED)}) == 1


async def test_nor_are_credentials_that_an_operator_asked_for(world):
    await world.handle(CREATED)
    before = len(world.credentials())
    world.witness.fail("record active unchanged", FULL, times=100)
    world.witness.fail("bind", FULL, times=100)
    async with working_with_duties(world) as running:
        await world.ledger.wish(Wish("wish-1", SALES, None, "anna", world.clock.now()))
        await pass_seconds(world, 90)
        assert running.blocks() == [str(FULL)]
        assert len(world.credentials()) == before + 1


async def test_a_trial_that_fails_in_an_unexpected_way_is_made_again(world):
    world.witness.fail("record claimed", FULL)
    world.witness.fail("bind", FULL)
    world.witness.fail("bind", MemoryError())
    async with working_with_duties(world) as running:
        await world.send(CREATED)
        await settled()
        await pass_seconds(world, RETRY_SECONDS)
        assert running.blocks()
        await pass_seconds(world, RETRY_SECONDS)
        assert running.blocks() == []


@pytest.mark.parametrize("others", [[], ["record"]])
async def test_a_mark_that_cannot_be_taken_away_is_not_held_against_its_message(world, others):
    """It is of a worker that lives."""
    world.returned = QUARANTINE_AFTER_DELIVERIES
    for what in ("absolve", *others):
        world.witness.fail(what, FULL, times=4)
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")
    world.has_dead_lettered_nothing()


async def test_one_departments_trouble_keeps_nobody_else_waiting(world):
    """A damaged row, say: the trial write goes well."""
    await world.handle(CREATED)
    world.witness.fail("record active", FULL, times=5)
    async with world.working() as running:
        await world.send(department_renamed("Marketing", sequence=2))
        await settled()
        assert running.blocks() == []
        assert running.consumer.consuming
        await world.done_in_time()
    await world.has_one_live_subaccount("Marketing", SALES)
