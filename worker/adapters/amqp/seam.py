"""The interface to the client library, aiormq. No other module here imports it.

aiormq has the control plane: handshake, channels, declarations, subscriptions, closing. The data plane is
ours: messages, confirms and acks pass through `FrameTap` and `CoalescingWriter`. README.md lists every
assumption made here, and tests/conformance/amqp/test_seam.py has one test for each.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, Self, cast

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.channel import Channel as LibraryChannel
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from yarl import URL

from worker.adapters.amqp.codec.dispatch import Listener
from worker.adapters.amqp.codec.frames import BLOCKED, UNBLOCKED
from worker.adapters.amqp.tap import FrameTap, OtherProtocol
from worker.adapters.amqp.writer import CoalescingWriter

__all__ = [
    "ANSWER_SECONDS",
    "BROKER_ERRORS",
    "BrokerObjects",
    "Channel",
    "ChannelAccessRefused",
    "ChannelClosed",
    "ChannelNotFoundEntity",
    "ChannelPreconditionFailed",
    "ClosedSilently",
    "Connection",
    "LoginRefused",
    "OpenRefused",
    "QueueState",
    "open_connection",
]

BROKER_ERRORS = (AMQPError, OSError)
"""Raised if the broker is away, refuses, or disconnects. `TimeoutError` is an `OSError`."""

ANSWER_SECONDS = 10.0
"""How long a call waits for its answer."""

CONNECTION_CLOSED = "the connection was closed"
CHANNEL_CLOSED = "the channel was closed"
CLOSED_SILENTLY = "it closed the connection without a reason; is that the port of AMQP, and the broker up?"


class LoginRefused(ConnectionError):
    """The broker refuses the login, or the mechanism that `auth` in the URL names."""


class OpenRefused(ConnectionError):
    """The broker refuses the virtual host, or any more connections; the text is its own."""


class ClosedSilently(ConnectionError):
    """The peer closed the connection during the handshake without saying why."""


class QueueState(NamedTuple):
    """The state of a queue at the broker: messages ready, and consumers."""

    messages: int
    consumers: int


class BrokerObjects:
    """Declares, reads and deletes exchanges, queues and bindings on a channel.

    All coroutines raise `BROKER_ERRORS`. If the broker refuses a call, it closes the channel.
    """

    def __init__(self, library: AbstractChannel) -> None:
        self._library = library

    async def declare_exchange(
        self, name: str, type_: str, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Declares a durable exchange. Raises `ChannelPreconditionFailed` if it exists and differs."""
        async with _answered(**{f"exchange '{name}'": "configure", "exchange": "write"}):
            await self._library.exchange_declare(
                name, exchange_type=type_, durable=True, arguments=dict(arguments or {})
            )

    async def check_exchange(self, name: str) -> None:
        """Checks that an exchange exists. Raises `ChannelNotFoundEntity` if it does not exist."""
        async with _answered():
            await self._library.exchange_declare(name, passive=True)

    async def declare_queue(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        temporary: bool = False,
        auto_delete: bool = False,
    ) -> None:
        """Declares a queue, durable or for this connection only. Raises as `declare_exchange` does.

        `auto_delete`: it is deleted with its last consumer.
        """
        async with _answered(queue="configure", exchange="write"):
            await self._library.queue_declare(
                name,
                durable=not temporary,
                exclusive=temporary,
                auto_delete=temporary or auto_delete,
                arguments=dict(arguments or {}),
            )

    async def queue_state(self, name: str) -> QueueState:
        """The state of a queue. Raises `ChannelNotFoundEntity` if it does not exist."""
        async with _answered():
            found = await self._library.queue_declare(name, passive=True)
            return QueueState(found.message_count or 0, found.consumer_count or 0)

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Binds a queue to an exchange; the key may be a topic pattern."""
        async with _answered(queue="write", exchange="read"):
            await self._library.queue_bind(queue, exchange, routing_key)

    async def try_configure_exchange(self, name: str) -> None:
        """Raises `ChannelAccessRefused` without the right to declare an exchange. Changes nothing.

        The declaration has an argument that RabbitMQ refuses after it has looked at the rights.
        """
        await self._try(self.declare_exchange(name, "topic", {"alternate-exchange": 0}))

    async def try_configure_queue(self, name: str) -> None:
        """Raises `ChannelAccessRefused` without the right to declare a queue. Changes nothing, likewise."""
        await self._try(self.declare_queue(name, {"x-expires": "never"}))

    async def try_write(self, exchange: str, elsewhere: str) -> None:
        """Raises `ChannelAccessRefused` without the right to publish to an exchange. Changes nothing.

        Asks to unbind it from `elsewhere`, an exchange that does not exist: RabbitMQ looks first at the right
        to write to the one, then at the right to read the other, then for a binding, of which there is none.
        """
        async with _answered(**{f"exchange '{exchange}'": "write", "exchange": "read"}):
            try:
                await self._library.exchange_unbind(exchange, elsewhere, routing_key=elsewhere)
            except ChannelNotFoundEntity:
                return
            except ChannelAccessRefused as error:
                if f"exchange '{elsewhere}'" not in str(error):
                    raise

    async def try_read(self, queue: str) -> None:
        """Raises `ChannelAccessRefused` without the right to consume a queue. Changes nothing.

        The consumer has an argument that RabbitMQ refuses after it has looked at the rights.
        """
        async with _answered(queue="read"):
            await self._try(
                self._library.basic_consume(queue, ignore_message, arguments={"x-priority": "none"})
            )

    async def try_bind(self, queue: str, exchange: str, elsewhere: str) -> None:
        """Raises `ChannelAccessRefused` without the rights to bind a queue to an exchange. Changes nothing.

        Asks to remove a binding with the key `elsewhere`, which nobody has.
        """
        async with _answered(queue="write", exchange="read"):
            await self._try(self._library.queue_unbind(queue, exchange, routing_key=elsewhere))

    @staticmethod
    async def _try(asked: Awaitable[Any]) -> None:
        """Ignores every refusal but one for lack of a right."""
        with suppress(ChannelNotFoundEntity, ChannelPreconditionFailed):
            await asked

    async def queue_delete(self, name: str) -> None:
        """Deletes a queue with its messages."""
        async with _answered(queue="configure"):
            await self._library.queue_delete(name)

    async def queue_purge(self, name: str) -> None:
        """Drops the ready messages of a queue."""
        async with _answered(queue="read"):
            await self._library.queue_purge(name)

    async def exchange_delete(self, name: str) -> None:
        """Deletes an exchange with its bindings."""
        async with _answered(exchange="configure"):
            await self._library.exchange_delete(name)


class Channel:
    """A channel of a `Connection`. All coroutines raise `BROKER_ERRORS`."""

    def __init__(self, library: AbstractChannel) -> None:
        self._library = library
        self.number = library.number
        self.objects = BrokerObjects(library)

    @property
    def is_closed(self) -> bool:
        """Whether the channel or its connection is closed."""
        return self._library.is_closed

    @property
    def max_payload(self) -> int:
        """Bytes that a frame may carry; 0 or less if the broker sets no limit."""
        return cast(LibraryChannel, self._library).max_content_size

    def on_closed(self, notify: Callable[[BaseException | None], None]) -> None:
        """Calls `notify` once, with the reason if known, when the channel or its connection closes."""
        done = False

        def closed(closing: "asyncio.Future[Any]") -> None:
            nonlocal done
            if not done:
                done = True
                notify(asyncio.CancelledError() if closing.cancelled() else closing.exception())

        self._library.closing.add_done_callback(closed)
        self._library.connection.closing.add_done_callback(closed)

    def on_consumer_cancelled(self, notify: Callable[[], None]) -> None:
        """Calls `notify` when the broker cancels a consumer: its queue is gone, or an ack is overdue."""
        self._library.on_consumer_cancel_callbacks.add(lambda _frame: notify())

    async def set_prefetch(self, count: int) -> None:
        """Sets the prefetch. On return the broker has read everything sent on the channel before.

        Waits without limit: a broker that blocks the connection does not answer.
        """
        with _library_call():
            await self._library.basic_qos(prefetch_count=count)

    async def consume(self, queue: str, tag: str | None = None) -> str:
        """Starts a consumer, whose deliveries go to the listener for `DELIVER`; returns its tag."""
        async with _answered(queue="read"):
            started = await self._library.basic_consume(queue, ignore_message, consumer_tag=tag)
            return started.consumer_tag or ""

    async def cancel(self, tag: str) -> None:
        """Stops a consumer."""
        async with _answered():
            await self._library.basic_cancel(tag)

    async def close(self) -> None:
        """Closes the channel, unless it is closed; unacked messages go back to their queue."""
        async with _answered():
            await self._library.close(ConnectionError(CHANNEL_CLOSED))


class Connection:
    """A connection to RabbitMQ that knows when the broker blocks it, and can be dropped at once."""

    def __init__(self, library: AbstractConnection, tap: FrameTap, writer: CoalescingWriter) -> None:
        self._library = library
        self._tap = tap
        self._writer = writer
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        tap.listen(
            0,
            {
                BLOCKED: lambda *_: self._unblocked.clear(),
                UNBLOCKED: lambda *_: self._unblocked.set(),
            },
        )

    @property
    def server_version(self) -> str:
        """RabbitMQ's version, such as "3.10.8"."""
        return str(self._library.server_properties["version"])

    @property
    def blocked(self) -> bool:
        """Whether the broker, short of memory or disk, reads nothing from this connection."""
        return not self._unblocked.is_set()

    async def unblocked(self) -> None:
        """Returns at once unless `blocked`."""
        await self._unblocked.wait()

    def hang_up(self) -> None:
        """Drops the socket; pending calls raise `BROKER_ERRORS`."""
        self._writer.transport.abort()

    def send(self, frames: bytes) -> None:
        """Sends frames of one channel together with everything else sent in this turn of the loop."""
        self._writer.write(frames)

    def listen(self, channel: int, listeners: Mapping[bytes, Listener]) -> None:
        """Takes these methods over from aiormq, until the channel closes."""
        self._tap.listen(channel, listeners)

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        """Opens a channel, which the caller closes or which ends with the connection."""
        async with _answered():
            return Channel(await self._library.channel(publisher_confirms=confirms))

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """A channel for the time of the block."""
        channel = await self.open_channel()
        try:
            yield channel
        finally:
            await channel.close()

    async def close(self) -> None:
        """Closes the connection, unless it is closed, with a handshake that may take long."""
        with _library_call():
            await self._library.close(ConnectionError(CONNECTION_CLOSED))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


class _Transport(TransportFactory):
    """Opens aiormq's socket and keeps it: aiormq cannot drop a peer that does not answer."""

    tap: FrameTap
    writer: CoalescingWriter

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self.tap, self.writer = FrameTap(reader), CoalescingWriter(writer)
        return cast(asyncio.StreamReader, self.tap), cast(asyncio.StreamWriter, self.writer)


async def open_connection(url: str, name: str, heartbeat_seconds: int) -> Connection:
    """Connects and logs in. `name` is shown in RabbitMQ's list of connections.

    Raises `LoginRefused`, `OpenRefused`, `ClosedSilently` and other `BROKER_ERRORS`.
    """
    transport = _Transport()
    target = URL(url).update_query(heartbeat=heartbeat_seconds)
    with _library_call(), _connect_errors(transport):
        library = await aiormq.connect(
            target, client_properties={"connection_name": name}, transport_factory=transport
        )
    return Connection(library, transport.tap, transport.writer)


@contextmanager
def _connect_errors(transport: _Transport) -> Iterator[None]:
    try:
        yield
    except (AuthenticationError, ProbableAuthenticationError) as error:
        raise LoginRefused(_login_refusal(error)) from None
    except InvalidFrameError:
        if closed_with := transport.tap.closed_with:
            raise OpenRefused(closed_with) from None
        raise
    except ProtocolSyntaxError:
        raise ConnectionError("it speaks another version of AMQP than 0-9-1") from None
    except AMQPError as error:
        match error.__cause__:
            case OtherProtocol() as other:
                raise ConnectionError(str(other)) from None
            case (asyncio.IncompleteReadError() | ConnectionResetError()) as cause:
                raise ClosedSilently(CLOSED_SILENTLY) from cause
        raise


def _login_refusal(error: AuthenticationError | ProbableAuthenticationError) -> str:
    match error.args:
        case (str(offered), [*_]):
            return f"it offers {', '.join(offered.split())}, and not what auth in AMQP_URL asks for"
        case _:
            return str(error)


@asynccontextmanager
async def _answered(**rights: str) -> AsyncIterator[None]:
    """A `_library_call` that raises `TimeoutError` after `ANSWER_SECONDS`.

    A node answers heartbeats while another one of its cluster is frozen, but some calls, such as each
    bind, wait for that one until it counts as lost: 31.7 s with a net_ticktime of 30 on 3.10.8.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        with _library_call(**rights):
            yield


@contextmanager
def _library_call(**rights: str) -> Iterator[None]:
    """Turns other errors of aiormq about a lost peer into `ConnectionError`.

    `rights`: the right that the call needs by kind of object, an object with a right of its own first;
    RabbitMQ 3 does not name it.

    aiormq raises `RuntimeError` on a closed channel or connection. When it gives up on a silent peer, it
    cancels the tasks that wait for an answer. A cancellation that our code requested goes through, also where
    the answer comes in the same moment: `asyncio.wait_for` of Python 3.11, in aiormq, drops it then.
    """
    before = _cancellations()
    try:
        yield
    except ChannelAccessRefused as error:
        raise ChannelAccessRefused(_with_right(str(error), rights)) from None
    except ChannelInvalidStateError:
        raise ConnectionError(CHANNEL_CLOSED) from None
    except RuntimeError:
        raise ConnectionError(CONNECTION_CLOSED) from None
    except asyncio.CancelledError:
        if _cancellations():
            raise
        raise ConnectionError("the connection is gone") from None
    finally:
        if _cancellations() > before:
            raise asyncio.CancelledError


def _cancellations() -> int:
    """How often our code has cancelled the current task."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _with_right(refusal: str, rights: Mapping[str, str]) -> str:
    for kind, right in rights.items():
        refusal = refusal.replace(f"- access to {kind}", f"- {right} access to {kind}")
    return refusal


async def ignore_message(_message: object) -> None:
    """A consumer's callback for aiormq, which receives none of its messages."""
