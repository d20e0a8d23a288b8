"""Keeps a connection to RabbitMQ up: connects, watches, drops a silent peer, and reconnects."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.adapters.amqp.connect import CONNECT_SECONDS, address, close, connect
from worker.adapters.amqp.errors import BrokerUnavailable, NobodyThere, explain
from worker.adapters.amqp.seam import Connection
from worker.ports import Clock
from worker.telemetry.events import Telemetry

# aiormq gives a silent peer three heartbeats. A round trip this often, with this long to answer, is sooner.
PULSE_SECONDS = 5.0
PULSE_ANSWER_SECONDS = 8.0

# A refused connect costs next to nothing, so it is retried soon: that decides how soon the worker consumes
# after a restart of the broker. Anything that gets further costs a login, and is retried ever more slowly.
FIRST_PAUSE_SECONDS = 0.2
REFUSED_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
SAME_AGAIN_SECONDS = 30.0


@dataclass
class Retries:
    """The longest wait before the next connect, in seconds. The caller draws the actual one (full jitter)."""

    hosts: int
    _failures: int = 0
    _in_a_row: int = 0

    def longest_pause(self, *, refused: bool, served_seconds: float) -> float:
        """After a connect that was `refused` or failed later, or a connection that served for some time."""
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
    """A supervised connection: whenever it is lost, the next host is tried, after a jittered wait.

    aio-pika's robust connections try one host, at a fixed interval. `failure` says why there is no
    connection; None while there is one.
    """

    def __init__(self, name: str, urls: Sequence[str], clock: Clock, telemetry: Telemetry) -> None:
        self.failure: str | None = "it is being made"
        self._name = name
        self._urls = deque(sorted(urls, key=lambda _: clock.jitter()))
        self._clock = clock
        self._telemetry = telemetry
        self._connected_at: float | None = None
        self._logged: tuple[str, float] | None = None

    @asynccontextmanager
    async def kept(self, serve: Serve, begun: asyncio.Event) -> AsyncIterator[None]:
        """Runs `serve` on one connection after the other for the time of the block.

        `serve` sets `begun` once it is ready, and raises when its connection has become useless. Raises
        `BrokerUnavailable` if no connection can be made in time.
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
            except Exception as error:  # noqa: BLE001 - to give up would leave the worker deaf
                self.failure = explain(error)
                longest = retries.longest_pause(
                    refused=isinstance(error, NobodyThere), served_seconds=self._served_seconds()
                )
            self._urls.rotate(-1)
            await self._pause(longest * self._clock.jitter())

    async def _live(self, serve: Serve, url: str) -> None:
        """Makes and serves one connection; always raises the reason it ended."""
        connection = await connect(url, f"provisioner {self._name}")
        self._telemetry.broker_connected(self._name, address(url), connection.server_version)
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
        """Waits. Logs the failure when it changes, and now and then: connects are tried far more often."""
        now, failure = self._clock.monotonic(), str(self.failure)
        if self._logged is None or self._logged[0] != failure or now - self._logged[1] > SAME_AGAIN_SECONDS:
            self._logged = (failure, now)
            self._telemetry.broker_lost(self._name, failure)
        await self._clock.sleep(seconds)


async def _first_to_fail(*coroutines: Awaitable[None]) -> None:
    """Raises the exception of the coroutine that ends first.

    aiormq cancels tasks on a lost connection, so a task that this worker did not cancel has lost its own.
    """
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
