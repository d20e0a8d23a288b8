"""Every port in memory: for tests, simulation and the demo where no broker can be had.

They pass the same conformance suites as the real ones (tests/conformance).
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from pydantic import SecretStr

from contracts.topology import Topology
from worker.core.judge import CallFault, Operation
from worker.core.messages import Outgoing
from worker.core.model import Answer, Department, Entry, Recollection, Reference
from worker.ports import (
    CallFailed,
    Delivery,
    LedgerConflict,
    LedgerForeign,
    NewSubaccount,
    ProvidedSubaccount,
    PublishFailed,
    Unroutable,
)

PAGE = 20
T = TypeVar("T")


class MemoryLedger:
    def __init__(self) -> None:
        self._entries: dict[Department, Entry] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._bound: tuple[str, str] | None = None

    async def recall(self, department: Department, event: Reference) -> Recollection:
        entry = self._entries.get(department, Entry(department))
        return Recollection(entry, self._answers.get((event.source, event.id)))

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        if self._entries.get(entry.department, Entry(entry.department)).revision != entry.revision:
            raise LedgerConflict("the department's entry was written by somebody else meanwhile")
        if answer is not None:
            event = (answer.event.source, answer.event.id)
            if self._answers.get(event, answer).payload_digest != answer.payload_digest:
                raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
            self._answers[event] = answer
        self._entries[entry.department] = replace(entry, revision=entry.revision + 1)
        return self._entries[entry.department]

    async def bind(self, owner: str, provider_account: str) -> None:
        self._bound = self._bound or (owner, provider_account)
        if self._bound != (owner, provider_account):
            raise LedgerForeign(f"it belongs to owner {self._bound[0]} of provider account {self._bound[1]}")

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        return [self._entries[key] for key in sorted(self._entries) if tenant in {None, key.tenant}]

    async def answers(self, department: Department) -> Sequence[Answer]:
        found = [answer for answer in self._answers.values() if answer.department == department]
        return sorted(found, key=lambda answer: answer.answered_at)


@dataclass
class Held:
    """A subaccount of the memory provider."""

    auth_id: str
    auth_token: SecretStr
    name: str
    enabled: bool


class MemoryProvider:
    """Subaccounts in a list, newest first. `calls` tells what was asked for."""

    def __init__(self) -> None:
        self.subaccounts: list[Held] = []
        self.calls: list[tuple[Operation, str | None, str | None]] = []
        self._faults: deque[tuple[CallFault, bool]] = deque()
        self._made = 0

    def fail_next(self, fault: CallFault, *, after_effect: bool = False) -> None:
        """The next call, if of the fault's operation, fails so: before or after it has had its effect."""
        self._faults.append((fault, after_effect))

    async def create(self, name: str, idempotency_key: str) -> NewSubaccount:
        def effect() -> NewSubaccount:
            self._made += 1
            made = Held(f"SA{self._made:018d}", SecretStr(f"memory-token-{self._made}"), name, enabled=True)
            self.subaccounts.insert(0, made)
            return NewSubaccount(made.auth_id, made.auth_token)

        return self._call("create", None, idempotency_key, effect)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        def effect() -> None:
            held = self._held(auth_id, "update")
            held.name = held.name if name is None else name
            held.enabled = held.enabled if enabled is None else enabled

        self._call("update", auth_id, idempotency_key, effect)

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        self._call(
            "delete", auth_id, idempotency_key, lambda: self.subaccounts.remove(self._held(auth_id, "delete"))
        )

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        return self._call("get", auth_id, None, lambda: _shown(self._held(auth_id, "get")))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        return self._call(
            "list", None, None, lambda: [_shown(held) for held in self.subaccounts[offset : offset + PAGE]]
        )

    def _held(self, auth_id: str, operation: Operation) -> Held:
        for held in self.subaccounts:
            if held.auth_id == auth_id:
                return held
        raise CallFailed(CallFault(operation, f"the provider answered 404 to {operation}", status=404))

    def _call(self, operation: Operation, auth_id: str | None, key: str | None, effect: Callable[[], T]) -> T:
        self.calls.append((operation, auth_id, key))
        fault, after_effect = self._fault_for(operation)
        result = effect() if fault is None or after_effect else None
        if fault is not None:
            raise CallFailed(fault)
        return cast(T, result)

    def _fault_for(self, operation: Operation) -> tuple[CallFault | None, bool]:
        if self._faults and self._faults[0][0].operation == operation:
            return self._faults.popleft()
        return None, False


def _shown(held: Held) -> ProvidedSubaccount:
    return ProvidedSubaccount(held.auth_id, held.name, held.enabled, held.auth_token)


@dataclass
class _Queue:
    ready: deque["MemoryMessage"] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, message: "MemoryMessage") -> None:
        self.ready.append(message)
        self.arrived.set()

    def put_back(self, message: "MemoryMessage") -> None:
        self.ready.appendleft(message)
        self.arrived.set()


@dataclass
class MemoryMessage:
    outgoing: Outgoing
    deliveries: int = 0


class MemoryBroker:
    """Topic exchanges, queues and unacked messages, as far as this project uses RabbitMQ."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, list[tuple[re.Pattern[str], str]]] = {}

    def declare(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange.name, [])
        for queue in topology.queues:
            self._queues.setdefault(queue.name, _Queue())
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.queue, binding.routing_key)

    def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        self._queues.setdefault(queue, _Queue())
        bound = (_topic_pattern(routing_key), queue)
        if bound not in self._bindings[exchange]:
            self._bindings[exchange].append(bound)

    def ready(self, queue: str) -> list[Outgoing]:
        """What waits in a queue, the next first; taken by nobody."""
        return [message.outgoing for message in self._queues[queue].ready]

    async def publish(self, outgoing: Outgoing) -> None:
        """The publisher port: confirmed once it is in every queue bound for it."""
        if outgoing.exchange not in self._bindings:
            raise PublishFailed(f"no exchange {outgoing.exchange}")
        bound = self._bindings[outgoing.exchange]
        queues = {queue for pattern, queue in bound if pattern.fullmatch(outgoing.routing_key)}
        if not queues:
            raise Unroutable(f"nobody is bound for {outgoing.routing_key} on {outgoing.exchange}")
        for queue in queues:
            self._queues[queue].put(MemoryMessage(outgoing))

    @asynccontextmanager
    async def consumer(
        self, queue: str, prefetch: int, receive: Callable[[Delivery], None]
    ) -> AsyncIterator["MemoryConsumer"]:
        """Hands deliveries to `receive` until the block ends; what was not acked then goes back in order."""
        consumer = MemoryConsumer(self._queues[queue], prefetch, receive)
        feeding = asyncio.create_task(consumer.feed())
        try:
            yield consumer
        finally:
            feeding.cancel()
            consumer.disconnect()


class MemoryConsumer:
    def __init__(self, queue: _Queue, prefetch: int, receive: Callable[[Delivery], None]) -> None:
        self._queue = queue
        self._prefetch = asyncio.Semaphore(prefetch)
        self._receive = receive
        self._unacked: list[MemoryDelivery] = []
        self.live = True

    async def feed(self) -> None:
        while True:
            await self._prefetch.acquire()
            while not self._queue.ready:
                self._queue.arrived.clear()
                await self._queue.arrived.wait()
            message = self._queue.ready.popleft()
            message.deliveries += 1
            delivery = MemoryDelivery(message, self)
            self._unacked.append(delivery)
            self._receive(delivery)

    def settle(self, delivery: "MemoryDelivery") -> None:
        if self.live and delivery in self._unacked:
            self._unacked.remove(delivery)
            self._prefetch.release()

    def disconnect(self) -> None:
        """The connection is gone: what was not acked will be delivered again."""
        self.live = False
        for delivery in reversed(self._unacked):
            self._queue.put_back(delivery.message)
        self._unacked.clear()


class MemoryDelivery:
    def __init__(self, message: MemoryMessage, consumer: MemoryConsumer) -> None:
        self.message = message
        self._consumer = consumer

    @property
    def original(self) -> Outgoing:
        return self.message.outgoing

    @property
    def live(self) -> bool:
        return self._consumer.live

    async def ack(self) -> None:
        self._consumer.settle(self)


def _topic_pattern(routing_key: str) -> re.Pattern[str]:
    """`department.#` -> a pattern: `*` is one word, `#` any number of them."""
    if routing_key == "#":
        return re.compile(r".*")
    words = [{"*": r"[^.]+", "#": r".*"}.get(word, re.escape(word)) for word in routing_key.split(".")]
    return re.compile(r"\.".join(words).replace(r"\..*", r"(\..*)?"))
