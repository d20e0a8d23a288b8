"""The pace of calls, in simulated time: as many as allowed in any window, and hardly fewer than that."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.ports import RateLimit
from worker.provider.rate import GROWTH, LATEST_ARRIVAL, Pace, Stopping

BEGIN = 1000.0


class SimulatedTime(asyncio.SelectorEventLoop):
    """A loop that never waits: when nobody is ready it is the time of the next to be."""

    simulated = BEGIN

    def time(self) -> float:
        return self.simulated

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.simulated = max(self.simulated, self._scheduled[0].when())
        super()._run_once()


def in_simulated_time(test: Callable[[], Awaitable[Any]]) -> None:
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        runner.run(test())  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


def a_pace(calls: int, window: float = 5.0) -> Pace:
    return Pace(RateLimit(calls, timedelta(seconds=window)), asyncio.Event())


async def call(pace: Pace) -> float:
    """One call, answered at once; returns when it went out."""
    turn = await pace.turn()
    turn.begins()
    turn.answered()
    return now()


async def sent_in(pace: Pace, calls: int) -> list[float]:
    return [await call(pace) for _ in range(calls)]


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    calls=st.integers(1, 6),
    window=st.sampled_from([0.5, 5.0, 60.0]),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.4, 3.0, 70.0]), max_size=40),
)
def test_the_pace_is_as_fast_as_allowed_and_never_faster(calls, window, gaps):
    asked: list[float] = []
    sent: list[float] = []

    async def one(pace: Pace) -> None:
        asked.append(now())
        sent.append(await call(pace))

    async def run() -> None:
        pace = a_pace(calls, window)
        async with asyncio.TaskGroup() as group:
            for gap in gaps:
                await asyncio.sleep(gap)
                group.create_task(one(pace))
                await asyncio.sleep(0)  # it has asked

    in_simulated_time(run)
    for number, at in enumerate(asked):
        free_at = sent[number - calls] + window if number >= calls else 0.0
        assert sent[number] == pytest.approx(max(at, free_at), abs=1e-6)


def test_a_crowd_goes_out_evenly_and_no_later_than_the_next_window():
    async def run() -> None:
        sent = await sent_in(a_pace(100), 301)
        assert sent[:100] == [BEGIN] * 100  # nobody had to wait
        assert sent[100:301:100] == pytest.approx([BEGIN + 5, BEGIN + 10, BEGIN + 15])
        gaps = [later - earlier for earlier, later in pairwise(sent[100:200])]
        assert gaps == pytest.approx([0.9 * 5 / 100] * 99)

    in_simulated_time(run)


def test_a_turn_given_back_is_had_at_once_by_the_next_of_a_crowd():
    async def run() -> None:
        pace = a_pace(100)
        await sent_in(pace, 101)
        await asyncio.sleep(0.1)
        pace.give_back(await pace.turn())
        begun = now()
        await sent_in(pace, 1)
        assert now() == begun

    in_simulated_time(run)


@pytest.mark.parametrize("calls", [3, 100])
def test_turns_that_are_held_for_long_let_no_more_through_once_they_are_used(calls):
    """As while the ledger is slow: a permit comes before the claim, the call after it."""

    async def run() -> None:
        pace = a_pace(calls, 1.0)
        held = [await pace.turn() for _ in range(calls)]
        waiting = [asyncio.create_task(call(pace)) for _ in range(2 * calls)]
        await asyncio.sleep(4)
        assert not any(one.done() for one in waiting)
        released = now()
        for turn in held:
            turn.begins()
            turn.answered()
        sent = sorted([released] * calls + [await one for one in waiting])
        for first, later in zip(sent, sent[calls:], strict=False):
            assert later - first >= 1.0

    in_simulated_time(run)


def test_one_turn_that_is_held_keeps_one_place_and_no_more():
    async def run() -> None:
        pace = a_pace(3, 1.0)
        held = await pace.turn()
        sent = await sent_in(pace, 8)
        assert sent[-1] - sent[0] == pytest.approx(3.0, abs=0.2)
        pace.give_back(held)
        assert len(pace._turns) <= 3

    in_simulated_time(run)


def test_a_complaint_halves_it_once_however_many_come_of_the_same_window():
    async def run() -> None:
        pace = a_pace(100)
        await sent_in(pace, 100)
        for _ in range(30):
            pace.slow_down(None)
        assert pace.allowed == 50
        (at,) = await sent_in(pace, 1)  # the last fifty of the window before count
        assert at == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_a_complaint_of_a_later_window_halves_it_again_but_never_to_nothing():
    async def run() -> None:
        pace = a_pace(5)
        allowed = []
        for _ in range(5):
            pace.slow_down(None)
            allowed.append(pace.allowed)
            await asyncio.sleep(5.01)
        assert allowed == [2, 1, 1, 1, 1]
        await sent_in(pace, 3)

    in_simulated_time(run)


def test_it_waits_as_long_as_it_was_told_to():
    async def run() -> None:
        pace = a_pace(100)
        pace.slow_down(30.0)
        pace.slow_down(7.0)
        assert await sent_in(pace, 2) == [BEGIN + 30.0] * 2

    in_simulated_time(run)


def test_who_waits_already_waits_longer_then():
    async def run() -> None:
        pace = a_pace(1)
        await call(pace)
        waiting = asyncio.create_task(call(pace))
        await asyncio.sleep(1)
        pace.slow_down(30.0)
        await waiting
        assert now() == BEGIN + 31.0

    in_simulated_time(run)


def test_it_grows_back_a_tenth_of_the_limit_in_each_window_without_complaint():
    async def run() -> None:
        pace = a_pace(100)
        pace.slow_down(None)
        seen = []
        for _ in range(7):
            await sent_in(pace, 1)
            seen.append(pace.allowed)
            await asyncio.sleep(5.001)
        assert seen == [50, 60, 70, 80, 90, 100, 100]
        assert pytest.approx(0.1) == GROWTH

    in_simulated_time(run)


@pytest.mark.parametrize("retry_after", [None, 3600.0])
def test_the_end_of_the_worker_ends_every_wait(retry_after):
    async def run() -> None:
        stopping = asyncio.Event()
        pace = Pace(RateLimit(1, timedelta(hours=1)), stopping)
        await call(pace)
        pace.slow_down(retry_after)
        waiting = [asyncio.create_task(call(pace)) for _ in range(5)]
        await asyncio.sleep(1)
        stopping.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Stopping] * 5
        assert now() == BEGIN + 1

    in_simulated_time(run)


def test_once_it_ends_nothing_more_goes_out_even_where_there_is_room():
    async def run() -> None:
        stopping = asyncio.Event()
        stopping.set()
        with pytest.raises(Stopping):
            await Pace(RateLimit(5, timedelta(hours=1)), stopping).turn()

    in_simulated_time(run)


def test_who_gives_up_waiting_takes_nobodys_place():
    async def run() -> None:
        pace = a_pace(1)
        await call(pace)
        first, second = (asyncio.create_task(call(pace)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        assert await second == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_a_turn_that_was_not_used_is_the_next_ones():
    async def run() -> None:
        pace = a_pace(1)
        unused = await pace.turn()
        pace.give_back(unused)
        assert await call(pace) == BEGIN

    in_simulated_time(run)


@pytest.mark.parametrize(
    ("answered_after", "next_at"), [(0.01, 5.01), (0.1, 5.1), (0.15, 5.15), (3.0, 5.15), (7.0, 7.0)]
)
def test_a_call_counts_from_when_it_has_arrived_at_the_latest(answered_after, next_at):
    async def run() -> None:
        pace = a_pace(1)
        turn = await pace.turn()
        turn.begins()
        await asyncio.sleep(answered_after)
        turn.answered()
        assert await call(pace) == pytest.approx(BEGIN + next_at)

    in_simulated_time(run)


def test_a_probe_goes_ahead_of_all_who_wait():
    async def run() -> None:
        pace = a_pace(1)
        await call(pace)
        waiting = [asyncio.create_task(call(pace)) for _ in range(3)]
        await asyncio.sleep(1)
        (await pace.next_turn()).begins()
        assert not any(one.done() for one in waiting[1:])  # the first had its turn in hand almost
        await asyncio.gather(*waiting)

    in_simulated_time(run)


@dataclass
class StrictServer:
    """Refuses what comes too fast, counted in a window that slides; what it refuses does not count."""

    calls: int
    window: float
    admitted: deque[float] = field(default_factory=deque)
    served: int = 0
    refused: int = 0

    def admits(self) -> bool:
        while self.admitted and self.admitted[0] <= now() - self.window:
            self.admitted.popleft()
        if len(self.admitted) >= self.calls:
            self.refused += 1
            return False
        self.admitted.append(now())
        self.served += 1
        return True


@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    limit=st.sampled_from([(20, 1.0), (300, 5.0), (50, 10.0)]),
    back_seconds=st.sampled_from([0.01, 0.05, 0.2]),
    spread=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_strict_server_hardly_ever_refuses_and_is_hardly_ever_idle(limit, back_seconds, spread, seed):
    """Calls overtake each other on their way, but arrive within what is allowed for that."""
    chance = random.Random(seed)
    calls, window = limit
    windows = 40
    server = StrictServer(calls, window)
    longest_way = LATEST_ARRIVAL * window

    async def work(pace: Pace) -> None:
        while now() < BEGIN + windows * window:
            turn = await pace.turn()
            turn.begins()
            await asyncio.sleep(chance.uniform(0, spread * longest_way))
            if not server.admits():
                pace.slow_down(None)
            await asyncio.sleep(back_seconds)
            turn.answered()

    async def run() -> None:
        pace = a_pace(calls, window)
        await asyncio.gather(*(work(pace) for _ in range(calls)))

    in_simulated_time(run)
    assert server.refused <= 0.005 * (server.served + server.refused), server
    assert server.served >= 0.95 * windows * calls, server
