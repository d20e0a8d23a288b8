"""A running worker says so in the ledger, for the commands that wait for it."""

import asyncio
from contextlib import asynccontextmanager

from tests.support.settling_loop import settled
from worker.adapters.memory.ledger import MemoryLedger
from worker.operations.wishes import is_running
from worker.ports import LedgerFailed


@asynccontextmanager
async def announcing(world, presence):
    async with world.working() as running:
        scheduler = running.worker.scheduler
        scheduler.presence = presence
        task = asyncio.create_task(scheduler.announce())
        await settled()
        yield scheduler
        task.cancel()
        await asyncio.wait([task])


async def test_a_worker_is_present_each_second_until_it_drains(world):
    assert not await is_running(world.ledger, world.clock)
    async with announcing(world, world.ledger) as scheduler:
        for _ in range(3):
            assert await world.ledger.running_at() == world.clock.now()
            world.clock.advance(1)
            await settled()
        scheduler.stopping.set()
        for _ in range(6):
            world.clock.advance(1)
            await settled()
        assert not await is_running(world.ledger, world.clock)


async def test_a_ledger_that_fails_once_does_not_end_it(world):
    class FailingOnce(MemoryLedger):
        failed = False

        async def note_running(self, at):
            if not self.failed:
                self.failed = True
                raise LedgerFailed("locked")
            await super().note_running(at)

    ledger = FailingOnce()
    async with announcing(world, ledger):
        assert ledger.failed
        assert await ledger.running_at() is None
        world.clock.advance(1)
        await settled()
        assert await is_running(ledger, world.clock)
