"""What the test folders share: quiet logs, and a real broker."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from contracts import topology as names
from contracts.topology import BrokerVersion, topology
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import open_connection
from worker.demo.private_node import NodeUnavailable, private_node
from worker.telemetry.logs import configure_logging

# What a test may leave at the broker, whatever arguments it was made with.
LEFT_BEHIND = topology(BrokerVersion(4, 1))


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    configure_logging("json", "error")


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """The broker in AMQP_URL, or a private node. Where there is none: a skip, in CI a failure.

    Tests that use it share it, so they run in one process: `xdist_group("broker")`.
    """
    if url := os.environ.get("AMQP_URL"):
        asyncio.run(_refuse_in_use(url))
        yield url
        return
    node = private_node()
    with asyncio.Runner() as runner:
        try:
            running = runner.run(node.__aenter__())
        except NodeUnavailable as error:
            if "CI" in os.environ:
                pytest.fail(str(error))
            pytest.skip(str(error))
        try:
            yield running.url
        finally:
            runner.run(node.__aexit__(None, None, None))


@pytest.fixture
async def clean_broker(broker_url: str) -> AsyncIterator[str]:
    """The broker's URL, with nothing of the project there before the test, and nothing after."""
    await _clear(broker_url)
    yield broker_url
    await _clear(broker_url)


async def _refuse_in_use(url: str) -> None:
    """The tests delete the project's queues: never those of somebody who uses them."""
    async with open_connection([url]) as there:
        for queue in (names.WORK_QUEUE, names.SECRETS_QUEUE, names.DEAD_LETTER_QUEUE):
            state = await state_of(there, queue)
            if state is not None and (state.messages or state.consumers):
                pytest.exit(
                    f"the queue {queue} at AMQP_URL is in use; the tests would delete it", returncode=1
                )


async def _clear(url: str) -> None:
    async with open_connection([url]) as there, there.channel() as channel:
        for queue in LEFT_BEHIND.queues:
            await channel.queue_delete(queue.name)
        for exchange in LEFT_BEHIND.exchanges:
            await channel.exchange_delete(exchange.name)
