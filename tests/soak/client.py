"""Sends events and receives answers through all broker faults."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from pydantic_core import from_json

from contracts import topology as names
from contracts.envelope import STRUCTURED, Message
from tests.soak.statements import Statement
from tests.soak.verdict import FINAL, Document
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.amqp.seam import Connection
from worker.adapters.amqp.setup import wanted_topology
from worker.adapters.amqp.topology import apply
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed
from worker.settings.model import TopologySettings
from worker.telemetry.events import Telemetry

QUEUE = "test.answers"
PREFETCH = 200
PAUSE_SECONDS = 0.1


@dataclass
class SoakClient:
    """`sent` contains an event before its first publish. An answer may arrive twice; none is missed."""

    publisher: RabbitPublisher
    sent: dict[str, Statement] = field(default_factory=dict)
    results: list[Document] = field(default_factory=list)
    credentials: list[Document] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)
    _acks: set[asyncio.Task[None]] = field(default_factory=set)

    async def send(self, statement: Statement) -> None:
        """Publishes until the broker confirms."""
        await self._send(statement, names.DEPARTMENTS)

    async def send_to_work(self, statement: Statement) -> None:
        """The same past the alternate exchange: until the work queue has the event."""
        await self._send(statement, names.REPLAY)

    async def _send(self, statement: Statement, exchange: str) -> None:
        self.sent[statement.id] = statement
        message = Message(statement.body, STRUCTURED, {})
        while True:
            try:
                return await self.publisher.publish(Outgoing(exchange, statement.routing_key, message))
            except PublishFailed:
                await asyncio.sleep(PAUSE_SECONDS)

    async def send_again(self) -> None:
        """Sends all unanswered events again, as a producer does after the queue was lost."""
        for statement in self.unanswered(list(self.sent.values())):
            await self.send(statement)

    def unanswered(self, statements: Collection[Statement]) -> list[Statement]:
        return [one for one in statements if one.id not in self.answered]

    async def wait_until(self, enough: Callable[[], bool]) -> None:
        async with self._heard:
            await self._heard.wait_for(enough)

    def receive(self, delivery: Delivery) -> None:
        ack = asyncio.create_task(self._take(delivery))
        self._acks.add(ack)
        ack.add_done_callback(self._acks.discard)

    async def _take(self, delivery: Delivery) -> None:
        document: Document = from_json(delivery.original.message.body)
        async with self._heard:
            if delivery.original.exchange == names.SECRETS:
                self.credentials.append(document)
            else:
                self.results.append(document)
                if document["data"]["outcome"] in FINAL:
                    self.answered.add(document["data"]["event"]["id"])
            self._heard.notify_all()
        await delivery.ack()


@asynccontextmanager
async def soak_client(settings: TopologySettings) -> AsyncIterator[SoakClient]:
    """Yields a connected client, after declaring the topology."""

    async def prepare(connection: Connection) -> None:
        await apply(connection, wanted_topology(connection, settings))
        async with connection.channel() as channel:
            await channel.objects.declare_queue(QUEUE, {"x-queue-type": "quorum"})
            for exchange in (names.RESULTS, names.SECRETS):
                await channel.objects.bind(QUEUE, exchange, "#")

    def link(name: str) -> Link:
        return Link(name, settings.amqp_url, SystemClock(), Telemetry())

    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(RabbitPublisher.running(link("producer"), prepare))
        sending = SoakClient(publisher)
        consumer = RabbitConsumer(QUEUE, PREFETCH, sending.receive, prepare, Telemetry())
        await stack.enter_async_context(consumer.running(link("witness")))
        yield sending
