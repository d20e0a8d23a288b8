"""The signals that stop the worker: the first begins the drain, and a closed terminal ends none."""

import asyncio
import os
import signal

import pytest

from worker.service.signals import Stop, stop_signal

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers_restored():
    before = {number: signal.getsignal(number) for number in HEEDED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def send(*numbers: signal.Signals) -> None:
    """Sends the signals to this process, and lets the loop handle them."""
    for number in numbers:
        os.kill(os.getpid(), number)
        for _ in range(3):  # the loop's wake-up, the handler, those who wait for it
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_the_first_signal_begins_the_drain(number):
    ended = []
    stop = Stop(60, lambda: ended.append("at once"))
    asked = asyncio.create_task(stop.asked())
    await asyncio.sleep(0)
    await send(number)
    await asyncio.wait_for(asked, 5)
    assert ended == []


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        (signal.SIGTERM, signal.SIGTERM, True),
        (signal.SIGHUP, signal.SIGTERM, True),
        (signal.SIGHUP, signal.SIGINT, True),
        (signal.SIGHUP, signal.SIGHUP, False),
        (signal.SIGTERM, signal.SIGHUP, False),
        (signal.SIGTERM, signal.SIGUSR1, False),
    ],
)
async def test_a_second_signal_ends_at_once_unless_a_terminal_sent_it(first, second, ends):
    ended = []
    stop = Stop(60, lambda: ended.append("at once"))
    asked = asyncio.create_task(stop.asked())
    await asyncio.sleep(0)
    await send(first, second)
    await asyncio.wait_for(asked, 5)
    assert ended == (["at once"] if ends else [])


async def test_signals_of_log_rotation_do_nothing():
    stop = Stop(60, lambda: None)
    asked = asyncio.create_task(stop.asked())
    await asyncio.sleep(0)
    await send(signal.SIGUSR1, signal.SIGUSR2)
    assert not asked.done()
    asked.cancel()


async def test_a_hangup_that_is_ignored_stays_ignored():
    """As `nohup` starts a process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop(60, lambda: None)
    stopping = stop_signal(lambda: None)
    asked = asyncio.create_task(stop.asked())
    await asyncio.sleep(0)
    await send(signal.SIGHUP)
    assert not asked.done()
    assert not stopping.is_set()
    asked.cancel()


async def test_a_hangup_stops_an_operators_command():
    said = []
    stopping = stop_signal(lambda: said.append("stopping"))
    await send(signal.SIGHUP, signal.SIGHUP)
    assert stopping.is_set()
    assert said == ["stopping"]
