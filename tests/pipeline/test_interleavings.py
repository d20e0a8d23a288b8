"""Whatever comes in whatever order and fails however often: all departments end well."""

import asyncio
from collections import Counter
from itertools import chain, repeat

from hypothesis import event as noted
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.departments import Kind
from tests.support.builders import department_created, department_removed, department_renamed
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Policy, Removal
from worker.ports import LedgerConflict, LedgerFailed, PublishFailed

BUILDERS = {
    Kind.CREATED: department_created,
    Kind.RENAMED: department_renamed,
    Kind.REMOVED: department_removed,
}
ERRORS = {
    "recall": [LedgerFailed("locked")],
    "record": [LedgerFailed("locked"), LedgerConflict("meanwhile"), RuntimeError("unexpected")],
    "create": [fault("create"), fault("create", 503), RuntimeError("unexpected")],
    "update": [fault("update"), fault("update", 500)],
    "delete": [fault("delete"), fault("delete", 503)],
    "get": [fault("get"), fault("get", 401)],
    "list": [fault("list"), fault("list", 429, retry_after_seconds=7.0)],
    "publish": [PublishFailed("no connection"), RuntimeError("unexpected")],
    "ack": [RuntimeError("unexpected")],
}

kinds, names = st.sampled_from(Kind), st.sampled_from(["Sales", "Marketing", "Support"])
faults = st.sampled_from([(what, error) for what, errors in ERRORS.items() for error in errors])
mishaps = st.lists(st.tuples(faults, st.booleans()), max_size=12)
dawdlings = st.lists(st.integers(0, 4), max_size=40)


@st.composite
def deliveries(draw):
    """Events of a few departments, each of its own sequence, and the order they come in: some come again."""
    told = Counter(draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7)))
    events = [
        BUILDERS[draw(kinds)](
            draw(names), department_id=department, sequence=number, id=f"{department}{number}"
        )
        for department, count in told.items()
        for number in range(1, count + 1)
    ]
    again = draw(st.lists(st.sampled_from(events), max_size=4))
    return events, draw(st.permutations(events + again))


def dawdling(steps: list[int]):
    """Each port call takes as many turns of the loop as drawn, so that the lanes mix in many ways."""
    turns = chain(steps, repeat(0))

    async def around() -> None:
        for _ in range(next(turns)):
            await asyncio.sleep(0)

    return around


@settings(max_examples=400, deadline=None, print_blob=True)
@given(deliveries(), mishaps, dawdlings, st.sampled_from([Removal.DISABLE, Removal.DELETE]))
async def test_all_departments_end_as_their_newest_events_say(story, drawn, steps, removal):
    events, order = story
    world = World(Policy(removal))
    world.witness.around = dawdling(steps)
    for (what, error), after_effect in drawn:
        world.witness.fail(what, error, after_effect=after_effect)
    await world.handle(*order)
    while world.dead_letters():  # three unknowns of one event are given up; its replay is not
        assert {told.message.headers["x-dead-reason"] for told in world.dead_letters()} == {"create-unknown"}
        await world.replay_dead_letters()
        await world.handle()
    world.clock.advance(11 * SETTLE_WINDOW.total_seconds())
    await world.run_duties()

    noted(f"creates that failed: {world.witness.journal.count('create failed')}")
    newest = {event.data.department_id: event for event in sorted(events, key=lambda one: one.sequence)}
    for event in newest.values():
        await world.has_state_of(event)
    for event in events:
        final = [told for told in world.results(event) if told.data["outcome"] != "failed"]
        assert len({told.id for told in final}) == 1, event
    world.has_nothing_to_do()
