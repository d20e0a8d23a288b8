"""A worker that dies, at every point of every line: whoever comes after it finds a way to the same end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from builders import AnyDepartmentEvent, department_created, department_removed, department_renamed
from world import SETTLE_WINDOW, World, fault, go_on

from contracts.topology import WORK_QUEUE
from worker.core.decide import Policy, Removal

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
AGAIN = department_created("Sales again", sequence=4)


@dataclass(frozen=True)
class Story:
    """The worker dies during the event; what came before it went well."""

    name: str
    before: tuple[AnyDepartmentEvent, ...]
    event: AnyDepartmentEvent
    outcome: str
    removal: Removal = Removal.DISABLE
    unheard_create: bool = False

    async def world(self) -> World:
        world = World(Policy(self.removal))
        await world.handle(*self.before)
        world.witness.journal.clear()
        if self.unheard_create:
            world.witness.fail("create", fault("create"), after_effect=True)
        return world


STORIES = [
    Story("created", (), CREATED, "created"),
    Story("created-unheard", (), CREATED, "created", unheard_create=True),
    Story("renamed", (CREATED,), RENAMED, "renamed"),
    Story("disabled", (CREATED,), REMOVED, "disabled"),
    Story("deleted", (CREATED,), REMOVED, "removed", Removal.DELETE),
    Story("restored", (CREATED, REMOVED), AGAIN, "restored"),
    Story("created-anew", (CREATED, REMOVED), AGAIN, "created", Removal.DELETE),
    Story("superseded", (RENAMED,), CREATED, "superseded"),
]


@dataclass
class Death:
    """Comes at the n-th moment right before or right after a port call."""

    moment: int
    came: asyncio.Event = field(default_factory=asyncio.Event)
    moments: int = 0

    async def __call__(self) -> None:
        self.moments += 1
        if self.moments == self.moment:
            self.came.set()
        if self.came.is_set():
            await asyncio.Event().wait()


async def dies(world: World, event: AnyDepartmentEvent, moment: int) -> bool:
    """Whether the worker got so far as to die there; False where it was done before."""
    death = Death(moment)
    world.witness.around = death
    async with world.working():
        await world.send(event)
        done = asyncio.create_task(world.done_in_time())
        came = asyncio.create_task(death.came.wait())
        await asyncio.wait({done, came}, return_when=asyncio.FIRST_COMPLETED)
        for task in (done, came):
            task.cancel()
    world.witness.around = go_on
    return death.came.is_set()


async def every_death(story: Story) -> AsyncIterator[tuple[World, int]]:
    for moment in count(1):
        world = await story.world()
        if not await dies(world, story.event, moment):
            assert moment > 8, "a line has more moments than that"
            return
        yield world, moment


async def ended_well(world: World, story: Story) -> None:
    await world.has_come_to(max((*story.before, story.event), key=lambda event: event.sequence or 0))
    for event in story.before:
        assert len({told.id for told in world.results(event)}) == 1
    world.answered(story.event, story.outcome, times=None)
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@pytest.mark.parametrize("pause", [0.0, SETTLE_WINDOW.total_seconds() + 1], ids=["at-once", "later"])
async def test_wherever_a_worker_dies_the_next_one_ends_it_well(story, pause):
    async for world, _ in every_death(story):
        world.clock.advance(pause)
        await world.handle()
        await ended_well(world, story)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_and_if_the_next_one_dies_too(story):
    async for world, moment in every_death(story):
        for second in (2, moment, moment + 2):
            await dies(world, story.event, second)
        await world.handle()
        await ended_well(world, story)


OVERTAKING = {
    "renamed": department_renamed("Newest", sequence=9),
    "same": department_created("Sales", sequence=9),
    "removed": department_removed(sequence=9),
}


@pytest.mark.parametrize("newest", OVERTAKING.values(), ids=OVERTAKING)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_or_if_a_newer_event_overtakes_the_one_it_died_of(story, newest):
    async for world, _ in every_death(story):
        overtaken = world.broker.ready(WORK_QUEUE)
        world.broker.purge(WORK_QUEUE)
        await world.send(newest)
        for outgoing in overtaken:
            await world.broker.publish(outgoing)
        await world.handle()
        # What was carried out but is not on record the newer event cannot see: the check set before it does.
        world.clock.advance(SETTLE_WINDOW.total_seconds() + 1)
        await world.attend_to_duties()
        await world.has_come_to(newest)
        assert len({told.id for told in world.results(story.event)}) == 1
        world.has_dead_lettered_nothing()
        world.has_nothing_to_do()


async def test_a_create_that_reaches_the_provider_after_the_worker_died_is_adopted():
    world = World()
    await world.cut_off("create", CREATED)
    async with world.working():
        await world.clock.asleep()
        await world.provider.create(world.sent_name("Sales"), "on its way when the worker died")
        await world.done_in_time()
    assert len(world.provider.subaccounts) == 1
    await ended_well(world, STORIES[0])
