"""RabbitMQ through aio-pika: two connections, one that consumes and one that publishes.

A publisher that the broker blocks must not hold up acks, hence two.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import Any, cast

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.channel import Channel

from worker.adapters.amqp.codec.frames import DELIVER, Delivered, ack, delivered, taken_elsewhere
from worker.adapters.amqp.confirms import ConfirmingChannel, Refused, Returned
from worker.adapters.amqp.link import (
    ANSWER_SECONDS,
    BROKER_ERRORS,
    BrokerRefuses,
    Connection,
    Link,
    cancelled_only_if_asked,
    explain,
)
from worker.adapters.system import fresh_message_id
from worker.core.messages import Outgoing
from worker.ports import Delivery, NotTaken, PublishFailed, Unroutable
from worker.telemetry.events import Telemetry

CONFIRM_SECONDS = 15.0
PREPARE_AGAIN_SECONDS = 30.0

Prepare = Callable[[AbstractConnection], Awaitable[None]]


async def no_preparation(_connection: AbstractConnection) -> None:
    """The topology is somebody else's business."""


class RabbitPublisher:
    """The publisher port. Many publishes may be on their way at once; each waits for its own confirm."""

    def __init__(self, link: Link, prepare: Prepare) -> None:
        self._link = link
        self._prepare = prepare
        self._connection: Connection | None = None
        self._channel: ConfirmingChannel | None = None
        self._begun = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, link: Link, prepare: Prepare = no_preparation) -> AsyncIterator["RabbitPublisher"]:
        publisher = cls(link, prepare)
        async with link.kept(publisher._serve, publisher._begun):
            yield publisher

    async def publish(self, outgoing: Outgoing) -> None:
        if self._connection is None or self._channel is None:
            raise PublishFailed(f"there is no connection to publish on: {self._link.failure}")
        connection, channel = self._connection, self._channel
        try:
            if connection.blocked:
                await channel.unblocked(CONFIRM_SECONDS)
            await channel.publish(outgoing, fresh_message_id())
        except Returned:
            raise Unroutable(
                f"nobody is bound for {outgoing.routing_key} on exchange {outgoing.exchange}"
            ) from None
        except Refused:
            raise NotTaken(f"RabbitMQ did not take a message for {outgoing.exchange}") from None
        except TimeoutError:
            why = self._unconfirmed(connection)
            raise PublishFailed(f"publishing to {outgoing.exchange} failed: {why}") from None
        except BROKER_ERRORS as error:
            raise PublishFailed(f"publishing to {outgoing.exchange} failed: {explain(error)}") from None

    async def wrong(self) -> list[str]:
        """What keeps it from publishing now, a line for each reason."""
        if self._connection is None:
            return [f"no connection to publish on: {self._link.failure or 'it is being made'}"]
        return [BLOCKED] if self._connection.blocked else []

    def _unconfirmed(self, connection: Connection) -> str:
        """A connection on which a confirm does not come may be wedged for good: the link makes another."""
        if connection.blocked:
            return BLOCKED
        connection.hang_up()
        return "no confirm in time"

    async def _serve(self, connection: Connection) -> None:
        await self._prepare(connection)
        channel = await connection.channel(publisher_confirms=True)
        closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel.close_callbacks.add(lambda _channel, error: _tell(closed, _closed_by(error)))
        underlay = cast(Channel, await channel.get_underlay_channel())
        confirming = ConfirmingChannel(connection, underlay, CONFIRM_SECONDS)
        self._connection, self._channel = connection, confirming
        self._begun.set()
        why = "the connection is given up"
        try:
            raise ConnectionError(why := await closed)
        finally:
            self._connection = self._channel = None
            confirming.lose(why)


BLOCKED = "RabbitMQ takes no messages at the moment: it is short of memory or disk"


class RabbitConsumer:
    """Hands the deliveries of one queue to `receive`, which must only file them: it runs in the channel."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        receive: Callable[[Delivery], None],
        prepare: Prepare,
        telemetry: Telemetry,
    ) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._receive = receive
        self._prepare = prepare
        self._telemetry = telemetry
        self._wanted = True
        self._stopped = False
        self._link: Link | None = None
        self._connection: Connection | None = None
        self._channel: ConsumingChannel | None = None
        self._lost: asyncio.Future[str] = asyncio.Future()
        self._changing = asyncio.Lock()
        self._begun = asyncio.Event()

    @property
    def consuming(self) -> bool:
        return self._channel is not None and self._channel.consuming

    @asynccontextmanager
    async def running(self, link: Link) -> AsyncIterator[None]:
        """Consumes for the time of the block; what was not acked then is delivered again."""
        self._link = link
        async with link.kept(self._serve, self._begun):
            yield

    async def stop(self) -> None:
        self._stopped = True
        await self.pause()

    async def pause(self) -> None:
        self._wanted = False
        async with self._change():
            if self._channel is not None:
                await self._channel.unsubscribe()
        self._telemetry.consuming_ended()

    async def resume(self) -> None:
        self._wanted = not self._stopped
        await self._subscribe()

    async def release(self) -> None:
        async with self._change():
            channel, self._channel = self._channel, None
            if channel is not None:
                await channel.close()

    async def wrong(self) -> list[str]:
        if self.consuming:
            return []
        if not self._wanted:
            return ["consuming is paused"]
        why = self._link.failure if self._link is not None else None
        return [f"no consumer is registered at the broker: {why or 'it is being made'}"]

    async def _serve(self, connection: Connection) -> None:
        await self._prepare(connection)
        self._connection, self._lost = connection, asyncio.get_running_loop().create_future()
        try:
            await self._subscribe()
            if not self._lost.done():
                self._begun.set()
            raise ConnectionError(await self._until_lost(connection))
        except asyncio.CancelledError:
            await self.release()  # the last acks reach the broker before the connection is closed
            raise
        finally:
            self._connection = self._channel = None
            self._telemetry.consuming_ended()

    async def _until_lost(self, connection: Connection) -> str:
        """Why it is of no more use. Meanwhile what somebody may have deleted is made again, now and then."""
        while not self._lost.done():
            await asyncio.wait([self._lost], timeout=PREPARE_AGAIN_SECONDS)
            if not self._lost.done():
                await self._prepared_again(connection)
        return self._lost.result()

    async def _prepared_again(self, connection: Connection) -> None:
        try:
            await self._prepare(connection)
        except BrokerRefuses as error:  # no reason to stop what works
            self._telemetry.topology_refused(str(error))

    async def _subscribe(self) -> None:
        async with self._change():
            if not self._wanted or self._connection is None:
                return
            if self._channel is None:
                self._channel = await ConsumingChannel.open(self._connection, self._prefetch, self._lose)
            await self._channel.subscribe(self._queue, self._hand_on)
            self._telemetry.consuming(self._queue, self._prefetch)

    def _hand_on(self, delivery: Delivery) -> None:
        try:
            self._receive(delivery)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the connection
            self._telemetry.step_crashed(error)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """One at a time; one that fails costs the connection, and the next one is made as is wanted then."""
        async with self._changing:
            try:
                with cancelled_only_if_asked():
                    async with asyncio.timeout(ANSWER_SECONDS):
                        yield
            except BROKER_ERRORS as error:
                self._lose(explain(error))

    def _lose(self, reason: str) -> None:
        _tell(self._lost, reason)


class ConsumingChannel:
    """A channel, the consumer on it, and the deliveries that came on it: they are void with it."""

    def __init__(
        self, connection: Connection, channel: AbstractChannel, prefetch: int, lose: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._number = channel.number or 0
        self._prefetch = prefetch
        self._lose = lose
        self._cancel: Callable[[], Awaitable[Any]] | None = None
        self._fenced = False

    @classmethod
    async def open(
        cls, connection: Connection, prefetch: int, lose: Callable[[str], None]
    ) -> "ConsumingChannel":
        """`lose` is told once neither channel nor consumer is of use any more."""
        channel = await connection.channel(publisher_confirms=False)
        opened = cls(connection, channel, prefetch, lose)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: opened._cancelled())
        channel.close_callbacks.add(lambda _channel, error: opened._closed(error))
        await opened.round_trip()
        return opened

    @property
    def live(self) -> bool:
        return not self._fenced and not self._channel.is_closed

    @property
    def consuming(self) -> bool:
        return self.live and self._cancel is not None

    async def subscribe(self, name: str, receive: Callable[[Delivery], None]) -> None:
        def deliver(arguments: bytes, properties: bytes, body: bytes) -> None:
            receive(RabbitDelivery(delivered(arguments, properties, body), self))

        if self._cancel is None:
            self._connection.listen(self._number, {DELIVER: deliver})
            channel = await self._channel.get_underlay_channel()
            tag = (await channel.basic_consume(name, taken_elsewhere)).consumer_tag or ""
            self._cancel = lambda: channel.basic_cancel(tag)

    async def unsubscribe(self) -> None:
        """On return nothing more will come."""
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            await cancel()
            await self.round_trip()  # whatever was on its way has been handed on by now

    def ack(self, delivery_tag: int) -> None:
        """Goes out in this turn of the loop, before whatever the channel is told later."""
        self._connection.send(ack(delivery_tag, self._number))

    async def round_trip(self) -> None:
        """On return the broker has read all that was sent on the channel before."""
        await self._channel.set_qos(self._prefetch)

    async def close(self) -> None:
        """What is not acked goes back to the queue, in order."""
        self._fenced = True
        await self.round_trip()  # an ack that meets the close would cost the connection
        await self._channel.close()

    def _cancelled(self) -> None:
        self._cancel = None
        self._lose("the broker has cancelled the consumer: the queue was deleted or moved")

    def _closed(self, error: BaseException | None) -> None:
        if not self._fenced:
            self._lose(_closed_by(error))


class RabbitDelivery:
    """The delivery port. It belongs to the channel it came on, and is void with it."""

    def __init__(self, message: Delivered, channel: ConsumingChannel) -> None:
        self._message = message
        self._channel = channel

    @property
    def live(self) -> bool:
        return self._channel.live

    @cached_property
    def original(self) -> Outgoing:
        return self._message.original

    async def ack(self) -> None:
        if self.live:
            with suppress(ConnectionError):  # lost at this moment, the redelivery will find the work done
                self._channel.ack(self._message.tag)


def _closed_by(error: BaseException | None) -> str:
    return f"the channel was closed: {explain(error)}" if error else "the channel was closed"


def _tell(waiting: asyncio.Future[str], reason: str) -> None:
    if not waiting.done():
        waiting.set_result(reason)
