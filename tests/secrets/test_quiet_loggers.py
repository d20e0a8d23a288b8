"""The client library logs message bodies; no output contains them at any log level."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import StringIO

import aio_pika
import aiormq
import pytest
from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage, plain_message
from tests.support.canaries import Canaries, assert_absent
from tests.support.secrets_keys import clear
from tests.support.secured import Secured
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import LEAKY_LOGGERS, configure_logging

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(120)]

TOKEN = "a-token-that-nobody-may-log-0123456789"
QUEUE = "test.credentials"


@pytest.fixture
def canaries() -> Canaries:
    canaries = Canaries()
    canaries.add("token", TOKEN)
    return canaries


def credentials(routing_key: str = QUEUE) -> Outgoing:
    plain = clear()
    data = plain.data.model_copy(update={"auth_token": SecretStr(TOKEN)})
    message: CredentialsMessage = plain.model_copy(update={"data": data})
    return Outgoing("test.secrets", routing_key, plain_message(message))


@pytest.fixture
def logged() -> Iterator[StringIO]:
    """Captures all logs with the root logger and the loggers of the library at DEBUG."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.DEBUG)
    configure_logging("json", "debug")
    raised = [
        name for name in root.manager.loggerDict if name.startswith(tuple(f"{one}." for one in LEAKY_LOGGERS))
    ]
    for name in raised:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(before)
    for name in raised:
        logging.getLogger(name).setLevel(logging.NOTSET)


@asynccontextmanager
async def broker(secured: Secured) -> AsyncIterator[None]:
    async with await aio_pika.connect(secured.node.url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange("test.secrets", "topic", durable=True)
        await (await channel.declare_queue(QUEUE, durable=True)).bind(exchange, QUEUE)
    yield
    async with await aio_pika.connect(secured.node.url) as connection, connection.channel() as channel:
        await channel.queue_delete(QUEUE)
        await channel.exchange_delete("test.secrets")


async def test_publishing_consuming_and_failing_log_no_token(
    secured: Secured, canaries: Canaries, logged: StringIO, capfd: pytest.CaptureFixture[str]
):
    clock, telemetry = SystemClock(), Telemetry()
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    async def nothing_to_prepare(_connection: object) -> None:
        return None

    async with (
        broker(secured),
        RabbitPublisher.running(Link("publisher", [secured.node.url], clock, telemetry)) as publisher,
    ):
        await publisher.publish(credentials())
        with pytest.raises(PublishFailed) as unroutable:
            await publisher.publish(credentials("nowhere"))
        consumer = RabbitConsumer(QUEUE, 1, arrived.put_nowait, nothing_to_prepare, telemetry)
        async with consumer.running(Link("consumer", [secured.node.url], clock, telemetry)):
            delivery = await arrived.get()
        await uncorrelated_return(secured)
        with pytest.raises(PublishFailed) as gone:
            async with publishing_on(publisher):
                await secured.node.rabbitmqctl("close_all_connections", "test")
    told = [*map(str, (unroutable.value, gone.value)), *map(repr, (unroutable.value, gone.value, delivery))]
    printed = "".join(capfd.readouterr())
    assert_absent(
        {
            "logs": canaries.found_in(logged.getvalue().encode()),
            "stderr": canaries.found_in(printed.encode()),
            "exceptions": canaries.found_in(" ".join(told).encode()),
        }
    )
    assert "Unhandled message" not in printed + logged.getvalue()


@asynccontextmanager
async def publishing_on(publisher: RabbitPublisher) -> AsyncIterator[None]:
    """Publishes until one publish fails; the block then raises `PublishFailed`."""

    async def publish_on() -> None:
        while True:
            await publisher.publish(credentials())

    failing = asyncio.create_task(publish_on())
    yield
    await failing


async def uncorrelated_return(secured: Secured) -> None:
    """A returned message that no publish waits for, as after a publish timeout."""
    connection = await aiormq.connect(secured.node.url)
    channel = await connection.channel(publisher_confirms=False)
    sent = credentials("nowhere")
    await channel.basic_publish(
        sent.message.body, exchange=sent.exchange, routing_key=sent.routing_key, mandatory=True
    )
    await channel.basic_qos(prefetch_count=1)  # its response arrives after the returned message
    await connection.close()


def test_the_last_resort_handler_prints_no_token():
    """Runs in a separate process, because pytest adds a handler to every logger."""
    script = (
        "import logging\n"
        "from worker.telemetry.logs import configure_logging\n"
        "configure_logging('json', 'debug')\n"
        "for name in ('aiormq.channel', 'aio_pika.queue', 'aiormq'):\n"
        "    logging.getLogger(name).setLevel(logging.DEBUG)\n"
        f"    logging.getLogger(name).error('Unhandled message {TOKEN}')\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


async def test_the_client_library_logs_tokens_without_the_set_up(secured: Secured, canaries: Canaries):
    """If this fails, the library no longer logs message bodies."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("aiormq")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        async with broker(secured):
            await uncorrelated_return(secured)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert canaries.found_in(written.getvalue().encode()) == {"token"}
