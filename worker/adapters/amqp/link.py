"""Supervises a connection to RabbitMQ: connects, watches, drops a silent peer, reconnects."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.adapters.amqp.connect import CONNECT_SECONDS, address, close, connect
from worker.adapters.amqp.errors import BrokerAbsent, BrokerUnavailable, explain
from worker.adapters.amqp.seam import Connection
from worker.ports import Clock
from worker.telemetry.events import Telemetry

# aiormq waits three heartbeats for a silent peer. A round trip with these times notices it sooner.
PULSE_SECONDS = 5.0
PULSE_ANSWER_SECONDS = 8.0

# A refused connect is cheap, so it is retried soon: then the worker consumes soon after a restart of the
# broker. A connect that gets further costs a login, so it is retried with backoff.
FIRST_PAUSE_SECONDS = 0.2
REFUSED_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
SAME_AGAIN_SECONDS = 30.0


@dataclass
class Retries:
    """Computes the longest wait before the next connect. The caller draws the actual one (full jitter)."""

    hosts: int
    _failures: int = 0
    _in_a_row: int = 0

    def longest_pause(self, *, refused: bool, served_seconds: float) -> float:
        """Seconds to wait after a failed connect (`refused`, or failed later) or a lost connection."""
        if served_seconds > STEADY_SECONDS:
            self._failures = self._in_a_row = 0
        self._in_a_row += 1
        if not refused:
            self._failures += 1
        if self._in_a_row % self.hosts:
            return FIRST_PAUSE_SECONDS  # some hosts have not been tried yet
        if refused:
            return REFUSED_PAUSE_SECONDS
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 10))


Serve = Callable[[Connection], Awaitable[None]]


class Link:
    """A supervised connection: when it is lost, the next host is tried after a jittered wait.

    aio-pika's robust connections try one host, at a fixed interval. `failure` says why there is no
    connection; None while there is one. `read_again` gives the URLs for the next connect, as their login may
    have been rotated.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        clock: Clock,
        telemetry: Telemetry,
        read_again: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self.failure: str | None = "it is being made"
        self._name = name
        self._clock = clock
        self._read_again = read_again
        self._use(urls)
        self._telemetry = telemetry
        self._made_before = False
        self._connected_at: float | None = None
        self._logged: tuple[str, float] | None = None

    @asynccontextmanager
    async def kept(self, serve: Serve, begun: asyncio.Event) -> AsyncIterator[None]:
        """Like `tried`, but the block begins once `serve` has set `begun`: it is ready then.

        Raises `BrokerUnavailable` if no connection can be made in time.
        """
        async with self.tried(serve):
            try:
                async with asyncio.timeout(CONNECT_SECONDS * len(self._urls)):
                    await begun.wait()
            except TimeoutError:
                raise BrokerUnavailable(
                    f"RabbitMQ cannot be used: {self.failure or 'no answer in time'}"
                ) from None
            yield

    @asynccontextmanager
    async def tried(self, serve: Serve) -> AsyncIterator[None]:
        """Runs `serve` on one connection after another for the time of the block, as soon as there is one.

        `serve` raises when its connection is lost.
        """
        keeping = asyncio.create_task(self._keep(serve))
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
            except Exception as error:  # noqa: BLE001 - giving up would leave the worker without a connection
                self.failure = explain(error)
                longest = retries.longest_pause(
                    refused=isinstance(error, BrokerAbsent), served_seconds=self._served_seconds()
                )
            self._urls.rotate(-1)
            await self._pause(longest * self._clock.jitter())
            if self._read_again is not None and set(urls := self._read_again()) != set(self._urls):
                self._use(urls)
                retries = Retries(len(self._urls))

    def _use(self, urls: Sequence[str]) -> None:
        self._urls = deque(sorted(urls, key=lambda _: self._clock.jitter()))

    async def _live(self, serve: Serve, url: str) -> None:
        """Makes and serves one connection; always raises the reason it ended."""
        connection = await connect(url, f"provisioner {self._name}")
        again, self._made_before = self._made_before, True
        self._telemetry.broker_connected(self._name, address(url), connection.server_version, again=again)
        self.failure, self._connected_at = None, self._clock.monotonic()
        try:
            await first_to_fail(serve(connection), _watch(connection))
        except Exception as error:
            self.failure = explain(error)
            raise
        finally:
            self._telemetry.broker_disconnected(self._name)
            await close(connection)

    def _served_seconds(self) -> float:
        return 0.0 if self._connected_at is None else self._clock.monotonic() - self._connected_at

    async def _pause(self, seconds: float) -> None:
        """Waits. Logs a new failure at once, and the same one every `SAME_AGAIN_SECONDS`."""
        now, failure = self._clock.monotonic(), str(self.failure)
        if self._logged is None or self._logged[0] != failure or now - self._logged[1] > SAME_AGAIN_SECONDS:
            self._logged = (failure, now)
            self._telemetry.broker_lost(self._name, failure)
        await self._clock.sleep(seconds)


async def first_to_fail(*coroutines: Awaitable[None]) -> None:
    """Raises the exception of the coroutine that ends first; of several at once, that of the first one named.

    aiormq cancels tasks on a lost connection, so a cancelled task here has lost its connection.
    """
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in filter(done.__contains__, tasks):
        if task.cancelled():
            raise ConnectionError("the connection is gone")
        if error := task.exception():
            raise error
    raise ConnectionError("the connection was given up")


async def _watch(connection: Connection) -> None:
    """Hangs up when the broker falls silent, unless it is silent because it blocks the connection."""
    channel = await connection.open_channel()
    while True:
        await connection.unblocked()
        pulse = asyncio.ensure_future(channel.set_prefetch(1))
        try:
            await asyncio.wait([pulse], timeout=PULSE_ANSWER_SECONDS)
            if not pulse.done() and not connection.blocked:
                connection.hang_up()
                raise ConnectionError("the broker does not answer any more")
            await pulse
        finally:
            pulse.cancel()
        await asyncio.sleep(PULSE_SECONDS)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
