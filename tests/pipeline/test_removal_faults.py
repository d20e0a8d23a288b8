"""Removals while something fails: answers not confirmed, a broker that is down, settings that change.

The way of a removal without faults is in `test_removals.py`.
"""

import asyncio
from datetime import timedelta

import pytest

from contracts.topology import WORK_QUEUE
from tests.pipeline.test_removals import (
    CREATED,
    GRACE,
    REMOVED,
    RESTORED,
    ask,
    deletions,
    pass_time,
    tend,
    the_hold,
)
from tests.support.builders import (
    SALES,
    department_created,
    department_removed,
    department_renamed,
    reissue_requested,
)
from tests.support.world import World, fault
from worker.core.decide import Enable, Policy, Removal
from worker.core.model.entry import Status
from worker.core.model.holds import HoldState
from worker.core.model.wishes import Approving, Rejecting, Wish
from worker.core.protected import Protected
from worker.pipeline.line import REMOVALS_AT_ONCE
from worker.ports import LedgerFailed, PublishFailed

SALES_PROTECTED = Protected(("sales",))
MINUTES = timedelta(minutes=2)


@pytest.fixture
def protecting() -> World:
    return World(Policy(protected=SALES_PROTECTED))


class TestAnswersThatAreNotConfirmed:
    """The worker dies before it has published an answer, and the message does not return in time."""

    async def test_a_hold_is_told_before_its_approval_is(self, protecting):
        hold_id = await self.held_in_silence(protecting)
        assert await ask(protecting, Approving(hold_id)) is None
        protecting.answered(REMOVED, "held", "disabled")

    async def test_a_hold_is_told_before_its_rejection_is(self, protecting):
        hold_id = await self.held_in_silence(protecting)
        assert await ask(protecting, Rejecting(hold_id)) is None
        protecting.answered(REMOVED, "held", "unchanged")

    async def test_a_hold_is_told_before_the_event_that_voids_it(self, protecting):
        await self.held_in_silence(protecting)
        await protecting.handle(department_renamed("Marketing", sequence=3))
        await tend(protecting)
        protecting.answered(REMOVED, "held", "superseded")

    async def test_a_hold_is_told_even_if_nothing_else_happens(self, protecting):
        await self.held_in_silence(protecting)
        await pass_time(protecting, MINUTES)
        protecting.answered(REMOVED, "held")

    async def test_a_disable_is_told_before_the_deletion_is(self, world):
        await world.handle(CREATED)
        await world.crash_before("publish results subaccount.disabled", REMOVED)
        world.broker.purge(WORK_QUEUE)
        await pass_time(world, GRACE)
        assert [one.data["outcome"] for one in world.results(REMOVED)] == ["disabled", "removed"]

    async def test_a_message_that_returns_tells_nothing_twice(self, protecting):
        await protecting.handle(CREATED)
        await protecting.crash_before("publish results subaccount.held", REMOVED)
        await protecting.handle()
        await pass_time(protecting, MINUTES)
        protecting.answered(REMOVED, "held")
        assert (await protecting.entry()).owed_results == ()

    async def held_in_silence(self, world: World) -> str:
        """Returns the id of the hold."""
        await world.handle(CREATED)
        await world.crash_before("publish results subaccount.held", REMOVED)
        world.broker.purge(WORK_QUEUE)
        return (await the_hold(world)).id


async def test_an_approval_while_the_broker_is_down_is_told_later(protecting):
    await protecting.handle(CREATED, REMOVED)
    hold = await the_hold(protecting)
    protecting.witness.fail("publish results", PublishFailed("the broker is down"), times=2)
    assert await ask(protecting, Approving(hold.id)) is None
    assert (await protecting.entry()).status is Status.DISABLED
    protecting.answered(REMOVED, "held")
    for _ in range(2):
        await pass_time(protecting, MINUTES)
    protecting.answered(REMOVED, "held", "disabled")


async def test_an_approval_of_a_subaccount_that_others_deleted_ends_as_removed(protecting):
    await protecting.handle(CREATED, REMOVED)
    hold = await the_hold(protecting)
    protecting.provider.subaccounts.clear()
    assert await ask(protecting, Approving(hold.id)) is None
    for _ in range(8):
        await pass_time(protecting, MINUTES)
    assert (await protecting.entry()).status is Status.REMOVED
    protecting.answered(REMOVED, "held", "removed")
    assert await protecting.ledger.holds() == []


async def test_a_deletion_that_could_not_be_recorded_is_found_done(world):
    await world.handle(CREATED, REMOVED)
    world.clock.advance(GRACE.total_seconds())
    world.witness.fail("record removed", LedgerFailed("the disk is full"))
    await tend(world)
    for _ in range(3):
        await pass_time(world, MINUTES)
    assert (await world.entry()).status is Status.REMOVED
    world.answered(REMOVED, "disabled", "removed")
    assert len(deletions(world)) == 2  # the second meets 404


@pytest.mark.parametrize(
    ("removal", "outcome"),
    [
        (Removal.DISABLE_THEN_DELETE, "disabled"),
        (Removal.DISABLE, "disabled"),
        (Removal.DELETE, "removed"),
        (Removal.IGNORE, "unchanged"),
    ],
)
async def test_an_approval_follows_the_settings_of_its_moment(protecting, removal, outcome):
    await protecting.handle(CREATED, REMOVED)
    hold = await the_hold(protecting)
    protecting.policy = Policy(removal, protected=SALES_PROTECTED)
    assert await ask(protecting, Approving(hold.id)) is None
    protecting.answered(REMOVED, "held", outcome)
    assert (await protecting.ledger.hold(hold.id)).state is HoldState.DONE


async def test_credentials_are_issued_again_while_a_removal_waits_and_not_once_it_is_done(protecting):
    await protecting.handle(CREATED, REMOVED)
    protecting.clock.advance(100)
    while_held, once_disabled = reissue_requested(id="held"), reissue_requested(id="disabled")
    await protecting.handle(while_held)
    await ask(protecting, Approving((await the_hold(protecting)).id))
    protecting.clock.advance(100)
    await protecting.handle(once_disabled)
    assert [one.data["code"] for one in protecting.results(while_held)] == ["reissued"]
    assert [one.data["code"] for one in protecting.results(once_disabled)] == ["not-active"]


async def test_a_removal_while_enabling_is_owed_does_not_lose_the_enabling():
    world = World(Policy(enable=Enable.PUBLISHED))
    world.witness.fail("publish secrets", PublishFailed("the broker is down"), times=3)
    await world.handle_all(CREATED, REMOVED)
    await world.handle(RESTORED)
    await pass_time(world, MINUTES)
    entry = await world.entry()
    assert (entry.status, entry.debt) == (Status.ACTIVE, None)
    assert world.subaccounts(entry)[0].enabled


async def test_a_held_removal_does_not_keep_the_enabling_from_a_department():
    world = World(Policy(enable=Enable.PUBLISHED, protected=SALES_PROTECTED))
    world.witness.fail("update enabled", fault("update", 503))
    await world.handle(CREATED, REMOVED)
    for _ in range(2):
        await pass_time(world, MINUTES)
    assert world.subaccounts(await world.entry())[0].enabled
    assert (await the_hold(world)).state is HoldState.WAITING


async def test_another_payload_under_the_id_of_a_held_removal_is_refused(protecting):
    await protecting.handle(CREATED, REMOVED, department_removed("Other", sequence=2))
    protecting.dead_lettered("conflicting-duplicate")
    assert (await the_hold(protecting)).state is HoldState.WAITING


async def test_a_ruling_that_could_not_be_recorded_is_granted_later(protecting):
    await protecting.handle(CREATED, REMOVED)
    hold = await the_hold(protecting)
    protecting.witness.fail("record active", LedgerFailed("the disk is full"))
    await protecting.ledger.wish(Wish("wish", SALES, "ada", protecting.clock.now(), Approving(hold.id)))
    for _ in range(2):
        await pass_time(protecting, MINUTES)
    protecting.answered(REMOVED, "held", "disabled")
    assert await protecting.ledger.wishes() == []


async def test_many_removals_leave_room_for_others(world):
    """Removals whose calls take long keep further removals waiting, and nobody else."""
    ids = [f"d-{number}" for number in range(2 * REMOVALS_AT_ONCE)]
    await world.handle_all(*(department_created(sequence=1, id=f"c-{one}", department_id=one) for one in ids))
    answered, told = asyncio.Event(), asyncio.Event()
    for _ in range(REMOVALS_AT_ONCE):
        world.witness.before("update enabled", answered.wait)

    async def tell() -> None:
        told.set()

    world.witness.before("publish results subaccount.created", tell)
    removals = [department_removed(sequence=2, id=f"r-{one}", department_id=one) for one in ids]
    async with world.working():
        await world.send(*removals, CREATED)
        await told.wait()
        assert "update enabled" not in world.witness.journal
        answered.set()
        await world.run_until_done()
    for removal in removals:
        world.answered(removal, "disabled")
