"""Random orders, duplicates and failures: every department converges to its newest event."""

import asyncio
from collections import Counter
from itertools import chain, repeat

import pytest
from hypothesis import event as hypothesis_event
from hypothesis import example, given, settings
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
ERRORS: dict[str, list[Exception]] = {
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
failures = st.lists(st.tuples(faults, st.booleans()), max_size=12)
delays = st.lists(st.integers(0, 4), max_size=40)


@st.composite
def deliveries(draw):
    """Events of up to three departments, each with its own sequence, in a random order with duplicates."""
    counts = Counter(draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7)))
    events = [
        BUILDERS[draw(kinds)](
            draw(names), department_id=department, sequence=number, id=f"{department}{number}"
        )
        for department, count in counts.items()
        for number in range(1, count + 1)
    ]
    again = draw(st.lists(st.sampled_from(events), max_size=4))
    return events, draw(st.permutations(events + again))


def delay_calls(steps: list[int]):
    """Delays each port call by the drawn number of loop turns, so that lanes interleave in many ways."""
    turns = chain(steps, repeat(0))

    async def around() -> None:
        for _ in range(next(turns)):
            await asyncio.sleep(0)

    return around


LIFE = [
    department_created("Sales", department_id="a", sequence=1, id="a1"),
    department_removed(department_id="a", sequence=2, id="a2"),
]


@pytest.mark.no_cover
@settings(max_examples=400, deadline=None, print_blob=True)
@example((LIFE, LIFE), [(("delete", fault("delete")), False)], [], Removal.DELETE)  # chance may draw none
@given(deliveries(), failures, delays, st.sampled_from([Removal.DISABLE, Removal.DELETE]))
async def test_departments_converge_to_their_newest_events(story, drawn, steps, removal):
    events, order = story
    world = World(Policy(removal))
    world.witness.around = delay_calls(steps)
    for (what, error), after_effect in drawn:
        world.witness.fail(what, error, after_effect=after_effect)
    await world.handle(*order)
    while world.dead_letters():  # three unknown creates of one event are given up, a replay is not
        assert {letter.message.headers["x-dead-reason"] for letter in world.dead_letters()} == {
            "create-unknown"
        }
        await world.replay_dead_letters()
        await world.handle()
    world.clock.advance(11 * SETTLE_WINDOW.total_seconds())
    await world.run_duties()

    hypothesis_event(f"creates that failed: {world.witness.journal.count('create failed')}")
    newest = {event.data.department_id: event for event in sorted(events, key=lambda one: one.sequence)}
    for event in newest.values():
        await world.has_state_of(event)
    for event in events:
        final = [result for result in world.results(event) if result.data["outcome"] != "failed"]
        assert len({result.id for result in final}) == 1, event
    world.has_nothing_to_do()
    world.witness.forget()  # whether a fault that was drawn finds its call is left to chance
