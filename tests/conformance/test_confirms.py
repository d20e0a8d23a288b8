"""Whoever waits for a confirm does not wait for ever, and one timer is enough for all. In virtual time."""

from collections.abc import Iterator

import pytest
from simulation.virtual_time import VirtualLoop

from worker.adapters.rabbitmq_confirms import Patience


async def until_given_up(patience: Patience, loop: VirtualLoop) -> float:
    """When one that begins now is."""
    silent = loop.create_future()
    patience.begins(silent)
    with pytest.raises(TimeoutError):
        await silent
    return loop.time()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    running = VirtualLoop()
    yield running
    running.close()


def test_what_is_not_done_in_time_is_given_up_and_what_is_done_is_not(loop):
    async def story() -> None:
        patience, answered = Patience(15), loop.create_future()
        patience.begins(answered)
        answered.set_result("confirmed")
        assert await until_given_up(patience, loop) == 15
        assert await answered == "confirmed"

    loop.run_until_complete(story())


def test_what_begins_later_has_as_long_and_so_has_what_begins_after_a_pause(loop):
    async def story() -> None:
        patience, first = Patience(15), loop.create_future()
        patience.begins(first)
        later = loop.create_future()
        loop.call_later(5, patience.begins, later)
        with pytest.raises(TimeoutError):
            await first
        assert (loop.time(), later.done()) == (15, False)
        with pytest.raises(TimeoutError):
            await later
        assert loop.time() == 20
        assert await until_given_up(patience, loop) == 35

    loop.run_until_complete(story())


def test_what_is_done_is_not_kept(loop):
    async def story() -> None:
        patience = Patience(15)
        for _ in range(100):
            future = loop.create_future()
            patience.begins(future)
            future.set_result(None)
        assert len(patience._waited_for) == 1

    loop.run_until_complete(story())
