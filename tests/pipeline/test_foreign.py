"""Auth ids on record for another department: another account, or a sandbox begun anew."""

from tests.pipeline.outages import pass_seconds, working_with_duties
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.world import World
from worker.adapters.memory.provider import MemoryProvider
from worker.core.model.entry import Status

CREATED = department_created("Sales", sequence=1)
OTHER = department_created("Other", id="other", department_id="other", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
OTHER_DEPARTMENT = SALES._replace(id="other")
SECONDS = 200


async def begin_anew(world: World) -> MemoryProvider:
    """Returns the provider that the ledger was made with."""
    await world.handle(CREATED)
    known, world.provider = world.provider, MemoryProvider()
    return known


async def test_everything_stops_and_nothing_is_created_twice(world):
    await begin_anew(world)
    async with working_with_duties(world) as running:
        await world.send(OTHER)
        await pass_seconds(world, SECONDS)
        (trouble,) = running.blocks()
        assert "on record for department sales" in trouble
        assert "is this another account, or a sandbox begun anew?" in trouble
        await world.send(RENAMED)
        await pass_seconds(world, SECONDS)
    assert [held.name for held in world.provider.subaccounts] == [world.sent_name("Other", OTHER_DEPARTMENT)]
    assert {operation for operation, *_ in world.provider.calls} == {"create", "get"}
    assert (await world.entry(OTHER_DEPARTMENT)).status is Status.CLAIMED
    world.has_dead_lettered_nothing()


async def test_a_restart_does_not_help(world):
    await begin_anew(world)
    async with working_with_duties(world):
        await world.send(OTHER)
        await pass_seconds(world, SECONDS)
    async with working_with_duties(world) as running:
        await pass_seconds(world, SECONDS)
        assert "another account" in running.blocks()[0]
    assert len(world.provider.subaccounts) == 1
    world.has_dead_lettered_nothing()


async def test_the_worker_goes_on_with_the_account_of_the_ledger(world):
    known = await begin_anew(world)
    async with working_with_duties(world):
        await world.send(OTHER)
        await pass_seconds(world, SECONDS)
    world.provider = known
    await world.handle(RENAMED)
    await world.has_one_live_subaccount("Other", OTHER_DEPARTMENT)
    await world.has_one_live_subaccount("Marketing")
    assert len(known.subaccounts) == 2
    world.has_dead_lettered_nothing()


async def test_a_running_worker_notices_that_it_is_the_account_of_the_ledger_again(world):
    known = await begin_anew(world)
    async with working_with_duties(world) as running:
        await world.send(OTHER)
        await pass_seconds(world, SECONDS)
        anew = world.provider
        anew.subaccounts[:] = known.subaccounts  # its state is restored
        await world.run_until_done()
        assert running.blocks() == []
    await world.has_one_live_subaccount("Other", OTHER_DEPARTMENT)
