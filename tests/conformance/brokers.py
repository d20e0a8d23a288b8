"""Brokers to test: in memory, simulated, and RabbitMQ, each with the project's topology."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import aio_pika
from aio_pika.abc import AbstractChannel

from contracts.topology import BrokerVersion, topology
from tests.simulation.broker import Broker as SimulatedBroker
from tests.simulation.broker import SimulatedConsumer, SimulatedPublisher
from tests.simulation.chance import PROFILES, Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.getter import Getter
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.publisher import RabbitPublisher, no_preparation
from worker.adapters.amqp.seam import Channel, Connection
from worker.adapters.memory.broker import MemoryBroker
from worker.adapters.system import SystemClock
from worker.ports import Consumer, Delivery, Publisher
from worker.telemetry.events import Telemetry

Receive = Callable[[Delivery], None]


class Bench(Protocol):
    """A broker with the project's topology: publish to it and consume from it."""

    @property
    def publisher(self) -> Publisher: ...

    def consumer(
        self, queue: str, prefetch: int, receive: Receive
    ) -> AbstractAsyncContextManager[Consumer]: ...

    async def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        """Binds a queue that belongs to the test, and declares it first if needed."""

    async def ready(self, queue: str) -> int:
        """The number of ready messages, not delivered to any consumer."""

    async def bodies(self, queue: str) -> list[bytes]:
        """The bodies of the ready messages of a queue that belongs to the test."""


@dataclass(frozen=True)
class MemoryBench:
    publisher: MemoryBroker

    def consumer(self, queue: str, prefetch: int, receive: Receive) -> AbstractAsyncContextManager[Consumer]:
        return self.publisher.consumer(queue, prefetch, receive)

    async def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        self.publisher.bind(exchange, queue, routing_key)

    async def ready(self, queue: str) -> int:
        return len(self.publisher.ready(queue))

    async def bodies(self, queue: str) -> list[bytes]:
        return [outgoing.message.body for outgoing in self.publisher.ready(queue)]


@dataclass(frozen=True)
class RabbitBench:
    url: str
    publisher: RabbitPublisher
    connection: Connection
    own: Channel
    channel: AbstractChannel
    """A channel of aio-pika, as any other client would use."""

    @asynccontextmanager
    async def consumer(self, queue: str, prefetch: int, receive: Receive) -> AsyncIterator[Consumer]:
        rabbit = RabbitConsumer(queue, prefetch, receive, no_preparation, Telemetry())
        async with rabbit.running(link("consumer", self.url)):
            yield rabbit

    async def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        await self.own.objects.declare_queue(queue, temporary=True)
        await self.own.objects.bind(queue, exchange, routing_key)

    async def ready(self, queue: str) -> int:
        state = await rabbitmq_topology.state_of(self.connection, queue)
        assert state is not None
        return state.messages

    async def bodies(self, queue: str) -> list[bytes]:
        getter = Getter(self.connection, self.own, queue)
        messages = [await getter.get() for _ in range(await self.ready(queue))]
        return [message.body for message in messages if message]


def link(name: str, url: str) -> Link:
    return Link(name, [url], SystemClock(), Telemetry())


def memory_bench() -> MemoryBench:
    broker = MemoryBroker()
    broker.declare(topology(BrokerVersion(4, 1)))
    return MemoryBench(broker)


@asynccontextmanager
async def rabbit_bench(url: str) -> AsyncIterator[RabbitBench]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await connect(url, "conformance"))
        wanted = topology(BrokerVersion.parse(connection.server_version))
        await rabbitmq_topology.apply(connection, wanted)
        publisher = await stack.enter_async_context(RabbitPublisher.running(link("publisher", url)))
        plain = await stack.enter_async_context(await aio_pika.connect(url))
        own = await stack.enter_async_context(connection.channel())
        async with plain.channel() as channel:
            yield RabbitBench(url, publisher, connection, own, channel)


@dataclass(frozen=True)
class SimulatedBench:
    """The broker of the simulation, without its faults."""

    publisher: SimulatedPublisher
    broker: SimulatedBroker
    process: Process

    @asynccontextmanager
    async def consumer(self, queue: str, prefetch: int, receive: Receive) -> AsyncIterator[Consumer]:
        simulated = SimulatedConsumer(self.broker, queue, prefetch, receive, self.process)
        try:
            yield simulated
        finally:
            simulated.close()

    async def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        self.broker.routes.bind(exchange, queue, routing_key)

    async def ready(self, queue: str) -> int:
        return len(self.broker.queues[queue].ready)

    async def bodies(self, queue: str) -> list[bytes]:
        return [queued.outgoing.message.body for queued in self.broker.queues[queue].ready]


def simulated_bench(*, returns_to_front: bool) -> SimulatedBench:
    loop = asyncio.get_running_loop()
    broker = SimulatedBroker(loop, Chance(PROFILES["calm"], 0), History(loop.time), returns_to_front)
    broker.declare(topology(BrokerVersion(4, 1)))
    process = Process(loop)
    return SimulatedBench(SimulatedPublisher(broker, process, lambda _: {}), broker, process)


class Inbox:
    """Collects deliveries and acks none of them."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()

    async def holds(self, count: int) -> list[Delivery]:
        while len(self.deliveries) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return self.deliveries

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.original.message.body for delivery in self.deliveries]
