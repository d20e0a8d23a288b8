"""Listens to an exchange through a queue of its own, which the broker deletes with the connection."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from contracts.topology import RESULTS, Namespace
from worker.adapters.amqp.channel import closed_by
from worker.adapters.amqp.codec.frames import DELIVER, Delivered, ack, delivered
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable, explain
from worker.adapters.amqp.seam import (
    BROKER_ERRORS,
    Channel,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    Connection,
)
from worker.adapters.brokers import open_connection
from worker.core.messages import Outgoing

QUEUE_PREFIX = "provisioner.listener."
"""A user who listens needs all rights on queues of this prefix, and read on the exchange."""

PREFETCH = 500


class Listener:
    """The `Listener` port: what was published since the queue was bound, in that order."""

    def __init__(self, connection: Connection, channel: Channel, namespace: Namespace) -> None:
        self._connection = connection
        self._channel = channel
        self._namespace = namespace
        self._arrived: asyncio.Queue[Delivered | BrokerUnavailable] = asyncio.Queue()

    async def next(self) -> Outgoing:
        """See `Listener.next`."""
        message = await self._arrived.get()
        if isinstance(message, BrokerUnavailable):
            self._arrived.put_nowait(message)  # for the next caller too
            raise message
        try:
            self._connection.send(ack(message.tag, self._channel.number))
        except BROKER_ERRORS as error:
            self._lose(error)
        return message.original

    async def begin(self, exchange: str, routing_key: str) -> None:
        """Declares and binds the queue and consumes it. Raises `BROKER_ERRORS`."""
        queue = self._namespace.of(f"{QUEUE_PREFIX}{secrets.token_hex(8)}")
        await self._channel.objects.declare_queue(queue, temporary=True)
        await self._channel.objects.bind(queue, self._namespace.of(exchange), routing_key)
        await self._channel.set_prefetch(PREFETCH)
        self._connection.listen(self._channel.number, {DELIVER: self._deliver})
        self._channel.on_closed(self._lose)
        self._channel.on_consumer_cancelled(self._lose)
        await self._channel.consume(queue)

    def _deliver(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        self._arrived.put_nowait(delivered(arguments, properties, body).within(self._namespace))

    def _lose(self, error: BaseException | None = None) -> None:
        self._arrived.put_nowait(
            BrokerUnavailable(
                f"RabbitMQ is gone ({closed_by(error)}); what is published meanwhile is not seen here"
            )
        )


@asynccontextmanager
async def listening(
    urls: Sequence[str], namespace: Namespace, exchange: str = RESULTS, routing_key: str = "subaccount.#"
) -> AsyncIterator[Listener]:
    """A listener that hears everything published from the start of the block on.

    Raises `BrokerUnavailable`, and `BrokerRefuses` without the exchange or the rights.
    """
    async with open_connection(urls) as connection:
        with _explained(namespace.of(exchange), namespace.of(QUEUE_PREFIX)):
            listener = Listener(connection, await connection.open_channel(), namespace)
            await listener.begin(exchange, routing_key)
        yield listener


@contextmanager
def _explained(exchange: str, queue_prefix: str) -> Iterator[None]:
    try:
        yield
    except ChannelAccessRefused as error:
        raise BrokerRefuses(
            f"the user in AMQP_URL may not listen to {exchange}: that takes all rights on queues named"
            f" {queue_prefix}* and read on the exchange ({explain(error)})"
        ) from None
    except ChannelNotFoundEntity:
        raise BrokerRefuses(
            f"there is no exchange {exchange}: start `provisioner run`, or run `provisioner topology apply`"
        ) from None
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(f"RabbitMQ cannot be used: {explain(error)}") from None
