"""Runs a worker from the settings: RabbitMQ, Plivo and the ledger."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from worker.adapters.amqp.broker import rabbit_broker
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.key_files import read_signing_key, signing_key_made_once
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, Unsealed
from worker.adapters.ledgers import open_ledger
from worker.adapters.plivo.client import PlivoAccount, plivo_provider
from worker.adapters.system import SystemClock, this_process
from worker.bootstrap.wiring import Ports, Rules, Worker, assemble
from worker.core.judge import RetryPolicy
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.presence import WorkerSeen
from worker.flow.clock_watch import Comparisons
from worker.flow.load import LoadWatch
from worker.flow.plaintext import SEALED_BEFORE
from worker.flow.presence import Announcer, SharedLimit
from worker.flow.supervise import supervised
from worker.pipeline.sweeps import OwnSweeps
from worker.ports import (
    Broker,
    CallRate,
    Clock,
    Consumer,
    Ledger,
    LedgerFailed,
    LedgerUnusable,
    NoRecipientKey,
    OpenedLedger,
    Problems,
    Sealer,
    healthy,
)
from worker.settings.conflicts import NO_SIGNING_KEY
from worker.settings.ledger_url import PostgresUrl
from worker.settings.load import SettingsError, rotating
from worker.settings.model import ProviderSettings, RecipientSettings, WorkerSettings
from worker.settings.parse import PREFIX
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningWorker:
    """A consuming worker, with its state for probes and its drain."""

    worker: Worker
    consumer: Consumer
    ledger: Ledger
    settings: WorkerSettings
    telemetry: Telemetry
    publisher_problems: Problems = healthy

    @property
    def unfinished(self) -> int:
        """The number of messages that the broker must deliver again."""
        return self.worker.handler.left + len(self.worker.lanes)

    def blocks(self) -> list[str]:
        """One line for each reason why no event could succeed now."""
        trouble = self.worker.circuit.trouble
        return [*self.worker.gate.blocks.values(), *([trouble] if trouble else [])]

    async def problems(self) -> list[str]:
        """One line for each reason why no event could be completed now, but for the state of the ledger."""
        return [*self.blocks(), *await self.consumer.problems(), *await self.publisher_problems()]

    async def drain(self) -> bool:
        """Stops consuming and finishes running work; False if that exceeds `PROVISIONER_DRAIN`."""
        self.telemetry.stopping(len(self.worker.lanes))
        try:
            async with asyncio.timeout(self.settings.drain.total_seconds()):
                # Both at once: while a broker does not respond, no more calls may begin.
                await asyncio.gather(self.worker.handler.drain(), self.consumer.stop())
        except TimeoutError:
            return False
        return True


LEDGER_GRACE_SECONDS = 15.0
"""For a server that is away at the start. Then the process ends, and its supervisor starts another one."""
LEDGER_RETRY_SECONDS = 1.0

Connect = Callable[[WorkerSettings, Clock, Telemetry], AbstractAsyncContextManager[Broker]]


@asynccontextmanager
async def running_worker(
    settings: WorkerSettings, telemetry: Telemetry, connect: Connect = rabbit_broker
) -> AsyncIterator[RunningWorker]:
    """Runs a consuming worker during the block. Running work is cancelled at its end, so drain first.

    Raises `SettingsError`, `KeyFileError`, `LedgerFailed`, `LedgerForeign` or `BrokerUnavailable`.
    """
    clock, stopping = SystemClock(), asyncio.Event()
    if missing := list(missing_keys(settings)):
        raise SettingsError("\n".join(missing))
    async with AsyncExitStack() as stack:
        opened = await _opened_ledger(stack, settings, clock, telemetry)
        await opened.ledger.bind(settings.owner, settings.plivo_auth_id)
        if not settings.recipients and not settings.plaintext_secrets and await opened.ledger.sealed_for():
            raise SettingsError(SEALED_BEFORE)
        sealer = _sealer(settings, clock, telemetry)
        comparisons = Comparisons(clock)
        process = this_process(clock.now())
        share = SharedLimit(settings.rate_limit, process.id, clock) if opened.shared else None
        rate = share or settings.rate_limit
        plivo = plivo_provider(
            replace(plivo_account(settings, telemetry), rate=rate),
            clock,
            stopping,
            on_call=telemetry.called,
            on_clock=comparisons.note,
            on_failure=telemetry.call_failed,
            traced=telemetry.calling,
        )
        provider = await stack.enter_async_context(plivo)
        broker = await stack.enter_async_context(connect(settings, clock, telemetry))
        ports = Ports(
            ledger=opened.ledger,
            locks=opened.locks,
            provider=provider,
            publisher=broker.publisher,
            sealer=sealer,
            fingerprints=KeyedFingerprints(settings.plivo_auth_token),
            clock=clock,
            comparisons=comparisons,
            fence=opened.fence,
        )
        worker = assemble(ports, replace(_rules(settings), rate=rate), telemetry, stopping)
        stack.push_async_callback(worker.close)
        worker.circuit.begin()
        load = LoadWatch(worker.lanes, worker.waiting, lambda: provider.rate_used, clock, telemetry)
        for loop in (
            load.run,
            worker.ledger_watch.watch_fence,
            worker.clock_watch.run,
            worker.scheduler.run,
            worker.sweeps.run,
            worker.upkeep.stay_current,
            worker.upkeep.purge_daily,
        ):
            await stack.enter_async_context(supervised(loop, clock, telemetry))
        itself = _Itself(process, rate)
        announcer = Announcer(
            presence=opened.ledger,
            worker_id=process.id,
            describe=itself.describe,
            share=share,
            gate=worker.gate,
            is_stopping=stopping.is_set,
            clock=clock,
            telemetry=telemetry,
            on_failure=worker.ledger_watch.failed,
        )
        await stack.enter_async_context(_announced(announcer, clock, telemetry))
        consumer = await stack.enter_async_context(broker.consumer(worker.handler.receive))
        control = partial(worker.gate.control, consumer)
        await stack.enter_async_context(supervised(control, clock, telemetry))
        itself.running = RunningWorker(
            worker=worker,
            consumer=consumer,
            ledger=opened.ledger,
            settings=settings,
            telemetry=telemetry,
            publisher_problems=broker.publisher_problems,
        )
        yield itself.running


async def _opened_ledger(
    stack: AsyncExitStack, settings: WorkerSettings, clock: Clock, telemetry: Telemetry
) -> OpenedLedger:
    """Opens the ledger. A server that is away is waited for, as the broker is: it may be starting too.

    Raises `LedgerFailed` if it is away for longer, and at once if waiting cannot help.
    """
    newest = rotating(settings, "ledger_url", telemetry.setting_read_again).read_again
    give_up_at = clock.monotonic() + LEDGER_GRACE_SECONDS
    while True:
        opening = open_ledger(
            settings.ledger_url, alone=True, on_commit=telemetry.committed, read_again=newest
        )
        try:
            return await stack.enter_async_context(opening)
        except LedgerFailed as error:
            is_server = isinstance(settings.ledger_url, PostgresUrl)
            if not is_server or isinstance(error, LedgerUnusable) or clock.monotonic() >= give_up_at:
                raise
            telemetry.ledger_away(str(error))
        await clock.sleep(LEDGER_RETRY_SECONDS * (0.5 + clock.jitter()))


@dataclass
class _Itself:
    """The worker as the ledger shows it; it is starting until `running` is set."""

    process: WorkerSeen
    rate: CallRate
    running: RunningWorker | None = None

    async def describe(self) -> WorkerSeen:
        """The worker's present description of itself."""
        shown = replace(self.process, rate_share=self.rate.calls)
        if self.running is None:
            return replace(shown, problems=("the worker is starting",))
        return replace(
            shown,
            consuming=self.running.consumer.consuming,
            problems=tuple(dict.fromkeys(await self.running.problems())),
            circuit=self.running.worker.circuit.state,
        )


@asynccontextmanager
async def _announced(announcer: Announcer, clock: Clock, telemetry: Telemetry) -> AsyncIterator[None]:
    """Says during the block that the worker runs, and at its end that it has left."""
    async with supervised(announcer.run, clock, telemetry):
        yield
    await announcer.leave()


def missing_keys(settings: RecipientSettings) -> Iterator[str]:
    """A line for each recipient without a usable key, and for each key without a recipient.

    Both are errors only at the start.
    """
    if settings.recipients is None:
        return
    keys = RecipientKeys(*settings.recipients, on_change=lambda *_: None)
    for problem in keys.nameless():
        yield f"{PREFIX}RECIPIENTS: {settings.recipients.path} holds a key that nobody gets: {problem}"
    for recipient in settings.recipient_names:
        try:
            keys.key_of(recipient)
        except NoRecipientKey as error:
            yield f"{PREFIX}RECIPIENTS has {error}"


def _sealer(settings: WorkerSettings, clock: Clock, telemetry: Telemetry) -> Sealer:
    """The sealer that the settings ask for; raises `KeyFileError` or `SettingsError`."""
    if settings.recipients is None:
        return Unsealed()
    if (path := settings.signing_key_path) is None:
        raise SettingsError(NO_SIGNING_KEY)
    key = read_signing_key(path) if settings.signing_key else signing_key_made_once(path, clock.now())
    recipients = RecipientKeys(*settings.recipients, telemetry.recipient_key)
    recipients.refresh()
    return JoseSealer(recipients, key)


def _rules(settings: WorkerSettings) -> Rules:
    recipients = frozenset(settings.recipient_names) or frozenset({ANY_RECIPIENT})
    return Rules(
        owner=settings.owner,
        account=settings.plivo_auth_id,
        template=settings.names,
        policy=replace(
            settings.policy,
            recipients=recipients,
            enable=settings.enable,
            plaintext=settings.plaintext_secrets,
        ),
        retry=RetryPolicy(settings.retry_budget, settings.retry_delays, settings.max_attempts),
        prefetch=settings.prefetch,
        rate=settings.rate_limit,
        own_sweeps=OwnSweeps(settings.sweep, settings.sweep_fix),
    )


def plivo_account(settings: ProviderSettings, telemetry: Telemetry) -> PlivoAccount:
    """Our account at Plivo, as the settings have it. Its token is read again once it was refused."""
    return PlivoAccount(
        url=settings.plivo_api_url,
        auth_id=settings.plivo_auth_id,
        auth_token=rotating(settings, "plivo_auth_token", telemetry.setting_read_again),
        timeout=settings.api_timeout,
        concurrency=settings.concurrency,
        rate=settings.rate_limit,
        proxy=rotating(settings, "plivo_proxy_url", telemetry.setting_read_again),
    )
