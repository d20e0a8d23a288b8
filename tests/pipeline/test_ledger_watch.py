"""While the ledger accepts no writes, no message is consumed, parked or counted as tried."""

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.outages import pass_seconds, working_with_duties
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.core.messages import message_digest
from worker.core.model.wishes import Reissuing, Wish
from worker.flow.ledger_watch import RETRY_SECONDS
from worker.operations.emit import inbound
from worker.pipeline.quarantine import QUARANTINE_AFTER_DELIVERIES
from worker.ports import LedgerFailed

CREATED = department_created("Sales", sequence=1)
FULL = LedgerFailed("the ledger cannot be written: database or disk is full")


@pytest.fixture
def world() -> World:
    return World()


async def test_while_it_accepts_no_writes_no_message_is_consumed(world):
    world.witness.fail("record claimed", FULL, times=None)
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
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    assert not [noted for noted in world.witness.journal if "publish retry" in noted]
    world.has_dead_lettered_nothing()


async def test_a_step_that_could_not_be_recorded_is_not_repeated_meanwhile(world):
    world.witness.fail("record active created confirmed", FULL, times=None)
    world.witness.fail("bind", FULL, times=None)
    async with working_with_duties(world):
        await world.send(CREATED)
        await pass_seconds(world, 90)
        assert len(world.broker.ready(SECRETS_QUEUE)) == 1
        world.witness.forget()
        await pass_seconds(world, 3 * RETRY_SECONDS)
        assert len(world.broker.ready(SECRETS_QUEUE)) == 1
        await world.run_until_done()
    world.answered(CREATED, "created")


async def test_credentials_requested_by_an_operator_are_not_sent_again_meanwhile(world):
    await world.handle(CREATED)
    before = len(world.credentials())
    world.witness.fail("record active reissued", FULL, times=None)
    world.witness.fail("bind", FULL, times=None)
    async with working_with_duties(world) as running:
        await world.ledger.wish(Wish("wish-1", SALES, "anna", world.clock.now(), Reissuing()))
        await pass_seconds(world, 90)
        assert running.blocks() == [str(FULL)]
        assert len(world.credentials()) == before + 1


async def test_a_trial_write_that_fails_unexpectedly_is_repeated(world):
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
async def test_a_poison_mark_that_cannot_be_cleared_does_not_count_as_a_crash(world, others):
    """Its worker is alive."""
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES
    for what in ("clear_poison", *others):
        world.witness.fail(what, FULL, times=4)
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")
    world.has_dead_lettered_nothing()


async def test_the_mark_of_a_worker_that_lives_is_cleared_before_it_works_again(world):
    """So outages during the tries of one message, each at another worker, never add up to crashes."""
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES
    world.witness.fail("record claimed", FULL, times=None)
    world.witness.fail("clear_poison", FULL, times=2)
    async with world.working() as running:
        await world.send(CREATED)
        await settled()
        assert running.blocks() == [str(FULL)]
        await pass_seconds(world, RETRY_SECONDS)
        assert running.blocks() == []
        assert await world.ledger.mark_poison(message_digest(inbound(CREATED))) == 1


async def test_a_failure_of_one_department_does_not_block_others(world):
    """For example a damaged row: the trial write succeeds."""
    await world.handle(CREATED)
    world.witness.fail("record active", FULL, times=5)
    async with world.working() as running:
        await world.send(department_renamed("Marketing", sequence=2))
        await settled()
        assert running.blocks() == []
        assert running.consumer.consuming
        await world.run_until_done()
    await world.has_one_live_subaccount("Marketing", SALES)
