"""A broker in memory: topic exchanges, queues and unacked messages, as far as this project uses RabbitMQ."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from contracts.envelope import Message
from contracts.topology import Topology
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed, Unroutable


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


class MemoryBroker:
    """The publisher port, and consumers."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, list[tuple[list[str], str]]] = {}

    def declare(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange.name, [])
        for queue in topology.queues:
            self._queues.setdefault(queue.name, _Queue())
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.queue, binding.routing_key)

    def bind(self, exchange: str, queue: str, routing_key: str) -> None:
        self._queues.setdefault(queue, _Queue())
        bound = (_words(routing_key), queue)
        if bound not in self._bindings[exchange]:
            self._bindings[exchange].append(bound)

    def unbind(self, exchange: str, queue: str, routing_key: str) -> None:
        self._bindings[exchange].remove((_words(routing_key), queue))

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
        if outgoing.exchange not in self._bindings:
            raise PublishFailed(f"no exchange {outgoing.exchange}")
        key = _words(outgoing.routing_key)
        bound = [queue for pattern, queue in self._bindings[outgoing.exchange] if _matches(pattern, key)]
        if not bound:
            raise Unroutable(f"nobody is bound for {outgoing.routing_key} on exchange {outgoing.exchange}")
        for queue in dict.fromkeys(bound):
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


class _Channel:
    """What deliveries came on; they are void with it."""

    live = True


class MemoryConsumer:
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
        self._stopped = True
        await self.pause()

    async def wrong(self) -> list[str]:
        return [] if self.consuming else ["consuming is paused"]

    async def pause(self) -> None:
        self.consuming = False
        self._feeding.cancel()
        await asyncio.wait([self._feeding])

    async def resume(self) -> None:
        if not self.consuming and not self._stopped:
            self.consuming = True
            self._feeding = asyncio.create_task(self._feed())

    async def release(self) -> None:
        self._give_back()

    def disconnect(self) -> None:
        """The connection is gone for good: what was not acked will be delivered again."""
        self._stopped, self.consuming = True, False
        self._feeding.cancel()
        self._give_back()

    def _give_back(self) -> None:
        self._channel.live = False
        self._channel = _Channel()
        for delivery in reversed(self._unacked):
            self._queue.put_back(delivery.message)
            self._prefetch.release()
        self._unacked.clear()

    def settle(self, delivery: "MemoryDelivery") -> None:
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
    def __init__(self, message: _Message, consumer: MemoryConsumer, channel: _Channel) -> None:
        self.message = message
        self.original = message.shown()
        self._consumer = consumer
        self._channel = channel

    @property
    def live(self) -> bool:
        return self._channel.live

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
