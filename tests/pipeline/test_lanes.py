"""Lanes: in order under one key, side by side under many."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from worker.lanes import Lanes, running_lanes


class Works:
    """Makes work that tells when it begins and ends, and ends when told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    def __call__(self, name: str) -> Callable[[], Awaitable[None]]:
        self._may_end[name] = asyncio.Event()

        async def work() -> None:
            self.told.append(f"{name} begins")
            await self._may_end[name].wait()
            self.told.append(f"{name} ends")

        return work

    async def end(self, *names: str) -> None:
        """Lets these end, and all that can happen happen."""
        for name in names:
            self._may_end[name].set()
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def works() -> Works:
    return Works()


async def test_under_one_key_one_runs_at_a_time_in_the_order_filed(works):
    async with running_lanes() as lanes:
        for name in ("a", "b", "c"):
            lanes.file("key", works(name))
        await works.end("c", "b")
        assert works.told == ["a begins"]
        await works.end("a")
    assert works.told == [f"{name} {what}" for name in ("a", "b", "c") for what in ("begins", "ends")]


async def test_other_keys_do_not_wait(works):
    async with running_lanes() as lanes:
        for name in ("a", "b", "c"):
            lanes.file(name, works(name))
        await works.end()
        assert works.told == ["a begins", "b begins", "c begins"]
        await works.end("c", "a")
        assert works.told[3:] == ["c ends", "a ends"]


async def test_a_lane_that_ran_dry_opens_again(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("a"))
        await works.end("a")
        lanes.file("key", works("b"))
        await works.end("b")
    assert works.told == ["a begins", "a ends", "b begins", "b ends"]


async def test_what_is_filed_from_within_the_lane_runs_behind_what_waits(works):
    async with running_lanes() as lanes:

        async def file_another() -> None:
            lanes.file("key", works("c"))

        lanes.file("key", file_another)
        lanes.file("key", works("b"))
        await works.end()
        await works.end("b", "c")
    assert works.told == ["b begins", "b ends", "c begins", "c ends"]


async def test_filing_returns_before_anything_runs(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("a"))
        assert works.told == []
        assert len(lanes) == 1


async def test_its_length_counts_what_runs_and_what_waits(works):
    async with running_lanes() as lanes:
        for key, name in (("1", "a"), ("1", "b"), ("2", "c")):
            lanes.file(key, works(name))
        assert len(lanes) == 3
        await works.end("a")
        assert len(lanes) == 2
        await works.end("b", "c")
        assert len(lanes) == 0


async def test_idle_returns_once_nothing_runs_and_nothing_waits(works):
    async with running_lanes() as lanes:
        await lanes.idle()
        lanes.file("1", works("a"))
        lanes.file("1", works("b"))
        lanes.file("2", works("c"))
        idle = asyncio.create_task(lanes.idle())
        await works.end("a", "c")
        assert not idle.done()
        await works.end("b")
        assert idle.done()
        await lanes.idle()


async def test_the_end_cuts_off_what_runs_and_drops_what_waits(works):
    async with running_lanes() as lanes:
        lanes.file("1", works("a"))
        lanes.file("1", works("b"))
        lanes.file("2", works("c"))
        await works.end()
    await works.end("a", "b", "c")
    assert works.told == ["a begins", "c begins"]


async def test_what_is_cut_off_is_gone_when_the_block_ends():
    cleaned_up = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    async with running_lanes() as lanes:
        lanes.file("key", work)
        await asyncio.sleep(0)
    assert cleaned_up.is_set()


async def test_cut_off_ends_everything_within_the_block_too(works):
    async with running_lanes() as lanes:
        lanes.file("1", works("a"))
        lanes.file("2", works("never begun"))
        await asyncio.sleep(0)
        await lanes.cut_off()
        await works.end("a", "never begun")
    assert works.told == ["a begins", "never begun begins"]


async def test_ten_thousand_keys_are_no_matter():
    done: list[int] = []

    async def note(number: int) -> None:
        done.append(number)

    async with running_lanes() as lanes:
        for number in range(10_000):
            lanes.file(number % 5_000, lambda number=number: note(number))
        await lanes.idle()
    assert sorted(done) == list(range(10_000))
    assert isinstance(lanes, Lanes)
