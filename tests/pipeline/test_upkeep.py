"""The daily purge of a running worker, and its note that the ledger is complete."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest

from contracts.subaccounts import ResultKind
from tests.support.builders import NOW, SALES, department_created, department_removed, department_renamed
from tests.support.world import World
from worker.core.keeping import CURRENT_FOR, RETENTION
from worker.pipeline.upkeep import POLL, PURGE_EVERY, Upkeep
from worker.ports import LedgerFailed
from worker.provider.scan import Orphans
from worker.telemetry.events import Telemetry

CREATED = department_created("Sales", id="e1", sequence=1)
RENAMED = department_renamed("Selling", id="e2", sequence=2)
REMOVED = department_removed(id="e3", sequence=3)
BACK = department_created("Sales", id="e4", sequence=4)


@pytest.fixture
def world() -> World:
    return World(orphans=Orphans)


@pytest.fixture
async def upkeep(world: World) -> AsyncIterator[Upkeep]:
    """The daily purge runs during the test."""
    keeping = Upkeep(world.ledger, world.ledger, world.clock, Telemetry(), asyncio.Event())
    running = asyncio.create_task(keeping.purge_daily())
    await asyncio.sleep(0)
    yield keeping
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def pass_time(world: World, time: timedelta) -> None:
    """Moves the clock on in steps of the poll, so that the purge looks each time."""
    for _ in range(int(time / POLL) + 1):
        world.clock.advance(POLL.total_seconds())
        for _ in range(10):
            await asyncio.sleep(0)


async def ids(world: World) -> list[str]:
    return [answer.event.id for answer in await world.ledger.answers(SALES)]


@pytest.mark.usefixtures("upkeep")
async def test_old_answers_are_forgotten_within_a_day_and_replays_change_nothing(world):
    for event in (CREATED, RENAMED, REMOVED, BACK):
        await world.handle(event)
    assert await ids(world) == ["e1", "e2", "e3", "e4"]
    world.clock.advance(RETENTION.total_seconds())
    await pass_time(world, PURGE_EVERY)
    assert await ids(world) == ["e4"]

    calls = [call for call in world.witness.journal if call.split()[0] in {"create", "update", "delete"}]
    for event in (REMOVED, RENAMED, CREATED):
        await world.handle(event)
        assert world.results(event)[-1].data["outcome"] == ResultKind.SUPERSEDED
    await world.handle(BACK)
    assert calls == [
        call for call in world.witness.journal if call.split()[0] in {"create", "update", "delete"}
    ]
    await world.has_one_live_subaccount("Sales")


@pytest.mark.usefixtures("upkeep")
async def test_it_is_done_once_a_day(world):
    await pass_time(world, timedelta(0))
    first = await world.ledger.purged_at()
    assert first is not None
    await pass_time(world, PURGE_EVERY - 2 * POLL)
    assert await world.ledger.purged_at() == first
    await pass_time(world, 2 * POLL)
    assert await world.ledger.purged_at() >= first + PURGE_EVERY


@pytest.mark.usefixtures("upkeep")
async def test_a_ledger_that_fails_is_purged_at_the_next_poll(world, monkeypatch):
    failed = asyncio.Event()

    async def fail(*_: object) -> None:
        failed.set()
        raise LedgerFailed("cannot be written")

    with monkeypatch.context() as broken:
        broken.setattr(world.ledger, "note_purge", fail)
        await pass_time(world, timedelta(0))
        assert failed.is_set()
    await pass_time(world, timedelta(0))
    assert await world.ledger.purged_at() is not None


async def test_a_stopping_worker_begins_no_further_step(world, upkeep):
    for event in (CREATED, BACK):
        await world.handle(event)
    upkeep.stopping.set()
    world.clock.advance(RETENTION.total_seconds())
    await pass_time(world, PURGE_EVERY)
    assert await ids(world) == ["e1", "e4"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        (NOW, NOW + timedelta(seconds=60)),
        (NOW - 2 * CURRENT_FOR, NOW - 2 * CURRENT_FOR),
    ],
    ids=["never caught up", "just now", "long ago: perhaps a backup"],
)
async def test_only_a_ledger_that_is_current_stays_so(world, before, after):
    await world.ledger.note_caught_up(before)
    world.clock.advance(60)
    keeping = Upkeep(world.ledger, world.ledger, world.clock, Telemetry(), asyncio.Event())
    running = asyncio.create_task(keeping.stay_current())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    assert await world.ledger.caught_up_at() == after
