"""The product with real parts: RabbitMQ, the sandbox over HTTP and a ledger file."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts import topology as names
from worker.bootstrap.running import RunningWorker, running_worker
from worker.sandbox import Sandbox
from worker.settings.ledger_url import SqliteUrl
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

TIMEOUT_SECONDS = 30
EVENT = {
    "specversion": "1.0",
    "id": "event-1",
    "source": "/test/hr",
    "type": "department.created.v1",
    "time": "2026-11-01T08:30:00Z",
    "data": {"department_id": "sales", "name": "Sales"},
}
"""A department event as a producer writes it, without tenant and sequence."""


@dataclass
class Listener:
    """Collects all messages published on one exchange; `until` waits for further ones."""

    messages: list[AbstractIncomingMessage] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(message.body) for message in self.messages]

    async def hear(self, message: AbstractIncomingMessage) -> None:
        async with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    async def until(self, enough: Callable[["Listener"], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: enough(self))

    async def count(self, number: int) -> None:
        await self.until(lambda listener: len(listener.messages) >= number)


@dataclass
class RealSystem:
    """Broker, sandbox and settings. Sends and listens with plain aio-pika."""

    url: str
    sandbox: Sandbox
    environ: dict[str, str]
    channel: AbstractChannel

    @property
    def ledger(self) -> Path:
        """The file of the ledger."""
        url = self.settings.ledger_url
        assert isinstance(url, SqliteUrl)
        return url.path

    @property
    def settings(self) -> WorkerSettings:
        return load(WorkerSettings, self.environ)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[RunningWorker]:
        async with running_worker(self.settings, Telemetry()) as running:
            yield running
            assert await running.drain()

    async def listen(self, exchange: str) -> Listener:
        """Listens to an existing exchange from now on."""
        listener = Listener()
        queue = await self.channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "#")
        await queue.consume(listener.hear, no_ack=True)
        return listener

    async def send(
        self,
        body: bytes,
        key: str = "department.created",
        content_type: str | None = "application/cloudevents+json",
        headers: dict[str, Any] | None = None,
    ) -> None:
        exchange = await self.channel.get_exchange(names.DEPARTMENTS, ensure=False)
        message = aio_pika.Message(
            body,
            content_type=content_type,
            headers=headers or {},
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await exchange.publish(message, key)

    async def depth(self, queue: str) -> int:
        fresh = await self.channel.declare_queue(queue, passive=True)
        return fresh.declaration_result.message_count or 0
