"""What an entry owes to be done later: the check of a change that may come late, the recount of doubles."""

import asyncio
from dataclasses import replace
from itertools import count

from tests.support.builders import department_created, department_removed, department_renamed
from tests.support.world import SETTLE_WINDOW, World, do_nothing, fault
from worker.core.model import Status

CREATED = department_created("Sales", sequence=1)
WINDOW = SETTLE_WINDOW.total_seconds()


async def renamed_over_one_that_may_come_late(world: World) -> None:
    await world.handle(CREATED)
    world.witness.fail("update", fault("update"))
    await world.handle(department_renamed("Marketing", sequence=2))
    await world.handle(department_renamed("Sales", sequence=3))


async def doubled(world: World) -> str:
    """A create taken for lost is carried out after all; returns who is on record."""
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    on_record = (await world.entry()).auth_id
    await world.provider.create(world.sent_name("Sales"), "the first one, after the window")
    world.clock.advance(10 * WINDOW + 1)
    return on_record


def enabled(world: World) -> list[str]:
    return [held.auth_id for held in world.provider.subaccounts if held.enabled]


async def test_a_change_carried_out_late_is_set_right_when_it_must_have_settled(world):
    await renamed_over_one_that_may_come_late(world)
    world.provider.subaccounts[0].name = world.sent_name("Marketing")  # only now
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    await world.has_one_live_subaccount("Sales")


async def test_what_was_set_right_is_looked_at_once_more_a_window_later(world):
    await renamed_over_one_that_may_come_late(world)
    world.provider.subaccounts[0].name = world.sent_name("Marketing")
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert (await world.entry()).check_at == world.clock.now() + SETTLE_WINDOW

    world.provider.subaccounts[0].name = world.sent_name("Marketing")  # another one that came late
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    await world.has_one_live_subaccount("Sales")
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert (await world.entry()).due_at is None


async def test_a_double_that_comes_very_late_is_found_by_the_recount(world):
    on_record = await doubled(world)
    await world.run_duties()
    assert enabled(world) == [on_record]
    assert (await world.entry()).due_at is None


async def dies_at(world: World, moment: int) -> bool:
    """Whether a worker got to its n-th moment before or after a port call of its duties, to die there."""
    moments, died = count(1), asyncio.Event()

    async def around() -> None:
        if next(moments) == moment:
            died.set()
            await asyncio.Event().wait()

    async with world.working() as running:
        world.witness.around = around
        await running.worker.scheduler.file_what_is_due()
        ends = [asyncio.ensure_future(end) for end in (running.worker.lanes.idle(), died.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    world.witness.around = do_nothing
    return died.is_set()


async def test_wherever_a_worker_dies_recounting_the_next_one_disables_the_double():
    for moment in count(1):
        world = World()
        on_record = await doubled(world)
        died = await dies_at(world, moment)
        await world.run_duties()
        assert enabled(world) == [on_record]
        assert (await world.entry()).due_at is None
        if not died:
            assert moment > 8, "recall, list, holders, update and record are more moments than that"
            return


async def test_one_that_cannot_be_done_is_put_off_by_a_window(world):
    on_record = await doubled(world)
    world.witness.fail("update", fault("update", 503))
    await world.run_duties()
    assert (await world.entry()).due_at == world.clock.now() + SETTLE_WINDOW
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert enabled(world) == [on_record]


async def test_nothing_is_due_while_a_create_is_open_and_all_of_it_afterwards(world):
    """Given up, it stays open until it is replayed: nobody keeps looking at it till then."""
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    entry = await world.entry()
    assert (entry.status, entry.due_at) == (Status.CLAIMED, None)
    assert entry.recount_at is not None
    world.clock.advance(20 * WINDOW)
    world.witness.journal.clear()
    await world.run_duties()
    assert world.witness.journal == []

    await world.handle(CREATED)
    await world.provider.create(world.sent_name("Sales"), "the third one, very late")
    world.clock.advance(10 * WINDOW + 1)
    await world.run_duties()
    assert enabled(world) == [(await world.entry()).auth_id]


async def test_a_subaccount_somebody_deleted_is_not_made_again_unasked(world):
    await renamed_over_one_that_may_come_late(world)
    world.provider.subaccounts.clear()
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert world.provider.subaccounts == []
    assert (await world.entry()).due_at is None


async def test_a_duty_of_a_department_removed_meanwhile_is_still_done(world):
    on_record = await doubled(world)
    await world.handle(department_removed(sequence=2))
    await world.run_duties()
    assert enabled(world) == []
    assert (await world.entry()).auth_id == on_record


async def test_a_change_of_ours_that_another_worker_overtook_and_that_may_come_late_is_looked_at(world):
    await world.handle(CREATED)

    async def overtake() -> None:
        entry = await world.entry()
        await world.ledger.record(replace(entry, name="Theirs", check_at=None, late_call=False))

    world.witness.before("update name", overtake)
    world.witness.fail("update name", fault("update"))
    renamed = department_renamed("Ours", sequence=2)
    async with world.working():
        await world.send(renamed)
        await world.clock.asleep()
        assert (await world.entry()).check_at is not None
        await world.run_until_done()
    await world.has_one_live_subaccount("Ours")


async def test_what_was_set_right_over_what_another_worker_has_done_is_looked_at_once_more(world):
    """It removed the department while the check was under way, and had that on record first."""
    await renamed_over_one_that_may_come_late(world)
    world.provider.subaccounts[0].name = world.sent_name("Marketing")
    world.clock.advance(WINDOW + 1)

    async def removed_meanwhile() -> None:
        entry = await world.entry()
        world.provider.subaccounts[0].enabled = False
        await world.ledger.record(replace(entry, status=Status.DISABLED, check_at=None, late_call=False))

    world.witness.before("update", removed_meanwhile)
    await world.run_duties()
    assert enabled(world), "the check has come last"

    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert not enabled(world)
