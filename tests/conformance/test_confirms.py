"""Publisher confirms: every wait has a timeout, and one timer serves all waits. In virtual time."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from contracts.envelope import Message
from tests.conformance.silent_socket import Socket
from tests.simulation.virtual_time import VirtualLoop
from worker.adapters.amqp.codec.frames import ACK, NACK
from worker.adapters.amqp.confirms import ConfirmingChannel, ConfirmTimeouts, Refused, Returned
from worker.adapters.amqp.seam import Channel, Connection
from worker.core.messages import Outgoing


async def time_of_timeout(timeouts: ConfirmTimeouts, loop: VirtualLoop) -> float:
    """The time at which a wait that starts now is given up."""
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


def test_only_an_unconfirmed_publish_times_out(loop):
    async def scenario() -> None:
        timeouts, answered = ConfirmTimeouts(15), loop.create_future()
        timeouts.start(answered)
        answered.set_result("confirmed")
        assert await time_of_timeout(timeouts, loop) == 15
        assert await answered == "confirmed"

    loop.run_until_complete(scenario())


def test_every_wait_has_the_full_timeout(loop):
    async def scenario() -> None:
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
        assert await time_of_timeout(timeouts, loop) == 35

    loop.run_until_complete(scenario())


def test_completed_waits_are_dropped(loop):
    async def scenario() -> None:
        timeouts = ConfirmTimeouts(15)
        for _ in range(100):
            future = loop.create_future()
            timeouts.start(future)
            future.set_result(None)
        assert len(timeouts._pending) == 1

    loop.run_until_complete(scenario())


OUTGOING = Outgoing("x", "k", Message(b"{}", "application/json"))


async def publishing(socket: Socket, count: int) -> tuple[ConfirmingChannel, list[asyncio.Task[None]]]:
    channel = ConfirmingChannel(cast(Connection, socket), cast(Channel, socket), 15)
    tasks = [
        asyncio.create_task(channel.publish("x", OUTGOING, f"m-{number}")) for number in range(1, count + 1)
    ]
    await asyncio.sleep(0)
    return channel, tasks


async def test_each_publish_gets_its_own_outcome():
    channel, tasks = await publishing(socket := Socket(), 6)
    socket.returns(b"m-2")
    socket.returns(b"m-5")
    socket.confirms(ACK, 3, multiple=True)
    socket.confirms(NACK, 4)
    socket.confirms(ACK, 5)
    socket.confirms(ACK, 5)  # a second time: no publish waits for it
    channel.lose("gone")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [
        type(None),
        Returned,
        type(None),
        Refused,
        Returned,
        ConnectionError,
    ]
    assert len(socket.sent) == 6


async def test_a_cancelled_publish_does_not_affect_the_others():
    _, tasks = await publishing(socket := Socket(), 2)
    tasks[0].cancel()
    await asyncio.sleep(0)
    socket.confirms(ACK, 2, multiple=True)
    await tasks[1]


async def test_nothing_is_sent_on_a_lost_channel():
    channel, _ = await publishing(socket := Socket(), 0)
    channel.lose("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await channel.publish("x", OUTGOING, "m-1")
    assert socket.sent == []


async def test_a_lost_channel_ends_the_wait_for_an_unblocked_broker():
    channel, _ = await publishing(Socket(), 0)
    waiting = asyncio.create_task(channel.unblocked(15))
    await asyncio.sleep(0)
    channel.lose("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await waiting


def test_the_wait_for_an_unblocked_broker_times_out(loop):
    async def scenario() -> float:
        channel, _ = await publishing(Socket(), 0)
        with pytest.raises(TimeoutError):
            await channel.unblocked(15)
        return loop.time()

    assert loop.run_until_complete(scenario()) == 15
