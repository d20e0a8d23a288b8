"""The composition root: settings and adapters become a running worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from aio_pika.abc import AbstractConnection

from contracts.topology import WORK_QUEUE, BrokerVersion, Topology, topology
from worker.act import Actor, Names
from worker.adapters import rabbitmq_topology
from worker.adapters.plivo import PlivoAccount, plivo_provider
from worker.adapters.rabbitmq import (
    BrokerRefuses,
    BrokerUnavailable,
    Link,
    RabbitConsumer,
    RabbitPublisher,
    connect,
    version_of,
)
from worker.adapters.sqlite import sqlite_ledger
from worker.adapters.system import SystemClock
from worker.duties import Scheduler
from worker.lanes import running_lanes
from worker.pipeline import Pipeline
from worker.ports import Clock, Delivery, Ledger, Provider, Publisher
from worker.scan import Scanner, Strays
from worker.settings import TopologySettings, WorkerSettings
from worker.telemetry import Telemetry

STARTUP_GRACE_SECONDS = 15.0
STARTUP_PAUSE_SECONDS = 0.5


class Consumer(Protocol):
    """What runs the deliveries in; begins when its block is entered."""

    consuming: bool

    async def stop(self) -> None:
        """Takes no more deliveries; those taken can still be acked."""


Receive = Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker as the worker needs it: where results go, and how deliveries come."""

    publisher: Publisher
    consumer: Callable[[Receive], AbstractAsyncContextManager[Consumer]]


@dataclass(frozen=True, slots=True)
class Worker:
    pipeline: Pipeline
    consumer: Consumer
    ledger: Ledger
    settings: WorkerSettings
    telemetry: Telemetry

    async def drain(self) -> bool:
        """Stops taking messages and finishes what runs; False if that took longer than allowed."""
        await self.consumer.stop()
        self.telemetry.stopping(len(self.pipeline.lanes))
        try:
            async with asyncio.timeout(self.settings.drain.total_seconds()):
                await self.pipeline.drain()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def running_worker(
    settings: WorkerSettings,
    telemetry: Telemetry,
    broker: Callable[[WorkerSettings, Clock, Telemetry], AbstractAsyncContextManager[Broker]] | None = None,
) -> AsyncIterator[Worker]:
    """A worker that consumes for the time of the block. What is under way at its end is cut off: drain first.

    Raises `BrokerUnavailable`, `LedgerFailed` or `LedgerForeign` if it cannot begin.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(sqlite_ledger(settings.ledger, telemetry.committed))
        await ledger.bind(settings.owner, settings.plivo_auth_id)
        provider = await stack.enter_async_context(
            plivo_provider(_account(settings), clock, telemetry.called)
        )
        connected = await stack.enter_async_context((broker or rabbit_broker)(settings, clock, telemetry))
        scanner = Scanner(provider, settings.names, clock)
        stack.push_async_callback(scanner.close)
        lanes = await stack.enter_async_context(running_lanes())
        pipeline = Pipeline(
            ledger=ledger,
            actor=_actor(settings, provider, ledger, scanner, clock),
            publisher=connected.publisher,
            clock=clock,
            policy=settings.policy,
            lanes=lanes,
            telemetry=telemetry,
        )
        await stack.enter_async_context(_scheduled(Scheduler(pipeline)))
        consumer = await stack.enter_async_context(connected.consumer(pipeline.receive))
        yield Worker(pipeline, consumer, ledger, settings, telemetry)


@asynccontextmanager
async def rabbit_broker(
    settings: WorkerSettings, clock: Clock, telemetry: Telemetry
) -> AsyncIterator[Broker]:
    await _first_contact(settings, clock)

    async def prepare(connection: AbstractConnection) -> None:
        if settings.topology == "declare":
            await rabbitmq_topology.apply(connection, wanted_topology(connection, settings))

    @asynccontextmanager
    async def consumer(receive: Receive) -> AsyncIterator[Consumer]:
        rabbit = RabbitConsumer(WORK_QUEUE, settings.prefetch, receive, prepare, telemetry)
        async with rabbit.running(Link("consumer", settings.amqp_url, clock, telemetry)):
            yield rabbit

    link = Link("publisher", settings.amqp_url, clock, telemetry)
    async with RabbitPublisher.running(link) as publisher:
        yield Broker(publisher, consumer)


def wanted_topology(connection: AbstractConnection, settings: TopologySettings) -> Topology:
    """The topology as the broker at the other end of the connection wants it."""
    return topology(BrokerVersion.parse(version_of(connection)), settings.retry_delays)


async def _first_contact(settings: WorkerSettings, clock: Clock) -> None:
    """Tells a person at the start what the links would only try again.

    Raises `BrokerUnavailable` for a broker that is not there within the grace, or that refuses us.
    """
    deadline = asyncio.get_running_loop().time() + STARTUP_GRACE_SECONDS
    while True:
        try:
            await _contact(settings)
        except BrokerRefuses:
            raise
        except BrokerUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await clock.sleep(STARTUP_PAUSE_SECONDS)
        else:
            return


async def _contact(settings: WorkerSettings) -> None:
    failure: BrokerUnavailable | None = None
    for url in settings.amqp_url:
        try:
            async with await connect(url, "provisioner start") as connection:
                if settings.topology == "declare":
                    await rabbitmq_topology.apply(connection, wanted_topology(connection, settings))
                return
        except BrokerUnavailable as error:
            failure = error
    if failure is not None:
        raise failure


def _account(settings: WorkerSettings) -> PlivoAccount:
    return PlivoAccount(
        url=settings.plivo_api_url,
        auth_id=settings.plivo_auth_id,
        auth_token=settings.plivo_auth_token,
        timeout=settings.api_timeout,
        concurrency=settings.concurrency,
        rate=settings.rate_limit,
    )


def _actor(
    settings: WorkerSettings, provider: Provider, ledger: Ledger, scanner: Scanner, clock: Clock
) -> Actor:
    strays = Strays(scanner, provider, settings.names, ledger)
    return Actor(provider, ledger, Names(settings.owner, settings.names), clock, scanner, strays)


@asynccontextmanager
async def _scheduled(scheduler: Scheduler) -> AsyncIterator[None]:
    running = asyncio.create_task(scheduler.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
