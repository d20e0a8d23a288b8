"""The rate limiter, in simulated time: it never exceeds the limit of a window and nearly uses it up."""

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
from worker.provider.rate import (
    GROWTH,
    LATEST_ARRIVAL,
    LONGEST_REST_SECONDS,
    RateLimiter,
    Resting,
    Stopping,
)

BEGIN = 1000.0


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop that never waits: without a ready task it advances to the next timer."""

    _ready: deque[Any]  # both are the base class's, which declares them nowhere
    _scheduled: list[asyncio.TimerHandle]
    simulated = BEGIN

    def time(self) -> float:
        return self.simulated

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.simulated = max(self.simulated, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]  # private, too


class LoopClock(SystemClock):
    """A clock whose monotonic time is that of the running loop."""

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
    """Makes one call, answered immediately. Returns the time at which it was sent."""
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
def test_calls_are_sent_as_early_as_the_limit_allows(calls, window, gaps):
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
                await asyncio.sleep(0)  # let it ask for its slot

    in_simulated_time(run)
    for number, at in enumerate(asked):
        free_at = sent[number - calls] + window if number >= calls else 0.0
        assert sent[number] == pytest.approx(max(at, free_at), abs=1e-6)


def test_a_burst_is_spread_evenly_over_the_next_windows():
    async def run() -> None:
        sent = await sent_in(a_limiter(100), 301)
        assert sent[:100] == [BEGIN] * 100  # none had to wait
        assert sent[100:301:100] == pytest.approx([BEGIN + 5, BEGIN + 10, BEGIN + 15])
        gaps = [later - earlier for earlier, later in pairwise(sent[100:200])]
        assert gaps == pytest.approx([0.9 * 5 / 100] * 99)

    in_simulated_time(run)


def test_a_returned_slot_is_used_immediately():
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
def test_slots_held_for_long_do_not_exceed_the_limit_later(calls):
    """As while the ledger is slow: the permit is taken before the claim, the call follows it."""

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


def test_a_held_slot_blocks_only_one_place():
    async def run() -> None:
        limiter = a_limiter(3, 1.0)
        held = await limiter.slot()
        sent = await sent_in(limiter, 8)
        assert sent[-1] - sent[0] == pytest.approx(3.0, abs=0.2)
        limiter.give_back(held)
        assert len(limiter._slots) <= 3

    in_simulated_time(run)


def test_429_responses_of_one_window_halve_the_rate_once():
    async def run() -> None:
        limiter = a_limiter(100)
        await sent_in(limiter, 100)
        for _ in range(30):
            limiter.slow_down(None)
        assert limiter.allowed == 50
        (at,) = await sent_in(limiter, 1)  # the last fifty of the previous window count
        assert at == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_a_429_of_a_later_window_halves_the_rate_down_to_one():
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


def test_the_longest_retry_after_is_obeyed():
    async def run() -> None:
        limiter = a_limiter(100)
        limiter.slow_down(LONGEST_REST_SECONDS)
        limiter.slow_down(2.0)
        assert await sent_in(limiter, 2) == [BEGIN + LONGEST_REST_SECONDS] * 2

    in_simulated_time(run)


def test_retry_after_extends_the_wait_of_waiting_calls():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        waiting = asyncio.create_task(call(limiter))
        await asyncio.sleep(1)
        limiter.slow_down(5.0)
        await waiting
        assert now() == BEGIN + 6.0

    in_simulated_time(run)


def test_a_long_rest_refuses_calls_and_ends_in_time():
    """Waiting for it inside a call would keep the messages unacked."""

    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        waiting = [asyncio.create_task(call(limiter)) for _ in range(3)]
        await asyncio.sleep(1)
        limiter.slow_down(600.0)
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in refused] == [Resting] * 3
        assert now() <= BEGIN + 6.0  # each ended with the wait that it had begun
        with pytest.raises(Resting) as rest:
            await limiter.priority_slot()
        assert rest.value.seconds == pytest.approx(BEGIN + 601.0 - now())
        await asyncio.sleep(rest.value.seconds)
        await call(limiter)
        assert now() == BEGIN + 601.0

    in_simulated_time(run)


def test_the_rate_recovers_by_a_tenth_per_window_without_a_429():
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


@pytest.mark.parametrize("retry_after", [None, 5.0])
def test_shutdown_ends_every_wait(retry_after):
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


def test_after_shutdown_no_slot_is_given_even_if_free():
    async def run() -> None:
        stopping = asyncio.Event()
        stopping.set()
        with pytest.raises(Stopping):
            await RateLimiter(RateLimit(5, timedelta(hours=1)), LoopClock(), stopping).slot()

    in_simulated_time(run)


def test_a_cancelled_wait_takes_no_slot():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        first, second = (asyncio.create_task(call(limiter)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        assert await second == pytest.approx(BEGIN + 5.0)

    in_simulated_time(run)


def test_an_unused_slot_goes_to_the_next_call():
    async def run() -> None:
        limiter = a_limiter(1)
        unused = await limiter.slot()
        limiter.give_back(unused)
        assert await call(limiter) == BEGIN

    in_simulated_time(run)


@pytest.mark.parametrize(
    ("answered_after", "next_at"), [(0.01, 5.01), (0.1, 5.1), (0.15, 5.15), (3.0, 5.15), (7.0, 7.0)]
)
def test_a_call_counts_from_its_latest_possible_arrival(answered_after, next_at):
    async def run() -> None:
        limiter = a_limiter(1)
        slot = await limiter.slot()
        slot.begin()
        await asyncio.sleep(answered_after)
        slot.arrived()
        assert await call(limiter) == pytest.approx(BEGIN + next_at)

    in_simulated_time(run)


def test_a_probe_precedes_all_waiting_calls():
    async def run() -> None:
        limiter = a_limiter(1)
        await call(limiter)
        waiting = [asyncio.create_task(call(limiter)) for _ in range(3)]
        await asyncio.sleep(1)
        (await limiter.priority_slot()).begin()
        assert not any(one.done() for one in waiting[1:])  # the first was about to get its slot
        await asyncio.gather(*waiting)

    in_simulated_time(run)


@dataclass
class StrictServer:
    """Refuses calls over the limit of a sliding window; refused calls do not count."""

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


@pytest.mark.no_cover
@pytest.mark.timeout(300)  # half a million calls in simulated time, on a machine that may be busy
@pytest.mark.xdist_group("rate")
@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    limit=st.sampled_from([(20, 1.0), (300, 5.0), (50, 10.0)]),
    back_seconds=st.sampled_from([0.01, 0.05, 0.2]),
    spread=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_strict_server_rarely_refuses_and_is_rarely_idle(limit, back_seconds, spread, seed):
    """Calls overtake each other in the network, but arrive within the allowed delay."""
    chance = random.Random(seed)
    calls, window = limit
    windows = 40
    server = StrictServer(calls, window)
    longest_delay = LATEST_ARRIVAL * window

    async def work(limiter: RateLimiter) -> None:
        while now() < BEGIN + windows * window:
            slot = await limiter.slot()
            slot.begin()
            await asyncio.sleep(chance.uniform(0, spread * longest_delay))
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
