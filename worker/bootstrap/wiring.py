"""Wires the parts of a worker on any adapters: in production, in tests and in the simulation."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from worker.core.breaker import State
from worker.core.decide import Policy
from worker.core.judge import RetryPolicy
from worker.core.naming import Names, NameTemplate
from worker.flow.clock_watch import ClockWatch, Comparisons
from worker.flow.gate import Gate
from worker.flow.lanes import Lanes
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.plaintext import PlaintextGuard
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
from worker.pipeline.quarantine import Quarantine, Survived
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.recreations import Recreations
from worker.pipeline.reissues import Reissues
from worker.pipeline.removals import Removals
from worker.pipeline.scheduler import Scheduler
from worker.pipeline.sweeps import NO_OWN_SWEEPS, OwnSweeps, Sweeps
from worker.pipeline.tries import Tries
from worker.pipeline.upkeep import Upkeep
from worker.ports import (
    UNBROKEN,
    CallRate,
    Clock,
    DepartmentLocks,
    Fence,
    Fingerprints,
    Ledger,
    Provider,
    Publisher,
    RateLimit,
    Sealer,
)
from worker.provider.act import Actor
from worker.provider.circuit import Circuit
from worker.provider.fenced import FencedProvider
from worker.provider.foreign import ForeignIds
from worker.provider.inventories import Inventories
from worker.provider.listing import Listing
from worker.provider.pace import Pace
from worker.provider.pages import PageReader
from worker.provider.scan import Orphans, Scanner
from worker.provider.subaccounts import Subaccounts
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
    fence: Fence = UNBROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of a worker's behaviour. `prefetch`: the maximum number of unacked messages."""

    owner: str
    account: str
    template: NameTemplate
    policy: Policy
    retry: RetryPolicy
    prefetch: int
    rate: CallRate = RateLimit(300, timedelta(seconds=5))  # noqa: RUF009 - immutable
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
    upkeep: Upkeep
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
    given = _Given(
        ports=ports,
        rules=rules,
        parts=parts or Parts(),
        policy=replace(rules.policy, capabilities=ports.provider.capabilities),
        names=Names(rules.owner, rules.template),
        telemetry=telemetry,
        stopping=stopping,
    )
    intake = _intake(given)
    calls = _calls(given, intake)
    watches = _watches(given, intake, calls)
    entries = _entries(given, intake, calls)
    line = _line(given, calls, watches, entries)
    sweeping = _sweeping(given, intake, calls, entries)
    return Worker(
        handler=_handler(given, intake, watches, entries, line),
        scheduler=_scheduler(given, intake, calls, watches, entries, line, sweeping),
        sweeps=sweeping.sweeps,
        upkeep=Upkeep(ports.ledger, ports.ledger, ports.clock, telemetry, stopping),
        lanes=intake.lanes,
        gate=intake.gate,
        circuit=calls.circuit,
        clock_watch=watches.clock,
        scanner=calls.scanner,
        ledger_watch=watches.ledger,
        waiting=intake.waiting,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The values that the functions below have in common. `policy`: with the provider's capabilities."""

    ports: Ports
    rules: Rules
    parts: Parts
    policy: Policy
    names: Names
    telemetry: Telemetry
    stopping: asyncio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intake:
    """Whether messages are taken, and how their work is ordered."""

    lanes: Lanes
    waiting: WaitingRoom
    gate: Gate
    undelivered: UndeliveredCredentials


def _intake(given: _Given) -> _Intake:
    clock = given.ports.clock
    waiting = WaitingRoom.for_half_of(given.rules.prefetch, clock)
    gate = Gate(clock, given.telemetry, waiting)
    return _Intake(lanes=Lanes(), waiting=waiting, gate=gate, undelivered=UndeliveredCredentials(gate))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """The calls to the provider."""

    circuit: Circuit
    foreign: ForeignIds
    scanner: Scanner
    orphans: Orphans
    subaccounts: Subaccounts
    actor: Actor


def _calls(given: _Given, intake: _Intake) -> _Calls:
    ports, parts, names, template = given.ports, given.parts, given.names, given.rules.template
    clock, stopping = ports.clock, given.stopping
    fenced = FencedProvider(ports.provider, ports.fence)
    circuit = parts.circuit(fenced, intake.gate, intake.waiting, clock, given.telemetry)
    foreign = ForeignIds(circuit, ports.ledger, names, clock)
    scanner = parts.scanner(circuit, template, clock, stopping)
    inventories = Inventories(circuit, PageReader(clock, stopping))
    orphans = parts.orphans(scanner, circuit, template, ports.ledger, clock)
    subaccounts = parts.subaccounts(circuit, ports.ledger, names, scanner, foreign, inventories, clock)
    return _Calls(
        circuit=circuit,
        foreign=foreign,
        scanner=scanner,
        orphans=orphans,
        subaccounts=subaccounts,
        actor=parts.actor(circuit, subaccounts, scanner, orphans, names, clock, given.policy.enable),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watches:
    """The watches that block the gate: while the ledger takes no writes, or our clock is wrong."""

    ledger: LedgerWatch
    clock: ClockWatch
    survived: Survived


def _watches(given: _Given, intake: _Intake, calls: _Calls) -> _Watches:
    ports, gate = given.ports, intake.gate
    survived = Survived(ports.ledger)
    write = partial(_try_ledger, ports.ledger, given.rules, calls.foreign, survived)
    return _Watches(
        ledger=LedgerWatch(write, gate, ports.clock, ports.fence),
        clock=ClockWatch(ports.comparisons, calls.circuit.ask, gate, ports.clock, given.telemetry),
        survived=survived,
    )


async def _try_ledger(ledger: Ledger, rules: Rules, foreign: ForeignIds, survived: Survived) -> None:
    """Writes to the ledger, marks that are to be cleared too, before other workers take the messages.

    Raises `LedgerForeign` while the provider is not the one that the ledger is for.
    """
    await ledger.bind(rules.owner, rules.account)
    await survived.clear()
    await foreign.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """The entries: how they are read, written and kept true, and how what they owe is published."""

    records: Records
    reconciler: Reconciler
    disappearances: Disappearances
    outbox: Outbox
    reissues: Reissues


def _entries(given: _Given, intake: _Intake, calls: _Calls) -> _Entries:
    ports, policy, telemetry = given.ports, given.policy, given.telemetry
    records = Records(ports.ledger, ports.ledger)
    disappearances = Disappearances(records, intake.undelivered, ports.clock, policy, telemetry)
    outbox = given.parts.outbox(
        records=records,
        subaccounts=calls.subaccounts,
        publisher=ports.publisher,
        sealer=ports.sealer,
        fingerprints=ports.fingerprints,
        undelivered=intake.undelivered,
        plaintext_guard=PlaintextGuard(ports.ledger, policy.plaintext),
        refused=RefusedResults(intake.gate, ports.clock),
        confirmed=ConfirmedMessages(),
        names=given.names,
        clock=ports.clock,
        policy=policy,
        telemetry=telemetry,
    )
    reissues = Reissues(
        records=records,
        wishes=ports.ledger,
        outbox=outbox,
        disappearances=disappearances,
        subaccounts=calls.subaccounts,
        fingerprints=ports.fingerprints,
        names=given.names,
        clock=ports.clock,
        policy=policy,
        telemetry=telemetry,
    )
    return _Entries(
        records=records,
        reconciler=Reconciler(records, calls.subaccounts, ports.clock, policy, telemetry),
        disappearances=disappearances,
        outbox=outbox,
        reissues=reissues,
    )


def _line(given: _Given, calls: _Calls, watches: _Watches, entries: _Entries) -> Line:
    return given.parts.line(
        records=entries.records,
        reconciler=entries.reconciler,
        disappearances=entries.disappearances,
        foreign=calls.foreign,
        actor=calls.actor,
        outbox=entries.outbox,
        names=given.names,
        clock=given.ports.clock,
        clock_watch=watches.clock,
        policy=given.policy,
        removal_slots=asyncio.Semaphore(REMOVALS_AT_ONCE),
        telemetry=given.telemetry,
    )


def _handler(given: _Given, intake: _Intake, watches: _Watches, entries: _Entries, line: Line) -> Handler:
    return given.parts.handler(
        line=line,
        reissues=entries.reissues,
        quarantine=Quarantine(given.ports.ledger, watches.survived, watches.ledger),
        outbox=entries.outbox,
        lanes=intake.lanes,
        locks=given.ports.locks,
        waiting=intake.waiting,
        ledger_watch=watches.ledger,
        clock=given.ports.clock,
        policy=given.policy,
        retry=given.rules.retry,
        telemetry=given.telemetry,
        stopping=given.stopping,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweeping:
    """The comparison of the provider's list with the ledger, and the corrections of its findings."""

    sweeps: Sweeps
    corrections: Corrections


def _sweeping(given: _Given, intake: _Intake, calls: _Calls, entries: _Entries) -> _Sweeping:
    ports, rules, lanes, circuit = given.ports, given.rules, intake.lanes, calls.circuit
    clock, stopping = ports.clock, given.stopping
    pace = Pace(rules.rate, lambda: lanes.ranked > 0, clock, stopping)
    listing = Listing(circuit, PageReader(clock, stopping), ports.fingerprints, pace)
    corrections = Corrections(
        records=entries.records,
        register=ports.ledger,
        wishes=ports.ledger,
        provider=circuit,
        subaccounts=calls.subaccounts,
        listing=listing,
        pace=pace,
        reconciler=entries.reconciler,
        disappearances=entries.disappearances,
        outbox=entries.outbox,
        tries=Tries(rules.retry, clock),
        names=given.names,
        clock=clock,
        policy=given.policy,
        telemetry=given.telemetry,
    )
    sweeps = Sweeps(
        comparison=Comparison(
            listing=listing,
            ledger=ports.ledger,
            names=given.names,
            in_turn=InLane(lanes, ports.locks),
            clock=clock,
        ),
        ledger=ports.ledger,
        locks=ports.locks,
        owner=rules.owner,
        own=rules.own_sweeps,
        is_well=lambda: circuit.state is State.CLOSED,
        clock=clock,
        telemetry=given.telemetry,
        stopping=stopping,
    )
    return _Sweeping(sweeps=sweeps, corrections=corrections)


def _scheduler(
    given: _Given,
    intake: _Intake,
    calls: _Calls,
    watches: _Watches,
    entries: _Entries,
    line: Line,
    sweeping: _Sweeping,
) -> Scheduler:
    ports, records, outbox = given.ports, entries.records, entries.outbox
    clock, telemetry = ports.clock, given.telemetry
    tries = Tries(given.rules.retry, clock)
    return given.parts.scheduler(
        records=records,
        duties=ports.ledger,
        wishes=ports.ledger,
        reissues=entries.reissues,
        recreations=Recreations(line, records, ports.ledger, tries, clock, telemetry),
        removals=_removals(given, intake, watches, entries, line),
        owed_results=given.parts.owed_results(records, outbox, given.names, clock),
        holds=ports.ledger,
        bindings=_bindings(given, calls, entries),
        corrections=sweeping.corrections,
        sweeps=sweeping.sweeps,
        reconciler=entries.reconciler,
        disappearances=entries.disappearances,
        outbox=outbox,
        subaccounts=calls.subaccounts,
        undelivered=intake.undelivered,
        lanes=intake.lanes,
        locks=ports.locks,
        ledger_watch=watches.ledger,
        clock=clock,
        clock_watch=watches.clock,
        policy=given.policy,
        telemetry=telemetry,
        stopping=given.stopping,
    )


def _removals(given: _Given, intake: _Intake, watches: _Watches, entries: _Entries, line: Line) -> Removals:
    return given.parts.removals(
        line=line,
        records=entries.records,
        holds=given.ports.ledger,
        wishes=given.ports.ledger,
        lanes=intake.lanes,
        clock=given.ports.clock,
        clock_watch=watches.clock,
        policy=given.policy,
        telemetry=given.telemetry,
    )


def _bindings(given: _Given, calls: _Calls, entries: _Entries) -> Bindings:
    return Bindings(
        records=entries.records,
        register=given.ports.ledger,
        wishes=given.ports.ledger,
        provider=calls.circuit,
        subaccounts=calls.subaccounts,
        orphans=calls.orphans,
        outbox=entries.outbox,
        tries=Tries(given.rules.retry, given.ports.clock),
        names=given.names,
        clock=given.ports.clock,
        policy=given.policy,
        telemetry=given.telemetry,
    )
