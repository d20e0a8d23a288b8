"""A person has a new subaccount created for a department whose own is gone: once, whatever crashes."""

import asyncio
from collections.abc import Callable
from itertools import count

import pytest

from tests.support.builders import SALES, department_created, department_removed, department_renamed
from tests.support.port_tap import do_nothing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Enable, Policy
from worker.core.model.answers import Answer
from worker.core.model.entry import Status
from worker.core.model.wishes import Recreating, Wish
from worker.core.recreation import RECREATION_VALID_FOR, recreation_of

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
WINDOW = SETTLE_WINDOW.total_seconds()


async def a_gone_department(world: World) -> None:
    await world.handle(CREATED)
    world.provider.subaccounts.clear()
    await world.handle(RENAMED)


async def leave_wish(world: World, id_: str = "wish") -> Wish:
    wish = Wish(id_, SALES, "ada", world.clock.now(), Recreating())
    await world.ledger.wish(wish)
    return wish


async def answer_to(world: World, wish: Wish) -> Answer | None:
    return (await world.ledger.recall(SALES, recreation_of(wish).reference)).answer


async def work_until_answered(world: World, wish: Wish) -> Answer:
    async with world.working() as running:
        while wish in await world.ledger.wishes():
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
            world.clock.advance(1)
    answer = await answer_to(world, wish)
    assert answer is not None
    return answer


async def recreated(world: World) -> Answer:
    return await work_until_answered(world, await leave_wish(world))


def incarnations_created(world: World) -> int:
    return sum(operation == "create" for operation, *_ in world.provider.calls)


async def test_a_new_subaccount_and_its_credentials(world):
    await a_gone_department(world)
    old = (await world.entry()).auth_id
    answer = await recreated(world)
    entry = await world.entry()
    assert (answer.outcome, answer.code, answer.auth_id, answer.confirmed) == (
        "created",
        "created",
        entry.auth_id,
        True,
    )
    assert entry.auth_id != old
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    assert (entry.incarnation, entry.generation, entry.gone_at) == (2, 2, None)
    assert [message.causationid for message in world.credentials()][-1] == "wish"


async def test_the_dead_letter_can_be_replayed_afterwards(world):
    await a_gone_department(world)
    await recreated(world)
    await world.replay_dead_letters()
    await world.handle()
    await world.has_one_live_subaccount("Marketing")
    world.answered(RENAMED, "failed", "renamed")


async def test_a_subaccount_whose_loss_nobody_noticed_is_asked_for_a_window_long(world):
    await world.handle(CREATED)
    world.provider.subaccounts.clear()
    begun = world.clock.now()
    answer = await recreated(world)
    assert answer.outcome == "created"
    assert world.clock.now() - begun >= SETTLE_WINDOW


@pytest.mark.parametrize("gone_before", [True, False])
async def test_a_subaccount_that_is_there_is_not_recreated(world, gone_before):
    await world.handle(CREATED)
    if gone_before:
        world.witness.fail("update", fault("update", 404), times=None)
        await world.handle(RENAMED)
        world.witness.forget()
    answer = await recreated(world)
    assert (answer.outcome, answer.code) == ("failed", "not-allowed")
    assert "is at Plivo: there is nothing to recreate" in (answer.reason or "")
    assert (await world.entry()).gone_at is None
    assert incarnations_created(world) == 1


async def test_a_department_without_a_lost_subaccount_is_not_recreated(world):
    await world.handle(CREATED)
    world.provider.subaccounts.clear()
    await world.handle(department_removed(sequence=3))
    answer = await recreated(world)
    assert "there is no subaccount that is gone: the department is removed" in (answer.reason or "")
    assert incarnations_created(world) == 1


async def test_two_wishes_create_one_subaccount(world):
    await a_gone_department(world)
    first, second = await leave_wish(world), await leave_wish(world, "another")
    assert (await work_until_answered(world, first)).outcome == "created"
    assert (await work_until_answered(world, second)).outcome == "failed"
    assert incarnations_created(world) == 2


async def test_a_lost_response_is_settled(world):
    await a_gone_department(world)
    world.witness.fail("create", fault("create"), after_effect=True)
    assert (await recreated(world)).outcome == "created"
    await world.has_one_live_subaccount("Sales")
    assert incarnations_created(world) == 2


async def test_a_refused_create_ends_the_wish_and_can_be_asked_for_again(world):
    await a_gone_department(world)
    world.witness.fail("create", fault("create", 400))
    answer = await recreated(world)
    assert (answer.outcome, answer.code) == ("failed", "rejected")
    entry = await world.entry()
    assert (entry.status, entry.gone_at is not None) == (Status.REMOVED, True)
    event = department_created("Sales", sequence=7)
    await world.handle(event)
    world.answered(event, "failed")
    assert (await work_until_answered(world, await leave_wish(world, "again"))).outcome == "created"
    await world.has_one_live_subaccount("Sales")


async def test_a_failing_create_is_tried_again(world):
    await a_gone_department(world)
    world.witness.fail("create", fault("create", 403), times=2)
    assert (await recreated(world)).outcome == "created"
    assert incarnations_created(world) == 2


async def test_an_old_wish_is_not_carried_out(world):
    await a_gone_department(world)
    wish = await leave_wish(world)
    world.clock.advance(RECREATION_VALID_FOR.total_seconds() + 1)
    answer = await work_until_answered(world, wish)
    assert (answer.outcome, answer.reason) == ("failed", "nobody has done it within an hour")


async def test_a_withdrawn_wish_is_not_carried_out(world):
    await a_gone_department(world)
    wish = await leave_wish(world)
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await world.ledger.close_wish(wish.id)
        await running.worker.lanes.idle()
    assert await answer_to(world, wish) is None
    assert incarnations_created(world) == 1


async def test_an_event_that_adopts_it_meanwhile_fulfils_the_wish(world):
    """The worker died after the create; a newer event comes before its successor looks at the wishes."""
    await a_gone_department(world)
    wish = await leave_wish(world)
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()
    newer = department_renamed("Newer", sequence=9)
    await world.handle(newer)
    world.answered(newer, "created")
    assert (await work_until_answered(world, wish)).outcome == "created"
    await world.has_one_live_subaccount("Newer")
    assert incarnations_created(world) == 2


async def dies_at(world: World, moment: int) -> bool:
    """Whether the worker reached the n-th moment around a port call, and died there."""
    moments, died = count(1), asyncio.Event()

    async def around() -> None:
        if next(moments) == moment:
            died.set()
        if died.is_set():
            await asyncio.Event().wait()

    async with world.working() as running:
        world.witness.around = around
        await running.worker.scheduler.file_wishes()
        ends = [asyncio.ensure_future(end) for end in (running.worker.lanes.idle(), died.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    world.witness.around = do_nothing
    return died.is_set()


def lose_response(world: World) -> None:
    world.witness.fail("create", fault("create"), after_effect=True)


@pytest.mark.parametrize("enable", Enable)
@pytest.mark.parametrize("prepare", [lambda _world: None, lose_response], ids=["plain", "response-lost"])
@pytest.mark.parametrize("pause", [0.0, WINDOW + 1], ids=["at-once", "later"])
async def test_a_crash_anywhere_leads_to_one_subaccount(enable, prepare: Callable[[World], None], pause):
    for moment in count(1):
        world = World(Policy(enable=enable))
        await a_gone_department(world)
        wish = await leave_wish(world)
        prepare(world)
        died = await dies_at(world, moment)
        world.clock.advance(pause)
        answer = await work_until_answered(world, wish)
        assert answer.outcome == "created", moment
        await world.has_one_live_subaccount("Sales")
        await world.has_issued_credentials()
        assert len({one.id for one in world.credentials() if one.causationid == "wish"}) == 1
        assert [one.enabled for one in world.provider.subaccounts] == [True], moment
        world.witness.forget()
        if not died:
            assert moment > 8, "recall, look, create, records and publishing have more moments"
            return
