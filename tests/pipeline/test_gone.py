"""A subaccount that somebody deleted at the provider: it is noticed, told, and never created anew unasked."""

import asyncio
from datetime import timedelta

import pytest

from contracts.topology import SECRETS, SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.test_operators import session_of
from tests.support.builders import (
    SALES,
    department_created,
    department_removed,
    department_renamed,
    reissue_requested,
)
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Policy, Removal
from worker.core.model.entry import Status
from worker.core.model.wishes import Reissuing, Wish
from worker.core.reissue import request_of
from worker.operations.dead_letters.plan import plan

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
UNCHANGED = department_created("Sales", id="again", sequence=4)
REMOVED_LAST = department_removed(sequence=5)
WINDOW = SETTLE_WINDOW.total_seconds()


async def delete_by_hand(world: World) -> None:
    world.provider.subaccounts.clear()


async def a_gone_department(world: World) -> None:
    """The rename that finds it is dead-lettered."""
    await world.handle(CREATED)
    await delete_by_hand(world)
    await world.handle(RENAMED)
    world.witness.journal.clear()


def creates(world: World) -> int:
    return sum(operation == "create" for operation, *_ in world.provider.calls)


async def test_the_event_that_finds_it_gone_is_dead_lettered_after_one_window(world):
    await world.handle(CREATED)
    auth_id = (await world.entry()).auth_id
    await delete_by_hand(world)
    begun = world.clock.now()
    await world.handle(RENAMED)

    letter = world.dead_lettered("rejected")
    detail = letter.message.headers["x-dead-detail"]
    assert f"subaccount {auth_id} is not at Plivo any more" in detail
    assert "departments recreate sales" in detail
    world.answered(RENAMED, "failed")
    assert SETTLE_WINDOW <= world.clock.now() - begun <= SETTLE_WINDOW + timedelta(seconds=1)
    assert (await world.entry()).gone_at is not None
    assert creates(world) == 1


@pytest.mark.parametrize("event", [UNCHANGED, department_renamed("Other", sequence=4)], ids=["same", "other"])
async def test_later_events_are_dead_lettered_at_once_and_never_unchanged(world, event):
    await a_gone_department(world)
    begun = world.clock.now()
    await world.handle(event)
    world.answered(event, "failed")
    assert [letter.message.headers["x-dead-reason"] for letter in world.dead_letters()] == ["rejected"] * 2
    assert world.clock.now() == begun
    assert world.witness.journal.count("get") == 1
    assert creates(world) == 1


@pytest.mark.parametrize(
    ("removal", "noticed"),
    [
        *((removal, True) for removal in Removal),
        *((removal, False) for removal in Removal if removal is not Removal.IGNORE),  # which makes no call
    ],
)
async def test_its_removal_is_done_and_a_newer_event_creates_the_next_incarnation(removal, noticed):
    world = World(Policy(removal))
    await (a_gone_department(world) if noticed else world.handle(CREATED))
    await delete_by_hand(world)
    await world.handle(REMOVED)
    world.answered(REMOVED, "removed")
    entry = await world.entry()
    assert (entry.status, entry.gone_at, entry.missing_since) == (Status.REMOVED, None, None)
    assert len(world.dead_letters()) == noticed

    await world.handle(UNCHANGED)
    world.answered(UNCHANGED, "created")
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    assert (await world.entry()).generation == 2


async def test_a_disabled_department_can_be_gone_too(world):
    await world.handle(CREATED, department_removed(sequence=2))
    await delete_by_hand(world)
    await world.handle(UNCHANGED)
    world.answered(UNCHANGED, "failed")
    world.dead_lettered("rejected")
    assert (await world.entry()).gone_at is not None
    await world.handle(department_removed(sequence=5))
    assert (await world.entry()).status is Status.REMOVED


async def test_a_lagging_read_is_not_a_loss(world):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", 404), times=3)
    await world.handle(RENAMED)
    world.answered(RENAMED, "renamed")
    world.has_dead_lettered_nothing()
    assert (await world.entry()).missing_since is None


async def test_a_gone_subaccount_that_is_there_again_is_used(world):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", 404), times=None)
    await world.handle(RENAMED)
    world.witness.forget()
    newer = department_renamed("Newer", sequence=4)
    await world.handle(newer)
    world.answered(newer, "renamed")
    await world.has_one_live_subaccount("Newer")
    entry = await world.entry()
    assert (entry.gone_at, entry.missing_since) == (None, None)


async def test_a_check_marks_it_and_stops(world):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update"))
    await world.handle(RENAMED)
    await delete_by_hand(world)
    for _ in range(2):
        world.clock.advance(WINDOW + 1)
        await world.run_duties()
    entry = await world.entry()
    assert (entry.gone_at, entry.due_at) == (world.clock.now(), None)
    assert creates(world) == 1


async def owing(world: World) -> None:
    """Its credentials were not delivered before the subaccount was deleted."""
    await world.crash_before("publish secrets", CREATED)
    await delete_by_hand(world)


async def test_an_event_whose_credentials_are_owed_is_answered_as_recorded(world):
    await owing(world)
    await world.handle()
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()
    entry = await world.entry()
    assert (entry.gone_at is not None, entry.owed_to != frozenset()) == (True, True)
    assert entry.due_at is None


async def test_a_debt_of_a_gone_department_does_not_block_the_gate(world):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with world.working() as running:
        await world.send(CREATED)
        await world.clock.asleep(2)  # the retry, and the gate's release after ten minutes
        assert running.worker.gate.blocks
        await delete_by_hand(world)
        done = asyncio.create_task(world.done())
        while not done.done():
            asleep = asyncio.create_task(world.clock.asleep(2))
            await asyncio.wait({asleep, done}, return_when=asyncio.FIRST_COMPLETED)
            asleep.cancel()
            if not done.done():
                world.clock.advance(world.clock.seconds_to_next())
        assert not running.worker.gate.blocks
    world.answered(CREATED, "created")


async def test_a_duty_that_finds_it_gone_stops(world):
    await owing(world)
    world.broker.purge(WORK_QUEUE)
    for _ in range(4):
        world.clock.advance(WINDOW + 1)
        await world.run_duties()
    assert (await world.entry()).gone_at is not None
    world.witness.journal.clear()
    world.clock.advance(100 * WINDOW)
    await world.run_duties()
    assert world.witness.journal == []


async def test_a_debt_is_taken_up_again_when_the_subaccount_is_back(world):
    await world.crash_before("publish secrets", CREATED)
    world.witness.fail("get", fault("get", 404), times=None)
    await world.handle()
    assert (await world.entry()).gone_at is not None
    world.witness.forget()
    await world.handle(department_created("Sales", sequence=2))
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


async def test_the_window_continues_after_a_crash(world):
    await world.handle(CREATED)
    await delete_by_hand(world)
    begun = world.clock.now()
    async with world.working():
        await world.send(RENAMED)
        await world.clock.asleep()
    world.clock.advance(WINDOW)
    await world.handle()
    assert world.clock.now() - begun <= SETTLE_WINDOW + timedelta(seconds=1)
    world.answered(RENAMED, "failed")
    world.dead_lettered("rejected")


# Requests to issue credentials again


def code(world: World, event) -> str:
    (result,) = world.results(event)
    return result.data["code"]


async def test_the_results_have_the_code(world):
    await a_gone_department(world)
    await world.handle(UNCHANGED, REMOVED_LAST)
    assert [code(world, event) for event in (RENAMED, UNCHANGED, REMOVED_LAST)] == ["gone-at-provider"] * 3
    assert [letter.message.headers["x-dead-reason"] for letter in world.dead_letters()] == ["rejected"] * 2


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
async def test_a_request_to_reissue_says_that_it_is_gone(world, noticed):
    await (a_gone_department(world) if noticed else world.handle(CREATED))
    await delete_by_hand(world)
    asked = reissue_requested()
    begun = world.clock.now()
    await world.handle(asked)
    world.answered(asked, "failed")
    assert code(world, asked) == "gone-at-provider"
    assert (await world.entry()).gone_at is not None
    assert (world.clock.now() == begun) is noticed


async def test_a_wish_to_reissue_is_answered_at_once_and_looked_after(world):
    """A person waits ten seconds for it; the check that follows makes sure."""
    await world.handle(CREATED)
    await delete_by_hand(world)
    wish = Wish("wish", SALES, "ada", world.clock.now(), Reissuing())
    await world.ledger.wish(wish)
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()
    answer = (await world.ledger.recall(SALES, request_of(wish).reference)).answer
    assert (answer.outcome, answer.code) == ("failed", "gone-at-provider")
    assert "departments recreate sales" in answer.reason
    assert (await world.entry()).gone_at is None
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert (await world.entry()).gone_at is not None


async def test_a_reissue_of_a_subaccount_that_is_back_ends_the_mark(world):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", 404), times=None)
    await world.handle(RENAMED)
    world.witness.forget()
    asked = reissue_requested()
    await world.handle(asked)
    world.answered(asked, "reissued")
    assert (await world.entry()).gone_at is None


async def test_a_plan_says_that_it_is_gone(world):
    await a_gone_department(world)
    (prospect,) = (
        await plan(session_of(world), world.ledger, world.policy, 10, lambda _number: None)
    ).prospects
    assert (prospect.outcome, prospect.calls) == ("still rejected", 1)
    assert "departments recreate sales" in prospect.detail
