"""The limiter of calls, in simulated time: as many as allowed in any window, and hardly fewer than that."""

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

from worker.adapters.system import SystemClock
from worker.ports import RateLimit
from worker.provider.rate import GROWTH, LATEST_ARRIVAL, RateLimiter, Stopping

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


class LoopClock(SystemClock):
    """Its seconds are those of the running loop."""

    def monotonic(self) -> float:
        return now()


def in_simulated_time(test: Callable[[], Awaitable[Any]]) -> None:
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        runner.run(test())  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


def a_limiter(calls: int, window: float = 5.0) -> RateLimiter:
    return RateLimiter(RateLimit(calls, timedelta(seconds=window)), LoopClock(), asyncio.Event())


async def call(limiter: RateLimiter) -> float:
    """One call, answered at once; returns when it went out."""
    slot = await limiter.slot()
    slot.begin()
    slot.arrived()
    return now()


async def sent_in(limiter: RateLimiter, calls: int) -> list[float]:
    return [await call(limiter) for _ in range(calls)]


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    calls=st.integers(1, 6),
    window=st.sampled_from([0.5, 5.0, 60.0]),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.4, 3.0, 70.0]), max_size=40),
)
def test_the_pace_is_as_fast_as_allowed_and_never_faster(calls, window, gaps):
    asked: list[float] = []
    sent: list[float] = []

    async def one(limiter: RateLimiter) -> None:
        asked.append(now())
        sent.append(await call(limiter))

    async def run() -> None:
        limiter = a_limiter(calls, window)
        async with asyncio.TaskGroup() as group:
            for gap in gaps:
                await asyncio.sleep(gap)
                group.create_task(one(limiter))
                await asyncio.sleep(0)  # it has asked

    in_simulated_time(run)
    for number, at in enumerate(asked):
        free_at = sent[number - calls] + window if number >= calls else 0.0
        assert sent[number] == pytest.approx(max(at, free_at), abs=1e-6)


def test_a_crowd_goes_out_evenly_and_no_later_than_the_next_window():
    async def run() -> None:
        sent = await sent_in(a_limiter(100), 301)
        assert sent[:100] == [BEGIN] * 100  # nobody had to wait
        assert sent[100:301:100] == pytest.approx([BEGIN + 5, BEGIN + 10, BEGIN + 15])
        gaps = [later - earlier for earlier, later in pairwise(sent[100:200])]
        assert gaps == pytest.approx([0.9 * 5 / 100] * 99)

    in_simulated_time(run)


def test_a_turn_given_back_is_had_at_once_by_the_next_of_a_crowd():
    async def run() -> None:
        limiter = a_limiter(100)
        await sent_in(limiter, 101)
        await asyncio.sleep(0.1)
        limiter.give_back(await limiter.slot())
        begun = now()
        await sent_in(limiter, 1)
        assert now() == begun

    in_simulated_time(run)


@pytest.mark.parametrize("calls", [3, 100])
def test_turns_that_are_held_for_long_let_no_more_through_once_they_are_used(calls):
    """As while the ledger is slow: a permit comes before the claim, the call after it."""

    async def run() -> None:
        limiter = a_limiter(calls, 1.0)
        held = [await limiter.slot() for _ in range(calls)]
        waiting = [asyncio.create_task(call(limiter)) for _ in range(2 * calls)]
        await asyncio.sleep(4)
        assert not any(one.done() for one in waiting)
        released = now()
        for slot in held:
            slot.begin()
            slot.arrived()
        sent = sorted([released] * calls + [await one for one in waiting])
        for first, later in zip(sent, sent[calls:], strict=False):
            assert later - first >= 1.0

    in_simulated_time(run)


def test_one_turn_that_is_held_keeps_one_place_and_no_more():
    async def run() -> None:
        limiter = a_limiter(3, 1.0)
        held = await limiter.slot()
        sent = await sent_in(limiter, 8)
        assert sent[-1] - sent[0] == pytest.approx(3.0, abs=0.2)
        limiter.give_back(held)
        assert len(limiter._slots) <= 3

    in_simulated_time(run)


def test_a_complaint_halves_it_once_however_many_come_of_the_same_window():
    async def run() -> None:
        limiter = a_limiter(100)
        await sent_in(limiter, 100)
        for _ in range(30):
            limiter.slow_down(None)
        assert limiter.allowed == 50
        (at,) = await sent_in(limiter, 1)  # the last fifty of the window before count
        assert at == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_a_complaint_of_a_later_window_halves_it_again_but_never_to_nothing():
    async def run() -> None:
        limiter = a_limiter(5)
        allowed = []
        for _ in range(5):
            limiter.slow_down(None)
            allowed.append(limiter.allowed)
            await asyncio.sleep(5.01)
        assert allowed == [2, 1, 1, 1, 1]
        await sent_in(limiter, 3)

    in_simulated_time(run)


def test_it_waits_as_long_as_it_was_told_to():
    async def run() -> None:
        limiter = a_limiter(100)
        limiter.slow_down(30.0)
        limiter.slow_down(7.0)
        assert await sent_in(limiter, 2) == [BEGIN + 30.0] * 2

    in_simulated_time(run)


def test_who_waits_already_waits_longer_then():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        waiting = asyncio.create_task(call(limiter))
        await asyncio.sleep(1)
        limiter.slow_down(30.0)
        await waiting
        assert now() == BEGIN + 31.0

    in_simulated_time(run)


def test_it_grows_back_a_tenth_of_the_limit_in_each_window_without_complaint():
    async def run() -> None:
        limiter = a_limiter(100)
        limiter.slow_down(None)
        seen = []
        for _ in range(7):
            await sent_in(limiter, 1)
            seen.append(limiter.allowed)
            await asyncio.sleep(5.001)
        assert seen == [50, 60, 70, 80, 90, 100, 100]
        assert pytest.approx(0.1) == GROWTH

    in_simulated_time(run)


@pytest.mark.parametrize("retry_after", [None, 3600.0])
def test_the_end_of_the_worker_ends_every_wait(retry_after):
    async def run() -> None:
        stopping = asyncio.Event()
        limiter = RateLimiter(RateLimit(1, timedelta(hours=1)), LoopClock(), stopping)
        await call(limiter)
        limiter.slow_down(retry_after)
        waiting = [asyncio.create_task(call(limiter)) for _ in range(5)]
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
            await RateLimiter(RateLimit(5, timedelta(hours=1)), LoopClock(), stopping).slot()

    in_simulated_time(run)


def test_who_gives_up_waiting_takes_nobodys_place():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        first, second = (asyncio.create_task(call(limiter)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        assert await second == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_a_turn_that_was_not_used_is_the_next_ones():
    async def run() -> None:
        limiter = a_limiter(1)
        unused = await limiter.slot()
        limiter.give_back(unused)
        assert await call(limiter) == BEGIN

    in_simulated_time(run)


@pytest.mark.parametrize(
    ("answered_after", "next_at"), [(0.01, 5.01), (0.1, 5.1), (0.15, 5.15), (3.0, 5.15), (7.0, 7.0)]
)
def test_a_call_counts_from_when_it_has_arrived_at_the_latest(answered_after, next_at):
    async def run() -> None:
        limiter = a_limiter(1)
        slot = await limiter.slot()
        slot.begin()
        await asyncio.sleep(answered_after)
        slot.arrived()
        assert await call(limiter) == pytest.approx(BEGIN + next_at)

    in_simulated_time(run)


def test_a_probe_goes_ahead_of_all_who_wait():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        waiting = [asyncio.create_task(call(limiter)) for _ in range(3)]
        await asyncio.sleep(1)
        (await limiter.priority_slot()).begin()
        assert not any(one.done() for one in waiting[1:])  # the first had its slot in hand almost
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

    async def work(limiter: RateLimiter) -> None:
        while now() < BEGIN + windows * window:
            slot = await limiter.slot()
            slot.begin()
            await asyncio.sleep(chance.uniform(0, spread * longest_way))
            if not server.admits():
                limiter.slow_down(None)
            await asyncio.sleep(back_seconds)
            slot.arrived()

    async def run() -> None:
        limiter = a_limiter(calls, window)
        await asyncio.gather(*(work(limiter) for _ in range(calls)))

    in_simulated_time(run)
    assert server.refused <= 0.005 * (server.served + server.refused), server
    assert server.served >= 0.95 * windows * calls, server
