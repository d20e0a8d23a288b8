"""The composition root: settings and adapters become a running worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from aio_pika.abc import AbstractConnection

from contracts.topology import WORK_QUEUE, BrokerVersion, Topology, topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.client import RabbitConsumer, RabbitPublisher
from worker.adapters.amqp.link import (
    BrokerRefuses,
    BrokerUnavailable,
    Link,
    connected,
    version_of,
)
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.key_files import read_signing_key, signing_key_made_once
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, Unsealed
from worker.adapters.plivo.client import PlivoAccount, plivo_provider
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.adapters.system import SystemClock
from worker.core.decide import Policy
from worker.core.judge import Patience
from worker.core.model import EVERYBODY
from worker.flow.gate import Gate, Pausable
from worker.flow.lanes import running_lanes
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.undelivered import UndeliveredCredentials
from worker.flow.waiting import WaitingRoom
from worker.pipeline.handler import Pipeline
from worker.pipeline.outbox import Outbox
from worker.pipeline.scheduler import Scheduler
from worker.ports import Clock, Delivery, Ledger, NoRecipientKey, Provider, Publisher, Sealer
from worker.provider.act import Actor, Names
from worker.provider.circuit import Circuit
from worker.provider.scan import Scanner, Strays
from worker.settings.model import PREFIX, SettingsError, TopologySettings, WorkerSettings
from worker.telemetry.events import Telemetry

STARTUP_GRACE_SECONDS = 15.0
STARTUP_PAUSE_SECONDS = 0.5
AGAIN_SECONDS = 1.0


class Consumer(Pausable, Protocol):
    """What runs the deliveries in; begins when its block is entered."""

    @property
    def consuming(self) -> bool:
        """Whether deliveries come; False while paused, stopped, or without a connection."""

    async def stop(self) -> None:
        """Pauses for good."""

    async def wrong(self) -> list[str]:
        """Why no deliveries come, a line for each reason; empty while they do."""


Receive = Callable[[Delivery], None]
Wrong = Callable[[], Awaitable[list[str]]]


async def nothing_wrong() -> list[str]:
    """Of what cannot fail."""
    return []


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker as the worker needs it: where results go, and how deliveries come."""

    publisher: Publisher
    consumer: Callable[[Receive], AbstractAsyncContextManager[Consumer]]
    publisher_wrong: Wrong = nothing_wrong


@dataclass(frozen=True, slots=True)
class Worker:
    pipeline: Pipeline
    consumer: Consumer
    ledger: Ledger
    settings: WorkerSettings
    telemetry: Telemetry
    publisher_wrong: Wrong = nothing_wrong

    def holds(self) -> list[str]:
        """Why consuming is paused, a line for each reason."""
        return list(self.pipeline.gate.blocks.values())

    async def drain(self) -> bool:
        """Stops taking messages and finishes what runs; False if that took longer than allowed."""
        self.telemetry.stopping(len(self.pipeline.lanes))
        try:
            async with asyncio.timeout(self.settings.drain.total_seconds()):
                # Beside each other: a broker that does not answer must not keep calls beginning.
                await asyncio.gather(self.pipeline.drain(), self.consumer.stop())
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

    Raises `SettingsError`, `KeyFileError`, `LedgerFailed`, `LedgerForeign` or `BrokerUnavailable`.
    """
    clock = SystemClock()
    if keyless := list(_keyless(settings)):
        raise SettingsError("\n".join(keyless))
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(sqlite_ledger(settings.ledger, telemetry.committed))
        bind = partial(ledger.bind, settings.owner, settings.plivo_auth_id)
        await bind()
        sealer = _sealer(settings, clock, telemetry)
        stopping = asyncio.Event()
        plivo = await stack.enter_async_context(
            plivo_provider(_account(settings), clock, stopping, telemetry.called)
        )
        waiting = WaitingRoom.for_half_of(settings.prefetch, clock)
        gate = Gate(clock, telemetry, waiting)
        provider = Circuit(plivo, gate, clock, telemetry)
        stack.push_async_callback(provider.close)
        ledger_watch = LedgerWatch(bind, gate, clock)
        stack.push_async_callback(ledger_watch.close)
        connected = await stack.enter_async_context((broker or rabbit_broker)(settings, clock, telemetry))
        scanner = Scanner(provider, settings.names, clock, stopping)
        stack.push_async_callback(scanner.close)
        lanes = await stack.enter_async_context(running_lanes())
        outbox = Outbox(
            ledger=ledger,
            actor=_actor(settings, provider, ledger, scanner, clock),
            publisher=connected.publisher,
            sealer=sealer,
            fingerprints=KeyedFingerprints(settings.plivo_auth_token),
            clock=clock,
            policy=_policy(settings),
            telemetry=telemetry,
            undelivered=UndeliveredCredentials(gate),
        )
        pipeline = Pipeline(
            outbox=outbox,
            patience=_patience(settings),
            lanes=lanes,
            waiting=waiting,
            gate=gate,
            ledger_watch=ledger_watch,
            stopping=stopping,
        )
        telemetry.gauge_waiting(lanes.__len__, waiting.__len__)
        await stack.enter_async_context(_running(Scheduler(pipeline).run, clock, telemetry))
        consumer = await stack.enter_async_context(connected.consumer(pipeline.receive))
        control = partial(gate.control, consumer)
        await stack.enter_async_context(_running(control, clock, telemetry))
        yield Worker(pipeline, consumer, ledger, settings, telemetry, connected.publisher_wrong)


@asynccontextmanager
async def rabbit_broker(
    settings: WorkerSettings, clock: Clock, telemetry: Telemetry
) -> AsyncIterator[Broker]:
    await _first_contact(settings, clock, telemetry)

    async def prepare(connection: AbstractConnection) -> None:
        if settings.topology == "declare":
            await rabbitmq_topology.apply(connection, wanted_topology(connection, settings))

    @asynccontextmanager
    async def consumer(receive: Receive) -> AsyncIterator[Consumer]:
        rabbit = RabbitConsumer(WORK_QUEUE, settings.prefetch, receive, prepare, telemetry)
        async with rabbit.running(Link("consumer", settings.amqp_url, clock, telemetry)):
            yield rabbit

    link = Link("publisher", settings.amqp_url, clock, telemetry)
    async with RabbitPublisher.running(link, prepare) as publisher:
        yield Broker(publisher, consumer, publisher.wrong)


def wanted_topology(connection: AbstractConnection, settings: TopologySettings) -> Topology:
    """The topology as the broker at the other end of the connection wants it."""
    version = BrokerVersion.parse(version_of(connection))
    return topology(version, settings.retry_delays, settings.recipient_names)


async def _first_contact(settings: WorkerSettings, clock: Clock, telemetry: Telemetry) -> None:
    """Tells a person at the start what the links would only try again.

    Raises `BrokerUnavailable` for a broker that is not there within the grace, or that refuses us.
    """
    deadline = asyncio.get_running_loop().time() + STARTUP_GRACE_SECONDS
    told = ""
    while True:
        try:
            await _contact(settings)
        except BrokerRefuses:
            raise
        except BrokerUnavailable as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            if str(error) != told:
                told = str(error)
                telemetry.broker_lost("start", told)
            await clock.sleep(STARTUP_PAUSE_SECONDS)
        else:
            return


async def _contact(settings: WorkerSettings) -> None:
    failure: BrokerUnavailable | None = None
    for url in settings.amqp_url:
        try:
            async with connected(url, "provisioner start") as connection:
                if settings.topology == "declare":
                    await rabbitmq_topology.apply(connection, wanted_topology(connection, settings))
                return
        except BrokerUnavailable as error:
            failure = error
    if failure is not None:
        raise failure


def _keyless(settings: WorkerSettings) -> Iterator[str]:
    """A line for each recipient without a usable key: at the start a mistake, later it is waited for."""
    if settings.recipients is None:
        return
    keys = RecipientKeys(*settings.recipients, tell=lambda *_: None)
    for recipient in settings.recipient_names:
        try:
            keys.key_of(recipient)
        except NoRecipientKey as error:
            yield f"{PREFIX}RECIPIENTS has {error}"


def _sealer(settings: WorkerSettings, clock: Clock, telemetry: Telemetry) -> Sealer:
    """Raises `KeyFileError`."""
    if settings.recipients is None:
        return Unsealed()
    path = settings.signing_key_path
    key = read_signing_key(path) if settings.signing_key else signing_key_made_once(path, clock.now())
    recipients = RecipientKeys(*settings.recipients, telemetry.recipient_key)
    recipients.look()
    return JoseSealer(recipients, key)


def _patience(settings: WorkerSettings) -> Patience:
    return Patience(
        settings.retry_budget, settings.retry_delays, settings.max_attempts, settings.settle_window
    )


def _policy(settings: WorkerSettings) -> Policy:
    recipients = frozenset(settings.recipient_names) or frozenset({EVERYBODY})
    return replace(settings.policy, recipients=recipients, enable=settings.enable)


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
    return Actor(
        provider, ledger, Names(settings.owner, settings.names), clock, scanner, strays, settings.enable
    )


@asynccontextmanager
async def _running(
    forever: Callable[[], Awaitable[None]], clock: Clock, telemetry: Telemetry
) -> AsyncIterator[None]:
    """Runs beside the block, and is cut off at its end."""
    running = asyncio.create_task(_again_and_again(forever, clock, telemetry))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _again_and_again(
    forever: Callable[[], Awaitable[None]], clock: Clock, telemetry: Telemetry
) -> None:
    """A fault of ours in it must not leave the worker deaf, or its duties undone, without a word."""
    while True:
        try:
            await forever()
        except Exception as error:  # noqa: BLE001 - as said
            telemetry.step_crashed(error)
        await clock.sleep(AGAIN_SECONDS)
