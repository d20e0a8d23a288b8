"""The broker of the demo: a private RabbitMQ node, the one in AMQP_URL, or an imitation in memory.

Others may use the broker in AMQP_URL. The demo refuses a broker that is in use, and afterwards deletes the
objects it made.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

from contracts import topology as names
from contracts.topology import NO_NAMESPACE, BrokerVersion, Namespace, Topology, topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.broker import rabbit_broker
from worker.adapters.amqp.connect import unavailable_if_lost
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.dead_letters import RabbitDeadLetters
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.seam import Connection
from worker.adapters.amqp.setup import wanted_topology
from worker.adapters.brokers import open_connection, open_publisher
from worker.adapters.memory.broker import MemoryBroker
from worker.adapters.memory.dead_letters import MemoryDeadLetters
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.demo.private_node import NodeUnavailable, private_node
from worker.ports import Broker, Clock, Consumer, DeadLetterQueue, Delivery, Publisher, Receive, UserError
from worker.settings.load import load
from worker.settings.model import BrokerSettings, TopologySettings, WorkerSettings
from worker.telemetry.events import Telemetry

HEARD = (names.RESULTS, names.SECRETS, names.DEAD_LETTERS)
PREFETCH = 100

BrokerFactory = Callable[[WorkerSettings, Clock, Telemetry], AbstractAsyncContextManager[Broker]]


class NoStage(UserError):
    """The demo cannot run here."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A broker for the demo. `heard` gets every published result, credentials message and dead letter."""

    where: str
    amqp_url: str
    namespace: Namespace
    publisher: Publisher
    heard: "asyncio.Queue[Outgoing]"
    broker: BrokerFactory
    dead_letters: Callable[[], AbstractAsyncContextManager[DeadLetterQueue]]


@asynccontextmanager
async def stage(
    environ: Mapping[str, str], say: Callable[[str], None], *, memory: bool
) -> AsyncIterator[Stage]:
    """A broker for the time of the block; `say` gets a line per stage of its start. Raises `NoStage`."""
    async with AsyncExitStack() as stack:
        if memory:
            yield await stack.enter_async_context(_memory_stage())
        elif environ.get("AMQP_URL"):
            settings = load(BrokerSettings, environ)
            yield await stack.enter_async_context(_rabbit_stage(settings.amqp_url[0], settings.namespace))
        else:
            try:
                node = await stack.enter_async_context(private_node(on_progress=say))
            except NodeUnavailable as error:
                raise NoStage(f"{error}; or try `provisioner demo --memory`") from None
            yield await stack.enter_async_context(_rabbit_stage(node.url, NO_NAMESPACE))


@asynccontextmanager
async def _memory_stage() -> AsyncIterator[Stage]:
    imitation, heard = MemoryBroker(), asyncio.Queue[Outgoing]()
    imitation.declare(topology(BrokerVersion(4, 1)))
    for exchange in HEARD:
        imitation.bind(exchange, "demo", "#")

    @asynccontextmanager
    async def broker(settings: WorkerSettings, _clock: Clock, _telemetry: Telemetry) -> AsyncIterator[Broker]:
        def consumer(receive: Receive) -> AbstractAsyncContextManager[Consumer]:
            return imitation.consumer(names.WORK_QUEUE, settings.prefetch, receive)

        yield Broker(imitation, consumer)

    async with imitation.consumer("demo", PREFETCH, _into(heard)):
        yield Stage(
            "an imitation in memory, NOT RabbitMQ",
            "amqp://127.0.0.1/",
            NO_NAMESPACE,
            imitation,
            heard,
            broker,
            lambda: nullcontext(MemoryDeadLetters(imitation, BrokerVersion(4, 1))),
        )


@asynccontextmanager
async def _rabbit_stage(url: str, namespace: Namespace) -> AsyncIterator[Stage]:
    settings = load(TopologySettings, {"AMQP_URL": url, "PROVISIONER_NAMESPACE": namespace.prefix})
    heard = asyncio.Queue[Outgoing]()
    queue = namespace.of(f"provisioner.demo.{secrets.token_hex(4)}")

    async def listen(connection: Connection) -> None:
        async with connection.channel() as channel:
            await channel.objects.declare_queue(queue, temporary=True)
            for exchange in HEARD:
                await channel.objects.bind(queue, namespace.of(exchange), "#")

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_tidy(settings))
        telemetry = Telemetry()
        listener = RabbitConsumer(queue, PREFETCH, _into(heard), listen, telemetry, namespace)
        await stack.enter_async_context(
            listener.running(Link("demo", settings.amqp_url, SystemClock(), telemetry))
        )
        publisher = await stack.enter_async_context(open_publisher(settings.amqp_url, telemetry, namespace))

        @asynccontextmanager
        async def dead_letters() -> AsyncIterator[DeadLetterQueue]:
            async with open_connection(settings.amqp_url) as connection:
                yield RabbitDeadLetters(connection, SystemClock(), namespace=namespace)

        yield Stage("RabbitMQ", url, namespace, publisher, heard, rabbit_broker, dead_letters)


def _into(heard: "asyncio.Queue[Outgoing]") -> Receive:
    acks = set()

    def receive(delivery: Delivery) -> None:
        heard.put_nowait(delivery.original)
        ack = asyncio.ensure_future(delivery.ack())
        acks.add(ack)
        ack.add_done_callback(acks.discard)

    return receive


@asynccontextmanager
async def _tidy(settings: TopologySettings) -> AsyncIterator[None]:
    """Makes the topology for the time of the block, and afterwards deletes the objects it made."""
    async with open_connection(settings.amqp_url) as connection:
        wanted = wanted_topology(connection, settings)
        with unavailable_if_lost():
            await _refuse_in_use(connection, settings.namespace)
        found = await rabbitmq_topology.check(connection, wanted)
        missing = {(one.kind, one.name) for one in found if one.state == "missing"}
        await rabbitmq_topology.apply(connection, wanted)
    try:
        yield
    finally:
        async with open_connection(settings.amqp_url) as connection:
            with unavailable_if_lost():
                await _delete_made(connection, wanted, missing, settings.namespace)


async def _refuse_in_use(connection: Connection, namespace: Namespace) -> None:
    """Raises `NoStage`: events of others must not reach the sandbox, nor ours another worker."""
    for queue in map(namespace.of, (names.WORK_QUEUE, names.SECRETS_QUEUE, names.DEAD_LETTER_QUEUE)):
        state = await rabbitmq_topology.state_of(connection, queue)
        if state is not None and (state.messages or state.consumers):
            raise NoStage(
                f"the queue {queue} at this broker is in use ({state.messages} messages,"
                f" {state.consumers} consumers); give the demo a broker or virtual host of its own"
            )


async def _delete_made(
    connection: Connection, wanted: Topology, made: set[tuple[str, str]], namespace: Namespace
) -> None:
    async with connection.channel() as channel:
        for queue in wanted.queues:
            if ("queue", queue.name) in made:
                await channel.objects.queue_delete(queue.name)
            elif namespace.without(queue.name) in {names.SECRETS_QUEUE, names.DEAD_LETTER_QUEUE}:
                await channel.objects.queue_purge(queue.name)
        for exchange in wanted.exchanges:
            if ("exchange", exchange.name) in made:
                await channel.objects.exchange_delete(exchange.name)
