"""A person's command about held removals: what it leaves, and how it ends. The worker is played here."""

import asyncio
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from contracts.subaccounts import ResultCode, ResultKind
from tests.support.builders import NOW, a_worker, an_entry, department_removed
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.decide import Policy, Removal
from worker.core.inventory import Counts
from worker.core.model.answers import Answer
from worker.core.model.causes import Event
from worker.core.model.departments import Department
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving, Rejecting
from worker.core.naming import NO_EVENT
from worker.core.removal import APPROVAL_VALID_FOR
from worker.core.wishes import reference_of
from worker.operations.holds import (
    HoldFilter,
    Rulings,
    UnknownHold,
    consequence,
    hold_story,
    holds,
    rejection,
)
from worker.operations.wishes import Asking
from worker.ports import Beside

REMOVED = Event.of(department_removed(sequence=11), "department.removed.v1", "digest").bare
COUNTS = Counts(2, 1, 0)


def a_hold(number: int = 1, reason: HoldReason = HoldReason.LIMIT, **fields: Any) -> Hold:
    given: dict[str, Any] = {
        "id": f"hold-{number}",
        "department": Department("acme", f"d-{number}"),
        "reason": reason,
        "detail": "4 of 4 removals in 24 h",
        "cause": REMOVED,
        "auth_id": f"SA{number:018}",
        "name": f"Department {number}",
        "held_at": NOW + timedelta(seconds=number),
    }
    return Hold(**(given | fields))


def resources(number: int = 1, counts: Counts = COUNTS, **fields: Any) -> Hold:
    return a_hold(number, HoldReason.RESOURCES, resources=counts, **fields)


RULED: dict[str, Any] = {"ruling": Ruling("bob", NOW)}


class Scene:
    """A ledger with holds, and a worker that this test plays."""

    def __init__(self) -> None:
        self.clock = MemoryClock(NOW + timedelta(seconds=10))
        self.ledger, self.audit = MemoryLedger(self.clock.now), MemoryAudit()
        numbers = count(1)
        self.asking = Asking(self.ledger, self.audit, self.clock, "ada", lambda: f"wish-{next(numbers)}")
        self.seen: list[int] = []

    async def with_holds(self, *kept: Hold) -> "Scene":
        for hold in kept:
            entry = an_entry(revision=0, department=hold.department, auth_id=hold.auth_id)
            await self.ledger.record(entry, beside=Beside(holds=(hold,)))
        return self

    async def becomes(self, hold: Hold) -> None:
        entry = (await self.ledger.recall(hold.department, NO_EVENT)).entry
        await self.ledger.record(entry, beside=Beside(holds=(hold,)))

    async def runs(self) -> None:
        await self.ledger.announce(a_worker())

    def ask(self, *asks, waits: bool = True):
        return asyncio.create_task(Rulings(self.asking, self.seen.append).ask(asks, waits=waits))

    async def time_passes(self, seconds: float = 1.0) -> None:
        """The command polls, and the worker says that it runs."""
        await self.runs()
        self.clock.advance(seconds)
        await asyncio.sleep(0.001)

    async def grants(self, state: HoldState | None, why: str | None = None) -> None:
        """The worker ends the oldest wish: the hold gets this state, or nothing is done and `why` says so."""
        wish = (await self.ledger.wishes())[0]
        assert isinstance(wish.asks, Approving | Rejecting)
        hold = await self.ledger.hold(wish.asks.hold_id)
        assert hold is not None
        failed = state is None
        await self.ledger.record_answer(
            Answer(
                wish.department,
                reference_of(wish),
                wish.id,
                ResultKind.FAILED if failed else ResultKind.UNCHANGED,
                ResultCode.NOT_ALLOWED if failed else ResultCode.UNCHANGED,
                self.clock.now(),
                reason=why,
                confirmed=True,
            )
        )
        if state is not None:
            cascade = wish.asks.cascade if isinstance(wish.asks, Approving) else None
            ruling = Ruling(wish.asked_by, self.clock.now(), cascade)
            await self.becomes(replace(hold, state=state, ruling=ruling))
        await self.ledger.close_wish(wish.id)

    async def audited(self) -> list[tuple[str, str, str]]:
        return [(line.action, line.selection, line.outcome) for line in await self.audit.lines()]


@pytest.fixture
def scene():
    return Scene()


def told(outcomes) -> list[tuple[str, str]]:
    return [(outcome.id, outcome.ending) for outcome in outcomes]


async def test_an_approval_is_followed_until_it_is_done(scene):
    await scene.with_holds(a_hold(1), a_hold(2))
    asked = scene.ask(Approving("hold-1"), Approving("hold-2"))
    for states in ([HoldState.APPROVED] * 2, [HoldState.DONE] * 2):
        await scene.time_passes()
        assert not asked.done()
        if states[0] is HoldState.APPROVED:
            for state in states:
                await scene.grants(state)
        else:
            for number, state in enumerate(states, 1):
                hold = await scene.ledger.hold(f"hold-{number}")
                await scene.becomes(replace(hold, state=state))
    await scene.time_passes()
    outcomes = await asked
    assert told(outcomes) == [("hold-1", "done"), ("hold-2", "done")]
    assert (outcomes[0].detail, outcomes[0].hold.state) == ("department d-1 is active", HoldState.DONE)
    assert scene.seen[-1] == 2
    assert await scene.audited() == [("approve", "hold-1 hold-2", "asked for")] * 2


async def test_a_rejection_is_done_once_it_is_on_record(scene):
    await scene.with_holds(a_hold())
    asked = scene.ask(Rejecting("hold-1"))
    await scene.time_passes()
    await scene.grants(HoldState.REJECTED)
    await scene.time_passes()
    assert told(await asked) == [("hold-1", "done")]


@pytest.mark.parametrize(
    ("hold", "ask", "why"),
    [
        (None, Approving("hold-1"), "there is no hold of this id"),
        (a_hold(state=HoldState.VOID), Approving("hold-1"), "newer event"),
        (a_hold(state=HoldState.DONE), Rejecting("hold-1"), "carried out already"),
        (a_hold(state=HoldState.REJECTED, **RULED), Approving("hold-1"), "rejected by bob"),
        (a_hold(), Approving("hold-1", 3), "--cascade is for holds of reason resources"),
        (
            resources(state=HoldState.APPROVED, **RULED),
            Approving("hold-1", 3),
            "bob has approved it without --cascade",
        ),
    ],
)
async def test_a_hold_that_cannot_be_ruled_on_is_named_and_the_others_are_asked_for(scene, hold, ask, why):
    await scene.with_holds(a_hold(2), *([hold] if hold else []))
    (refused, left) = await scene.ask(ask, Approving("hold-2"), waits=False)
    assert (refused.ending, left.ending) == ("not-taken", "left")
    assert why in refused.detail
    assert [wish.asks for wish in await scene.ledger.wishes()] == [Approving("hold-2")]


async def test_without_a_worker_the_wish_stays(scene):
    await scene.with_holds(a_hold())
    (outcome,) = await scene.ask(Approving("hold-1"))
    assert (outcome.ending, outcome.well) == ("not-done", False)
    assert "no worker runs" in outcome.detail
    assert [wish.asked_by for wish in await scene.ledger.wishes()] == ["ada"]
    (outcome,) = await scene.ask(Approving("hold-1"), waits=False)
    assert outcome.well


async def test_a_refusal_of_the_worker_is_told(scene):
    await scene.with_holds(a_hold())
    asked = scene.ask(Approving("hold-1"))
    await scene.time_passes()
    await scene.grants(None, "a newer event has arrived")
    await scene.time_passes()
    (outcome,) = await asked
    assert (outcome.ending, outcome.detail) == ("not-taken", "a newer event has arrived")


async def test_other_counts_are_told_with_the_command_to_type(scene):
    await scene.with_holds(resources())
    asked = scene.ask(Approving("hold-1", 3))
    await scene.time_passes()
    await scene.grants(HoldState.APPROVED)
    hold = await scene.ledger.hold("hold-1")
    await scene.becomes(
        replace(hold, state=HoldState.WAITING, ruling=None, resources=Counts(2, 1, 4), detail="7 hang on it")
    )
    await scene.time_passes()
    (outcome,) = await asked
    assert outcome.ending == "not-done"
    assert "2 numbers, 1 application, 4 endpoints hang on it now" in outcome.detail
    assert "--cascade hold-1=7" in outcome.detail


@pytest.mark.parametrize(
    ("ask", "state", "why"),
    [
        (Approving("hold-1"), HoldState.VOID, "newer event"),
        (Approving("hold-1"), HoldState.REJECTED, "rejected by ada"),
        (Rejecting("hold-1"), HoldState.DONE, "carried out already"),
    ],
)
async def test_another_end_is_told(scene, ask, state, why):
    await scene.with_holds(a_hold())
    asked = scene.ask(ask)
    await scene.time_passes()
    await scene.grants(state)
    await scene.time_passes()
    (outcome,) = await asked
    assert outcome.ending == "not-done"
    assert why in outcome.detail


async def test_a_removal_that_does_not_succeed_is_left_to_the_worker(scene):
    await scene.with_holds(a_hold())
    asked = scene.ask(Approving("hold-1"))
    await scene.time_passes()
    await scene.grants(HoldState.APPROVED)
    for _ in range(301):
        await scene.time_passes()
    (outcome,) = await asked
    assert (outcome.ending, "the worker goes on" in outcome.detail) == ("not-done", True)


async def test_a_worker_that_stops_leaves_the_rest(scene):
    await scene.with_holds(a_hold(1), a_hold(2))
    asked = scene.ask(Approving("hold-1"), Approving("hold-2"))
    await scene.time_passes()
    await scene.grants(HoldState.DONE)
    await scene.time_passes()
    scene.clock.advance(6)
    assert told(await asked) == [("hold-1", "done"), ("hold-2", "not-done")]
    assert len(await scene.ledger.wishes()) == 1


async def test_the_last_word_about_a_hold_counts(scene):
    await scene.with_holds(resources())
    await scene.ask(Approving("hold-1", 2), waits=False)
    await scene.ask(Approving("hold-1", 3), waits=False)
    assert [wish.asks for wish in await scene.ledger.wishes()] == [Approving("hold-1", 3)]
    await scene.ask(Rejecting("hold-1"), waits=False)
    assert [wish.asks for wish in await scene.ledger.wishes()] == [Rejecting("hold-1")]
    assert await scene.audited() == [
        ("approve", "hold-1 --cascade hold-1=2", "asked for"),
        ("approve", "hold-1", "withdrawn, replaced by a later request"),
        ("approve", "hold-1 --cascade hold-1=3", "asked for"),
        ("approve", "hold-1", "withdrawn, replaced by a later request"),
        ("reject", "hold-1", "asked for"),
    ]


async def test_a_command_whose_wish_was_replaced_ends(scene):
    await scene.with_holds(a_hold())
    asked = scene.ask(Approving("hold-1"))
    await scene.time_passes()
    await scene.ask(Rejecting("hold-1"), waits=False)
    await scene.time_passes()
    assert told(await asked) == [("hold-1", "not-taken")]


async def test_an_approval_that_is_carried_out_is_joined(scene):
    """A command that was interrupted is typed again."""
    await scene.with_holds(a_hold(state=HoldState.APPROVED, **RULED))
    await scene.runs()
    asked = scene.ask(Approving("hold-1"))
    await scene.time_passes()
    assert await scene.ledger.wishes() == []
    await scene.becomes(a_hold(state=HoldState.DONE, **RULED))
    await scene.time_passes()
    assert told(await asked) == [("hold-1", "done")]


async def test_another_hold_met_on_the_way_is_named(scene):
    await scene.with_holds(a_hold())
    asked = scene.ask(Approving("hold-1"))
    await scene.time_passes()
    await scene.grants(HoldState.DONE)
    entry = (await scene.ledger.recall(Department("acme", "d-1"), NO_EVENT)).entry
    met = resources(id="hold-9")
    await scene.ledger.record(replace(entry, hold=met), beside=Beside(holds=(met,)))
    await scene.time_passes()
    (outcome,) = await asked
    assert outcome.well
    assert "held again (resources): hold hold-9" in outcome.detail


async def test_the_list_shows_waiting_holds_and_on_request_all(scene):
    over = a_hold(1, state=HoldState.DONE)
    await scene.with_holds(over, a_hold(2), resources(3))
    now = scene.clock.now()
    assert [hold.id for hold in await holds(scene.ledger, now, HoldFilter())] == ["hold-2", "hold-3"]
    assert len(await holds(scene.ledger, now, HoldFilter(all_=True))) == 3
    for which in (
        HoldFilter(reasons=[HoldReason.RESOURCES]),
        HoldFilter(departments=["d-3"]),
        HoldFilter(departments=["d-3"], tenants=["acme"]),
    ):
        assert [hold.id for hold in await holds(scene.ledger, now, which)] == ["hold-3"]
    assert await holds(scene.ledger, now, HoldFilter(tenants=["other"])) == []


async def test_a_hold_is_approved_while_its_approval_waits_and_has_not_lapsed(scene):
    await scene.with_holds(a_hold())
    await scene.ask(Approving("hold-1"), waits=False)
    states = []
    for seconds in (0, APPROVAL_VALID_FOR.total_seconds() - 1, 1):
        scene.clock.advance(seconds)
        (hold,) = await holds(scene.ledger, scene.clock.now(), HoldFilter(all_=True))
        states.append(hold.state)
    assert states == [HoldState.APPROVED, HoldState.APPROVED, HoldState.WAITING]
    assert len(await holds(scene.ledger, scene.clock.now(), HoldFilter())) == 1


async def test_the_story_of_a_hold_has_its_audit(scene):
    await scene.with_holds(a_hold())
    await scene.ask(Rejecting("hold-1"), waits=False)
    story = await hold_story(scene.ledger, scene.audit, scene.clock.now(), "hold-1")
    assert (story.hold.state, [line.action for line in story.lines]) == (HoldState.WAITING, ["reject"])
    with pytest.raises(UnknownHold, match="holds list --all"):
        await hold_story(scene.ledger, scene.audit, scene.clock.now(), "hold-2")


@pytest.mark.parametrize(
    ("hold", "removal", "words"),
    [
        (a_hold(), Removal.DISABLE_THEN_DELETE, ["disables subaccount", "after 30 days"]),
        (a_hold(), Removal.DELETE, ["deletes subaccount", "a hold of their own"]),
        (a_hold(), Removal.DISABLE, ["disables subaccount"]),
        (a_hold(), Removal.IGNORE, ["nothing"]),
        (a_hold(reason=HoldReason.PROTECTED, disabled=True), Removal.DISABLE, ["deletes subaccount"]),
        (a_hold(reason=HoldReason.DRIFT), Removal.DELETE, ["as it is then"]),
        (
            resources(),
            Removal.DELETE,
            ["2 numbers, 1 application, 0 endpoints move", "--cascade hold-1=3", "destroyed"],
        ),
    ],
)
def test_an_approval_is_described_before(hold, removal, words):
    text = consequence(hold, Policy(removal=removal))
    assert [word for word in words if word not in text] == []


def test_a_rejection_is_described_before():
    assert "stays active" in rejection(a_hold())
    assert "stays disabled" in rejection(resources(disabled=True))


async def test_the_audit_has_a_line_for_each_of_many_holds_and_not_all_ids_in_each(scene):
    many = [a_hold(number) for number in range(1, 101)]
    await scene.with_holds(*many)
    await scene.ask(*(Approving(hold.id) for hold in many), waits=False)
    audited = await scene.audited()
    assert len(audited) == 100
    assert {selection.partition(" and ")[2] for _, selection, _ in audited} == {"80 more"}
