"""The conformance suite of every clock: the memory clock, advanced by hand, and the system clock."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.support.builders import NOW
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.system import SystemClock
from worker.ports import Clock


@pytest.fixture(params=["memory", "system"])
async def clock(request: pytest.FixtureRequest) -> AsyncIterator[Clock]:
    if request.param == "system":
        yield SystemClock()
        return
    running = MemoryClock(NOW)
    passing = asyncio.create_task(advance_time(running))
    yield running
    passing.cancel()


async def advance_time(clock: MemoryClock) -> None:
    while True:
        await clock.asleep()
        clock.advance(clock.seconds_to_next())
        await asyncio.sleep(0)


async def test_now_is_in_utc(clock):
    assert clock.now().utcoffset() == timedelta(0)


async def test_jitter_is_between_0_and_1(clock):
    assert all(0 <= clock.jitter() < 1 for _ in range(1000))


async def test_a_sleep_lasts_as_long_as_asked(clock):
    begun = clock.now()
    await clock.sleep(0.05)
    assert clock.now() > begun + timedelta(seconds=0.04)  # wall clock and monotonic clock may differ slightly


@pytest.mark.parametrize("seconds", [0, 0.0, -1.0])
async def test_a_sleep_of_zero_or_less_returns(clock, seconds):
    await clock.sleep(seconds)


async def test_shorter_sleeps_wake_first(clock):
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    await asyncio.gather(*(sleep(seconds) for seconds in (0.06, 0.02, 0.04)))
    assert woken == [0.02, 0.04, 0.06]


async def test_a_sleep_can_be_cancelled(clock):
    sleeping = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    sleeping.cancel()
    assert isinstance((await asyncio.gather(sleeping, return_exceptions=True))[0], asyncio.CancelledError)


def test_the_jitter_of_the_system_clock_varies():
    assert len({SystemClock().jitter() for _ in range(100)}) > 90


async def test_memory_time_passes_only_when_advanced():
    clock = MemoryClock(NOW, jitter=0.25)
    sleeping = asyncio.create_task(clock.sleep(10))
    await clock.asleep()
    clock.advance(9.999)
    await asyncio.sleep(0)
    assert not sleeping.done()
    assert clock.seconds_to_next() == pytest.approx(0.001)
    clock.advance(0.001)
    await sleeping
    assert clock.now() == NOW + timedelta(seconds=10)
    assert (clock.naps, clock.jitter()) == ([10], 0.25)


async def test_a_test_can_wait_until_a_number_of_tasks_sleep():
    clock = MemoryClock(NOW)
    both = asyncio.create_task(clock.asleep(2))
    sleeping = [asyncio.create_task(clock.sleep(10))]
    await clock.asleep(1)
    assert not both.done()
    sleeping.append(asyncio.create_task(clock.sleep(20)))
    await both
    clock.advance(20)
    await asyncio.gather(*sleeping)
    with pytest.raises(ValueError, match="empty"):
        clock.seconds_to_next()
