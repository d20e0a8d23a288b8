"""Duties: the check of a change that may come late, and the duplicate check."""

import asyncio
from dataclasses import replace
from itertools import count

import pytest

from tests.support.builders import NOW, department_created, department_removed, department_renamed
from tests.support.port_tap import do_nothing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.model.entry import Status
from worker.core.model.removals import Removed

CREATED = department_created("Sales", sequence=1)
WINDOW = SETTLE_WINDOW.total_seconds()


async def rename_after_an_unknown_rename(world: World) -> None:
    await world.handle(CREATED)
    world.witness.fail("update", fault("update"))
    await world.handle(department_renamed("Marketing", sequence=2))
    await world.handle(department_renamed("Sales", sequence=3))


async def create_duplicate(world: World) -> str:
    """A create that counts as lost is carried out late. Returns the recorded auth_id."""
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    recorded = (await world.entry()).auth_id
    assert recorded is not None
    await world.provider.create(world.sent_name("Sales"), "the first one, after the window")
    world.clock.advance(10 * WINDOW + 1)
    return recorded


def enabled(world: World) -> list[str]:
    return [held.auth_id for held in world.provider.subaccounts if held.enabled]


async def test_a_late_change_is_corrected_after_the_settle_window(world):
    await rename_after_an_unknown_rename(world)
    world.provider.subaccounts[0].name = world.sent_name("Marketing")  # carried out late
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize(
    ("late", "calls"),
    [
        ({}, []),
        ({"name": "Marketing"}, ["update name"]),
        ({"enabled": False}, ["update enabled"]),
        ({"name": "Marketing", "enabled": False}, ["update name enabled"]),
    ],
    ids=str,
)
async def test_a_correction_sends_only_what_differs(world, late, calls):
    await rename_after_an_unknown_rename(world)
    world.provider.subaccounts[0].name = world.sent_name(late.get("name", "Sales"))
    world.provider.subaccounts[0].enabled = late.get("enabled", True)
    world.clock.advance(WINDOW + 1)
    world.witness.journal.clear()
    await world.run_duties()
    assert [call for call in world.witness.journal if call.startswith("update")] == calls
    await world.has_one_live_subaccount("Sales")


async def test_a_correction_is_checked_again_one_settle_window_later(world):
    await rename_after_an_unknown_rename(world)
    world.provider.subaccounts[0].name = world.sent_name("Marketing")
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert (await world.entry()).check.at == world.clock.now() + SETTLE_WINDOW

    world.provider.subaccounts[0].name = world.sent_name("Marketing")  # another late change
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    await world.has_one_live_subaccount("Sales")
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert (await world.entry()).due_at is None


async def test_a_correction_that_a_crash_leaves_unknown_is_followed_by_a_check():
    """It may be carried out up to a settle window later, over a newer event."""
    for moment in count(1):
        world = World()
        await rename_after_an_unknown_rename(world)
        world.provider.subaccounts[0].name = world.sent_name("Marketing")
        world.clock.advance(WINDOW + 1)
        world.witness.journal.clear()
        died = await crash_at(world, moment)
        sent_at = world.clock.now()
        was_sent = any(call.startswith("update") for call in world.witness.journal)
        await world.run_duties()
        await world.handle(department_renamed("Support", sequence=4))
        if was_sent and died:
            world.provider.subaccounts[0].name = world.sent_name("Sales")  # the correction, carried out late
            due_at = (await world.entry()).due_at
            assert due_at is not None
            assert due_at >= sent_at + SETTLE_WINDOW
            world.clock.advance(WINDOW + 1)
            await world.run_duties()
        await world.has_one_live_subaccount("Support")
        if not died:
            assert moment > 8, "recall, get, record, update and record have more moments"
            return


async def test_the_duplicate_check_finds_a_very_late_duplicate(world):
    recorded = await create_duplicate(world)
    await world.run_duties()
    assert enabled(world) == [recorded]
    assert (await world.entry()).due_at is None


async def crash_at(world: World, moment: int) -> bool:
    """Runs the duties of a worker that dies at the n-th moment around a port call; False if it finished."""
    moments, died = count(1), asyncio.Event()

    async def around() -> None:
        if next(moments) == moment:
            died.set()
            await asyncio.Event().wait()

    async with world.working() as running:
        world.witness.around = around
        await running.worker.scheduler.file_due()
        ends = [asyncio.ensure_future(end) for end in (running.worker.lanes.idle(), died.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    world.witness.around = do_nothing
    return died.is_set()


async def test_a_crash_in_the_duplicate_check_leaves_no_duplicate():
    for moment in count(1):
        world = World()
        recorded = await create_duplicate(world)
        died = await crash_at(world, moment)
        await world.run_duties()
        assert enabled(world) == [recorded]
        assert (await world.entry()).due_at is None
        if not died:
            assert moment > 8, "recall, list, holders, update and record have more moments"
            return


async def test_a_duty_that_fails_is_postponed_by_a_settle_window(world):
    recorded = await create_duplicate(world)
    world.witness.fail("update", fault("update", 503))
    await world.run_duties()
    assert (await world.entry()).due_at == world.clock.now() + SETTLE_WINDOW
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert enabled(world) == [recorded]


async def test_duties_wait_until_an_unknown_create_is_settled(world):
    """A create that was given up stays unknown until a replay; no duty checks it before."""
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    entry = await world.entry()
    assert (entry.status, entry.due_at) == (Status.CLAIMED, None)
    assert entry.duplicates_check_at is not None
    world.clock.advance(20 * WINDOW)
    world.witness.journal.clear()
    await world.run_duties()
    assert world.witness.journal == []

    await world.handle(CREATED)
    await world.provider.create(world.sent_name("Sales"), "the third one, very late")
    world.clock.advance(10 * WINDOW + 1)
    await world.run_duties()
    assert enabled(world) == [(await world.entry()).auth_id]


async def test_a_duty_of_a_removed_department_is_still_done(world):
    recorded = await create_duplicate(world)
    await world.handle(department_removed(sequence=2))
    await world.run_duties()
    assert enabled(world) == []
    assert (await world.entry()).auth_id == recorded


async def test_an_overtaken_change_that_may_come_late_is_checked(world):
    await world.handle(CREATED)

    async def overtake() -> None:
        entry = await world.entry()
        await world.ledger.record(replace(entry, name="Theirs", check=None))

    world.witness.before("update name", overtake)
    world.witness.fail("update name", fault("update"))
    renamed = department_renamed("Ours", sequence=2)
    async with world.working():
        await world.send(renamed)
        await world.clock.asleep()
        assert (await world.entry()).check is not None
        await world.run_until_done()
    await world.has_one_live_subaccount("Ours")


async def test_a_correction_over_another_workers_change_is_checked_again(world):
    """The other worker removes the department during the check, and records that first."""
    await rename_after_an_unknown_rename(world)
    world.provider.subaccounts[0].enabled = False
    world.clock.advance(WINDOW + 1)

    async def remove_by_another_worker() -> None:
        entry = await world.entry()
        await world.ledger.record(replace(entry, status=Status.DISABLED, removal=Removed(NOW), check=None))

    world.witness.before("update", remove_by_another_worker)
    await world.run_duties()
    assert enabled(world), "the check must have its effect last"

    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert not enabled(world)
