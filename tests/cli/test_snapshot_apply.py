"""Plans and applies of snapshots: what is sent, and what a kill at any point leaves."""

import io
import json
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from contracts.departments import DepartmentEvent, Kind, department_event
from contracts.envelope import read
from tests.support.builders import NOW
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.memory.snapshots import MemorySnapshots
from worker.adapters.sqlite.draft import draft
from worker.core.messages import Outgoing
from worker.core.model.departments import Department
from worker.core.snapshots import Said, Standing
from worker.operations import snapshot_lists, snapshot_plan
from worker.operations import snapshots as operations
from worker.operations.snapshot_lists import items_in, row_by_contract, rows_of
from worker.operations.snapshot_plan import (
    Planning,
    PlanRefused,
    PlanUnusable,
    PlanWriter,
    read_plan,
)
from worker.operations.snapshots import Applied, ApplyFailed, Applying, ApplyRefused
from worker.ports import NotTaken, Unroutable

DAY = timedelta(days=1)
START = NOW - 10 * DAY


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Death:
    """Kills the process at one of its steps, before or after its effect."""

    at: int = -1
    after: bool = False
    steps: int = 0

    def step(self) -> Iterator[None]:
        mine, self.steps = self.steps, self.steps + 1
        if 0 <= self.at < mine or (mine == self.at and not self.after):
            raise Killed
        yield
        if mine == self.at:
            raise Killed


class DyingSnapshots(MemorySnapshots):
    """Writes that the process may not survive."""

    death: Death

    async def begin(self, standing: Standing, revision: int | None) -> None:
        for _ in self.death.step():
            await super().begin(standing, revision)

    async def say(self, source: str, digest: str, said: Sequence[Said]) -> None:
        for _ in self.death.step():
            await super().say(source, digest, said)

    async def settle(self, source: str, said: Sequence[Said]) -> None:
        for _ in self.death.step():
            await super().settle(source, said)

    async def finish(self, source: str, digest: str, missing: Sequence[Department]) -> None:
        for _ in self.death.step():
            await super().finish(source, digest, missing)


@dataclass
class World:
    """A ledger, and a queue that keeps events. `failures`: of the next publish for that department."""

    snapshots: DyingSnapshots = field(default_factory=DyingSnapshots)
    events: list[DepartmentEvent] = field(default_factory=list)
    audit: MemoryAudit = field(default_factory=lambda: MemoryAudit([]))
    death: Death = field(default_factory=Death)
    failures: dict[str, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.snapshots.death = self.death

    async def publish(self, outgoing: Outgoing) -> None:
        event = department_event(read(outgoing.message))
        assert outgoing.routing_key == f"department.{event.kind}"
        if failure := self.failures.pop(event.data.department_id, None):
            raise failure
        for _ in self.death.step():
            self.events.append(event)

    async def planned(self, content: str, as_of: datetime, source: str = "hr") -> dict[str, Any]:
        return json.loads(await self.plan_text(content, as_of, source))

    async def plan_text(self, content: str, as_of: datetime, source: str = "hr") -> str:
        written: list[str] = []
        with ExitStack() as stack:
            writer = PlanWriter(stack)
            temporary = stack.enter_context(draft())
            planning = Planning(self.snapshots, temporary, writer, source, "list", as_of, NOW)
            await planning.begin()
            planning.take(list(rows_of(items_in(io.BytesIO(content.encode()), "list"), row_by_contract)))
            planned = await planning.plan()
            writer.write(planned.head, written.append)
            self.warnings = list(planned.warnings)
        return "".join(written)

    async def apply(self, plan: str, *, removes: bool = False) -> Applied:
        applying = Applying(self.snapshots, self, self.audit, MemoryClock(NOW), by="ada", run="run-1")
        return await applying.apply(read_plan(plan.encode(), "plan"), "plan", removes=removes)

    async def load(self, names: Mapping[str, str], as_of: datetime, *, removes: bool = False) -> Applied:
        return await self.apply(await self.plan_text(csv_of(names), as_of), removes=removes)

    @property
    def state(self) -> dict[str, str]:
        """The departments that exist once the newest event of each is carried out."""
        newest: dict[str, DepartmentEvent] = {}
        for event in self.events:
            known = newest.get(event.data.department_id)
            if known is None or event.version.newer_than(known.version):
                newest[event.data.department_id] = event
        return {id_: str(event.data.name) for id_, event in newest.items() if event.kind is not Kind.REMOVED}

    def ids(self, kind: Kind | None = None) -> list[str]:
        return [event.id for event in self.events if kind in {None, event.kind}]


def csv_of(names: Mapping[str, str]) -> str:
    return "department_id,name\n" + "".join(f"{id_},{name}\n" for id_, name in names.items())


ABC = {"1": "Sales", "2": "Ops", "3": "Legal"}


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_list_creates_every_department(world):
    planned = await world.planned(csv_of(ABC), START)
    assert planned["source"] == "hr"
    assert planned["created"] == [
        {"tenant": "default", "department_id": id_, "name": name} for id_, name in ABC.items()
    ]
    assert (planned["renamed"], planned["same"], planned["missing"], planned["refused"]) == ([], 0, [], [])
    applied = await world.load(ABC, START)
    assert (applied.sent, applied.removed, applied.left) == (3, 0, [])
    assert world.state == ABC
    event = world.events[0]
    assert (event.source, event.time, event.type) == ("/snapshot/hr", START, "department.created.v1")


async def test_the_same_state_sends_nothing_whatever_its_spelling(world):
    await world.load(ABC, START)
    other = {"3": " Legal", "2": "Ops ", "1": "Sales"}
    planned = await world.planned(csv_of(other), START + DAY)
    assert (planned["created"], planned["renamed"], planned["same"]) == ([], [], 3)
    assert (await world.load(other, START + DAY)).sent == 0
    assert len(world.events) == 3


async def test_a_new_name_is_a_rename(world):
    await world.load(ABC, START)
    planned = await world.planned(csv_of(ABC | {"2": "Operations"}), START + DAY)
    assert planned["renamed"] == [
        {"tenant": "default", "department_id": "2", "name": "Operations", "previous_name": "Ops"}
    ]
    await world.load(ABC | {"2": "Operations"}, START + DAY)
    await world.load(ABC, START + 2 * DAY)
    assert [event.type for event in world.events[3:]] == ["department.renamed.v1"] * 2
    assert world.state == ABC
    assert len(set(world.ids())) == 5


async def test_a_department_goes_only_when_two_lists_are_without_it_and_it_is_asked_for(world):
    await world.load(ABC, START)
    less = {"1": "Sales", "2": "Ops"}
    first = await world.load(less, START + DAY, removes=True)
    assert first.left == [(Department("default", "3"), operations.FIRST)]
    planned = await world.planned(csv_of(less), START + 2 * DAY)
    assert [(one["department_id"], one["since"]) for one in planned["missing"]] == [
        ("3", (START + DAY).isoformat().replace("+00:00", "Z"))
    ]
    reported = await world.load(less, START + 2 * DAY)
    assert reported.left == [(Department("default", "3"), operations.NOT_ASKED)]
    assert world.state == ABC

    removed = await world.load(less, START + 3 * DAY, removes=True)
    assert (removed.sent, removed.removed, removed.left) == (1, 1, [])
    assert world.state == less
    again = await world.planned(csv_of(less), START + 4 * DAY)
    assert again["missing"] == []

    await world.load(ABC, START + 5 * DAY)
    assert world.state == ABC


async def test_the_same_list_twice_is_not_two_lists(world):
    await world.load(ABC, START)
    less = {"1": "Sales", "2": "Ops"}
    for _ in range(3):
        await world.load(less, START + DAY, removes=True)
    assert world.state == ABC


async def test_a_department_that_came_back_counts_anew(world):
    await world.load(ABC, START)
    less = {"1": "Sales", "2": "Ops"}
    await world.load(less, START + DAY)
    await world.load(ABC, START + 2 * DAY)
    await world.load(less, START + 3 * DAY, removes=True)
    assert world.state == ABC


async def test_a_list_with_refused_lines_trusts_no_absence(world):
    await world.load(ABC, START)
    less = csv_of({"1": "Sales", "2": "Ops"})
    await world.apply(await world.plan_text(less, START + DAY))
    bad = await world.plan_text(less + "4\n", START + 2 * DAY)
    assert json.loads(bad)["missing"] == []
    assert json.loads(bad)["refused"] == [{"line": 4, "error": "1 fields, and the header has 2"}]
    await world.apply(bad, removes=True)
    await world.apply(await world.plan_text(less, START + 3 * DAY), removes=True)
    assert world.state == ABC, "the list before was not complete"
    await world.apply(await world.plan_text(less, START + 4 * DAY), removes=True)
    assert world.state == {"1": "Sales", "2": "Ops"}


async def test_a_contradicted_department_is_neither_changed_nor_missing(world):
    await world.load(ABC, START)
    planned = await world.planned(csv_of(ABC) + "2,Other\n1,Sales\n", START + DAY)
    assert planned["refused"] == [
        {"line": 5, "error": "line 3 says otherwise of this department; neither is used"}
    ]
    assert (planned["renamed"], planned["missing"], planned["same"]) == ([], [], 2)


async def test_only_departments_of_the_source_go_and_none_that_another_source_has(world):
    await world.load(ABC, START)
    for day in (1, 2):
        plan = await world.plan_text(csv_of({"8": "Own", "1": "Sales"}), START + day * DAY, "crm")
        await world.apply(plan, removes=True)
    assert world.state == ABC | {"8": "Own"}
    await world.load({"2": "Ops"}, START + 3 * DAY)
    applied = await world.load({"2": "Ops"}, START + 4 * DAY, removes=True)
    assert applied.left == [(Department("default", "1"), "source crm has it")]
    assert world.state == {"1": "Sales", "2": "Ops", "8": "Own"}


async def test_an_older_list_and_one_of_the_future_are_refused(world):
    await world.load(ABC, START + DAY)
    with pytest.raises(PlanRefused, match="an older list must not undo it"):
        await world.planned(csv_of(ABC), START)
    with pytest.raises(PlanRefused, match="future"):
        await world.planned(csv_of(ABC), NOW + timedelta(seconds=1))
    with pytest.raises(PlanRefused, match="another list of"):
        await world.planned(csv_of(ABC | {"1": "Other"}), START + DAY)


async def test_an_old_plan_is_not_applied_after_a_newer_list(world):
    await world.load(ABC, START)
    old = await world.plan_text(csv_of(ABC | {"1": "Old"}), START + DAY)
    stale = await world.plan_text(csv_of(ABC | {"1": "Stale"}), START + 3 * DAY)
    await world.load(ABC | {"1": "New"}, START + 2 * DAY)
    with pytest.raises(ApplyRefused, match="an older one must not undo it"):
        await world.apply(old)
    with pytest.raises(ApplyRefused, match="plan the list again"):
        await world.apply(stale)
    assert world.state == ABC | {"1": "New"}


async def test_a_plan_made_on_a_ledger_is_not_applied_on_another(world):
    await world.load(ABC, START)
    plan = await world.plan_text(csv_of(ABC), START + DAY)
    with pytest.raises(ApplyRefused, match="another ledger"):
        await World().apply(plan)


async def test_a_lost_ledger_creates_everything_again_under_the_same_ids(world):
    await world.load(ABC, START)
    other = World()
    await other.load(ABC, START)
    assert other.ids() == world.ids()
    assert (await World().planned(csv_of({"1": "Sales"}), START))["missing"] == []


async def test_a_plan_applied_twice_sends_the_same_events(world):
    await world.load(ABC | {"4": "Old"}, START)
    await world.load(ABC, START + DAY)
    plan = await world.plan_text(csv_of(ABC | {"5": "New", "1": "Sell"}), START + 2 * DAY)
    await world.apply(plan, removes=True)
    first = world.ids()[4:]
    assert len(first) == 3
    before = await world.snapshots.said_after("hr", None, 10)
    await world.apply(plan, removes=True)
    assert world.ids()[7:] == first
    assert await world.snapshots.said_after("hr", None, 10) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.replace("Sales", "Salas"),
        lambda plan: plan.replace('"same": 0', '"same": 1'),
        lambda plan: plan.replace('"source": "hr"', '"source": "crm"'),
        lambda plan: plan.replace(
            '"missing": []', '"missing": [{"tenant": "default", "department_id": "9"}]'
        ),
        lambda plan: json.dumps(json.loads(plan) | {"extra": 1}),
        lambda plan: json.dumps(json.loads(plan) | {"created": json.loads(plan)["created"][::-1]}),
    ],
)
async def test_a_changed_plan_is_refused(world, change):
    plan = await world.plan_text(csv_of(ABC), START)
    assert change(plan) != plan
    with pytest.raises(PlanUnusable, match="changed since it was written"):
        read_plan(change(plan).encode(), "plan")
    with pytest.raises(PlanUnusable, match="not a plan"):
        read_plan(plan[:-20].encode(), "plan")


async def test_a_plan_that_a_tool_has_written_anew_is_the_same(world):
    plan = await world.plan_text(csv_of(ABC), START)
    again = read_plan(json.dumps(json.loads(plan), sort_keys=True, ensure_ascii=False).encode(), "plan")
    assert again == read_plan(plan.encode(), "plan")


async def test_what_the_broker_does_not_take_is_sent_by_the_next_command(world):
    world.failures["2"] = NotTaken("the queue is full")
    with pytest.raises(ApplyFailed, match="events sent: 2; the queue is full; apply the plan again to go on"):
        await world.load(ABC, START)
    assert world.state == {"1": "Sales", "3": "Legal"}
    plan = await world.plan_text(csv_of(ABC), START)
    assert json.loads(plan)["same"] == 3
    applied = await world.apply(plan)
    assert (applied.sent, applied.left_before) == (1, 1)
    assert world.state == ABC
    world.failures["9"] = Unroutable("no queue")
    with pytest.raises(ApplyFailed, match="topology apply"):
        await world.load(ABC | {"9": "New"}, START + DAY)


async def test_a_dropped_zero_is_noticed(world):
    await world.load({"00042": "Sales", "7": "Ops"}, START)
    await world.planned(csv_of({"42": "Sales", "7": "Ops"}), START + DAY)
    assert world.warnings == [
        "department 00042 is missing, and there is 42: did a spreadsheet drop the leading zeros?"
    ]


async def test_memory_does_not_grow_with_the_list(world, monkeypatch):
    """Beyond the parts that are read and kept at a time, which are made small here."""
    monkeypatch.setattr(snapshot_lists, "CHUNK", 4096)
    monkeypatch.setattr(snapshot_plan, "IN_MEMORY", 4096)

    async def peak(rows: int) -> int:
        world.snapshots.rows.clear()
        content = csv_of({str(number): f"Department {number}" for number in range(rows)}).encode()
        tracemalloc.start()
        with ExitStack() as stack:
            writer = PlanWriter(stack)
            planning = Planning(
                world.snapshots, stack.enter_context(draft()), writer, "hr", "list", START, NOW
            )
            await planning.begin()
            read_ = rows_of(items_in(io.BytesIO(content), "list"), row_by_contract)
            while part := list(islice(read_, 500)):
                planning.take(part)
            planned = await planning.plan()
            planned.writer.write(planned.head, lambda _: None)
            assert planned.counts["created"] == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    await peak(10)  # what is imported and compiled once
    few, many = await peak(1_000), await peak(4_000)
    assert many < few + 100_000, (few, many)


BEFORE = {str(number): f"Name {number}" for number in range(6)}
FIRST_LESS = {id_: name for id_, name in BEFORE.items() if id_ not in {"4", "5"}}
CHANGED = FIRST_LESS | {"0": "Renamed", "7": "New", "8": "Newer"}
LAST = {"0": "Name 0", "1": "Name 1", "2": "Again", "3": "Name 3", "5": "Back", "8": "Newer"}


async def killed_at(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool, newer: bool) -> bool:
    """Whether the kill at this step happened. Then the command is repeated, or a newer list comes instead."""
    monkeypatch.setattr(operations, "AT_ONCE", 2)
    world = World()
    await world.load(BEFORE, START)
    await world.load(FIRST_LESS, START + DAY)
    plan = await world.plan_text(csv_of(CHANGED), START + 2 * DAY)
    world.death.steps, world.death.at, world.death.after = 0, at, after
    happened = False
    try:
        await world.apply(plan, removes=True)
    except Killed:
        happened = True
    world.death.at = -1
    if not newer:
        await world.apply(plan, removes=True)
        assert world.state == CHANGED
    await world.load(LAST, START + 3 * DAY, removes=True)
    await world.load(LAST, START + 4 * DAY, removes=True)
    removed = {event.data.department_id: event.id for event in world.events if event.kind is Kind.REMOVED}
    assert len(removed) == len(set(world.ids(Kind.REMOVED))), "each department was removed once"
    if newer and not happened:
        assert "4" in removed
    if newer:  # the removal of 4 was perhaps never said, and then it is missing a second time
        await world.load(LAST, START + 5 * DAY, removes=True)
    assert world.state == LAST
    assert not await world.snapshots.unsent("hr", 1)
    return happened


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("newer", [False, True])
async def test_a_kill_at_any_step_loses_and_repeats_nothing(monkeypatch, after, newer):
    kills = 0
    while await killed_at(monkeypatch, kills, after=after, newer=newer):
        kills += 1
    assert kills >= 12, "begin, publishes, and writes before and after them"
