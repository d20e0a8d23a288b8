"""A running worker says so in the ledger, for the commands that wait for it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from tests.support.builders import a_worker
from tests.support.settling_loop import settled
from worker.adapters.memory.ledger import MemoryLedger
from worker.flow.gate import Gate
from worker.flow.presence import Announcer, SharedLimit
from worker.flow.waiting import WaitingRoom
from worker.operations.wishes import is_running
from worker.ports import LedgerFailed, RateLimit
from worker.telemetry.events import Telemetry


class Failing(MemoryLedger):
    """Fails while `is_down`."""

    is_down = False

    async def announce(self, worker):
        if self.is_down:
            raise LedgerFailed("locked")
        await super().announce(worker)

    async def leave(self, worker_id):
        if self.is_down:
            raise LedgerFailed("locked")
        await super().leave(worker_id)


class Scene:
    def __init__(self, clock):
        telemetry = Telemetry()
        self.clock = clock
        self.ledger = Failing(clock.now)
        self.consuming, self.stopping = False, asyncio.Event()
        self.failures: list[LedgerFailed] = []
        self.announcer = Announcer(
            presence=self.ledger,
            worker_id="w1",
            describe=self._describe,
            share=None,
            gate=Gate(clock, telemetry, WaitingRoom.for_half_of(10, clock)),
            is_stopping=self.stopping.is_set,
            clock=clock,
            telemetry=telemetry,
            on_failure=self.failures.append,
        )

    async def _describe(self):
        return replace(a_worker("w1"), consuming=self.consuming)

    @asynccontextmanager
    async def announcing(self):
        task = asyncio.create_task(self.announcer.run())
        await settled()
        yield
        task.cancel()
        await asyncio.wait([task])

    async def passes(self, seconds=1.0):
        self.clock.advance(seconds)
        await settled()


async def test_a_worker_is_present_each_second_as_it_is_then(world):
    scene = Scene(world.clock)
    assert not await is_running(scene.ledger)
    async with scene.announcing():
        for consuming in (True, False, True):
            scene.consuming = consuming
            await scene.passes()
            (seen,) = await scene.ledger.workers(timedelta(0))
            assert seen.consuming is consuming


async def test_it_leaves_once_and_sends_nothing_more(world):
    scene = Scene(world.clock)
    share = SharedLimit(RateLimit(300, timedelta(seconds=5)), "w1", world.clock)
    scene.announcer.share = share
    async with scene.announcing():
        assert share.calls == 300
        scene.stopping.set()
        scene.ledger.is_down = True
        await scene.passes()
        assert share.calls == 0, "before anybody counts on it"
        scene.ledger.is_down = False
        await scene.passes()
        (left,) = await scene.ledger.workers(timedelta(0))
        await scene.passes()
        await scene.announcer.leave()
        assert await scene.ledger.workers(timedelta(seconds=10)) == [left]


async def test_it_is_gone_as_soon_as_it_begins_to_stop(world):
    scene = Scene(world.clock)
    async with scene.announcing():
        assert await is_running(scene.ledger)
        scene.stopping.set()
        await scene.passes()
        assert not await is_running(scene.ledger)
        (seen,) = await scene.ledger.workers(timedelta(0))
        assert seen.left


async def test_one_that_dies_is_gone_after_five_seconds(world):
    scene = Scene(world.clock)
    async with scene.announcing():
        pass
    await scene.passes(5)
    assert await is_running(scene.ledger)
    await scene.passes(0.1)
    assert not await is_running(scene.ledger)


async def test_a_ledger_that_fails_is_reported_and_does_not_end_it(world):
    scene = Scene(world.clock)
    scene.ledger.is_down = True
    async with scene.announcing():
        assert [str(error) for error in scene.failures] == ["locked"]
        assert not await is_running(scene.ledger)
        await scene.announcer.leave()  # says nothing: the process ends, or the ledger is reported anyway
        scene.ledger.is_down = False
        await scene.passes()
        assert await is_running(scene.ledger)
