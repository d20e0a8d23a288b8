"""A broker that keeps confirmed messages and loses connections, acks and confirms.

Without faults it passes the same conformance suite as RabbitMQ (tests/conformance/test_broker.py).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from contracts import topology as names
from contracts.envelope import Message
from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from tests.simulation.producer_events import ProducerEvent
from worker.adapters.memory.broker import Routes, delays_of
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed, Unroutable

PUBLISH_TIMEOUT_SECONDS = 2.0
LATEST_ROUTED_SECONDS = 5.0
ON_THE_WAY_SECONDS = 0.001

Receive = Callable[[Delivery], None]


@dataclass(eq=False)
class Queued:
    """A queued message and how often it was requeued."""

    outgoing: Outgoing
    returned: int = 0

    def shown(self) -> Outgoing:
        """The message as delivered, with its delivery count."""
        if not self.returned:
            return self.outgoing
        message = self.outgoing.message
        headers = {**message.headers, "x-delivery-count": self.returned}
        return replace(self.outgoing, message=Message(message.body, message.content_type, headers))


class Queue:
    """Ready messages and consuming channels; the channel with the fewest unacked messages is served first."""

    def __init__(self) -> None:
        self.ready: deque[Queued] = deque()
        self.channels: list[Channel] = []

    @property
    def idle(self) -> bool:
        return not self.ready and not any(channel.taken for channel in self.channels)

    def put(self, queued: Queued) -> None:
        self.ready.append(queued)
        self.feed()

    def feed(self) -> None:
        while self.ready and (able := [channel for channel in self.channels if channel.able]):
            min(able, key=lambda channel: len(channel.taken)).deliver(self.ready.popleft())

    def take_back(self, returned: Iterable[Queued], *, to_front: bool) -> None:
        came_back = list(returned)
        for queued in came_back:
            queued.returned += 1
        if to_front:
            self.ready.extendleft(reversed(came_back))
        else:
            self.ready.extend(came_back)
        self.feed()


@dataclass
class Broker:
    """The simulated broker: routes, queues and delays shared by all processes."""

    loop: asyncio.AbstractEventLoop
    chance: Chance
    history: History
    returns_to_front: bool  # as RabbitMQ 4.x with a delivery limit; 3.10 without one requeues at the tail
    routes: Routes = field(default_factory=Routes)
    queues: defaultdict[str, Queue] = field(default_factory=lambda: defaultdict(Queue))
    events: dict[bytes, ProducerEvent] = field(default_factory=dict)  # by body
    delays: dict[str, tuple[float, str]] = field(default_factory=dict)
    on_their_way: int = 0
    tags: int = 0

    @property
    def idle(self) -> bool:
        return not self.on_their_way and self.queues[names.WORK_QUEUE].idle

    def declare(self, topology: names.Topology) -> None:
        self.routes.declare(topology)
        self.delays |= delays_of(topology)

    def put(self, outgoing: Outgoing) -> None:
        """Publishes at once to every bound queue, as a producer does."""
        for queue in self.routes.of(outgoing):
            self.queues[queue].put(Queued(outgoing))

    def put_after(self, seconds: float, outgoing: Outgoing) -> None:
        """Routes now and enqueues after the delay; raises `PublishFailed` or `Unroutable`."""
        queues = self.routes.of(outgoing)
        self.on_their_way += 1
        self.loop.call_later(seconds, self._arrived, outgoing, queues)

    def take(self, queue: str) -> list[Outgoing]:
        """Removes and returns all ready messages of a queue."""
        taken = [queued.outgoing for queued in self.queues[queue].ready]
        self.queues[queue].ready.clear()
        return taken

    def lose_consumers(self) -> None:
        """Breaks all consumer connections; each side notices after its own delay."""
        for queue in self.queues.values():
            for channel in [one for one in queue.channels if one.connected]:
                channel.lose()
                self.loop.call_later(self.chance.seconds(0, 2), channel.notice)

    def note(self, what: str, queued: Queued, tag: int, **more: Any) -> None:
        body = queued.outgoing.message.body
        event = self.events.get(body)
        department, id_ = (event.department, event.id) if event else (None, None)
        self.history.note(what, department, event=id_, tag=tag, body=body, **more)

    def _arrived(self, outgoing: Outgoing, queues: Iterable[str]) -> None:
        self.on_their_way -= 1
        for queue in queues:
            if queue in self.delays:
                seconds, exchange = self.delays[queue]
                self.put_after(seconds, replace(outgoing, exchange=exchange))
            else:
                self.queues[queue].put(Queued(outgoing))


class SimulatedConsumer:
    """A consumer that reconnects when its connection breaks."""

    def __init__(self, broker: Broker, queue: str, prefetch: int, receive: Receive, process: Process) -> None:
        self.broker = broker
        self.prefetch = prefetch
        self.receive = receive
        self.process = process
        self._queue = broker.queues[queue]
        self.stopped = False
        self.paused = False
        self.connect()

    @property
    def consuming(self) -> bool:
        return self._channel.live and not self.stopped and not self.paused

    async def stop(self) -> None:
        self.stopped = True

    async def pause(self) -> None:
        self._turn("paused", paused=True)

    async def resume(self) -> None:
        self._turn("resumed", paused=False)

    async def release(self) -> None:
        self.process.check()
        self._channel.close()
        self.connect()

    async def problems(self) -> list[str]:
        return [] if self.consuming else ["it is not consuming"]

    def _turn(self, told: str, *, paused: bool) -> None:
        self.process.check()
        self.broker.history.note(told, worker=self.process.number)
        self.paused = paused
        self._queue.feed()

    def close(self) -> None:
        """Closes in order: acked messages are removed, and the rest is requeued at once."""
        self.stopped = True
        self._channel.close()

    def replace(self, lost: "Channel") -> None:
        """Connects again, unless the lost channel was given up meanwhile: there is one at a time."""
        if self._channel is lost:
            self.connect()

    def connect(self) -> None:
        if self.process.alive and not self.stopped:
            self._channel = Channel(self, self._queue)
            self.process.at_death.append(self._channel.lose)
            self._queue.feed()


class Channel:
    """A channel. Client and broker may disagree for a while on whether it is open."""

    def __init__(self, consumer: SimulatedConsumer, queue: Queue) -> None:
        self.connected = True
        self.live = True
        self.taken: dict[int, Queued] = {}
        self._consumer = consumer
        self._broker = consumer.broker
        self._queue = queue
        self._acked: list[int] = []
        queue.channels.append(self)

    @property
    def able(self) -> bool:
        held_up = self._consumer.stopped or self._consumer.paused
        return self.connected and not held_up and len(self.taken) < self._consumer.prefetch

    def deliver(self, queued: Queued) -> None:
        self._broker.tags += 1
        self.taken[self._broker.tags] = queued
        self._broker.loop.call_later(ON_THE_WAY_SECONDS, self._arrive, self._broker.tags, queued)

    def ack(self, tag: int, queued: Queued) -> None:
        self._consumer.process.check()
        if not self.live or not self._consumer.process.alive:
            return
        self._broker.note("> ack", queued, tag)
        if self._broker.chance.strikes("ack lost"):
            self._broker.lose_consumers()
            return
        self._acked.append(tag)
        self._broker.loop.call_later(self._broker.chance.latency(), self._settle, tag)

    def lose(self) -> None:
        if self.connected:
            self.connected = False
            self._broker.history.note("consumer gone")
            self._broker.loop.call_later(self._broker.chance.seconds(0.01, 2), self._take_back)

    def notice(self) -> None:
        self.live = False
        self._broker.loop.call_later(self._broker.chance.seconds(0, 1), self._consumer.replace, self)

    def close(self) -> None:
        for tag in self._acked:
            self._settle(tag)
        self.connected = self.live = False
        self._take_back(to_front=True)  # messages of a closed channel precede those never delivered

    def _arrive(self, tag: int, queued: Queued) -> None:
        process = self._consumer.process
        if self.connected and process.alive:
            self._broker.note("delivered", queued, tag, again=queued.returned or None, worker=process.number)
            process.within(lambda: self._consumer.receive(SimulatedDelivery(self, tag, queued)))

    def _settle(self, tag: int) -> None:
        if self.connected and (queued := self.taken.pop(tag, None)) is not None:
            self._broker.note("acked", queued, tag)
            self._queue.feed()

    def _take_back(self, *, to_front: bool = False) -> None:
        returned = list(self.taken.values())
        self.taken.clear()
        if self in self._queue.channels:
            self._queue.channels.remove(self)
        self._queue.take_back(returned, to_front=to_front or self._broker.returns_to_front)


class SimulatedDelivery:
    """The delivery port of one delivered message."""

    def __init__(self, channel: Channel, tag: int, queued: Queued) -> None:
        self.original = queued.shown()
        self._channel = channel
        self._tag = tag
        self._queued = queued

    @property
    def live(self) -> bool:
        return self._channel.live

    async def ack(self) -> None:
        self._channel.ack(self._tag, self._queued)


class SimulatedPublisher:
    """The publisher port for one process. `tell` returns the fields of a message's history note."""

    def __init__(self, broker: Broker, process: Process, tell: Callable[[Outgoing], dict[str, Any]]) -> None:
        self._broker = broker
        self._process = process
        self._tell = tell
        self._chance = broker.chance
        self._down_until = 0.0

    async def publish(self, outgoing: Outgoing) -> None:
        self._process.check()
        told = self._tell(outgoing)
        note = self._broker.history.note
        note("> publish", **told)
        self._process.endanger("crash at a publish", self._chance)
        try:
            await self._publish(outgoing)
        except PublishFailed as failure:
            self._process.check()
            note("unroutable" if isinstance(failure, Unroutable) else "not confirmed", **told)
            raise
        self._process.check()
        note("confirmed", **told)

    async def _publish(self, outgoing: Outgoing) -> None:
        broker, chance, quick = self._broker, self._chance, self._chance.latency()
        if broker.loop.time() < self._down_until:
            raise PublishFailed("no connection")
        if chance.strikes("publisher lost"):
            self._down_until = broker.loop.time() + chance.seconds(0, 3)
            await self._fails_after(quick, outgoing, quick / 2 if chance.coin() else None)
        if outgoing.exchange == names.RESULTS and chance.strikes("result unroutable"):
            await asyncio.sleep(quick)
            raise Unroutable("nobody is bound")
        if chance.strikes("publish refused"):
            await self._fails_after(quick, outgoing, None)
        if chance.strikes("confirm lost"):
            await self._fails_after(PUBLISH_TIMEOUT_SECONDS, outgoing, quick)
        if chance.strikes("routed late"):
            late = chance.seconds(0, LATEST_ROUTED_SECONDS)
            await self._fails_after(PUBLISH_TIMEOUT_SECONDS, outgoing, late)
        broker.put_after(quick, outgoing)
        await asyncio.sleep(2 * quick)

    async def _fails_after(self, seconds: float, outgoing: Outgoing, routed_after: float | None) -> None:
        if routed_after is not None:
            self._broker.put_after(routed_after, outgoing)
        await asyncio.sleep(seconds)
        raise PublishFailed("not confirmed")
