"""A sweep compares the whole list with the ledger, and reports the differences. It changes nothing."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from itertools import count

import pytest
from pydantic import SecretStr

from tests.pipeline.sweeping import a_world, attended, dies_at, kinds, passing, stored, sweep
from tests.support.builders import SALES, department_created, department_removed, department_renamed
from tests.support.settling_loop import settled
from tests.support.world import World, fault
from worker.core.capabilities import Capabilities
from worker.core.decide import Enable, Policy, Removal
from worker.core.drift import Report
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.model.entry import Status
from worker.core.model.wishes import Sweeping, Wish
from worker.core.naming import Names
from worker.core.wishes import VALID_FOR, reference_of
from worker.pipeline.sweeps import AGAIN_AFTER, FIRST_AFTER, OwnSweeps
from worker.ports import LedgerFailed

CHANGES = ("create", "update", "delete")


def changes(world: World) -> list[str]:
    return [operation for operation, *_ in world.provider.calls if operation in CHANGES]


async def swept(world: World, **asked) -> Report:
    report = await sweep(world, **asked)
    assert report is not None
    return report


async def answer_to_the_sweep(world: World, id_: str = "sweep"):
    wish = Wish(id_, EVERY_DEPARTMENT, "ada", world.clock.now(), Sweeping())
    return (await world.ledger.recall(EVERY_DEPARTMENT, reference_of(wish))).answer


async def test_an_account_as_on_record_has_no_finding():
    world = await a_world(45)
    report = await swept(world)
    assert (report.subaccounts, report.departments, report.findings, report.note) == (45, 45, (), None)
    assert [operation for operation, *_ in world.provider.calls] == ["list"] * 4, "pages overlap by one"
    answer = await answer_to_the_sweep(world)
    assert (answer.outcome, answer.confirmed) == ("unchanged", True)
    assert await world.ledger.wishes() == []


async def rename(world: World) -> None:
    stored(world).name = "Renamed by hand"


async def disable(world: World) -> None:
    stored(world).enabled = False


async def change_token(world: World) -> None:
    stored(world).auth_token = SecretStr("another token")


async def delete(world: World) -> None:
    world.provider.subaccounts.remove(stored(world))


async def double(world: World, *, enabled: bool = True) -> None:
    await world.provider.create(world.sent_name("Sales"), "by hand", enabled=enabled)


async def foreign_tag(world: World) -> None:
    await world.provider.create(
        Names("another", world.names.template).sent("Sales", await world.entry()), "key"
    )


async def untagged(world: World) -> None:
    await world.provider.create("By hand", "key")


DRIFTS: dict[str, Callable[[World], Awaitable[None]]] = {
    "name": rename,
    "enabled": disable,
    "token": change_token,
    "missing": delete,
    "double": double,
    "double-disabled": partial(double, enabled=False),
    "unrecorded": foreign_tag,
    "untagged": untagged,
}


@pytest.mark.parametrize("kind", DRIFTS)
async def test_each_kind_of_finding(kind):
    world = await a_world(3)
    await DRIFTS[kind](world)
    world.provider.calls.clear()
    (finding,) = (await swept(world)).findings
    belongs = kind not in {"unrecorded", "untagged"}
    assert (finding.kind, finding.department) == (kind, SALES if belongs else None)
    assert finding.fixable == (kind in {"double", "name", "enabled", "token"})
    assert changes(world) == []
    assert "token" not in finding.detail or "another token" not in finding.detail


async def test_all_kinds_at_once_are_sorted_by_kind():
    world = await a_world(5)
    for kind, drift in DRIFTS.items():
        if kind != "missing":
            await drift(world)
    world.provider.subaccounts.remove(
        stored(world, (await world.entry(Department("acme", "other-1"))).auth_id)
    )
    assert await kinds(world) == [
        "double",
        "double-disabled",
        "name",
        "enabled",
        "token",
        "missing",
        "unrecorded",
        "untagged",
    ]


async def test_a_removed_department_that_was_enabled_by_hand():
    world = await a_world(3)
    await world.handle(department_removed(sequence=2))
    stored(world).enabled = True
    assert await kinds(world) == ["enabled"]


async def test_a_subaccount_that_waits_for_its_credentials_is_rightly_disabled():
    world = World(Policy(enable=Enable.PUBLISHED))
    await world.crash_before("publish secrets", department_created("Sales"))
    assert not stored(world).enabled
    assert await kinds(world) == []


async def test_a_department_that_others_took_the_subaccount_from_is_missing():
    world = await a_world(3)
    await delete(world)
    await world.handle(department_renamed(sequence=2))
    assert (await world.entry()).gone_at is not None
    assert await kinds(world) == ["missing"]


async def test_a_provider_that_shows_no_token_and_cannot_rename_has_no_such_findings():
    world = await a_world(3)
    world.provider.capabilities = Capabilities(can_rename=False, can_read_token=False)
    await rename(world)
    await change_token(world)
    assert await kinds(world) == []


# Changes while the list is read


@pytest.mark.parametrize("can_be_read", [True, False])
async def test_a_department_that_changed_meanwhile_is_read_again_or_left_out(monkeypatch, can_be_read):
    """The list shows the old name, and the rename is on record once it was read."""
    world = await a_world(30)

    async def renamed_meanwhile() -> None:
        await world.send(department_renamed("Marketing", sequence=2))
        await world.done()

    world.witness.before("list", renamed_meanwhile)
    stale = stored(world).name
    pages = world.provider.page

    async def stale_page(offset):
        return [replaced(one, stale) for one in await pages(offset)]

    def replaced(one, name):
        return one if one.auth_id != stored(world).auth_id else replace_name(one, name)

    monkeypatch.setattr(world.provider, "page", stale_page)
    if not can_be_read:
        world.witness.fail("get", fault("get", 500), times=None)
    assert await kinds(world) == []
    await world.has_one_live_subaccount("Marketing")


def replace_name(one, name):
    return dataclasses.replace(one, name=name)


async def test_a_list_that_lags_behind_is_not_believed(monkeypatch):
    world = await a_world(3)
    pages = world.provider.page

    async def without_the_newest(offset):
        return [one for one in await pages(offset) if one.auth_id != world.provider.subaccounts[0].auth_id]

    monkeypatch.setattr(world.provider, "page", without_the_newest)
    assert await kinds(world) == []


async def test_a_claimed_department_is_left_out():
    world = await a_world(3)
    world.witness.fail("create", fault("create"), after_effect=True)
    event = department_created("New", department_id="new", id="new")
    async with world.working():
        await world.send(event)
        await settled()
    assert (await world.entry(Department("acme", "new"))).status is Status.CLAIMED
    report = await swept(world)
    assert (report.subaccounts, report.findings) == (4, ())


async def test_a_deleting_department_is_left_out():
    world = await a_world(3, policy=Policy(Removal.DELETE))
    await world.crash_before("record removed", department_removed(sequence=2))
    assert (await world.entry()).status is Status.DELETING
    assert await kinds(world) == []


async def test_a_department_whose_lane_is_taken_for_long_is_reported_from_the_list():
    world = await a_world(3)
    await rename(world)
    async with world.working() as running:
        blocked = asyncio.Event()

        async def block():
            await blocked.wait()

        turn = asyncio.ensure_future(running.worker.lanes.turn(SALES, block))
        report = await passing(world, running.worker.sweeps.comparison.sweep())
        blocked.set()
        await turn
    assert [finding.kind for finding in report.findings] == ["name"]


async def test_deletions_meanwhile_do_not_hide_a_subaccount(monkeypatch):
    """Each deletion shifts the later items up: the reading goes back instead of beginning anew."""
    world = await a_world(2)
    for number in range(200):
        await world.provider.create(f"By hand {number}", "key")
    deletions = count()

    async def delete_early() -> None:
        if next(deletions) < 6:
            del world.provider.subaccounts[1:3]

    pages = world.provider.page

    async def shrinking(offset):
        found = await pages(offset)
        await delete_early()
        return found

    monkeypatch.setattr(world.provider, "page", shrinking)
    world.provider.calls.clear()
    report = await swept(world)
    untagged_ = {finding.auth_id for finding in report.findings}
    there = {one.auth_id for one in world.provider.subaccounts[:-2]}
    assert there <= untagged_
    assert next(deletions) > 6
    assert len([1 for operation, *_ in world.provider.calls if operation == "list"]) < 40


async def test_a_list_that_repeats_its_pages_ends(monkeypatch):
    world = await a_world(3)
    pages = world.provider.page

    async def same(_offset):
        return await pages(0)

    monkeypatch.setattr(world.provider, "page", same)
    assert await sweep(world) is None
    answer = await answer_to_the_sweep(world)
    assert (answer.outcome, answer.reason) == (
        "failed",
        "the list of subaccounts changed whenever it was read",
    )


# Another account, and failures


async def test_an_empty_list_is_said_to_be_perhaps_another_account_and_nothing_else_is_reported():
    world = await a_world(4)
    world.provider.subaccounts.clear()
    await double(world)
    await untagged(world)
    report = await swept(world)
    assert [finding.kind for finding in report.findings] == ["missing"] * 4
    assert not any(finding.fixable for finding in report.findings)
    assert "is this another account" in (report.note or "")


async def test_an_empty_list_of_an_account_whose_subaccounts_can_be_read_is_no_report(monkeypatch):
    world = await a_world(4)
    monkeypatch.setattr(world.provider, "page", empty_page)
    assert await sweep(world) is None
    assert "the list is not complete now" in ((await answer_to_the_sweep(world)).reason or "")


async def empty_page(_offset):
    return []


@pytest.mark.parametrize("status", [503, None, 429])
async def test_a_page_that_fails_is_read_again(status):
    world = await a_world(30)
    world.witness.fail("list", fault("list", status))
    assert await kinds(world) == []


@pytest.mark.parametrize("status", [401, 503, None])
async def test_a_list_that_cannot_be_read_fails_the_sweep_and_says_why(status):
    world = await a_world(3)
    world.witness.fail("list", fault("list", status), times=None)
    world.witness.fail("probe", fault("list", status), times=None)
    assert await sweep(world) is None
    answer = await answer_to_the_sweep(world)
    assert (answer.outcome, bool(answer.reason)) == ("failed", True)
    assert await world.ledger.wishes() == []


async def test_a_subaccount_that_cannot_be_read_again_is_reported_from_the_list():
    world = await a_world(3)
    await rename(world)
    world.witness.fail("get", fault("get", 500), times=None)
    assert await kinds(world) == ["name"]


# When the worker sweeps by itself


async def sweeps_within(world: World, seconds: float, own: OwnSweeps) -> int:
    """The number of sweeps that a worker finishes in this time."""
    before = len(world.ledger._sweeps)
    async with world.working() as running:
        running.worker.sweeps.own = own
        loop = asyncio.ensure_future(running.worker.sweeps.run())
        end = world.clock.now() + timedelta(seconds=seconds)
        while world.clock.now() < end:
            await settled()
            await running.worker.scheduler.file_wishes()
            await settled()
            world.clock.advance(min(world.clock.seconds_to_next(), (end - world.clock.now()).total_seconds()))
        await settled()
        loop.cancel()
    return len(world.ledger._sweeps) - before


DAILY = OwnSweeps(timedelta(days=1))
MINUTE = 60.0


async def test_a_new_ledger_is_swept_some_minutes_after_the_start_then_daily(monkeypatch):
    monkeypatch.setattr("worker.pipeline.sweeps.POLL_SECONDS", 30.0)
    world = await a_world(3)
    assert await sweeps_within(world, FIRST_AFTER.total_seconds() - MINUTE, DAILY) == 0
    assert await sweeps_within(world, FIRST_AFTER.total_seconds() + MINUTE, DAILY) == 1
    assert await sweeps_within(world, 23.5 * 60 * MINUTE, DAILY) == 0, "also not after a restart"
    assert await sweeps_within(world, 60 * MINUTE, DAILY) == 1


async def test_a_short_interval_does_not_wait_for_minutes():
    world = await a_world(3)
    assert await sweeps_within(world, 25, OwnSweeps(timedelta(seconds=5))) >= 3


async def test_a_worker_that_is_told_not_to_never_sweeps():
    world = await a_world(3)
    assert await sweeps_within(world, 3 * MINUTE, OwnSweeps(None)) == 0


async def test_an_open_circuit_puts_the_sweep_off():
    world = await a_world(3)
    async with world.working() as running:
        running.worker.sweeps.own = OwnSweeps(timedelta(seconds=1))
        running.worker.sweeps.is_well = lambda: False
        await running.worker.sweeps.attend()
        world.clock.advance(10)
        await passing(world, running.worker.sweeps.attend())
        assert await world.ledger.last_sweep_at() is None
        running.worker.sweeps.is_well = lambda: True
        await passing(world, running.worker.sweeps.attend())
        assert await world.ledger.last_sweep_at() is not None


async def test_a_sweep_of_its_own_that_fails_is_tried_again_later(monkeypatch):
    monkeypatch.setattr("worker.pipeline.sweeps.POLL_SECONDS", 10.0)
    world = await a_world(3)
    world.witness.fail("list", fault("list", 400), times=5)
    assert await sweeps_within(world, FIRST_AFTER.total_seconds() + MINUTE, DAILY) == 0
    assert await sweeps_within(world, AGAIN_AFTER.total_seconds() + MINUTE, DAILY) == 1


async def test_a_sweep_of_its_own_corrects_only_if_it_is_told_to():
    for fixes in (False, True):
        world = await a_world(3)
        await rename(world)
        await disable(world)
        assert await sweeps_within(world, 30, OwnSweeps(timedelta(seconds=10), fixes)) >= 1
        assert (stored(world).name == world.sent_name("Sales")) == fixes
        assert stored(world).enabled == fixes
        assert {line.by for line in world.ledger.audit} == ({"sweep"} if fixes else set())


async def test_a_finding_is_not_asked_for_twice():
    world = await a_world(3)
    await rename(world)
    await sweep(world, fixes=True, id_="first")
    assert len(await world.ledger.wishes()) == 1
    await sweep(world, fixes=True, id_="second")
    assert len(await world.ledger.wishes()) <= 1


async def test_an_old_wish_is_answered_that_it_is_too_late():
    world = await a_world(3)
    await world.ledger.wish(Wish("old", EVERY_DEPARTMENT, "ada", world.clock.now(), Sweeping()))
    world.clock.advance(VALID_FOR["sweep"].total_seconds())
    async with world.working() as running:
        await attended(running)
    answer = await answer_to_the_sweep(world, "old")
    assert (answer.outcome, answer.code) == ("failed", "not-allowed")
    assert world.provider.calls == await world.ledger.wishes() == []


# The pace


async def list_calls(world: World, seconds: float, *, busy: bool) -> int:
    """The pages that a sweep reads in this time, while events wait or not."""
    for number in range(200):
        await world.provider.create(f"By hand {number}", "key")
    world.provider.calls.clear()
    async with world.working() as running:
        running.worker.sweeps.comparison.listing.pace.is_busy = lambda: busy
        sweeping = asyncio.ensure_future(running.worker.sweeps.comparison.sweep())
        end = world.clock.now() + timedelta(seconds=seconds)
        while True:
            await settled()
            step = world.clock.seconds_to_next() if world.clock.sleepers else seconds
            if world.clock.now() + timedelta(seconds=step) >= end:
                break
            world.clock.advance(step)
        sweeping.cancel()
    return len(world.provider.calls)


async def test_a_sweep_takes_a_tenth_of_the_rate_limit_while_events_wait(monkeypatch):
    monkeypatch.setattr("worker.adapters.memory.provider.PAGE", 2)
    assert await list_calls(await a_world(1), 5, busy=True) == 30
    assert await list_calls(await a_world(1), 1, busy=False) == 30


async def test_events_that_wait_make_the_worker_busy_and_duties_do_not():
    world = await a_world(1)
    async with world.working() as running:
        pace = running.worker.sweeps.comparison.listing.pace
        seen = []

        async def look() -> None:
            seen.append(pace.is_busy())

        world.witness.before("update", look)
        assert not pace.is_busy()
        await world.send(department_renamed("Marketing", sequence=2))
        await world.run_until_done()
        assert (seen, pace.is_busy()) == ([True], False)
        await running.worker.lanes.turn(SALES, look)
        assert seen == [True, False]


async def test_a_sweep_ends_when_the_worker_stops_and_its_wish_stays():
    world = await a_world(30)
    wish = Wish("sweep", EVERY_DEPARTMENT, "ada", world.clock.now(), Sweeping())
    await world.ledger.wish(wish)
    async with world.working() as running:
        world.witness.before("list", running.worker.handler.drain)
        await passing(world, attended(running))
    assert await world.ledger.wishes() == [wish]
    assert await world.ledger.sweep("sweep") is None
    async with world.working() as running:
        await passing(world, attended(running))
    assert await world.ledger.sweep("sweep") is not None


# Crashes


async def test_a_crash_anywhere_in_a_sweep_leads_to_one_report():
    for moment in count(1):
        world = await a_world(30)
        await rename(world)
        await double(world)
        wish = Wish("sweep", EVERY_DEPARTMENT, "ada", world.clock.now(), Sweeping(fixes=True))
        await world.ledger.wish(wish)
        died = await dies_at(world, attended, moment)
        async with world.working() as running:
            for _ in range(10):
                await passing(world, attended(running))
                world.clock.advance(1)
        assert await world.ledger.wishes() == [], moment
        kept = await world.ledger.sweep("sweep")
        assert kept is not None
        assert (await answer_to_the_sweep(world)).outcome == "unchanged"
        await world.has_one_live_subaccount("Sales")
        if not died:
            assert moment > 8, "list, get, record and close have more moments"
            return


async def test_losing_answers_of_the_ledger_puts_the_sweep_off():
    world = await a_world(3)
    world.witness.fail("note sweep", LedgerFailed("disk full"), after_effect=True)
    assert await kinds(world) == []
    assert len(await world.ledger.wishes()) == 1
    async with world.working() as running:
        await passing(world, attended(running))
    assert await world.ledger.wishes() == []
