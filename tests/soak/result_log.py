"""Collects everything that a worker publishes, and replays dead letters as an operator does."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage
from pydantic_core import from_json

from contracts import topology as names
from tests.soak.statements import Statement
from tests.soak.verdict import FINAL, Document
from worker.adapters.amqp.setup import wanted_topology
from worker.adapters.amqp.topology import apply
from worker.adapters.brokers import open_connection
from worker.settings.model import TopologySettings


@dataclass
class ResultLog:
    """`answered` has the ids of events with a final answer, `dead` the present dead letters."""

    channel: AbstractChannel
    on_answer: Callable[[int], None]
    results: list[Document] = field(default_factory=list)
    credentials: list[Document] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    dead: list[AbstractIncomingMessage] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    async def listen(self) -> None:
        for exchange, hear in ((names.RESULTS, self._result), (names.SECRETS, self._credentials)):
            queue = await self.channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "#")
            await queue.consume(hear, no_ack=True)
        await (await self.channel.get_queue(names.DEAD_LETTER_QUEUE)).consume(self._dead_letter)

    async def send(self, statement: Statement) -> None:
        await self._publish(names.DEPARTMENTS, statement.body, statement.routing_key)

    async def replay(self) -> None:
        """Publishes every dead letter again, and acks it once that is confirmed."""
        while self.dead:
            letter = self.dead.pop()
            await self._publish(names.REPLAY, letter.body, letter.routing_key or "")
            await letter.ack()

    async def waiting(self) -> int:
        """The number of ready messages in the work queue."""
        queue = await self.channel.declare_queue(names.WORK_QUEUE, passive=True)
        return queue.declaration_result.message_count or 0

    def first_answer_after(self, moment: datetime) -> datetime | None:
        """The publishing time of the first later answer. Answers already under way at a kill do not count."""
        times = (datetime.fromisoformat(one["time"]) for one in self.results)
        return min((at for at in times if at > moment), default=None)

    async def _publish(self, exchange: str, body: bytes, routing_key: str) -> None:
        target: AbstractExchange = await self.channel.get_exchange(exchange, ensure=False)
        message = aio_pika.Message(
            body,
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await target.publish(message, routing_key)

    async def _result(self, message: AbstractIncomingMessage) -> None:
        document: dict[str, Any] = from_json(message.body)
        self.results.append(document)
        if document["data"]["outcome"] in FINAL:
            self.answered.add(document["data"]["event"]["id"])
            self.on_answer(len(self.answered))

    async def _credentials(self, message: AbstractIncomingMessage) -> None:
        self.credentials.append(from_json(message.body))

    async def _dead_letter(self, message: AbstractIncomingMessage) -> None:
        self.dead.append(message)
        self.reasons[str(message.headers["x-dead-reason"])] += 1


@asynccontextmanager
async def result_log(
    settings: TopologySettings, on_answer: Callable[[int], None]
) -> AsyncIterator[ResultLog]:
    """Declares the topology first, so that events sent before the first worker are kept."""
    urls = settings.amqp_url
    async with open_connection(urls) as there, await aio_pika.connect(urls[0]) as plain:
        await apply(there, wanted_topology(there, settings))
        channel = await plain.channel(publisher_confirms=True, on_return_raises=True)
        listening = ResultLog(channel, on_answer)
        await listening.listen()
        yield listening
