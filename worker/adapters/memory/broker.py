"""A broker in memory, with the features of RabbitMQ that this project uses."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from contracts.topology import Topology
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed, Unroutable


@dataclass(eq=False)
class _Message:
    outgoing: Outgoing
    returns: int = 0

    def shown(self) -> Outgoing:
        """The message as delivered, with RabbitMQ's header that counts its returns."""
        if not self.returns:
            return self.outgoing
        message = self.outgoing.message
        headers = {**message.headers, "x-delivery-count": self.returns}
        return replace(self.outgoing, message=replace(message, headers=headers))


class _Queue:
    def __init__(self, on_emptied: Callable[[], None]) -> None:
        self.ready: deque[_Message] = deque()
        self.delivery_limit: int | None = None
        self._on_emptied = on_emptied
        self._unacked = 0
        self._arrived = asyncio.Event()

    @property
    def empty(self) -> bool:
        return not self.ready and not self._unacked

    def put(self, message: _Message) -> None:
        self.ready.append(message)
        self._arrived.set()

    async def take(self) -> _Message:
        while not self.ready:
            self._arrived.clear()
            await self._arrived.wait()
        self._unacked += 1
        return self.ready.popleft()

    def put_back(self, message: _Message) -> None:
        self._unacked -= 1
        message.returns += 1
        if self.delivery_limit is not None and message.returns > self.delivery_limit:
            self._signal_if_empty()
            return
        self.ready.appendleft(message)
        self._arrived.set()

    def remove(self) -> None:
        self._unacked -= 1
        self._signal_if_empty()

    def purge(self) -> None:
        self.ready.clear()
        self._signal_if_empty()

    def _signal_if_empty(self) -> None:
        if self.empty:
            self._on_emptied()


class Routes:
    """Topic exchanges and the queues bound to them."""

    def __init__(self) -> None:
        self._bindings: dict[str, list[tuple[list[str], str]]] = {}
        self._alternates: dict[str, str] = {}

    def declare(self, topology: Topology) -> None:
        """Declares the exchanges and binds their queues."""
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange.name, [])
            if alternate := exchange.arguments.get("alternate-exchange"):
                self._alternates[exchange.name] = alternate
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.queue, binding.routing_key)

    def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        """Binds a queue; raises `KeyError` for an unknown exchange."""
        self.unbind(exchange, queue, routing_key)
        self._bindings[exchange].append((_words(routing_key), queue))

    def unbind(self, exchange: str, queue: str, routing_key: str) -> None:
        """Removes a binding, if there is one."""
        bound = (_words(routing_key), queue)
        self._bindings[exchange] = [one for one in self._bindings[exchange] if one != bound]

    def of(self, outgoing: Outgoing) -> list[str]:
        """The queues that receive a copy; raises `PublishFailed` or `Unroutable`."""
        if outgoing.exchange not in self._bindings:
            raise PublishFailed(f"no exchange {outgoing.exchange}")
        bound = self._bound(outgoing.exchange, _words(outgoing.routing_key))
        if not bound:
            raise Unroutable(f"no queue is bound for {outgoing.routing_key} on exchange {outgoing.exchange}")
        return list(dict.fromkeys(bound))

    def _bound(self, exchange: str, key: list[str]) -> list[str]:
        """The queues bound for a key, or else those of the alternate exchange."""
        bound = [queue for pattern, queue in self._bindings.get(exchange, []) if _matches(pattern, key)]
        if bound or exchange not in self._alternates:
            return bound
        return self._bound(self._alternates[exchange], key)


def delays_of(topology: Topology) -> dict[str, tuple[float, str]]:
    """The delay queues by name: TTL in seconds, and the exchange that expired messages go to."""
    return {
        queue.name: (queue.arguments["x-message-ttl"] / 1000, queue.arguments["x-dead-letter-exchange"])
        for queue in topology.queues
        if "x-message-ttl" in queue.arguments
    }


class MemoryBroker:
    """The `Publisher` port, and consumers. `sleep` delays the messages of a delay queue."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._queues: dict[str, _Queue] = {}
        self._routes = Routes()
        self._delayed: dict[str, tuple[float, str]] = {}
        self._sleep = sleep
        self._returning: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()
        self.unbind = self._routes.unbind

    def declare(self, topology: Topology) -> None:
        """Declares the exchanges, queues and bindings."""
        for queue in topology.queues:
            self._queue(queue.name)
        self._delayed |= delays_of(topology)
        self._routes.declare(topology)

    def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        """Declares a queue and binds it; raises `KeyError` for an unknown exchange."""
        self._queue(queue)
        self._routes.bind(exchange, queue, routing_key)

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue(self._emptied.set))

    def limit_deliveries(self, queue: str, limit: int) -> None:
        """Drops messages that return more than `limit` times. The default of RabbitMQ 4 is 20."""
        self._queues[queue].delivery_limit = limit

    def ready(self, queue: str) -> list[Outgoing]:
        """The ready messages of a queue, next first."""
        return [message.outgoing for message in self._queues[queue].ready]

    def purge(self, queue: str) -> None:
        """Drops the ready messages of a queue."""
        self._queues[queue].purge()

    async def emptied(self, *queues: str) -> None:
        """Returns once these queues have neither ready nor unacked messages."""
        while not all(self._queues[queue].empty for queue in queues):
            self._emptied.clear()
            await self._emptied.wait()

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns once the message is in every bound queue; raises `PublishFailed` or `Unroutable`."""
        for queue in self._routes.of(outgoing):
            message = _Message(outgoing)
            self._queues[queue].put(message)
            if queue in self._delayed:
                returning = asyncio.create_task(self._return_later(queue, message))
                self._returning.add(returning)
                returning.add_done_callback(self._returning.discard)

    async def _return_later(self, queue: str, message: _Message) -> None:
        """Dead-letters the message, with its routing key, if the queue still has it after the TTL."""
        seconds, exchange = self._delayed[queue]
        await self._sleep(seconds)
        ready = self._queues[queue].ready
        if message in ready:
            await self.publish(replace(message.outgoing, exchange=exchange))
            ready.remove(message)
            self._emptied.set()

    @asynccontextmanager
    async def consumer(
        self, queue: str, prefetch: int, receive: Callable[[Delivery], None]
    ) -> AsyncIterator["MemoryConsumer"]:
        """Passes deliveries to `receive` until the block ends; unacked messages then return in order."""
        consumer = MemoryConsumer(self._queues[queue], prefetch, receive)
        try:
            yield consumer
        finally:
            await consumer.stop()
            consumer.disconnect()


class _Channel:
    """The deliveries of a channel are void once it is closed."""

    live = True


class MemoryConsumer:
    """The `Consumer` port, with at most `prefetch` unacked deliveries."""

    def __init__(self, queue: _Queue, prefetch: int, receive: Callable[[Delivery], None]) -> None:
        self._queue = queue
        self._prefetch = asyncio.Semaphore(prefetch)
        self._receive = receive
        self._unacked: list[MemoryDelivery] = []
        self._channel = _Channel()
        self._feeding = asyncio.create_task(self._feed())
        self._stopped = False
        self.consuming = True

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        self._stopped = True
        await self.pause()

    async def problems(self) -> list[str]:
        """Why no deliveries arrive, one line each. Empty when healthy."""
        return [] if self.consuming else ["consuming is paused"]

    async def pause(self) -> None:
        """See `Consumer.pause`."""
        self.consuming = False
        self._feeding.cancel()
        await asyncio.wait([self._feeding])

    async def resume(self) -> None:
        """See `Consumer.resume`."""
        if not self.consuming and not self._stopped:
            self.consuming = True
            self._feeding = asyncio.create_task(self._feed())

    async def release(self) -> None:
        """See `Consumer.release`."""
        self._return_unacked()

    def disconnect(self) -> None:
        """Ends the connection for good: unacked messages will be delivered again."""
        self._stopped, self.consuming = True, False
        self._feeding.cancel()
        self._return_unacked()

    def _return_unacked(self) -> None:
        self._channel.live = False
        self._channel = _Channel()
        for delivery in reversed(self._unacked):
            self._queue.put_back(delivery.message)
            self._prefetch.release()
        self._unacked.clear()

    def remove(self, delivery: "MemoryDelivery") -> None:
        """Acks a delivery; does nothing for a void one."""
        if delivery in self._unacked:
            self._unacked.remove(delivery)
            self._queue.remove()
            self._prefetch.release()

    async def _feed(self) -> None:
        while True:
            await self._prefetch.acquire()
            try:
                message = await self._queue.take()
            except asyncio.CancelledError:
                self._prefetch.release()
                raise
            delivery = MemoryDelivery(message, self, self._channel)
            self._unacked.append(delivery)
            self._receive(delivery)


class MemoryDelivery:
    """The `Delivery` port."""

    def __init__(self, message: _Message, consumer: MemoryConsumer, channel: _Channel) -> None:
        self.message = message
        self.original = message.shown()
        self._consumer = consumer
        self._channel = channel

    @property
    def live(self) -> bool:
        """See `Delivery.live`."""
        return self._channel.live

    async def ack(self) -> None:
        """See `Delivery.ack`."""
        self._consumer.remove(self)


def _words(routing_key: str) -> list[str]:
    return routing_key.split(".") if routing_key else []


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Matches a topic pattern such as `department.#`: `*` is one word, `#` any number of words."""
    if not pattern:
        return not words
    first, *rest = pattern
    if first == "#":
        return any(_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and first in {"*", words[0]} and _matches(rest, words[1:])
