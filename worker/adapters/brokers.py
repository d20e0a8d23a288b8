"""Connections for commands. They fail at once without a broker, where a worker would retry."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from pydantic import SecretStr

from contracts.topology import Namespace, Topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.codec.frames import Delivered
from worker.adapters.amqp.connect import close, connect
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable, explain
from worker.adapters.amqp.getter import Getter
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.management import InEffect, queue_names, read_in_effect, unacked
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.amqp.seam import BROKER_ERRORS, Connection
from worker.adapters.amqp.topology import Finding
from worker.adapters.system import SystemClock
from worker.ports import Publisher
from worker.telemetry.events import Telemetry


@asynccontextmanager
async def open_connection(urls: Sequence[str]) -> AsyncIterator[Connection]:
    """Connects to the first broker that accepts a connection; raises `BrokerUnavailable`."""
    found = await _first_that_connects(urls)
    try:
        yield found
    finally:
        await close(found)


async def _first_that_connects(urls: Sequence[str]) -> Connection:
    *others, last = urls
    for url in others:
        try:
            return await connect(url, "provisioner command")
        except BrokerUnavailable:
            continue
    return await connect(last, "provisioner command")


@asynccontextmanager
async def open_publisher(
    urls: Sequence[str], telemetry: Telemetry, namespace: Namespace
) -> AsyncIterator[Publisher]:
    """A publisher, once a broker has accepted a connection; raises `BrokerUnavailable`."""
    async with open_connection(urls):
        pass
    link = Link("command", urls, SystemClock(), telemetry)
    async with RabbitPublisher.running(link, namespace=namespace) as publisher:
        yield publisher


class AmqpObjects:
    """Exchanges, queues and bindings over AMQP."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.version = connection.server_version

    async def apply(self, wanted: Topology) -> None:
        """Declares and binds everything; raises `BrokerRefuses` or `BrokerUnavailable`."""
        await rabbitmq_topology.apply(self._connection, wanted)

    async def check(self, wanted: Topology) -> Sequence[Finding]:
        """Compares each exchange and queue, without changes; raises `BrokerUnavailable`."""
        return await rabbitmq_topology.check(self._connection, wanted)


class ManagedObjects:
    """Bindings, arguments and policies over the management API. `url` holds its login."""

    def __init__(self, url: SecretStr, vhost: str) -> None:
        self._url = url
        self._vhost = vhost

    async def read(self) -> InEffect:
        """The state in effect now; raises `ManagementUnavailable`."""
        return await read_in_effect(self._url, self._vhost)

    async def queues(self) -> Sequence[str]:
        """The names of all queues; raises `ManagementUnavailable`."""
        return await queue_names(self._url, self._vhost)

    async def unacked(self, queue: str) -> int:
        """The messages of a queue that its consumers hold; raises `ManagementUnavailable`."""
        return await unacked(self._url, self._vhost, queue)


Waiting = AsyncIterator[tuple[bytes, Callable[[], None]]]


@asynccontextmanager
async def waiting_messages(urls: Sequence[str], queue: str) -> AsyncIterator[Waiting]:
    """The messages ready in a queue now: the body and an ack function of each.

    Unacked messages return to the queue at the end of the block. Raises `BrokerUnavailable`.
    """
    async with open_connection(urls) as connection, connection.channel() as channel:
        getter = Getter(connection, channel, queue)

        async def each() -> Waiting:
            while (message := await _next(getter, queue)) is not None:
                yield message.body, partial(getter.ack, message)

        yield each()


async def _next(getter: Getter, queue: str) -> Delivered | None:
    try:
        return await getter.get()
    except BROKER_ERRORS as error:
        raise BrokerRefuses(f"the queue {queue} cannot be read: {explain(error)}") from None
