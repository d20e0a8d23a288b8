"""The composition root: `assemble` wires a worker, `running_worker` runs one from the settings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from worker.adapters.amqp.broker import rabbit_broker
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.key_files import read_signing_key, signing_key_made_once
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, Unsealed
from worker.adapters.ledgers import open_ledger
from worker.adapters.plivo.client import PlivoAccount, plivo_provider
from worker.adapters.system import SystemClock
from worker.core.breaker import State
from worker.core.decide import Policy
from worker.core.judge import RetryPolicy
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.naming import Names, NameTemplate
from worker.flow.clock_watch import ClockWatch, Comparisons
from worker.flow.gate import Gate
from worker.flow.lanes import Lanes
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.plaintext import SEALED_BEFORE, PlaintextGuard
from worker.flow.supervise import supervised
from worker.flow.undelivered import ConfirmedMessages, RefusedResults, UndeliveredCredentials
from worker.flow.waiting import WaitingRoom
from worker.pipeline.bindings import Bindings
from worker.pipeline.comparison import Comparison, InLane
from worker.pipeline.corrections import Corrections
from worker.pipeline.disappearances import Disappearances
from worker.pipeline.handler import Handler
from worker.pipeline.line import REMOVALS_AT_ONCE, Line
from worker.pipeline.outbox import Outbox
from worker.pipeline.owed_results import OwedResults
from worker.pipeline.quarantine import Quarantine
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.recreations import Recreations
from worker.pipeline.reissues import Reissues
from worker.pipeline.removals import Removals
from worker.pipeline.scheduler import Scheduler
from worker.pipeline.sweeps import NO_OWN_SWEEPS, OwnSweeps, Sweeps
from worker.pipeline.tries import Tries
from worker.ports import (
    Broker,
    Clock,
    Consumer,
    DepartmentLocks,
    Fingerprints,
    Ledger,
    NoRecipientKey,
    Problems,
    Provider,
    Publisher,
    RateLimit,
    Sealer,
    healthy,
)
from worker.provider.act import Actor
from worker.provider.circuit import Circuit
from worker.provider.foreign import ForeignIds
from worker.provider.inventories import Inventories
from worker.provider.listing import Listing
from worker.provider.pace import Pace
from worker.provider.pages import PageReader
from worker.provider.scan import Orphans, Scanner
from worker.provider.subaccounts import Subaccounts
from worker.settings.load import SettingsError, rotating
from worker.settings.model import ProviderSettings, WorkerSettings
from worker.settings.parse import PREFIX
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The adapters that a worker uses, one for each port."""

    ledger: Ledger
    locks: DepartmentLocks
    provider: Provider
    publisher: Publisher
    sealer: Sealer
    fingerprints: Fingerprints
    clock: Clock
    comparisons: Comparisons | None = None
    """Kept by the provider's adapter; None if it cannot be asked for the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of a worker's behaviour. `prefetch`: the maximum number of unacked messages."""

    owner: str
    account: str
    template: NameTemplate
    policy: Policy
    retry: RetryPolicy
    prefetch: int
    rate: RateLimit = RateLimit(300, timedelta(seconds=5))  # noqa: RUF009 - immutable
    own_sweeps: OwnSweeps = NO_OWN_SWEEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The classes of a worker. The simulation replaces one by a faulty one, and must notice it."""

    handler: type[Handler] = Handler
    line: type[Line] = Line
    outbox: type[Outbox] = Outbox
    scheduler: type[Scheduler] = Scheduler
    removals: type[Removals] = Removals
    owed_results: type[OwedResults] = OwedResults
    actor: type[Actor] = Actor
    subaccounts: type[Subaccounts] = Subaccounts
    scanner: type[Scanner] = Scanner
    orphans: type[Orphans] = Orphans
    circuit: type[Circuit] = Circuit


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A wired worker. Deliveries enter by its `handler.receive`."""

    handler: Handler
    scheduler: Scheduler
    sweeps: Sweeps
    lanes: Lanes
    gate: Gate
    circuit: Circuit
    clock_watch: ClockWatch
    scanner: Scanner
    ledger_watch: LedgerWatch
    waiting: WaitingRoom

    async def close(self) -> None:
        """Cancels all running work. Drain first."""
        await self.lanes.cut_off()
        await self.scanner.close()
        await self.circuit.close()
        await self.ledger_watch.close()


def assemble(
    ports: Ports, rules: Rules, telemetry: Telemetry, stopping: asyncio.Event, parts: Parts | None = None
) -> Worker:
    """Wires a worker: for production, the tests' world and the simulation alike.

    `stopping` is set when a drain begins; the provider's adapter has the same event.
    """
    parts = parts or Parts()
    clock = ports.clock
    policy = replace(rules.policy, capabilities=ports.provider.capabilities)
    names = Names(rules.owner, rules.template)
    lanes = Lanes()
    waiting = WaitingRoom.for_half_of(rules.prefetch, clock)
    gate = Gate(clock, telemetry, waiting)
    undelivered = UndeliveredCredentials(gate)
    circuit = parts.circuit(ports.provider, gate, waiting, clock, telemetry)
    foreign = ForeignIds(circuit, ports.ledger, names, clock)
    ledger_watch = LedgerWatch(partial(_try_ledger, ports.ledger, rules, foreign), gate, clock)
    clock_watch = ClockWatch(ports.comparisons, circuit.ask, gate, clock, telemetry)
    scanner = parts.scanner(circuit, rules.template, clock, stopping)
    inventories = Inventories(circuit, PageReader(clock, stopping))
    orphans = parts.orphans(scanner, circuit, rules.template, ports.ledger)
    subaccounts = parts.subaccounts(circuit, ports.ledger, names, scanner, foreign, inventories, clock)
    actor = parts.actor(circuit, subaccounts, scanner, orphans, names, clock, policy.enable)
    records = Records(ports.ledger, ports.ledger)
    reconciler = Reconciler(records, subaccounts, clock, policy, telemetry)
    disappearances = Disappearances(records, undelivered, clock, policy, telemetry)
    outbox = parts.outbox(
        records=records,
        subaccounts=subaccounts,
        publisher=ports.publisher,
        sealer=ports.sealer,
        fingerprints=ports.fingerprints,
        undelivered=undelivered,
        plaintext_guard=PlaintextGuard(ports.ledger, policy.plaintext),
        refused=RefusedResults(gate, clock),
        confirmed=ConfirmedMessages(),
        names=names,
        clock=clock,
        policy=policy,
        telemetry=telemetry,
    )
    reissues = Reissues(
        records=records,
        wishes=ports.ledger,
        outbox=outbox,
        disappearances=disappearances,
        subaccounts=subaccounts,
        fingerprints=ports.fingerprints,
        names=names,
        clock=clock,
        policy=policy,
        telemetry=telemetry,
    )
    line = parts.line(
        records=records,
        reconciler=reconciler,
        disappearances=disappearances,
        foreign=foreign,
        actor=actor,
        outbox=outbox,
        names=names,
        clock=clock,
        clock_watch=clock_watch,
        policy=policy,
        removal_slots=asyncio.Semaphore(REMOVALS_AT_ONCE),
        telemetry=telemetry,
    )
    handler = parts.handler(
        line=line,
        reissues=reissues,
        quarantine=Quarantine(ports.ledger, ledger_watch),
        outbox=outbox,
        lanes=lanes,
        locks=ports.locks,
        waiting=waiting,
        ledger_watch=ledger_watch,
        clock=clock,
        policy=policy,
        retry=rules.retry,
        telemetry=telemetry,
        stopping=stopping,
    )
    pace = Pace(rules.rate, lambda: lanes.ranked > 0, clock, stopping)
    listing = Listing(circuit, PageReader(clock, stopping), ports.fingerprints, pace)
    corrections = Corrections(
        records=records,
        register=ports.ledger,
        wishes=ports.ledger,
        provider=circuit,
        subaccounts=subaccounts,
        listing=listing,
        pace=pace,
        reconciler=reconciler,
        disappearances=disappearances,
        outbox=outbox,
        tries=Tries(rules.retry, clock),
        names=names,
        clock=clock,
        policy=policy,
        telemetry=telemetry,
    )
    sweeps = Sweeps(
        comparison=Comparison(
            listing=listing,
            ledger=ports.ledger,
            names=names,
            in_turn=InLane(lanes, ports.locks),
            clock=clock,
        ),
        ledger=ports.ledger,
        locks=ports.locks,
        owner=rules.owner,
        own=rules.own_sweeps,
        is_well=lambda: circuit.state is State.CLOSED,
        clock=clock,
        telemetry=telemetry,
        stopping=stopping,
    )
    scheduler = parts.scheduler(
        records=records,
        duties=ports.ledger,
        wishes=ports.ledger,
        presence=ports.ledger,
        reissues=reissues,
        recreations=Recreations(line, records, ports.ledger, Tries(rules.retry, clock), clock, telemetry),
        removals=parts.removals(
            line=line,
            records=records,
            holds=ports.ledger,
            wishes=ports.ledger,
            lanes=lanes,
            clock=clock,
            clock_watch=clock_watch,
            policy=policy,
            telemetry=telemetry,
        ),
        owed_results=parts.owed_results(records, outbox, names, clock),
        holds=ports.ledger,
        bindings=Bindings(
            records=records,
            register=ports.ledger,
            wishes=ports.ledger,
            provider=circuit,
            subaccounts=subaccounts,
            orphans=orphans,
            outbox=outbox,
            tries=Tries(rules.retry, clock),
            names=names,
            clock=clock,
            policy=policy,
            telemetry=telemetry,
        ),
        corrections=corrections,
        sweeps=sweeps,
        reconciler=reconciler,
        disappearances=disappearances,
        outbox=outbox,
        subaccounts=subaccounts,
        undelivered=undelivered,
        lanes=lanes,
        locks=ports.locks,
        ledger_watch=ledger_watch,
        clock=clock,
        policy=policy,
        telemetry=telemetry,
        stopping=stopping,
    )
    return Worker(
        handler=handler,
        scheduler=scheduler,
        sweeps=sweeps,
        lanes=lanes,
        gate=gate,
        circuit=circuit,
        clock_watch=clock_watch,
        scanner=scanner,
        ledger_watch=ledger_watch,
        waiting=waiting,
    )


async def _try_ledger(ledger: Ledger, rules: Rules, foreign: ForeignIds) -> None:
    """Writes to the ledger, and raises `LedgerForeign` while the provider is not the one that it is for."""
    await ledger.bind(rules.owner, rules.account)
    await foreign.check()


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


Connect = Callable[[WorkerSettings, Clock, Telemetry], AbstractAsyncContextManager[Broker]]


@asynccontextmanager
async def running_worker(
    settings: WorkerSettings, telemetry: Telemetry, connect: Connect = rabbit_broker
) -> AsyncIterator[RunningWorker]:
    """Runs a consuming worker during the block. Running work is cancelled at its end, so drain first.

    Raises `SettingsError`, `KeyFileError`, `LedgerFailed`, `LedgerForeign` or `BrokerUnavailable`.
    """
    clock, stopping = SystemClock(), asyncio.Event()
    if missing := list(_missing_keys(settings)):
        raise SettingsError("\n".join(missing))
    async with AsyncExitStack() as stack:
        opening = open_ledger(settings.ledger_url, on_commit=telemetry.committed)
        opened = await stack.enter_async_context(opening)
        await opened.ledger.bind(settings.owner, settings.plivo_auth_id)
        if not settings.recipients and not settings.plaintext_secrets and await opened.ledger.sealed_for():
            raise SettingsError(SEALED_BEFORE)
        sealer = _sealer(settings, clock, telemetry)
        comparisons = Comparisons(clock)
        plivo = plivo_provider(
            plivo_account(settings, telemetry),
            clock,
            stopping,
            on_call=telemetry.called,
            on_clock=comparisons.note,
            on_failure=telemetry.call_failed,
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
        )
        worker = assemble(ports, _rules(settings), telemetry, stopping)
        stack.push_async_callback(worker.close)
        telemetry.gauge_waiting(worker.lanes.__len__, worker.waiting.__len__)
        worker.circuit.begin()
        await stack.enter_async_context(supervised(worker.clock_watch.run, clock, telemetry))
        await stack.enter_async_context(supervised(worker.scheduler.run, clock, telemetry))
        await stack.enter_async_context(supervised(worker.scheduler.announce, clock, telemetry))
        await stack.enter_async_context(supervised(worker.sweeps.run, clock, telemetry))
        consumer = await stack.enter_async_context(broker.consumer(worker.handler.receive))
        control = partial(worker.gate.control, consumer)
        await stack.enter_async_context(supervised(control, clock, telemetry))
        yield RunningWorker(
            worker=worker,
            consumer=consumer,
            ledger=opened.ledger,
            settings=settings,
            telemetry=telemetry,
            publisher_problems=broker.publisher_problems,
        )


def _missing_keys(settings: WorkerSettings) -> Iterator[str]:
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
    """The sealer that the settings ask for; raises `KeyFileError`."""
    if settings.recipients is None:
        return Unsealed()
    path = settings.signing_key_path
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
