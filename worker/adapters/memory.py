"""Every port in memory: for tests, simulation and the demo where no broker can be had.

They pass the same conformance suites as the real ones (tests/conformance).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from pydantic import SecretStr

from contracts.envelope import Message
from contracts.topology import Topology
from worker.core.judge import CallFault, Operation
from worker.core.messages import Outgoing
from worker.core.model import Answer, Department, Entry, Recollection, Reference
from worker.ports import (
    CallFailed,
    Delivery,
    LedgerConflict,
    LedgerFailed,
    LedgerForeign,
    NewSubaccount,
    ProvidedSubaccount,
    PublishFailed,
    Unroutable,
)

PAGE = 20


class MemoryLedger:
    def __init__(self) -> None:
        self._entries: dict[Department, Entry] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._holders: dict[str, Department] = {}
        self._bound: tuple[str, str] | None = None
        self._caught_up = False

    async def recall(self, department: Department, event: Reference) -> Recollection:
        entry = self._entries.get(department, Entry(department))
        return Recollection(entry, self._answers.get((event.source, event.id)))

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        before = self._entries.get(entry.department, Entry(entry.department))
        if before.revision != entry.revision:
            raise LedgerConflict("the department's entry was written by somebody else meanwhile")
        if entry.auth_id and self._holders.get(entry.auth_id, entry.department) != entry.department:
            raise LedgerFailed("the ledger refuses a write: the auth_id is another department's")
        if answer is not None:
            event = (answer.event.source, answer.event.id)
            if self._answers.get(event, answer).payload_digest != answer.payload_digest:
                raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
            self._answers[event] = answer
        if before.auth_id:
            del self._holders[before.auth_id]
        if entry.auth_id:
            self._holders[entry.auth_id] = entry.department
        self._entries[entry.department] = replace(entry, revision=entry.revision + 1)
        return self._entries[entry.department]

    async def bind(self, owner: str, provider_account: str) -> None:
        self._bound = self._bound or (owner, provider_account)
        if self._bound != (owner, provider_account):
            raise LedgerForeign(
                f"the ledger belongs to owner {self._bound[0]} of provider account {self._bound[1]}"
            )

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        return {auth_id: self._holders[auth_id] for auth_id in auth_ids if auth_id in self._holders}

    async def caught_up(self) -> bool:
        return self._caught_up

    async def note_caught_up(self, *, caught_up: bool) -> None:
        self._caught_up = caught_up

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        due = [(entry.due_at, key) for key, entry in self._entries.items() if entry.due_at is not None]
        return [key for at, key in sorted(due) if at <= now][:limit]

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
    created: date


class MemoryProvider:
    """Subaccounts in a list, newest first. `calls`: operation, auth_id and idempotency key, in order."""

    def __init__(self) -> None:
        self.subaccounts: list[Held] = []
        self.calls: list[tuple[Operation, str | None, str | None]] = []
        self.today = date(2026, 11, 21)
        self._made = 0

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        yield

    async def create(self, name: str, idempotency_key: str) -> NewSubaccount:
        self.calls.append(("create", None, idempotency_key))
        self._made += 1
        token = SecretStr(f"memory-token-{self._made}")
        made = Held(f"SA{self._made:018d}", token, name, enabled=True, created=self.today)
        self.subaccounts.insert(0, made)
        return NewSubaccount(made.auth_id, made.auth_token)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        self.calls.append(("update", auth_id, idempotency_key))
        held = self._held(auth_id, "update")
        held.name = held.name if name is None else name
        held.enabled = held.enabled if enabled is None else enabled

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        self.calls.append(("delete", auth_id, idempotency_key))
        self.subaccounts.remove(self._held(auth_id, "delete"))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        self.calls.append(("get", auth_id, None))
        return _shown(self._held(auth_id, "get"))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self.calls.append(("list", None, None))
        return [_shown(held) for held in self.subaccounts[offset : offset + PAGE]]

    def _held(self, auth_id: str, operation: Operation) -> Held:
        for held in self.subaccounts:
            if held.auth_id == auth_id:
                return held
        raise CallFailed(CallFault(operation, f"the provider answered 404 to {operation}", status=404))


def _shown(held: Held) -> ProvidedSubaccount:
    return ProvidedSubaccount(held.auth_id, held.name, held.enabled, held.created, held.auth_token)


class MemoryClock:
    """Time that passes only when told."""

    def __init__(self, start: datetime, jitter: float = 0.5) -> None:
        self.next_jitter = jitter
        self.naps: list[float] = []
        self._now = start
        self._asleep: dict[asyncio.Future[None], datetime] = {}
        self._fell_asleep = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def jitter(self) -> float:
        return self.next_jitter

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        waking = asyncio.get_running_loop().create_future()
        self._asleep[waking] = self._now + timedelta(seconds=seconds)
        self._fell_asleep.set()
        try:
            self.advance(0)
            await waking
        finally:
            self._asleep.pop(waking, None)

    def advance(self, seconds: float) -> None:
        """Moves time on and wakes who is due by then, the earliest first."""
        self._now += timedelta(seconds=seconds)
        for waking, due in sorted(self._asleep.items(), key=lambda sleeper: sleeper[1]):
            if due <= self._now and not waking.done():
                del self._asleep[waking]
                waking.set_result(None)

    def seconds_to_next(self) -> float:
        """Until the first sleeper is due; raises `ValueError` where nobody sleeps."""
        return (min(self._asleep.values()) - self._now).total_seconds()

    async def asleep(self, sleepers: int = 1) -> None:
        """Returns once so many sleep."""
        while len(self._asleep) < sleepers:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()


@dataclass
class _Message:
    outgoing: Outgoing
    returns: int = 0

    def shown(self) -> Outgoing:
        """As delivered: RabbitMQ counts in a header how often the message came back."""
        if not self.returns:
            return self.outgoing
        message = self.outgoing.message
        headers = {**message.headers, "x-delivery-count": self.returns}
        return replace(self.outgoing, message=Message(message.body, message.content_type, headers))


class _Queue:
    def __init__(self) -> None:
        self.ready: deque[_Message] = deque()
        self._unacked = 0
        self._arrived = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def put(self, message: _Message) -> None:
        self.ready.append(message)
        self._arrived.set()
        self._emptied.clear()

    async def take(self) -> _Message:
        while not self.ready:
            self._arrived.clear()
            await self._arrived.wait()
        self._unacked += 1
        return self.ready.popleft()

    def put_back(self, message: _Message) -> None:
        self._unacked -= 1
        message.returns += 1
        self.ready.appendleft(message)
        self._arrived.set()

    def remove(self) -> None:
        self._unacked -= 1
        self._look()

    def purge(self) -> None:
        self.ready.clear()
        self._look()

    async def emptied(self) -> None:
        await self._emptied.wait()

    def _look(self) -> None:
        if not self.ready and not self._unacked:
            self._emptied.set()


class Routes:
    """Topic exchanges, and the queues bound to them."""

    def __init__(self) -> None:
        self._bindings: dict[str, list[tuple[list[str], str]]] = {}

    def declare(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange.name, [])
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.queue, binding.routing_key)

    def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        self.unbind(exchange, queue, routing_key)
        self._bindings[exchange].append((_words(routing_key), queue))

    def unbind(self, exchange: str, queue: str, routing_key: str) -> None:
        """Where it is not bound, nothing happens."""
        bound = (_words(routing_key), queue)
        self._bindings[exchange] = [one for one in self._bindings[exchange] if one != bound]

    def of(self, outgoing: Outgoing) -> list[str]:
        """The queues that get a copy of it; raises `PublishFailed` or `Unroutable`."""
        if outgoing.exchange not in self._bindings:
            raise PublishFailed(f"no exchange {outgoing.exchange}")
        key = _words(outgoing.routing_key)
        bound = [queue for pattern, queue in self._bindings[outgoing.exchange] if _matches(pattern, key)]
        if not bound:
            raise Unroutable(f"nobody is bound for {outgoing.routing_key} on exchange {outgoing.exchange}")
        return list(dict.fromkeys(bound))


class MemoryBroker:
    """Topic exchanges, queues and unacked messages, as far as this project uses RabbitMQ."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._routes = Routes()
        self.declare = self._routes.declare
        self.bind = self._routes.bind
        self.unbind = self._routes.unbind

    def ready(self, queue: str) -> list[Outgoing]:
        """What waits in a queue, the next first; taken by nobody."""
        return [message.outgoing for message in self._queues[queue].ready]

    def purge(self, queue: str) -> None:
        """Throws away what waits in a queue."""
        self._queues[queue].purge()

    async def emptied(self, queue: str) -> None:
        """Returns once nothing is ready in the queue and nothing taken from it waits for its ack."""
        await self._queues[queue].emptied()

    async def publish(self, outgoing: Outgoing) -> None:
        """The publisher port: confirmed once it is in every queue bound for it."""
        for queue in self._routes.of(outgoing):
            self._queues[queue].put(_Message(outgoing))

    @asynccontextmanager
    async def consumer(
        self, queue: str, prefetch: int, receive: Callable[[Delivery], None]
    ) -> AsyncIterator["MemoryConsumer"]:
        """Hands deliveries to `receive` until the block ends; what was not acked then goes back in order."""
        consumer = MemoryConsumer(self._queues[queue], prefetch, receive)
        try:
            yield consumer
        finally:
            await consumer.stop()
            consumer.disconnect()


class MemoryConsumer:
    def __init__(self, queue: _Queue, prefetch: int, receive: Callable[[Delivery], None]) -> None:
        self._queue = queue
        self._prefetch = asyncio.Semaphore(prefetch)
        self._receive = receive
        self._unacked: list[MemoryDelivery] = []
        self._feeding = asyncio.create_task(self._feed())
        self.consuming = True
        self.live = True

    async def stop(self) -> None:
        """Takes no more deliveries; those taken can still be acked."""
        self.consuming = False
        self._feeding.cancel()
        with suppress(asyncio.CancelledError):
            await self._feeding

    def disconnect(self) -> None:
        """The connection is gone: what was not acked will be delivered again."""
        self.consuming = self.live = False
        self._feeding.cancel()
        for delivery in reversed(self._unacked):
            self._queue.put_back(delivery.message)
        self._unacked.clear()

    def settle(self, delivery: "MemoryDelivery") -> None:
        if delivery in self._unacked:
            self._unacked.remove(delivery)
            self._queue.remove()
            self._prefetch.release()

    async def _feed(self) -> None:
        while True:
            await self._prefetch.acquire()
            delivery = MemoryDelivery(await self._queue.take(), self)
            self._unacked.append(delivery)
            self._receive(delivery)


class MemoryDelivery:
    def __init__(self, message: _Message, consumer: MemoryConsumer) -> None:
        self.message = message
        self.original = message.shown()
        self._consumer = consumer

    @property
    def live(self) -> bool:
        return self._consumer.live

    async def ack(self) -> None:
        self._consumer.settle(self)


def _words(routing_key: str) -> list[str]:
    return routing_key.split(".") if routing_key else []


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """`department.#` and `department.created`: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    first, *rest = pattern
    if first == "#":
        return any(_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and first in {"*", words[0]} and _matches(rest, words[1:])
