"""The broker of a running worker: two connections, and the topology that they check or declare."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from contracts.topology import WORK_QUEUE
from worker.adapters.amqp.connect import connected, unavailable_if_lost
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.owner import OwnerLease, OwnerUnseen
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.amqp.setup import BrokerSetup, wanted_topology
from worker.adapters.amqp.start import Look, look
from worker.ports import Broker, Clock, Consumer, Receive
from worker.settings.load import rotating
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

STARTUP_GRACE_SECONDS = 15.0
STARTUP_PAUSE_SECONDS = 0.5


@asynccontextmanager
async def rabbit_broker(
    settings: WorkerSettings, clock: Clock, telemetry: Telemetry
) -> AsyncIterator[Broker]:
    """Connects a publisher. Consumers get a second connection: a blocked publisher must not delay acks.

    Raises `BrokerUnavailable` if the broker refuses us or cannot be reached in `STARTUP_GRACE_SECONDS`.
    """
    found = await _first_contact(settings, clock, telemetry)
    setup = BrokerSetup(settings, found, OwnerLease(settings.namespace, settings.owner), telemetry)
    urls = rotating(settings, "amqp_url", telemetry.setting_read_again)

    @asynccontextmanager
    async def consumer(receive: Receive) -> AsyncIterator[Consumer]:
        queue, namespace = settings.namespace.of(WORK_QUEUE), settings.namespace
        rabbit = RabbitConsumer(
            queue,
            settings.prefetch,
            receive,
            setup.before_consuming,
            telemetry,
            namespace,
            setup.while_consuming,
        )
        async with rabbit.running(Link("consumer", urls.value, clock, telemetry, urls.read_again)):
            yield rabbit

    link = Link("publisher", urls.value, clock, telemetry, urls.read_again)
    async with RabbitPublisher.running(link, setup.before_publishing, settings.namespace) as publisher:
        yield Broker(publisher, consumer, publisher.problems)


async def _first_contact(settings: WorkerSettings, clock: Clock, telemetry: Telemetry) -> Look:
    """Raises errors at the start that the links would only retry; warns of what cannot be seen."""
    deadline = asyncio.get_running_loop().time() + STARTUP_GRACE_SECONDS
    reported = ""
    while True:
        try:
            found = await _contact(settings)
        except BrokerRefuses:
            raise
        except BrokerUnavailable as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            if str(error) != reported:
                reported = str(error)
                telemetry.broker_lost("start", reported)
            await clock.sleep(STARTUP_PAUSE_SECONDS)
        else:
            if found.unseen or found.odd:
                telemetry.topology_unseen([*(f"not seen: {what}" for what in found.unseen), *found.odd])
            return found


async def _contact(settings: WorkerSettings) -> Look:
    *others, last = settings.amqp_url
    for url in others:
        with suppress(BrokerUnavailable):
            return await _contact_at(url, settings)
    return await _contact_at(last, settings)


async def _contact_at(url: str, settings: WorkerSettings) -> Look:
    async with connected(url, "provisioner start") as connection:
        found = await look(connection, wanted_topology(connection, settings), settings)
        try:
            with unavailable_if_lost():
                await OwnerLease(settings.namespace, settings.owner).take(connection)
        except OwnerUnseen as error:
            found.unseen.append(f"workers of another owner ({error})")
        return found
