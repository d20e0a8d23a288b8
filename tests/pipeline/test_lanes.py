"""Lanes run work of one key one at a time, highest rank first, and different keys in parallel."""

import asyncio
import random
from functools import partial

import pytest

from tests.support.settling_loop import settled
from worker.flow.lanes import Lanes, Progress, Work, running_lanes


class Works:
    """Makes work that logs its begin and end, and ends on request."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    def __call__(self, name: str) -> Work:
        self._may_end[name] = asyncio.Event()

        async def work() -> Progress:
            self.log.append(f"{name} begins")
            await self._may_end[name].wait()
            self.log.append(f"{name} ends")
            return Progress.ENDED

        return work

    async def end(self, *names: str) -> None:
        """Lets this work end, then runs the event loop until nothing more can happen."""
        for name in names:
            self._may_end[name].set()
        await settled()


@pytest.fixture
def works() -> Works:
    return Works()


async def test_one_key_runs_one_at_a_time_and_equal_ranks_in_order_of_filing(works):
    async with running_lanes() as lanes:
        for name in ("a", "b", "c"):
            lanes.file("key", works(name))
        await works.end("c", "b")
        assert works.log == ["a begins"]
        await works.end("a")
    assert works.log == [f"{name} {what}" for name in ("a", "b", "c") for what in ("begins", "ends")]


async def test_other_keys_do_not_wait(works):
    async with running_lanes() as lanes:
        for name in ("a", "b", "c"):
            lanes.file(name, works(name))
        await works.end()
        assert works.log == ["a begins", "b begins", "c begins"]
        await works.end("c", "a")
        assert works.log[3:] == ["c ends", "a ends"]


async def test_an_empty_lane_can_be_used_again(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("a"))
        await works.end("a")
        lanes.file("key", works("b"))
        await works.end("b")
    assert works.log == ["a begins", "a ends", "b begins", "b ends"]


async def test_work_filed_from_within_its_lane_runs_after_waiting_work(works):
    async with running_lanes() as lanes:

        async def file_another() -> Progress:
            lanes.file("key", works("c"))
            return Progress.ENDED

        lanes.file("key", file_another)
        lanes.file("key", works("b"))
        await works.end()
        await works.end("b", "c")
    assert works.log == ["b begins", "b ends", "c begins", "c ends"]


async def test_file_returns_before_the_work_runs(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("a"))
        assert works.log == []
        assert len(lanes) == 1


async def test_the_length_counts_running_and_waiting_work(works):
    async with running_lanes() as lanes:
        for key, name in (("1", "a"), ("1", "b"), ("2", "c")):
            lanes.file(key, works(name))
        assert len(lanes) == 3
        await works.end("a")
        assert len(lanes) == 2
        await works.end("b", "c")
        assert len(lanes) == 0


async def test_idle_returns_when_no_work_runs_or_waits(works):
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


async def test_the_end_of_the_block_cancels_running_and_drops_waiting_work(works):
    async with running_lanes() as lanes:
        lanes.file("1", works("a"))
        lanes.file("1", works("b"))
        lanes.file("2", works("c"))
        await works.end()
    await works.end("a", "b", "c")
    assert works.log == ["a begins", "c begins"]


async def test_cancelled_work_has_ended_at_the_end_of_the_block():
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


async def test_cut_off_cancels_all_work(works):
    async with running_lanes() as lanes:
        lanes.file("1", works("a"))
        lanes.file("2", works("never begun"))
        await asyncio.sleep(0)
        await lanes.cut_off()
        await works.end("a", "never begun")
    assert works.log == ["a begins", "never begun begins"]


async def test_ten_thousand_items_of_work_all_end():
    done: list[int] = []

    async def note(number: int) -> Progress:
        done.append(number)
        return Progress.ENDED

    async with running_lanes() as lanes:
        for number in range(10_000):
            lanes.file(number % 5_000, partial(note, number))
        await lanes.idle()
    assert sorted(done) == list(range(10_000))
    assert isinstance(lanes, Lanes)


# Ranks


async def test_of_waiting_work_the_highest_rank_runs_first(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("running"), (1,))
        for rank in (3, 2, 5, 4):
            lanes.file("key", works(str(rank)), (rank,))
        await works.end("running", "2", "3", "4", "5")
    assert [runs for runs in works.log if "begins" in runs] == [f"{rank} begins" for rank in "5432"] + [
        "running begins"
    ]


async def test_work_without_a_rank_runs_before_ranked_work(works):
    async with running_lanes() as lanes:
        lanes.file("key", works("first"), (1,))
        await works.end()
        lanes.file("key", works("ranked"), (9,))
        lanes.file("key", works("a duty"))
        await works.end("first", "a duty")
        assert works.log[2:] == ["a duty begins", "a duty ends", "ranked begins"]


async def test_new_work_waits_for_the_next_round(works):
    """A steady stream of newer work therefore starves nothing."""
    async with running_lanes() as lanes:
        for rank in (1, 2):
            lanes.file("key", works(f"old {rank}"), (rank,))
        await works.end()
        lanes.file("key", works("new"), (3,))
        await works.end("old 2", "old 1")
        assert works.log[-2:] == ["old 1 ends", "new begins"]


@pytest.mark.parametrize(("rank", "overtaken"), [((1,), True), ((2,), False), ((3,), False)])
async def test_work_is_overtaken_by_new_work_of_a_higher_rank(works, rank, overtaken):
    async with running_lanes() as lanes:
        lanes.file("key", works("running"), rank)
        await works.end()
        lanes.file("key", works("a duty"))
        assert not lanes.overtaken("key", rank)
        lanes.file("key", works("new"), (2,))
        assert lanes.overtaken("key", rank) is overtaken
        assert not lanes.overtaken("other", rank)


async def test_work_that_yields_runs_again_after_newer_and_before_older_work(works):
    runs: list[str] = []
    overtaken = asyncio.Event()
    async with running_lanes() as lanes:

        async def step() -> Progress:
            runs.append("step")
            await overtaken.wait()
            return Progress.YIELDED if lanes.overtaken("key", (2,)) else Progress.ENDED

        async def note(name: str) -> Progress:
            runs.append(name)
            return Progress.ENDED

        lanes.file("key", step, (2,))
        lanes.file("key", lambda: note("older"), (1,))
        await works.end()
        lanes.file("key", lambda: note("newer"), (3,))
        lanes.file("key", lambda: note("oldest"), (0,))
        overtaken.set()
        await lanes.idle()
        assert runs == ["step", "newer", "step", "older", "oldest"]
        assert (lanes.filed("key"), len(lanes)) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_all_work_ends_exactly_once_however_often_it_yields(seed):
    """Work yields while a higher rank waits, like a step that a newer event overtakes."""
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
            lanes.file("key", partial(work, number, rank), rank)
            assert lanes.filed("key") == number + 1 - len(ended)
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await lanes.idle()
    assert sorted(ended) == list(range(200)), f"seed {seed}"
    assert lanes.filed("key") == 0
