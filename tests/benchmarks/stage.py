"""The setup of a benchmark: a private RabbitMQ node and the two sides that are compared."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import AMQPError

from contracts import topology as names
from contracts.topology import BrokerVersion, topology
from tests.benchmarks.events import Event, Said, message, routing_key
from tests.benchmarks.processes import Consuming, SideEnded, consuming
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.errors import BrokerUnavailable
from worker.adapters.amqp.seam import BROKER_ERRORS, Connection
from worker.cli import terminal as console
from worker.demo.private_node import private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN

HEARD = "benchmark.results"
AS_GOOD_AS_UNLIMITED = "1000000/1s"
LONGEST_SECONDS = 300
BURST = 500
ROUND_TRIES = 3

CUT_OFF = (SideEnded, BrokerUnavailable, AMQPError, ConnectionError)

POLL_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """The conditions of one run. `pace` is (calls, seconds), a limit that each side observes itself.

    `concurrency`: calls in flight; as many as the prefetch allows by default. `ledger_url`: that of the
    worker; by default a file that `set` removes. `calls`: whether the bare loop makes a POST, and publishes
    credentials beside the result.
    """

    provider_url: str
    prefetch: int = 200
    pace: tuple[int, int] | None = None
    concurrency: int | None = None
    ledger_url: str | None = None
    calls: bool = True


@dataclass(frozen=True)
class Progress:
    """The results, or the events taken, at a moment (monotonic seconds), and the CPU seconds until then."""

    at: float
    results: int
    cpu_seconds: float


@dataclass
class BenchmarkSetup:
    """A private node, a folder and the two sides that are compared."""

    amqp_url: str
    folder: Path
    _links: "Links | None" = None
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def connection(self) -> Connection:
        assert self._links is not None
        return self._links.connection

    @property
    def channel(self) -> AbstractChannel:
        assert self._links is not None
        return self._links.channel

    async def repeated(self, round_: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a round. It is made again if the broker ends a connection in the middle.

        On a busy machine RabbitMQ does so once in a while, by an internal error (AMQP 541). One such error
        must not lose the figures of an hour.
        """
        for tries_left in reversed(range(ROUND_TRIES)):
            try:
                return await round_()
            except Exception as error:
                if not tries_left or not (self.is_cut_off or isinstance(error, CUT_OFF)):
                    raise
                console.ERR.print(f"[dim]the broker ended a connection ({error!r}); the round is repeated")
            await self.open()
        raise AssertionError

    @property
    def is_cut_off(self) -> bool:
        """Whether the broker has ended a connection or a channel of ours."""
        return self._links is None or self._links.is_cut_off

    async def open(self) -> None:
        """Opens the connections, instead of earlier ones."""
        await self.close()
        connection = await self._open.enter_async_context(await connect(self.amqp_url, "benchmark"))
        plain = await aio_pika.connect(self.amqp_url)
        self._open.push_async_callback(plain.close)
        channel = await plain.channel(publisher_confirms=True, on_return_raises=True)
        self._links = Links(connection, plain, channel)

    async def close(self) -> None:
        """Closes the connections."""
        self._links = None
        with suppress(*BROKER_ERRORS, RuntimeError):  # some are closed already
            await self._open.aclose()

    async def set(self, events: Iterable[Event]) -> None:
        """Resets queues and folder, and publishes these events to the work queue."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        await self.set_queues()
        await self.send(events)

    async def set_queues(self) -> None:
        """Makes all queues anew, empty."""
        wanted = topology(BrokerVersion.parse(self.connection.server_version))
        for queue in wanted.queues:
            await self.channel.queue_delete(queue.name)
        await rabbitmq_topology.apply(self.connection, wanted)
        await self.channel.queue_delete(HEARD)
        heard = await self.channel.declare_queue(HEARD, exclusive=True)
        await heard.bind(names.RESULTS, "#")

    async def send(self, events: Iterable[Event | Said]) -> None:
        exchange = await self.channel.get_exchange(names.DEPARTMENTS, ensure=False)
        everything = list(events)
        for first in range(0, len(everything), BURST):
            burst = everything[first : first + BURST]
            await asyncio.gather(*(exchange.publish(message(one), routing_key(one)) for one in burst))

    def worker(
        self, load: Load, environ: Mapping[str, str] = MappingProxyType({})
    ) -> AbstractAsyncContextManager[Consuming]:
        """`environ`: variables beside those of the load."""
        settings = {
            "AMQP_URL": self.amqp_url,
            "PLIVO_AUTH_ID": AUTH_ID,
            "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
            "PLIVO_API_URL": load.provider_url,
            "LEDGER_URL": load.ledger_url or f"sqlite:///{self.folder / 'ledger.db'}",
            "PROVISIONER_HTTP": "127.0.0.1:0",
            "PROVISIONER_PREFETCH": str(load.prefetch),
            "PROVISIONER_CONCURRENCY": str(load.concurrency or min(load.prefetch, 1000)),
            "PROVISIONER_RATE_LIMIT": "{}/{}s".format(*load.pace) if load.pace else AS_GOOD_AS_UNLIMITED,
            "PROVISIONER_LOG_FORMAT": "json",
            **environ,
        }
        command: list[str | Path] = [Path(sys.executable).with_name("provisioner"), "run"]
        return consuming(command, self.folder / "worker.log", settings)

    def bare(self, load: Load) -> AbstractAsyncContextManager[Consuming]:
        asked = {
            "amqp_url": self.amqp_url,
            "auth_id": AUTH_ID,
            "auth_token": AUTH_TOKEN,
            "provider_url": load.provider_url,
            "prefetch": load.prefetch,
            "concurrency": load.prefetch,
            "pace": load.pace,
            "calls": load.calls,
        }
        command = [sys.executable, "-m", "tests.benchmarks.bare", json.dumps(asked)]
        return consuming(command, self.folder / "bare.log", {})

    async def watch(self, side: Consuming, until: int) -> list[Progress]:
        """Samples the number of results until there are `until`."""
        return await self._watch(side, until, self._results)

    async def watch_taken(self, side: Consuming, events: int) -> list[Progress]:
        """Samples the number of events taken from the work queue, of `events`, until all are."""

        async def taken() -> int:
            return events - await self._ready(names.WORK_QUEUE)

        return await self._watch(side, events, taken)

    async def _watch(
        self, side: Consuming, until: int, progress: Callable[[], Awaitable[int]]
    ) -> list[Progress]:
        course: list[Progress] = []
        async with asyncio.timeout(LONGEST_SECONDS):
            while not course or course[-1].results < until:
                course.append(Progress(time.monotonic(), await progress(), side.cpu_seconds))
                await asyncio.sleep(POLL_SECONDS)
        return course

    async def _results(self) -> int:
        return await self._ready(HEARD, exclusive=True)

    async def _ready(self, queue: str, *, exclusive: bool = False) -> int:
        found = await self.channel.declare_queue(queue, passive=True, exclusive=exclusive)
        return found.declaration_result.message_count or 0


@dataclass(frozen=True)
class Links:
    """The connections of the stage itself."""

    connection: Connection
    plain: AbstractConnection
    channel: AbstractChannel

    @property
    def is_cut_off(self) -> bool:
        return self.plain.is_closed or self.channel.is_closed


Side = Callable[[Load], AbstractAsyncContextManager[Consuming]]


@asynccontextmanager
async def stage() -> AsyncIterator[BenchmarkSetup]:
    """Yields the setup on a new private node."""
    with tempfile.TemporaryDirectory() as folder:
        async with private_node() as node:
            setup = BenchmarkSetup(node.url, Path(folder) / "run")
            await setup.open()
            try:
                yield setup
            finally:
                await setup.close()
