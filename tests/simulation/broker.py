"""A broker that keeps what it has confirmed, and loses connections, acks and confirms."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic_core import from_json

from contracts import topology as names
from contracts.envelope import STRUCTURED, Message
from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from tests.simulation.story import StoryEvent
from worker.core.messages import Outgoing
from worker.ports import Delivery, PublishFailed, Unroutable

PREFETCH = 6
RETRY_DELAYS = (timedelta(seconds=2), timedelta(seconds=20), timedelta(seconds=60))
PUBLISH_TIMEOUT_SECONDS = 2.0
LATEST_ROUTED_SECONDS = 5.0


@dataclass
class Queued:
    event: StoryEvent
    headers: dict[str, Any] = field(default_factory=dict)
    returned: int = 0
    routing_key: str | None = None


class Channel:
    """A consumer's channel. What the client holds it for and what the broker does may differ for a while."""

    def __init__(self, receive: Callable[[Delivery], None], process: Process) -> None:
        self.receive = receive
        self.process = process
        self.connected = True
        self.live = True
        self.stopped = False
        self.taken: dict[int, Queued] = {}

    @property
    def able(self) -> bool:
        held_up = self.stopped or self.process.paused
        return self.connected and not held_up and len(self.taken) < PREFETCH


@dataclass
class Broker:
    loop: asyncio.AbstractEventLoop
    chance: Chance
    history: History
    ready: deque[Queued] = field(default_factory=deque)
    dead: list[Queued] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    unbound: set[str] = field(default_factory=set)  # exchanges that nobody is bound to for the time being
    publishing: int = 0
    parked: int = 0

    def __post_init__(self) -> None:
        self._tags = 0
        self._events: dict[bytes, StoryEvent] = {}
        # 3.10 without a delivery limit puts back at the tail, 4.x with one at the front
        self._returns_to_front = self.chance.coin()

    @property
    def at_rest(self) -> bool:
        return not (
            self.ready or self.publishing or self.parked or any(channel.taken for channel in self.channels)
        )

    def send(self, event: StoryEvent) -> None:
        """A producer's publish."""
        self._events[event.body] = event
        self.ready.append(Queued(event))
        self.history.note(
            "sent",
            event.department,
            event=event.id,
            kind=event.kind,
            sequence=event.sequence,
            name=event.name,
            story=event,
        )
        self.feed()

    def connect(self, receive: Callable[[Delivery], None], process: Process) -> None:
        channel = Channel(receive, process)
        self.channels.append(channel)
        process.at_death.append(lambda: self._gone(channel))
        self.feed()

    def lose_consumer(self) -> None:
        """The connection breaks; both sides find out in their own time."""
        for channel in [one for one in self.channels if one.connected]:
            self._gone(channel)
            self.loop.call_later(self.chance.seconds(0, 2), self._notice, channel)

    def feed(self) -> None:
        """In turn to all who can take more."""
        while self.ready and (able := [channel for channel in self.channels if channel.able]):
            self._deliver(min(able, key=lambda channel: len(channel.taken)), self.ready.popleft())

    def settle(self, channel: Channel, tag: int) -> None:
        if channel.connected and tag in channel.taken:
            queued = channel.taken.pop(tag)
            self.history.note("acked", queued.event.department, event=queued.event.id, tag=tag)
            self.feed()

    def route(self, outgoing: Outgoing) -> None:
        """Into the queue bound for it; what the queue of results or secrets holds is in the history."""
        self.publishing -= 1
        if outgoing.exchange == names.RETRY:
            delay = next(one for one in RETRY_DELAYS if names.delay_label(one) == outgoing.routing_key)
            parked = Queued(self._events[outgoing.message.body], dict(outgoing.message.headers))
            parked.routing_key = outgoing.routing_key
            self.parked += 1
            self.loop.call_later(delay.total_seconds(), self._unpark, parked)
        if outgoing.exchange == names.DEAD_LETTERS:
            self.dead.append(Queued(self._events[outgoing.message.body], dict(outgoing.message.headers)))

    def told(self, outgoing: Outgoing) -> dict[str, Any]:
        """What a message says, for the history."""
        if outgoing.exchange == names.DEAD_LETTERS:
            event = self._events[outgoing.message.body]
            reason = outgoing.message.headers["x-dead-reason"]
            return {
                "department": event.department,
                "to": "dead letters",
                "event": event.id,
                "reason": str(reason),
                "body": event.body,
            }
        if outgoing.exchange == names.RETRY:
            event = self._events[outgoing.message.body]
            return {"department": event.department, "to": "retry", "event": event.id, "body": event.body}
        message = from_json(outgoing.message.body)
        to = "secrets" if outgoing.exchange == names.SECRETS else "results"
        return {"department": message["data"]["department_id"], "to": to, "message": message}

    def _unpark(self, parked: Queued) -> None:
        self.parked -= 1
        self.ready.append(parked)
        self.feed()

    def tap(self, process: Process) -> "SimulatedTap":
        return SimulatedTap(self, process)

    def _deliver(self, channel: Channel, queued: Queued) -> None:
        self._tags += 1
        tag = self._tags
        channel.taken[tag] = queued
        self.loop.call_later(0.001, self._arrive, channel, tag, queued)

    def _arrive(self, channel: Channel, tag: int, queued: Queued) -> None:
        if channel.connected and channel.process.alive:
            self.history.note(
                "delivered",
                queued.event.department,
                event=queued.event.id,
                tag=tag,
                again=queued.returned or None,
                body=queued.event.body,
            )
            channel.process.within(lambda: channel.receive(SimulatedDelivery(self, channel, tag, queued)))

    def _gone(self, channel: Channel) -> None:
        if channel.connected:
            channel.connected = False
            self.history.note("consumer gone")
            self.loop.call_later(self.chance.seconds(0.01, 2), self._take_back, channel)

    def _take_back(self, channel: Channel) -> None:
        returned = list(channel.taken.values())
        channel.taken.clear()
        self.channels.remove(channel)
        for queued in returned:
            queued.returned += 1
        if self._returns_to_front:
            self.ready.extendleft(reversed(returned))
        else:
            self.ready.extend(returned)
        self.feed()

    def give_up(self, channel: Channel) -> None:
        """Closed by the client, which takes another one."""
        self._gone(channel)
        self._reconnect(channel)

    def _notice(self, channel: Channel) -> None:
        channel.live = False
        if channel.process.alive:
            self.loop.call_later(self.chance.seconds(0, 1), self._reconnect, channel)

    def _reconnect(self, channel: Channel) -> None:
        if channel.process.alive and not channel.process.leaving:
            self.connect(channel.receive, channel.process)


class SimulatedDelivery:
    def __init__(self, broker: Broker, channel: Channel, tag: int, queued: Queued) -> None:
        self._broker = broker
        self._channel = channel
        self._tag = tag
        self._event = queued.event
        headers = queued.headers | ({"x-delivery-count": queued.returned} if queued.returned else {})
        self.original = Outgoing(
            names.DEPARTMENTS,
            queued.routing_key or f"department.{queued.event.kind}",
            Message(queued.event.body, STRUCTURED, headers),
        )

    @property
    def live(self) -> bool:
        return self._channel.live and self._channel.process.alive

    async def ack(self) -> None:
        self._channel.process.check()
        if not self.live:
            return
        broker = self._broker
        broker.history.note(
            "> ack", self._event.department, event=self._event.id, tag=self._tag, body=self._event.body
        )
        if broker.chance.strikes("ack lost"):
            broker.lose_consumer()
        else:
            broker.loop.call_later(broker.chance.latency(), broker.settle, self._channel, self._tag)


@dataclass
class SimulatedTap:
    """Turns the deliveries of one process on and off."""

    broker: Broker
    process: Process

    async def pause(self) -> None:
        self._set(paused=True)

    async def resume(self) -> None:
        self._set(paused=False)

    async def release(self) -> None:
        for channel in [one for one in self.broker.channels if one.process is self.process]:
            channel.live = False
            self.broker.give_up(channel)

    def _set(self, *, paused: bool) -> None:
        self.process.check()
        self.broker.history.note("paused" if paused else "resumed")
        self.process.paused = paused
        self.broker.feed()


class SimulatedPublisher:
    """The publisher port, as one process uses it."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._chance = broker.chance
        self._down_until = 0.0

    async def publish(self, outgoing: Outgoing) -> None:
        self._process.check()
        told = self._broker.told(outgoing)
        self._note("> publish", told)
        self._process.endanger("crash at a publish", self._chance)
        try:
            await self._publish(outgoing)
        except PublishFailed as failure:
            self._process.check()
            self._note("unroutable" if isinstance(failure, Unroutable) else "not confirmed", told)
            raise
        self._process.check()
        self._note("confirmed", told)

    async def _publish(self, outgoing: Outgoing) -> None:
        broker, chance, quick = self._broker, self._chance, self._chance.latency()
        if broker.loop.time() < self._down_until:
            raise PublishFailed("no connection")
        if chance.strikes("publisher lost"):
            self._down_until = broker.loop.time() + chance.seconds(0, 3)
            await self._fails_after(quick, outgoing, quick / 2 if chance.coin() else None)
        if self._unroutable(outgoing.exchange):
            await asyncio.sleep(quick)
            raise Unroutable("nobody is bound")
        if chance.strikes("publish refused"):
            await self._fails_after(quick, outgoing, None)
        if chance.strikes("confirm lost"):
            await self._fails_after(PUBLISH_TIMEOUT_SECONDS, outgoing, quick)
        if chance.strikes("routed late"):
            late = chance.seconds(0, LATEST_ROUTED_SECONDS)
            await self._fails_after(PUBLISH_TIMEOUT_SECONDS, outgoing, late)
        self._routed_after(quick, outgoing)
        await asyncio.sleep(2 * quick)

    def _unroutable(self, exchange: str) -> bool:
        if exchange == names.RESULTS:
            return self._chance.strikes("result unroutable")
        return exchange in self._broker.unbound

    async def _fails_after(self, seconds: float, outgoing: Outgoing, routed_after: float | None) -> None:
        if routed_after is not None:
            self._routed_after(routed_after, outgoing)
        await asyncio.sleep(seconds)
        raise PublishFailed("not confirmed")

    def _routed_after(self, seconds: float, outgoing: Outgoing) -> None:
        self._broker.publishing += 1
        self._broker.loop.call_later(seconds, self._broker.route, outgoing)

    def _note(self, what: str, told: dict[str, Any]) -> None:
        self._broker.history.note(what, **told)
