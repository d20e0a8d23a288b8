"""Nothing is changed at the provider on locks that may be lost, and lost locks give the messages back."""

import asyncio

import pytest

from contracts.topology import WORK_QUEUE
from tests.pipeline.outages import pass_seconds
from tests.support.builders import department_created, department_removed, department_renamed
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.flow.ledger_watch import RETRY_SECONDS
from worker.ports import LedgerFailed

CREATED = department_created("Sales", sequence=1)
LOST = "the connection to the ledger was lost"
CHANGES = ("create", "update", "delete")


class BreakableFence:
    """Stale from `stale = True` on; `lose` loses the locks once."""

    def __init__(self) -> None:
        self.stale = False
        self.asked = 0
        self._loss: asyncio.Future[str] | None = None

    def check(self) -> None:
        self.asked += 1
        if self.stale:
            raise LedgerFailed("PostgreSQL has not confirmed lately that this worker still has its locks")

    async def until_lost(self) -> str:
        self._loss = asyncio.get_running_loop().create_future()
        return await self._loss

    def lose(self) -> None:
        assert self._loss is not None
        self._loss.set_result(LOST)


@pytest.fixture
def fence() -> BreakableFence:
    return BreakableFence()


@pytest.fixture
def world(fence: BreakableFence) -> World:
    return World(fence=fence)


def a_slow_create(world: World) -> tuple[asyncio.Event, asyncio.Event]:
    """Sets the first event once a create has begun; the create goes on once the second is set."""
    calling, answered = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        calling.set()
        await answered.wait()

    world.witness.before("create", slowly)
    return calling, answered


def changes(world: World) -> list[str]:
    return [noted for noted in world.witness.journal if noted.startswith(CHANGES)]


@pytest.mark.parametrize(
    "event", [department_renamed("Marketing", sequence=2), department_removed(sequence=2)]
)
async def test_no_change_begins_while_the_proof_of_the_locks_is_stale(world, fence, event):
    await world.handle(CREATED, department_created("Support", id="s1", department_id="support"))
    before = changes(world)
    fence.stale, fence.asked = True, 0
    async with world.working():
        await world.send(event)
        await pass_seconds(world, 90)
        assert fence.asked
        assert changes(world) == before
        fence.stale = False
        await world.run_until_done()
    await world.has_state_of(event)
    world.has_dead_lettered_nothing()


async def test_a_create_that_was_claimed_is_not_sent_on_a_stale_proof(world, fence):
    fence.stale = True
    async with world.working():
        await world.send(CREATED)
        await pass_seconds(world, 30)
        assert not changes(world)
        fence.stale = False
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    assert changes(world) == ["create"]
    world.has_dead_lettered_nothing()


async def test_lost_locks_give_all_messages_back_at_once(world, fence):
    """Another worker may have the departments now."""
    world.witness.fail("bind", LedgerFailed(LOST))
    calling, answered = a_slow_create(world)
    async with world.working() as running:
        await world.send(CREATED)
        await calling.wait()
        fence.lose()
        await settled()
        assert running.blocks() == [LOST]
        assert not running.consumer.consuming
        assert len(world.broker.ready(WORK_QUEUE)) == 1
        answered.set()
        await settled()
        assert len(world.broker.ready(WORK_QUEUE)) == 1
        await pass_seconds(world, 2 * RETRY_SECONDS)
        assert running.blocks() == []
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")
    assert changes(world) == ["create"]


async def test_a_loss_that_is_over_at_once_gives_the_messages_back_too(world, fence):
    calling, answered = a_slow_create(world)
    async with world.working() as running:
        await world.send(CREATED)
        await calling.wait()
        fence.lose()
        await settled()
        assert running.blocks() == []
        assert running.consumer.consuming
        assert len(running.worker.lanes) == 2  # it came again
        answered.set()
        await world.run_until_done()
    world.answered(CREATED, "created")
