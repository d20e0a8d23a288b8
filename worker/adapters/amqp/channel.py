"""A consuming channel, and the deliveries that arrive on it."""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property

from contracts.topology import Namespace
from worker.adapters.amqp.codec.frames import DELIVER, Delivered, ack, delivered
from worker.adapters.amqp.errors import explain
from worker.adapters.amqp.seam import Channel, Connection
from worker.core.messages import Outgoing
from worker.ports import Delivery

CANCELLED = "the broker has cancelled the consumer: its queue was deleted or moved, or an ack is overdue"
"""RabbitMQ before 4.3 closes the channel where an ack is overdue."""


class ConsumingChannel:
    """A channel with its consumer. Its deliveries are void once it is closed."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        prefetch: int,
        lose: Callable[[str], None],
        namespace: Namespace,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._prefetch = prefetch
        self._lose = lose
        self._namespace = namespace
        self._tag: str | None = None
        self._queue = ""
        self._delivered = self._acked = self._delivered_before = 0
        self._fenced = False

    @classmethod
    async def open(
        cls,
        connection: Connection,
        prefetch: int,
        lose: Callable[[str], None],
        namespace: Namespace,
    ) -> "ConsumingChannel":
        """Opens a channel; it calls `lose` with the reason once the channel or its consumer is lost."""
        channel = await connection.open_channel()
        opened = cls(connection, channel, prefetch, lose, namespace)
        channel.on_consumer_cancelled(opened._cancelled)
        channel.on_closed(opened._closed)
        await opened.round_trip()
        return opened

    @property
    def live(self) -> bool:
        """Whether deliveries of this channel can be acked."""
        return not self._fenced and not self._channel.is_closed

    @property
    def consuming(self) -> bool:
        """Whether the broker has our consumer on this channel."""
        return self.live and self._tag is not None

    async def subscribe(self, queue: str, receive: Callable[[Delivery], None]) -> None:
        """Consumes the queue, unless the channel already does. `receive` must not raise."""

        def deliver(arguments: bytes, properties: bytes, body: bytes) -> None:
            self._delivered += 1
            message = delivered(arguments, properties, body).within(self._namespace)
            receive(RabbitDelivery(message, self))

        if self._tag is None:
            self._connection.listen(self._channel.number, {DELIVER: deliver})
            self._tag, self._queue = await self._channel.consume(queue), queue

    async def renew_if_idle(self) -> None:
        """Subscribes anew if nothing has arrived since the last call, although more could be held.

        The new consumer comes before the old one goes, so the queue always has one. It has a prefetch of its
        own: fewer than two of them are held in all.
        """
        idle = self._delivered == self._delivered_before and self._delivered - self._acked < self._prefetch
        self._delivered_before = self._delivered
        if idle and self._tag is not None:
            old, self._tag = self._tag, await self._channel.consume(self._queue)
            await self._channel.cancel(old)

    async def unsubscribe(self) -> None:
        """Stops consuming. No delivery arrives after the return."""
        tag, self._tag = self._tag, None
        if tag is not None:
            await self._channel.cancel(tag)
            await self.round_trip()  # the deliveries in flight have arrived by then

    def ack(self, delivery_tag: int) -> None:
        """Acks a delivery, in this turn of the loop and before anything the channel sends later."""
        self._acked += 1
        self._connection.send(ack(delivery_tag, self._channel.number))

    async def round_trip(self) -> None:
        """Returns once the broker has read everything sent on the channel before."""
        await self._channel.set_prefetch(self._prefetch)

    async def close(self) -> None:
        """Closes the channel; unacked messages go back to the queue, in order."""
        self._fenced = True
        await self.round_trip()  # an ack that crosses the close would end the connection
        await self._channel.close()

    def _cancelled(self) -> None:
        self._tag = None
        self._lose(CANCELLED)

    def _closed(self, error: BaseException | None) -> None:
        if not self._fenced:
            self._lose(closed_by(error))


class RabbitDelivery:
    """The `Delivery` port. A delivery is void once its channel is closed."""

    def __init__(self, message: Delivered, channel: ConsumingChannel) -> None:
        self._message = message
        self._channel = channel

    @property
    def live(self) -> bool:
        """See `Delivery.live`."""
        return self._channel.live

    @cached_property
    def original(self) -> Outgoing:
        """See `Delivery.original`."""
        return self._message.original

    async def ack(self) -> None:
        """See `Delivery.ack`."""
        if self.live:
            with suppress(ConnectionError):  # lost at this moment: the redelivery finds the work done
                self._channel.ack(self._message.tag)


def closed_by(error: BaseException | None) -> str:
    """Why a channel was closed, in one line."""
    return f"the channel was closed: {explain(error)}" if error else "the channel was closed"
