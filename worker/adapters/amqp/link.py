"""Connections to RabbitMQ: made, watched, given up when they no longer answer, and made again.

They are plain connections under our own supervision (`Link`): aio-pika's robust ones try one host, at a fixed
interval.
"""

import asyncio
import errno
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from yarl import URL

from worker.adapters.amqp.codec.frames import Listener
from worker.adapters.amqp.errors import hint, mechanism_refused, tls_refused
from worker.adapters.amqp.wire import Wire
from worker.ports import Clock, ForPeople
from worker.telemetry.events import Telemetry

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
CONNECT_SECONDS = 10.0
HEARTBEAT_SECONDS = 12
ANSWER_SECONDS = 10.0
CLOSE_SECONDS = 3.0

# aiormq gives a silent peer three heartbeats. A round trip this often, with this long to answer, is sooner.
PULSE_SECONDS = 5.0
PULSE_ANSWER_SECONDS = 8.0

# A refused connect costs next to nothing, so it is tried again soon: that decides how soon after a restart we
# consume. Whatever gets further costs the broker a login, and is tried at growing intervals.
FIRST_PAUSE_SECONDS = 0.2
REFUSED_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
SAME_AGAIN_SECONDS = 30.0

# What aio-pika and aiormq raise when the broker is away, refuses, or goes.
BROKER_ERRORS = (AMQPError, ConnectionError, OSError, TimeoutError, RuntimeError)


class BrokerUnavailable(ForPeople):
    """No connection at the moment. The text is for people and holds no password."""


class BrokerRefuses(BrokerUnavailable):
    """The broker is there and says no: to a login, an act, an object that differs. Waiting is no help."""


class NobodyThere(BrokerUnavailable):
    """The connect was refused, or closed without a word, as by a proxy whose broker is away."""


class Connection(aio_pika.Connection):
    """A plain connection that can be hung up, and knows whether the broker blocks it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire = Wire()
        self.kwargs["transport_factory"] = self._wire

    def __del__(self) -> None:
        """Nothing: whoever made it closes it. The library would begin to, in whatever thread collects it."""

    def hang_up(self) -> None:
        if self._wire.writer is not None:
            self._wire.writer.transport.abort()

    def send(self, frames: bytes) -> None:
        """Sends frames of one channel with whatever else is sent in this turn of the loop."""
        if self._wire.writer is None:
            raise ConnectionError("there is no connection")
        self._wire.writer.write(frames)

    def listen(self, channel: int, listeners: Mapping[bytes, Listener]) -> None:
        """Takes these methods over from the client library, until the channel closes."""
        if self._wire.reader is None:
            raise ConnectionError("there is no connection")
        self._wire.reader.listen(channel, listeners)

    async def unblocked(self) -> None:
        """Returns at once unless the broker, short of memory or disk, reads nothing from this connection."""
        if self.transport is not None:
            await self.transport.ready()

    @property
    def blocked(self) -> bool:
        """Whether `unblocked` would wait, found out by one step of it."""
        waiting = self.unblocked()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        waiting.close()
        return True


def address(url: str) -> str:
    """Host, port and virtual host of an AMQP URL, without user and password."""
    parsed = URL(url)
    port = parsed.port or DEFAULT_PORTS.get(parsed.scheme)
    return f"{parsed.scheme}://{parsed.host}:{port}{parsed.path}"


async def connect(url: str, name: str) -> Connection:
    """A plain connection; raises `BrokerUnavailable`, or `BrokerRefuses` where trying again cannot help."""
    try:
        with cancelled_only_if_asked():
            async with asyncio.timeout(
                CONNECT_SECONDS
            ):  # the library's own loses a cancellation now and then
                return await aio_pika.connect(
                    url,
                    heartbeat=HEARTBEAT_SECONDS,
                    client_properties={"connection_name": name},
                    connection_class=Connection,
                )
    except (AuthenticationError, ProbableAuthenticationError) as error:
        why = mechanism_refused(error) or explain(error)
        raise BrokerRefuses(f"RabbitMQ at {address(url)} refuses the login in AMQP_URL: {why}") from None
    except BROKER_ERRORS as error:
        if refused := tls_refused(error):
            raise BrokerRefuses(f"RabbitMQ at {address(url)} cannot be used: {refused}") from None
        failure = NobodyThere if _without_a_word(error) else BrokerUnavailable
        why = f"{explain(error)}{hint(url, error)}"
        raise failure(f"RabbitMQ at {address(url)} cannot be used: {why}") from None


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Connection]:
    """A plain connection for the time of the block; raises as `connect` does."""
    connection = await connect(url, name)
    try:
        yield connection
    finally:
        await close(connection)


def version_of(connection: AbstractConnection) -> str:
    if connection.transport is None:
        raise BrokerUnavailable("the connection to RabbitMQ is gone")
    return str(connection.transport.connection.server_properties["version"])


REFUSED = "connection refused"

# Where the client library has but its own objects to tell of.
_CLOSED = re.compile(r"<[\w.]*(Connection|Channel)\b.*> (?:connection )?closed")
_NOT_OPENED = "Expected one of ['Connection.OpenOk']"


def explain(error: BaseException) -> str:
    """An error of the client library in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if errno.ECONNREFUSED in error.args or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return REFUSED
    text = " ".join(str(error).split())
    if closed := _CLOSED.fullmatch(text):
        return f"the {closed[1].lower()} was closed"
    if _NOT_OPENED in text:
        return "there is no virtual host of that name, or no right to it"
    return text or type(error).__name__


def _without_a_word(error: BaseException) -> bool:
    return explain(error) == REFUSED or isinstance(
        error.__cause__, asyncio.IncompleteReadError | ConnectionResetError
    )


@contextmanager
def cancelled_only_if_asked() -> Iterator[None]:
    """When a silent peer is given up, aiormq cancels whoever waits for an answer: `ConnectionError` here."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the connection is gone") from None


@contextmanager
def unavailable_if_lost() -> Iterator[None]:
    """Whatever a connection raises that is lost in the block is `BrokerUnavailable`."""
    try:
        with cancelled_only_if_asked():
            yield
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(f"RabbitMQ cannot be used: {explain(error)}") from None


@dataclass
class Retries:
    """How long to wait before the next connect at most; how long it is, is drawn (full jitter)."""

    hosts: int
    _failures: int = 0
    _in_a_row: int = 0

    def longest_pause(self, *, refused: bool, served_seconds: float) -> float:
        """After a connect that was refused, or failed later, or a connection that served for so long."""
        if served_seconds > STEADY_SECONDS:
            self._failures = self._in_a_row = 0
        self._in_a_row += 1
        if not refused:
            self._failures += 1
        if self._in_a_row % self.hosts:
            return FIRST_PAUSE_SECONDS  # there are hosts not tried yet
        if refused:
            return REFUSED_PAUSE_SECONDS
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 10))


Serve = Callable[[Connection], Awaitable[None]]


class Link:
    """A connection kept up: whenever it is lost, the next host is tried, after a jittered wait.

    `failure` says why there is none, None while one serves.
    """

    def __init__(self, name: str, urls: Sequence[str], clock: Clock, telemetry: Telemetry) -> None:
        self.failure: str | None = "it is being made"
        self._name = name
        self._urls = deque(sorted(urls, key=lambda _: clock.jitter()))
        self._clock = clock
        self._telemetry = telemetry
        self._connected_at: float | None = None
        self._told: tuple[str, float] | None = None

    @asynccontextmanager
    async def kept(self, serve: Serve, begun: asyncio.Event) -> AsyncIterator[None]:
        """Runs `serve` on one connection after the other, for the time of the block.

        `serve` sets `begun` once it does its job, and raises when its connection is of no use any more.
        Raises `BrokerUnavailable` where it cannot begin.
        """
        keeping = asyncio.create_task(self._keep(serve))
        try:
            async with asyncio.timeout(CONNECT_SECONDS * len(self._urls)):
                await begun.wait()
        except TimeoutError:
            await _ended(keeping)
            raise BrokerUnavailable(f"RabbitMQ cannot be used: {self.failure}") from None
        except asyncio.CancelledError:
            await _ended(keeping)
            raise
        try:
            yield
        finally:
            await _ended(keeping)

    async def _keep(self, serve: Serve) -> None:
        retries = Retries(len(self._urls))
        while True:
            self._connected_at = None
            try:
                await self._live(serve, self._urls[0])
            except Exception as error:  # noqa: BLE001 - whatever it is, giving up would leave us deaf
                self.failure = explain(error)
                longest = retries.longest_pause(
                    refused=isinstance(error, NobodyThere), served_seconds=self._served_seconds()
                )
            self._urls.rotate(-1)
            await self._pause(longest * self._clock.jitter())

    async def _live(self, serve: Serve, url: str) -> None:
        """One connection from its beginning to its end: never returns, raises what ended it."""
        connection = await connect(url, f"provisioner {self._name}")
        self._telemetry.broker_connected(self._name, address(url), version_of(connection))
        self.failure, self._connected_at = None, self._clock.monotonic()
        try:
            await _first_to_fail(serve(connection), _watch(connection))
        except Exception as error:
            self.failure = explain(error)
            raise
        finally:
            self._telemetry.broker_disconnected(self._name)
            await close(connection)

    def _served_seconds(self) -> float:
        return 0.0 if self._connected_at is None else self._clock.monotonic() - self._connected_at

    async def _pause(self, seconds: float) -> None:
        """Says what is wrong when that changes, and now and then: far less often than connects are tried."""
        now, failure = self._clock.monotonic(), str(self.failure)
        if self._told is None or self._told[0] != failure or now - self._told[1] > SAME_AGAIN_SECONDS:
            self._told = (failure, now)
            self._telemetry.broker_lost(self._name, failure)
        await self._clock.sleep(seconds)


async def _first_to_fail(*coroutines: Awaitable[None]) -> None:
    """Raises what the first of them ended with; one cancelled by nobody of ours has lost its connection."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        if task.cancelled():
            raise ConnectionError("the connection is gone")
        if error := task.exception():
            raise error
    raise ConnectionError("the connection is of no more use")


async def _watch(connection: Connection) -> None:
    """Hangs up once the broker is silent, unless it is so because it blocks the connection."""
    channel = await connection.channel(publisher_confirms=False)
    while True:
        await connection.unblocked()
        pulse = asyncio.ensure_future(channel.set_qos(1))
        try:
            await asyncio.wait([pulse], timeout=PULSE_ANSWER_SECONDS)
            if not pulse.done() and not connection.blocked:
                connection.hang_up()
                raise ConnectionError("the broker does not answer any more")
            await pulse
        finally:
            pulse.cancel()
        await asyncio.sleep(PULSE_SECONDS)


async def close(connection: Connection) -> None:
    """In order if that goes quickly, else not; one that is lost already is closed."""
    closing = asyncio.ensure_future(connection.close())
    try:
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    finally:
        if not closing.done():
            connection.hang_up()
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    with suppress(asyncio.CancelledError, asyncio.InvalidStateError):
        closing.exception()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
