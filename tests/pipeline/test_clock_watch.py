"""A wrong clock of ours: no event is dead-lettered for it, and nothing is taken until it is right."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.pipeline.outages import pass_seconds
from tests.support.builders import NOW, SALES, department_created, department_removed
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.adapters.memory.provider import StoredResource
from worker.bootstrap.running import RunningWorker
from worker.core.inventory import ResourceKind
from worker.core.model.wishes import Reissuing, Wish
from worker.core.wishes import VALID_FOR
from worker.flow.clock_watch import ASK_AGAIN_SECONDS, BLOCKER, Comparisons

AHEAD = NOW + timedelta(minutes=15)
EVENT = department_created("Sales", time=AHEAD, sequence=None)
BEHIND = timedelta(minutes=11)
GRACE = timedelta(days=30)


class Dated(World):
    """A world whose provider dates its responses; `skew` is how far its clock is ahead.

    None: it sends no date.
    """

    skew: timedelta | None = None
    asked = 0

    @asynccontextmanager
    async def comparing(self) -> AsyncIterator[RunningWorker]:
        async with self.working() as running:
            watch = running.worker.clock_watch
            self.comparisons = watch.comparisons = Comparisons(self.clock)

            async def ask() -> None:
                self.asked += 1
                self.answered_call()

            watch.ask = ask
            yield running

    def answered_call(self) -> None:
        self.comparisons.note(self.skew)

    async def looks(self, running: RunningWorker, seconds: float = 1.0) -> None:
        """The watch looks each second."""
        for _ in range(round(seconds)):
            await running.worker.clock_watch.look()
            await pass_seconds(self, 1.0)

    def metric(self, running: RunningWorker) -> Any:
        return running.telemetry.registry.get_sample_value("provisioner_clock_skew_seconds")


@pytest.fixture
def dated() -> Dated:
    return Dated()


async def test_an_event_ahead_waits_until_the_clock_was_compared(dated):
    async with dated.comparing() as running:
        await dated.send(EVENT)
        await pass_seconds(dated, 120)
        dated.has_dead_lettered_nothing()
        assert dated.results(EVENT) == []
        await dated.looks(running, 30)
    assert dated.dead_lettered("invalid")
    assert dated.asked == 1


async def test_a_wrong_clock_stops_consuming_until_it_is_right(dated):
    dated.skew = BEHIND
    async with dated.comparing() as running:
        await dated.send(EVENT)
        await dated.looks(running, 10)
        assert running.blocks() == [
            "the worker's clock is 660 s behind Plivo's; set it right (is time synchronised here?)"
        ]
        assert not running.consumer.consuming
        assert dated.metric(running) == 660
        dated.has_dead_lettered_nothing()
        await pass_seconds(dated, BEHIND.total_seconds())
        dated.skew = timedelta(0)
        await dated.looks(running, ASK_AGAIN_SECONDS + 1)
        assert running.blocks() == []
        assert running.consumer.consuming
        assert dated.metric(running) == 0
        await dated.run_until_done()
    await dated.has_one_live_subaccount("Sales")
    dated.has_dead_lettered_nothing()


@pytest.mark.parametrize("skew", [BEHIND, -BEHIND])
async def test_any_wrong_clock_blocks_the_gate_and_its_reason_follows_the_skew(dated, skew):
    async with dated.comparing() as running:
        dated.comparisons.note(skew)
        await running.worker.clock_watch.look()
        (before,) = running.blocks()
        dated.comparisons.note(skew * 2)
        await running.worker.clock_watch.look()
        (after,) = running.blocks()
        assert "660 s" in before
        assert "1320 s" in after
        assert list(running.worker.gate.blocks) == [BLOCKER]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3600.0])
async def test_an_earlier_comparison_does_not_refuse_an_event(dated, seconds):
    """The machine slept, or somebody set its clock, since the last call."""
    async with dated.comparing() as running:
        dated.answered_call()
        await pass_seconds(dated, seconds)
        dated.skew = BEHIND
        await dated.send(department_created("Sales", time=dated.clock.now() + BEHIND, sequence=None))
        await settled()
        await dated.looks(running, 5)
        dated.has_dead_lettered_nothing()
        assert running.blocks()


async def test_many_events_ahead_share_one_call(dated):
    events = [
        department_created(id=f"e{n}", department_id=f"d{n}", time=NOW + timedelta(hours=1), sequence=None)
        for n in range(20)
    ]
    async with dated.comparing() as running:
        watching = asyncio.create_task(running.worker.clock_watch.run())
        await dated.send(*events)
        await pass_seconds(dated, 3)
        watching.cancel()
    assert len(dated.dead_letters()) == len(events)
    assert dated.asked <= 2


async def test_a_provider_without_dates_is_not_compared_with(dated):
    async with dated.comparing() as running:
        await dated.send(EVENT)
        await dated.looks(running, 10)
        assert running.blocks() == []
    assert dated.dead_lettered("invalid")


async def test_a_provider_that_cannot_be_asked_leaves_the_event_waiting(dated):
    async with dated.comparing() as running:

        async def ask() -> None:
            """The probe fails: the circuit breaker takes note of it."""

        running.worker.clock_watch.ask = ask
        await dated.send(EVENT)
        await dated.looks(running, 120)
        dated.has_dead_lettered_nothing()
        assert dated.results(EVENT) == []


async def test_with_a_sequence_no_clock_matters(dated):
    dated.skew = BEHIND
    event = department_created("Sales", time=AHEAD, sequence=1)
    async with dated.comparing():
        await dated.send(event)
        await dated.run_until_done()
    dated.answered(event, "created")


class TestGrace:
    """The clock is a month ahead of the provider's, so that a grace that has just begun seems to be over."""

    @pytest.fixture
    async def waiting(self, dated) -> Dated:
        await dated.handle(department_created("Sales", sequence=1), department_removed(sequence=2))
        dated.clock.advance(GRACE.total_seconds())
        dated.skew = -GRACE
        dated.provider.calls.clear()
        return dated

    async def file_due(self, running: RunningWorker) -> None:
        await running.worker.scheduler.file_due()
        await running.worker.lanes.idle()

    async def test_a_clock_that_is_known_to_be_wrong_ends_no_grace(self, waiting):
        async with waiting.comparing() as running:
            waiting.answered_call()
            await self.file_due(running)
            assert waiting.provider.calls == []

    async def test_the_inspection_may_be_the_first_to_show_that_it_is_wrong(self, waiting):
        async def answer() -> None:
            waiting.answered_call()

        async with waiting.comparing() as running:
            waiting.witness.before("get", answer)
            await self.file_due(running)
            await self.file_due(running)
            operations = [operation for operation, *_ in waiting.provider.calls]
            assert "delete" not in operations
            assert operations.count("get") == 1
            waiting.skew = timedelta(0)
            waiting.answered_call()
            await self.file_due(running)
        await waiting.has_no_live_subaccount()

    async def test_no_wish_is_too_late_by_a_wrong_clock(self, waiting):
        await waiting.ledger.wish(Wish("w", SALES, "ada", waiting.clock.now(), Reissuing()))
        waiting.clock.advance(VALID_FOR["reissue"].total_seconds())
        async with waiting.comparing() as running:
            waiting.answered_call()
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
            assert len(await waiting.ledger.wishes()) == 1
            waiting.skew = timedelta(0)
            waiting.answered_call()
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
        assert await waiting.ledger.wishes() == []

    async def test_a_wrong_clock_holds_no_deletion_either_for_its_approval_would_delete(self, waiting):
        async def answer() -> None:
            waiting.answered_call()

        auth_id = (await waiting.entry()).auth_id
        waiting.provider.owned = [StoredResource(ResourceKind.NUMBERS, "14150000001", auth_id)]
        async with waiting.comparing() as running:
            waiting.witness.before("get", answer)
            await self.file_due(running)
            assert await waiting.ledger.holds() == []
