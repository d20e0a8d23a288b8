"""The conformance suite of what ledgers remember of snapshots."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import NOW
from worker.core.model.departments import Department
from worker.core.snapshots import Said, Standing
from worker.ports import OpenedLedger, SnapshotMoved, Snapshots

A, B, C = (Department("acme", id_) for id_ in ("a", "b", "c"))
OTHER_TENANT = Department("zeta", "a")
LATER = NOW + timedelta(days=1)


@pytest.fixture
def snapshots(opened: OpenedLedger) -> Snapshots:
    return opened.snapshots


def begun(digest: str = "plan-1", revision: int = 1, as_of=NOW) -> Standing:
    return Standing("hr", as_of, digest, revision, finished=False, complete=True)


def said(department: Department, name: str = "Sales", unsent: str | None = None) -> Said:
    return Said(department, name, NOW, None, unsent)


async def everything(snapshots: Snapshots, source: str = "hr") -> list[Said]:
    return list(await snapshots.said_after(source, None, 100))


async def test_nothing_is_known_of_a_new_source(snapshots):
    assert await snapshots.standing("hr") is None
    assert await everything(snapshots) == []
    assert await snapshots.unsent("hr", 10) == []
    assert await snapshots.said("hr", [A]) == {}


async def test_what_was_said_is_read_in_parts_in_order(snapshots):
    await snapshots.begin(begun(), None)
    rows = [said(OTHER_TENANT), said(C, "Straße \N{SNOWMAN}"), said(A, unsent='{"id":"1"}'), said(B)]
    await snapshots.say("hr", "plan-1", rows)
    ordered = sorted(rows, key=lambda one: one.department)
    assert await snapshots.said_after("hr", None, 3) == ordered[:3]
    assert await snapshots.said_after("hr", C, 3) == ordered[3:]
    assert await snapshots.said("hr", [B, Department("acme", "x"), A]) == {A: rows[2], B: rows[3]}
    assert await snapshots.unsent("hr", 10) == [rows[2]]
    assert await everything(snapshots, "crm") == []


async def test_a_snapshot_begins_on_the_revision_it_was_planned_on(snapshots):
    with pytest.raises(SnapshotMoved):
        await snapshots.begin(begun(), 1)
    await snapshots.begin(begun(), None)
    await snapshots.begin(begun(), None)  # again, after a kill
    assert await snapshots.standing("hr") == begun()
    with pytest.raises(SnapshotMoved):
        await snapshots.begin(begun("plan-2", 2), None)
    await snapshots.say("hr", "plan-1", [said(A)])
    with pytest.raises(SnapshotMoved):
        await snapshots.begin(begun("plan-2", 2), 1)
    standing = await snapshots.standing("hr")
    assert standing is not None
    assert standing.revision == 2
    await snapshots.begin(begun("plan-2", 3, LATER), 2)
    assert await snapshots.standing("hr") == begun("plan-2", 3, LATER)


async def test_a_plan_says_nothing_after_another_has_begun(snapshots):
    await snapshots.begin(begun(), None)
    await snapshots.begin(begun("plan-2", 2), 1)
    with pytest.raises(SnapshotMoved):
        await snapshots.say("hr", "plan-1", [said(A)])
    with pytest.raises(SnapshotMoved):
        await snapshots.finish("hr", "plan-1", [])
    assert await everything(snapshots) == []
    with pytest.raises(SnapshotMoved):
        await snapshots.say("crm", "plan-2", [said(A)])


async def test_a_confirm_settles_the_event_on_record_only(snapshots):
    await snapshots.begin(begun(), None)
    await snapshots.say("hr", "plan-1", [said(A, unsent="1"), said(B, unsent="2")])
    await snapshots.settle("hr", [said(A, unsent="1"), said(B, unsent="earlier"), said(C, unsent="3")])
    assert await everything(snapshots) == [said(A), said(B, unsent="2")]


async def test_a_removal_is_forgotten_once_it_is_confirmed(snapshots):
    await snapshots.begin(begun(), None)
    gone = replace(said(A, unsent="1"), removed=True)
    await snapshots.say("hr", "plan-1", [gone, said(B)])
    assert await everything(snapshots) == [gone, said(B)]
    await snapshots.settle("hr", [gone])
    assert await everything(snapshots) == [said(B)]


async def test_missing_departments_are_marked_since_the_first_snapshot_without_them(snapshots):
    await snapshots.begin(begun(), None)
    await snapshots.say("hr", "plan-1", [said(A), said(B)])
    await snapshots.finish("hr", "plan-1", [A])
    assert await everything(snapshots) == [replace(said(A), missing_since=NOW), said(B)]
    standing = await snapshots.standing("hr")
    assert standing is not None
    assert standing.finished

    await snapshots.begin(begun("plan-2", standing.revision + 1, LATER), standing.revision)
    await snapshots.finish("hr", "plan-2", [A, B])
    marked = [replace(said(A), missing_since=NOW), replace(said(B), missing_since=LATER)]
    assert await everything(snapshots) == marked

    await snapshots.finish("hr", "plan-2", [B])
    assert await everything(snapshots) == [said(A), marked[1]]
    await snapshots.finish("hr", "plan-2", [])
    assert await everything(snapshots) == [said(A), said(B)]


async def test_departments_that_another_source_says_are_named_with_it(snapshots):
    for source in ("hr", "crm", "erp"):
        await snapshots.begin(replace(begun(), source=source), None)
    await snapshots.say("hr", "plan-1", [said(A), said(B)])
    await snapshots.say("crm", "plan-1", [said(A), replace(said(B, unsent="1"), removed=True)])
    await snapshots.say("erp", "plan-1", [said(A)])
    assert await snapshots.others("hr", [A, B, C]) == {A: "crm"}
