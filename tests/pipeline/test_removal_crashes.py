"""A crash before or after every port call of a removal: the next worker reaches the same end.

These stories go on without a message: a grace ends, a person rules on a hold, a newer event voids one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import pytest

from tests.pipeline.test_crashes import Crash
from tests.support.builders import SALES, department_created, department_removed
from tests.support.port_tap import do_nothing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.adapters.memory.provider import StoredResource
from worker.bootstrap.running import RunningWorker
from worker.core.decide import Policy, Removal
from worker.core.inventory import ResourceKind
from worker.core.limits import Window
from worker.core.model.entry import Status
from worker.core.model.holds import HoldState
from worker.core.model.wishes import Approving, Rejecting, Wish
from worker.core.protected import Protected
from worker.core.removal import APPROVAL_VALID_FOR
from worker.ports import LedgerConflict

CREATED = department_created("Sales", sequence=1)
REMOVED = department_removed(sequence=2)
AGAIN = department_created("Sales", sequence=3)
GRACE = timedelta(days=30)
ONE_PER_DAY = (Window(1, timedelta(days=1), is_percentage=False),)
GRACEFUL = Policy(grace=GRACE)
LAST_ACTIVE = Policy(grace=GRACE, limit=ONE_PER_DAY)
PROTECTED = Policy(Removal.DELETE, protected=Protected((SALES.id,)))
ROUNDS = 4
FEWEST_MOMENTS = 4

Move = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """A worker does `before` without a failure, then the story `goes_on`, and another worker dies meanwhile.

    `outcomes`: of the removal. `hold`: the state of its newest hold at the end. `left`: the resources that
    exist then.
    """

    name: str
    policy: Policy
    goes_on: Move
    outcomes: tuple[str, ...]
    status: Status
    hold: HoldState | None = None
    before: tuple[Move, ...] = ()
    left: int = 0

    async def world(self) -> World:
        world = World(self.policy)
        await world.handle(CREATED, REMOVED)
        for move in self.before:
            await move(world)
        world.witness.journal.clear()
        await self.goes_on(world)
        return world


async def end_grace(world: World) -> None:
    world.clock.advance(GRACE.total_seconds())


async def give_number(world: World) -> None:
    """A number hangs on the subaccount."""
    owned = StoredResource(ResourceKind.NUMBERS, "15550100", (await world.entry()).auth_id)
    world.provider.owned = [owned]


async def meet_resources(world: World) -> None:
    """The grace is over, and the deletion is held for a number."""
    await give_number(world)
    await end_grace(world)
    await tend(world)


async def approve(world: World) -> None:
    await ask(world, Approving(await hold_id(world)))


async def approve_with_cascade(world: World) -> None:
    await ask(world, Approving(await hold_id(world), cascade=1))


async def reject(world: World) -> None:
    await ask(world, Rejecting(await hold_id(world)))


async def reject_a_void_one(world: World) -> None:
    await ask(world, Rejecting("H-UNKNOWN"))


async def approve_in_vain(world: World) -> None:
    """It is approved, and the provider fails."""
    world.witness.fail("get", fault("get", 500))
    await approve(world)
    await tend(world)


async def let_lapse(world: World) -> None:
    world.clock.advance(APPROVAL_VALID_FOR.total_seconds())


async def send_newer(world: World) -> None:
    await world.send(AGAIN)


async def hold_id(world: World) -> str:
    (hold,) = await world.ledger.holds()
    return hold.id


async def ask(world: World, asks: Approving | Rejecting) -> None:
    await world.ledger.wish(Wish("wish", SALES, "ada", world.clock.now(), asks))


STORIES = [
    Story("grace-over", GRACEFUL, end_grace, ("disabled", "removed"), Status.REMOVED),
    Story(
        "held-at-deletion",
        GRACEFUL,
        end_grace,
        ("disabled", "held"),
        Status.DISABLED,
        HoldState.WAITING,
        (give_number,),
        left=1,
    ),
    Story("approved", LAST_ACTIVE, approve, ("held", "disabled"), Status.DISABLED, HoldState.DONE),
    Story("approved-deletes", PROTECTED, approve, ("held", "removed"), Status.REMOVED, HoldState.DONE),
    Story(
        "approved-moves-resources",
        GRACEFUL,
        approve,
        ("disabled", "held", "removed"),
        Status.REMOVED,
        HoldState.DONE,
        (meet_resources,),
        left=1,
    ),
    Story(
        "approved-with-cascade",
        GRACEFUL,
        approve_with_cascade,
        ("disabled", "held", "removed"),
        Status.REMOVED,
        HoldState.DONE,
        (meet_resources,),
    ),
    Story("rejected", LAST_ACTIVE, reject, ("held", "unchanged"), Status.ACTIVE, HoldState.REJECTED),
    Story(
        "rejected-at-deletion",
        GRACEFUL,
        reject,
        ("disabled", "held"),
        Status.DISABLED,
        HoldState.REJECTED,
        (meet_resources,),
        left=1,
    ),
    Story("lapsed", PROTECTED, let_lapse, ("held",), Status.ACTIVE, HoldState.WAITING, (approve_in_vain,)),
    Story("voided", LAST_ACTIVE, send_newer, ("held", "superseded"), Status.ACTIVE, HoldState.VOID),
]


async def work(world: World, running: RunningWorker) -> None:
    """The worker handles the messages, and all that is due, until nothing is left to do."""
    await world.run_until_done()
    for _ in range(ROUNDS):
        await running.worker.scheduler.file_due()
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()


async def tend(world: World) -> None:
    async with world.working() as running:
        await work(world, running)


async def dies_at(world: World, moment: int) -> bool:
    """Whether the worker reached that moment and died; False if it finished before."""
    crash = Crash(moment)
    world.witness.around = crash
    async with world.working() as running:
        done = asyncio.create_task(work(world, running))
        reached = asyncio.create_task(crash.reached.wait())
        await asyncio.wait({done, reached}, return_when=asyncio.FIRST_COMPLETED)
        for task in (done, reached):
            task.cancel()
    world.witness.around = do_nothing
    return crash.reached.is_set()


async def every_crash(story: Story) -> AsyncIterator[tuple[World, int]]:
    for moment in count(1):
        world = await story.world()
        if not await dies_at(world, moment):
            assert moment > FEWEST_MOMENTS, f"{story.name} has only {moment - 1} moments"
            return
        yield world, moment
        world.witness.forget()


async def complete(world: World, story: Story) -> None:
    """Later workers do the rest; a call without an outcome on record is in doubt for a settle window."""
    for _ in range(3):
        await tend(world)
        world.clock.advance(SETTLE_WINDOW.total_seconds() + 1)
    entry = await world.entry()
    assert entry.status is story.status
    assert (entry.owed_results, entry.due_at) == ((), None)
    world.answered(REMOVED, *story.outcomes, times=None)
    holds = await world.ledger.holds(all_=True)
    assert [hold.state for hold in holds] == ([story.hold] if story.hold else [])
    assert await world.ledger.wishes() == []
    assert len(world.provider.subaccounts) == (story.status is not Status.REMOVED)
    assert len(world.provider.owned) == story.left
    assert len(world.credentials()) == 1
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_the_next_worker_completes_the_removal_after_a_crash_anywhere(story):
    async for world, _ in every_crash(story):
        await complete(world, story)


@pytest.mark.no_cover
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_the_removal_is_completed_after_repeated_crashes(story):
    async for world, moment in every_crash(story):
        for second in (2, moment, moment + 2):
            await dies_at(world, second)
        await complete(world, story)


@pytest.mark.no_cover
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_newer_event_after_the_crash_restores_or_creates(story):
    async for world, _ in every_crash(story):
        newest = department_created("Sales", sequence=9)
        await world.send(newest)
        for _ in range(3):
            await tend(world)
            world.clock.advance(SETTLE_WINDOW.total_seconds() + 1)
        await world.has_state_of(newest)
        assert not [hold for hold in await world.ledger.holds(all_=True) if hold.is_open]
        assert (await world.entry()).owed_results == ()
        world.has_dead_lettered_nothing()
        world.has_nothing_to_do()


async def test_a_ruling_on_an_unknown_hold_is_answered_once():
    story = Story("unknown", LAST_ACTIVE, reject_a_void_one, ("held",), Status.ACTIVE, HoldState.WAITING)
    async for world, _ in every_crash(story):
        await complete(world, story)


async def test_a_worker_that_loses_a_removal_to_another_does_not_disturb_it():
    """The loser of a write records nothing: it would make the winner lose its next write."""
    world = await STORIES[0].world()
    world.witness.fail("record deleting", LedgerConflict("another worker was faster"))
    before = await world.entry()
    async with world.working() as running:
        await running.worker.scheduler.file_due()
        await running.worker.lanes.idle()
    assert await world.entry() == before
    await complete(world, STORIES[0])
