"""Lanes: one at a time under one key, the highest rank first; side by side under many."""

import asyncio
import random

import pytest

from worker.flow.lanes import Lanes, Progress, Work, running_lanes


class Works:
    """Makes work that tells when it begins and ends, and ends when told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    def __call__(self, name: str) -> Work:
        self._may_end[name] = asyncio.Event()

        async def work() -> Progress:
            self.told.append(f"{name} begins")
            await self._may_end[name].wait()
            self.told.append(f"{name} ends")
            return Progress.ENDED

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


async def test_under_one_key_one_runs_at_a_time_and_of_one_rank_in_the_order_filed(works):
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

        async def file_another() -> Progress:
            lanes.file("key", works("c"))
            return Progress.ENDED

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

    async def work() -> Progress:
        try:
            await asyncio.Event().wait()
            return Progress.ENDED
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

    async def note(number: int) -> Progress:
        done.append(number)
        return Progress.ENDED

    async with running_lanes() as lanes:
        for number in range(10_000):
            lanes.file(number % 5_000, lambda number=number: note(number))
        await lanes.idle()
    assert sorted(done) == list(range(10_000))
    assert isinstance(lanes, Lanes)


# Ranks


async def test_of_those_that_wait_the_highest_rank_goes_first(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("running"), (1,))
        for rank in (3, 2, 5, 4):
            lanes.file("key", works(str(rank)), (rank,))
        await works.end("running", "2", "3", "4", "5")
    assert [told for told in works.told if "begins" in told] == [f"{rank} begins" for rank in "5432"] + [
        "running begins"
    ]


async def test_what_has_no_rank_goes_before_all_that_has_one(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("first"), (1,))
        await works.end()
        lanes.file("key", works("ranked"), (9,))
        lanes.file("key", works("a duty"))
        await works.end("first", "a duty")
        assert works.told[2:] == ["a duty begins", "a duty ends", "ranked begins"]


async def test_what_comes_meanwhile_waits_until_those_before_it_have_had_their_turn(works):
    """So a steady stream of newer ones lets nothing starve."""
    async with running_lanes() as lanes:
        for rank in (1, 2):
            lanes.file("key", works(f"old {rank}"), (rank,))
        await works.end()
        lanes.file("key", works("new"), (3,))
        await works.end("old 2", "old 1")
        assert works.told[-2:] == ["old 1 ends", "new begins"]


@pytest.mark.parametrize(("rank", "overtaken"), [((1,), True), ((2,), False), ((3,), False)])
async def test_it_is_overtaken_by_what_came_meanwhile_and_ranks_higher(works, rank, overtaken):
    async with running_lanes() as lanes:
        lanes.file("key", works("running"), rank)
        await works.end()
        lanes.file("key", works("a duty"))
        assert not lanes.overtaken("key", rank)
        lanes.file("key", works("new"), (2,))
        assert lanes.overtaken("key", rank) is overtaken
        assert not lanes.overtaken("other", rank)


async def test_what_yields_goes_again_behind_what_overtook_it_and_before_what_is_older(works):
    told: list[str] = []
    overtaken = asyncio.Event()
    async with running_lanes() as lanes:

        async def step() -> Progress:
            told.append("step")
            await overtaken.wait()
            return Progress.YIELDED if lanes.overtaken("key", (2,)) else Progress.ENDED

        async def note(name: str) -> Progress:
            told.append(name)
            return Progress.ENDED

        lanes.file("key", step, (2,))
        lanes.file("key", lambda: note("older"), (1,))
        await works.end()
        lanes.file("key", lambda: note("newer"), (3,))
        lanes.file("key", lambda: note("oldest"), (0,))
        overtaken.set()
        await lanes.idle()
        assert told == ["step", "newer", "step", "older", "oldest"]
        assert (lanes.filed("key"), len(lanes)) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_all_that_is_filed_ends_once_whatever_yields(seed):
    """Each yields while a higher rank waits, as a step that a newer event overtakes."""
    chance, ended = random.Random(seed), list[int]()
    async with running_lanes() as lanes:

        async def work(number: int, rank: tuple[int]) -> Progress:
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
            if lanes.overtaken("key", rank):
                return Progress.YIELDED
            ended.append(number)
            return Progress.ENDED

        for number in range(200):
            rank = (chance.randint(0, 50),)
            lanes.file("key", lambda number=number, rank=rank: work(number, rank), rank)
            assert lanes.filed("key") == number + 1 - len(ended)
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await lanes.idle()
    assert sorted(ended) == list(range(200)), f"seed {seed}"
    assert lanes.filed("key") == 0
