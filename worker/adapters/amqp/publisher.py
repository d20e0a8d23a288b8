"""Publishes with confirms, on a separate connection: a blocked publisher must not delay acks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from contracts.topology import NO_NAMESPACE, Namespace
from worker.adapters.amqp.channel import closed_by
from worker.adapters.amqp.confirms import ConfirmingChannel, Refused, Returned
from worker.adapters.amqp.errors import explain
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.seam import BROKER_ERRORS, Connection
from worker.adapters.system import fresh_message_id
from worker.core.messages import Outgoing
from worker.ports import NotTaken, PublishFailed, Unroutable

CONFIRM_SECONDS = 15.0
BLOCKED = "RabbitMQ takes no messages at the moment: it is short of memory or disk"

Prepare = Callable[[Connection], Awaitable[None]]
"""Makes the topology on a new connection."""


async def no_preparation(_connection: Connection) -> None:
    """A `Prepare` that does nothing, for a topology that exists."""


class RabbitPublisher:
    """The `Publisher` port. Many publishes may be in flight; each waits for its own confirm.

    Exchanges are named inside the namespace, and go to the broker with its prefix.
    """

    def __init__(self, link: Link, prepare: Prepare, namespace: Namespace = NO_NAMESPACE) -> None:
        self._link = link
        self._namespace = namespace
        self._prepare = prepare
        self._connection: Connection | None = None
        self._channel: ConfirmingChannel | None = None
        self._begun = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, link: Link, prepare: Prepare = no_preparation, namespace: Namespace = NO_NAMESPACE
    ) -> AsyncIterator["RabbitPublisher"]:
        """A publisher that is connected when the block begins; raises `BrokerUnavailable`."""
        publisher = cls(link, prepare, namespace)
        async with link.kept(publisher._serve, publisher._begun):
            yield publisher

    @classmethod
    @asynccontextmanager
    async def trying(
        cls, link: Link, prepare: Prepare = no_preparation, namespace: Namespace = NO_NAMESPACE
    ) -> AsyncIterator["RabbitPublisher"]:
        """A publisher that connects as soon as there is a broker; `problems` says why not yet."""
        publisher = cls(link, prepare, namespace)
        async with link.tried(publisher._serve):
            yield publisher

    async def publish(self, outgoing: Outgoing) -> None:
        """See `Publisher.publish`. Raises `Unroutable`, `NotTaken`, or `PublishFailed`."""
        if self._connection is None or self._channel is None:
            raise PublishFailed(f"there is no connection to publish on: {self._link.failure}")
        connection, channel = self._connection, self._channel
        exchange = self._namespace.of(outgoing.exchange)
        try:
            if connection.blocked:
                await channel.unblocked(CONFIRM_SECONDS)
            await channel.publish(exchange, outgoing, fresh_message_id())
        except Returned:
            raise Unroutable(f"no queue is bound for {outgoing.routing_key} on exchange {exchange}") from None
        except Refused:
            raise NotTaken(f"RabbitMQ did not take a message for {exchange}") from None
        except TimeoutError:
            why = self._unconfirmed(connection)
            raise PublishFailed(f"publishing to {exchange} failed: {why}") from None
        except BROKER_ERRORS as error:
            raise PublishFailed(f"publishing to {exchange} failed: {explain(error)}") from None

    async def problems(self) -> list[str]:
        """Why nothing can be published now, one line each. Empty when healthy."""
        if self._connection is None:
            return [f"no connection to publish on: {self._link.failure or 'it is being made'}"]
        return [BLOCKED] if self._connection.blocked else []

    def _unconfirmed(self, connection: Connection) -> str:
        """Hangs up unless blocked: a connection without confirms may be stuck, and the link makes another."""
        if connection.blocked:
            return BLOCKED
        connection.hang_up()
        return "no confirm in time"

    async def _serve(self, connection: Connection) -> None:
        await self._prepare(connection)
        channel = await connection.open_channel(confirms=True)
        closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def close(error: BaseException | None) -> None:
            if not closed.done():
                closed.set_result(closed_by(error))

        channel.on_closed(close)
        confirming = ConfirmingChannel(connection, channel, CONFIRM_SECONDS)
        self._connection, self._channel = connection, confirming
        self._begun.set()
        why = "the connection is given up"
        try:
            raise ConnectionError(why := await closed)
        finally:
            self._connection = self._channel = None
            confirming.lose(why)
