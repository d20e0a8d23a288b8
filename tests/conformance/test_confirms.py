"""A wait for a confirm ends in time, and one timer serves all. In virtual time."""

import asyncio
from collections.abc import Iterator

import pytest

from contracts.envelope import Message
from tests.conformance.silent_socket import Socket
from tests.simulation.virtual_time import VirtualLoop
from worker.adapters.amqp.codec.frames import ACK, NACK
from worker.adapters.amqp.confirms import ConfirmingChannel, ConfirmTimeouts, Refused, Returned
from worker.core.messages import Outgoing


async def until_given_up(timeouts: ConfirmTimeouts, loop: VirtualLoop) -> float:
    """When one that begins now is."""
    silent = loop.create_future()
    timeouts.start(silent)
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
        timeouts, answered = ConfirmTimeouts(15), loop.create_future()
        timeouts.start(answered)
        answered.set_result("confirmed")
        assert await until_given_up(timeouts, loop) == 15
        assert await answered == "confirmed"

    loop.run_until_complete(story())


def test_what_begins_later_has_as_long_and_so_has_what_begins_after_a_pause(loop):
    async def story() -> None:
        timeouts, first = ConfirmTimeouts(15), loop.create_future()
        timeouts.start(first)
        later = loop.create_future()
        loop.call_later(5, timeouts.start, later)
        with pytest.raises(TimeoutError):
            await first
        assert (loop.time(), later.done()) == (15, False)
        with pytest.raises(TimeoutError):
            await later
        assert loop.time() == 20
        assert await until_given_up(timeouts, loop) == 35

    loop.run_until_complete(story())


def test_what_is_done_is_not_kept(loop):
    async def story() -> None:
        timeouts = ConfirmTimeouts(15)
        for _ in range(100):
            future = loop.create_future()
            timeouts.start(future)
            future.set_result(None)
        assert len(timeouts._pending) == 1

    loop.run_until_complete(story())


OUTGOING = Outgoing("x", "k", Message(b"{}", "application/json"))


async def publishing(socket: Socket, count: int) -> tuple[ConfirmingChannel, list[asyncio.Task[None]]]:
    channel = ConfirmingChannel(socket, socket, 15)
    tasks = [asyncio.create_task(channel.publish(OUTGOING, f"m-{number}")) for number in range(1, count + 1)]
    await asyncio.sleep(0)
    return channel, tasks


async def test_each_publish_is_told_what_became_of_it():
    channel, tasks = await publishing(socket := Socket(), 6)
    socket.returns(b"m-2")
    socket.returns(b"m-5")
    socket.confirms(ACK, 3, multiple=True)
    socket.confirms(NACK, 4)
    socket.confirms(ACK, 5)
    socket.confirms(ACK, 5)  # once more: nobody is there
    channel.lose("gone")
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in told] == [
        type(None),
        Returned,
        type(None),
        Refused,
        Returned,
        ConnectionError,
    ]
    assert len(socket.sent) == 6


async def test_one_who_waits_no_more_costs_the_others_nothing():
    _, tasks = await publishing(socket := Socket(), 2)
    tasks[0].cancel()
    await asyncio.sleep(0)
    socket.confirms(ACK, 2, multiple=True)
    await tasks[1]


async def test_after_a_loss_nothing_is_sent():
    channel, _ = await publishing(socket := Socket(), 0)
    channel.lose("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await channel.publish(OUTGOING, "m-1")
    assert socket.sent == []


async def test_a_loss_ends_the_wait_for_a_broker_that_blocks():
    channel, _ = await publishing(Socket(), 0)
    waiting = asyncio.create_task(channel.unblocked(15))
    await asyncio.sleep(0)
    channel.lose("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await waiting


def test_a_broker_that_blocks_for_too_long_is_given_up(loop):
    async def story() -> float:
        channel, _ = await publishing(Socket(), 0)
        with pytest.raises(TimeoutError):
            await channel.unblocked(15)
        return loop.time()

    assert loop.run_until_complete(story()) == 15
