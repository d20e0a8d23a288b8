"""The conformance suite of every ledger for what `provisioner status` shows: workers, departments."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from tests.conformance.ledgers import fresh
from tests.support.builders import NOW, a_worker
from worker.core.breaker import State
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.core.presence import WorkerSeen
from worker.ports import Ledger

HOUR = timedelta(hours=1)


async def seen(ledger: Ledger, within: timedelta = HOUR) -> list[WorkerSeen]:
    return list(await ledger.workers(within))


async def test_a_worker_is_seen_as_it_last_described_itself(ledger):
    await ledger.bind("default", "MA1")
    assert await seen(ledger) == []
    await ledger.announce(a_worker(consuming=False))
    told = a_worker(problems=("the queue is full", "not ready"), circuit=State.HALF_OPEN, rate_share=37)
    await ledger.announce(told)
    (shown,) = await seen(ledger)
    assert replace(shown, seen_at=told.seen_at) == told


async def test_the_ledgers_own_clock_tells_when(ledger):
    await ledger.announce(a_worker(seen_at=NOW + 1000 * HOUR))
    (first,) = await seen(ledger)
    assert first.seen_at.tzinfo is not None
    while (await seen(ledger))[0].seen_at == first.seen_at:
        await asyncio.sleep(0.001)  # the clock may count in milliseconds
        await ledger.announce(a_worker())
    (second,) = await seen(ledger)
    assert timedelta(0) < second.seen_at - first.seen_at < timedelta(minutes=5)


async def test_only_those_seen_within_the_time_are_shown(ledger):
    await ledger.announce(a_worker())
    (before,) = await seen(ledger)
    await asyncio.sleep(0.03)
    assert await seen(ledger, timedelta(milliseconds=20)) == []
    assert await seen(ledger) == [before]
    await ledger.announce(a_worker())
    (again,) = await seen(ledger, timedelta(minutes=5))
    assert again.seen_at > before.seen_at


async def test_all_are_shown_by_start_and_id(ledger):
    for id_, started_at in (("w3", NOW), ("w1", NOW + HOUR), ("w2", NOW)):
        await ledger.announce(a_worker(id_, started_at=started_at))
    assert [worker.id for worker in await seen(ledger)] == ["w2", "w3", "w1"]


async def test_one_that_has_left_is_shown_as_such_until_it_comes_back(ledger):
    await ledger.announce(a_worker("w1"))
    await ledger.announce(a_worker("w2"))
    await ledger.leave("w1")
    await ledger.leave("unknown")
    assert {worker.id: worker.left for worker in await seen(ledger)} == {"w1": True, "w2": False}
    await ledger.announce(a_worker("w1"))
    assert not any(worker.left for worker in await seen(ledger))


async def test_departments_are_counted_by_status(ledger):
    assert dict(await ledger.count_by_status()) == {}
    for id_, status in (("a", Status.ACTIVE), ("b", Status.ACTIVE), ("c", Status.DISABLED)):
        await ledger.record(fresh(Department("acme", id_), status))
    assert dict(await ledger.count_by_status()) == {Status.ACTIVE: 2, Status.DISABLED: 1}
