"""RabbitMQ through aio-pika: two connections, one that consumes and one that publishes.

A publisher that the broker blocks must not hold up acks, hence two. Both are plain connections under our own
supervision (`Link`): aio-pika's robust ones try one host, at a fixed interval.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import cycle
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

from contracts.envelope import Message
from worker.adapters.rabbitmq_tls import hint, mechanism_refused, tls_refused
from worker.adapters.system import fresh_id
from worker.core.messages import Outgoing
from worker.ports import Clock, Delivery, ForPeople, PublishFailed, Unroutable
from worker.telemetry import Telemetry

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
CONNECT_TIMEOUT_SECONDS = 10
HEARTBEAT_SECONDS = 12
PUBLISH_TIMEOUT_SECONDS = 15
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

# What aio-pika and aiormq raise when the broker is away, refuses, or goes.
BROKER_ERRORS = (AMQPError, ConnectionError, OSError, TimeoutError, RuntimeError)

# What a message keeps on its way through us. Not `expiration` (an expiring dead letter is a lost one), nor
# `user_id` (another's name closes the channel).
KEPT_PROPERTIES = (
    "content_encoding",
    "priority",
    "correlation_id",
    "reply_to",
    "timestamp",
    "type",
    "app_id",
)


class BrokerUnavailable(ForPeople):
    """No connection at the moment. The text is for people and holds no password."""


class BrokerRefuses(BrokerUnavailable):
    """The broker is there and says no: to a login, an act, an object that differs. Waiting is no help."""


def address(url: str) -> str:
    """Host, port and virtual host of an AMQP URL, without user and password."""
    parsed = URL(url)
    port = parsed.port or DEFAULT_PORTS.get(parsed.scheme)
    return f"{parsed.scheme}://{parsed.host}:{port}{parsed.path}"


async def connect(url: str, name: str) -> AbstractConnection:
    """A plain connection; raises `BrokerUnavailable`, or `BrokerRefuses` where trying again cannot help."""
    try:
        return await aio_pika.connect(
            url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            heartbeat=HEARTBEAT_SECONDS,
            client_properties={"connection_name": name},
        )
    except (AuthenticationError, ProbableAuthenticationError) as error:
        why = mechanism_refused(error) or explain(error)
        raise BrokerRefuses(f"RabbitMQ at {address(url)} refuses the login in AMQP_URL: {why}") from None
    except BROKER_ERRORS as error:
        if refused := tls_refused(error):
            raise BrokerRefuses(f"RabbitMQ at {address(url)} cannot be used: {refused}") from None
        why = f"{explain(error)}{hint(url, error)}"
        raise BrokerUnavailable(f"RabbitMQ at {address(url)} cannot be used: {why}") from None


def version_of(connection: AbstractConnection) -> str:
    if connection.transport is None:
        raise BrokerUnavailable("the connection to RabbitMQ is gone")
    return str(connection.transport.connection.server_properties["version"])


def explain(error: BaseException) -> str:
    """An error of the client library in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError) or "111" in str(error):
        return "connection refused"
    return " ".join(str(error).split()) or type(error).__name__


class Link:
    """A connection kept up: whenever it is lost, the next host is tried, after a jittered wait."""

    def __init__(self, name: str, urls: Sequence[str], clock: Clock, telemetry: Telemetry) -> None:
        self._name = name
        self._urls = urls
        self._clock = clock
        self._telemetry = telemetry
        self._failure = "no answer in time"

    @asynccontextmanager
    async def kept(
        self, serve: Callable[[AbstractConnection], Awaitable[None]], begun: asyncio.Event
    ) -> AsyncIterator[None]:
        """Runs `serve` on one connection after the other, for the time of the block.

        `serve` sets `begun` once it does its job, and returns or raises when it has lost its connection.
        Raises `BrokerUnavailable` where it cannot begin.
        """
        keeping = asyncio.create_task(self._keep(serve))
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await begun.wait()
        except TimeoutError:
            await _ended(keeping)
            raise BrokerUnavailable(f"RabbitMQ cannot be used: {self._failure}") from None
        try:
            yield
        finally:
            await _ended(keeping)

    async def _keep(self, serve: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        tries = 0
        for url in cycle(self._urls):
            try:
                async with await connect(url, f"provisioner {self._name}") as connection:
                    self._telemetry.broker_connected(self._name, address(url), version_of(connection))
                    await serve(connection)
                self._failure, tries = "the connection, the channel or the consumer was closed", 0
            except Exception as error:  # noqa: BLE001 - whatever it is, giving up would leave us deaf
                self._failure, tries = explain(error), tries + 1
            await self._pause(tries)

    async def _pause(self, tries: int) -> None:
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 10))
        seconds = longest * self._clock.jitter()
        self._telemetry.broker_lost(self._name, self._failure, seconds)
        await self._clock.sleep(seconds)


class RabbitPublisher:
    """The publisher port. Many publishes may be on their way at once; each waits for its own confirm."""

    def __init__(self) -> None:
        self._channel: AbstractChannel | None = None
        self._open = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, link: Link) -> AsyncIterator["RabbitPublisher"]:
        publisher = cls()
        async with link.kept(publisher._serve, publisher._open):
            yield publisher

    async def publish(self, outgoing: Outgoing) -> None:
        if self._channel is None:
            raise PublishFailed("there is no connection to RabbitMQ at the moment")
        exchange = await self._channel.get_exchange(outgoing.exchange, ensure=False)
        try:
            await exchange.publish(
                _amqp(outgoing), outgoing.routing_key, mandatory=True, timeout=PUBLISH_TIMEOUT_SECONDS
            )
        except PublishError:
            raise Unroutable(
                f"nobody is bound for {outgoing.routing_key} on exchange {outgoing.exchange}"
            ) from None
        except DeliveryError:
            raise PublishFailed(f"RabbitMQ did not take a message for {outgoing.exchange}") from None
        except BROKER_ERRORS as error:
            raise PublishFailed(f"publishing to {outgoing.exchange} failed: {explain(error)}") from None
        except asyncio.CancelledError:
            # When a silent peer is given up, aiormq cancels what waits for its confirm.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise PublishFailed(f"publishing to {outgoing.exchange} failed: connection lost") from None

    async def _serve(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._channel = channel
        self._open.set()
        try:
            await channel.closed()
        finally:
            self._channel = None


class RabbitConsumer:
    """Hands the deliveries of one queue to `receive`, which must only file them: it runs in the channel."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        receive: Callable[[Delivery], None],
        prepare: Callable[[AbstractConnection], Awaitable[None]],
        telemetry: Telemetry,
    ) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._receive = receive
        self._prepare = prepare
        self._telemetry = telemetry
        self._cancel: Callable[[], Awaitable[Any]] | None = None
        self.consuming = False
        self._begun = asyncio.Event()

    @asynccontextmanager
    async def running(self, link: Link) -> AsyncIterator[None]:
        """Consumes for the time of the block; what was not acked then is delivered again."""
        async with link.kept(self._serve, self._begun):
            yield

    async def stop(self) -> None:
        """Takes no more deliveries; those taken can still be acked."""
        self._consumes_no_more()
        if self._cancel is not None:
            with suppress(*BROKER_ERRORS):
                await self._cancel()

    async def _serve(self, connection: AbstractConnection) -> None:
        await self._prepare(connection)
        lost = asyncio.Event()
        channel = await connection.channel()
        await channel.set_qos(self._prefetch)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: lost.set())
        channel.close_callbacks.add(lambda *_: lost.set())
        queue = await channel.get_queue(self._queue, ensure=False)
        try:
            tag = await queue.consume(partial(self._deliver, channel))
            self._cancel = lambda: queue.cancel(tag)
            self._consumes()
            await lost.wait()
        finally:
            self._consumes_no_more()

    async def _deliver(self, channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
        self._receive(RabbitDelivery(message, channel))

    def _consumes(self) -> None:
        self.consuming = True
        self._begun.set()
        self._telemetry.consuming(self._queue, self._prefetch)

    def _consumes_no_more(self) -> None:
        self.consuming = False
        self._telemetry.consuming_ended()


class RabbitDelivery:
    """The delivery port. It belongs to the channel it came on, and is void with it."""

    def __init__(self, message: AbstractIncomingMessage, channel: AbstractChannel) -> None:
        self._message = message
        self._channel = channel

    @property
    def live(self) -> bool:
        return not self._channel.is_closed

    @property
    def original(self) -> Outgoing:
        message = self._message
        properties = {name: getattr(message, name) for name in KEPT_PROPERTIES}
        return Outgoing(
            exchange=message.exchange or "",
            routing_key=message.routing_key or "",
            message=Message(message.body, message.content_type, dict(message.headers)),
            properties={name: value for name, value in properties.items() if value is not None},
        )

    async def ack(self) -> None:
        if self.live:
            with suppress(*BROKER_ERRORS):  # lost at this moment: the redelivery will find the work done
                await self._message.ack()


def _amqp(outgoing: Outgoing) -> aio_pika.Message:
    return aio_pika.Message(
        body=outgoing.message.body,
        headers=_encodable(dict(outgoing.message.headers)),
        content_type=outgoing.message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=fresh_id(),
        **outgoing.properties,
    )


def _encodable(value: Any) -> Any:
    """A header that is not UTF-8 was decoded to bytes, which the client library can read but not write."""
    match value:
        case bytes():
            return bytearray(value)
        case dict():
            return {name: _encodable(part) for name, part in value.items()}
        case list():
            return [_encodable(part) for part in value]
        case _:
            return value


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
