"""Commands beside a real worker: a plan names what then happens, and a ruling ends as the command says."""

import asyncio
from itertools import count

import pytest

from contracts.envelope import Message
from tests.pipeline.test_removals import give, tend
from tests.support.builders import SALES, a_worker, department_created, department_removed, department_renamed
from tests.support.world import World
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.core.decide import Enable, Policy, Removal
from worker.core.limits import DEFAULT_LIMIT
from worker.core.model.holds import HoldState
from worker.core.model.wishes import Approving, Rejecting
from worker.core.protected import Protected
from worker.operations.holds import Rulings
from worker.operations.plan import event_in, plan
from worker.operations.wishes import Asking

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=3)
REMOVED = department_removed(sequence=5)
RESTORED = department_created("Sales", id="again", sequence=7)
OTHER = department_created("Other", id="other-1", department_id="other", sequence=1)
PROTECTED = Protected(("sales",))

STORIES = [
    (Policy(), [CREATED, RENAMED, REMOVED, RESTORED]),
    (Policy(), [CREATED, REMOVED, RENAMED]),
    (Policy(), [RENAMED, CREATED, REMOVED]),
    (Policy(), [REMOVED, CREATED, RESTORED]),
    (Policy(removal=Removal.DELETE), [CREATED, REMOVED, RESTORED, RESTORED]),
    (Policy(removal=Removal.DISABLE), [CREATED, REMOVED, CREATED]),
    (Policy(removal=Removal.IGNORE), [CREATED, REMOVED]),
    (Policy(enable=Enable.PUBLISHED), [CREATED, RENAMED, REMOVED, RESTORED]),
    (Policy(limit=DEFAULT_LIMIT), [CREATED, REMOVED, RENAMED]),
    (Policy(limit=DEFAULT_LIMIT), [OTHER, CREATED, REMOVED, RESTORED]),
    (Policy(protected=PROTECTED, removal=Removal.DELETE), [CREATED, REMOVED, REMOVED, RESTORED]),
]


@pytest.mark.parametrize(("policy", "events"), STORIES)
async def test_each_event_ends_with_the_planned_outcome_and_calls(policy, events):
    world = World(policy)
    for event in events:
        content = Message.structured(event).body
        made = (await plan(world.ledger, event_in(content), policy, world.clock.now())).forecast
        calls = len(world.provider.calls)
        await world.handle(event)
        assert world.results(event)[-1].data["outcome"] == made.outcome, made
        assert len(world.provider.calls) - calls == made.calls, made
        await tend(world)


NUMBERS = count(1)


def rulings(world: World) -> Rulings:
    return Rulings(Asking(world.ledger, MemoryAudit(), world.clock, "ada", lambda: f"wish-{next(NUMBERS)}"))


async def ruled(world: World, ask: Approving | Rejecting):
    """Runs the command beside a worker until it ends."""
    await world.ledger.announce(a_worker())
    asked = asyncio.create_task(rulings(world).ask([ask]))
    while not asked.done():
        await world.ledger.announce(a_worker())
        await tend(world)
        world.clock.advance(1)
        await asyncio.sleep(0)
    (outcome,) = await asked
    return outcome


async def held(policy: Policy, *resources: str) -> tuple[World, str]:
    world = World(policy)
    await world.handle(CREATED)
    give(world, (await world.entry()).auth_id, *resources)
    await world.handle(REMOVED)
    (hold,) = await world.ledger.holds()
    return world, hold.id


async def test_an_approval_ends_once_the_worker_has_disabled():
    world, id_ = await held(Policy(protected=PROTECTED))
    outcome = await ruled(world, Approving(id_))
    assert (outcome.ending, outcome.detail) == ("done", f"department {SALES.id} is disabled")
    again = await ruled(world, Approving(id_))
    assert (again.ending, again.detail) == ("not-taken", "it was carried out already")


async def test_a_rejection_ends_with_the_department_active():
    world, id_ = await held(Policy(protected=PROTECTED))
    outcome = await ruled(world, Rejecting(id_))
    assert (outcome.ending, outcome.detail) == ("done", f"department {SALES.id} is active")


async def test_a_wrong_count_is_told_and_the_right_one_deletes():
    world, id_ = await held(Policy(removal=Removal.DELETE), "+1", "+2")
    outcome = await ruled(world, Approving(id_, 3))
    assert (outcome.ending, outcome.hold.state) == ("not-done", HoldState.WAITING)
    assert f"`--cascade {id_}=2`" in outcome.detail
    outcome = await ruled(world, Approving(id_, 2))
    assert (outcome.ending, outcome.detail) == ("done", f"department {SALES.id} is removed")


async def test_resources_met_after_an_approval_are_told_as_a_hold_of_their_own():
    world, id_ = await held(Policy(removal=Removal.DELETE, protected=PROTECTED), "+1")
    outcome = await ruled(world, Approving(id_))
    (other,) = await world.ledger.holds()
    assert outcome.well
    assert outcome.detail.endswith(f"its removal is held again (resources): hold {other.id}")
