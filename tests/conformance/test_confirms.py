"""Whoever waits for a confirm does not wait for ever, and one timer is enough for all."""

import asyncio

import pytest

from worker.adapters.rabbitmq_confirms import Patience


async def test_what_is_not_done_in_time_is_given_up():
    patience, loop = Patience(0.02), asyncio.get_running_loop()
    answered, silent = loop.create_future(), loop.create_future()
    patience.begins(answered)
    patience.begins(silent)
    answered.set_result("confirmed")

    with pytest.raises(TimeoutError):
        await silent
    assert await answered == "confirmed"


async def test_what_begins_later_has_as_long():
    patience, loop = Patience(0.05), asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    patience.begins(first)
    await asyncio.sleep(0.03)
    patience.begins(second)
    begun = loop.time()

    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    with pytest.raises(TimeoutError):
        await second
    assert loop.time() - begun >= 0.045


async def test_after_a_pause_it_goes_on():
    patience, loop = Patience(0.02), asyncio.get_running_loop()
    for _ in range(2):
        silent = loop.create_future()
        patience.begins(silent)
        with pytest.raises(TimeoutError):
            await silent


async def test_what_is_done_is_not_kept():
    patience, loop = Patience(60), asyncio.get_running_loop()
    for _ in range(100):
        future = loop.create_future()
        patience.begins(future)
        future.set_result(None)

    assert len(patience._waited_for) == 1
