"""One run: the worker's own parts on simulated ports drawn from a seed, until the last replay."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import count
from typing import Any, cast

from pydantic import SecretStr

from contracts import topology as names
from contracts.envelope import STRUCTURED, Message
from tests.simulation.broker import Broker, SimulatedConsumer, SimulatedPublisher
from tests.simulation.chance import MAX_CLOCK_OFFSET_SECONDS, SETTLE_WINDOW, WINDOW_SECONDS, Chance, Profile
from tests.simulation.checker import (
    Snapshot,
    judge_after_ledger_loss,
    judge_before_replay,
    judge_history,
    judge_replay,
)
from tests.simulation.database import Database, DatabaseParts, connected
from tests.simulation.database_ledger import DatabaseLedger
from tests.simulation.history import History
from tests.simulation.history_state import RunConditions
from tests.simulation.history_telemetry import HistoryTelemetry, message_facts, routing_key_of
from tests.simulation.ledger import Disk, SimulatedLedger
from tests.simulation.people import People
from tests.simulation.process import Process
from tests.simulation.producer_events import EventSchedule, ProducerEvent, draw_schedule
from tests.simulation.provider import REFUSALS, ProviderServer, SimulatedProvider
from tests.simulation.virtual_time import NothingScheduled, VirtualLoop
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.seal import Unsealed
from worker.adapters.memory.locks import InProcessLocks
from worker.bootstrap.wiring import Parts, Ports, Rules, assemble
from worker.core.decide import Enable, Policy, Removal, UnknownRename
from worker.core.judge import RetryPolicy
from worker.core.limits import RemovalLimit, Window
from worker.core.messages import Outgoing
from worker.core.naming import NameTemplate
from worker.core.protected import Protected
from worker.core.removal import deletable_before
from worker.ports import UNBROKEN, DepartmentLocks, Fence, Ledger


def _percentage(percent: int, seconds: int) -> Window:
    return Window(Fraction(percent), timedelta(seconds=seconds), is_percentage=True)


def _count(most: int, seconds: int) -> Window:
    return Window(most, timedelta(seconds=seconds), is_percentage=False)


OWNER_NAME = "simulated"
TEMPLATE = NameTemplate()
POLL_SECONDS = 2.0
LONGEST_RUN_SECONDS = 4000.0
DOWN_SECONDS = WINDOW_SECONDS + 1.0
"""After a ledger loss no worker starts earlier, so calls under way are carried out first."""
ROUNDS = 3
GRACES = (5, 20, 60, 180)
"""In seconds."""
LIMITS: tuple[RemovalLimit, ...] = (
    (),
    (_percentage(10, 600), _count(5, 3600)),
    (_percentage(40, 120),),
    (_count(2, 30),),
    (_count(1, 60), _count(3, 600)),
)
PROTECTED = (("d2",), ("acme/d3", "beta/d3"), ("d1*",))
PREFETCH = 6
RETRY_DELAYS = (timedelta(seconds=2), timedelta(seconds=20), timedelta(seconds=60))
TOPOLOGY = names.topology(names.BrokerVersion(4, 1), RETRY_DELAYS)


class NeverIdle(Exception):
    """Long after all faults ended, something is still left to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run: its broken promises and its history."""

    profile: str
    seed: int
    broken: list[str]
    history: History
    chance: Chance


class SimulatedClock:
    """The clock of one process. The wall clock is shared by all processes of the host and may be set."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wall_clock: Callable[[], datetime],
        chance: Chance,
        process: Process,
    ) -> None:
        self.now = wall_clock
        self._loop = loop
        self._chance = chance
        self._process = process

    def monotonic(self) -> float:
        return self._loop.time()

    def jitter(self) -> float:
        return self._chance.seconds(0, 1)

    async def sleep(self, seconds: float) -> None:
        self._process.check()
        await asyncio.sleep(seconds)


@dataclass
class SimulatedWorld:
    """Broker, provider, disk and worker processes of one run."""

    loop: VirtualLoop
    chance: Chance
    parts: Parts
    history: History
    schedule: EventSchedule
    database_parts: DatabaseParts
    broker: Broker = field(init=False)
    provider: ProviderServer = field(init=False)
    disk: Disk = field(init=False)
    database: Database = field(init=False)
    people: People = field(init=False)
    policy: Policy = field(init=False)  # of the worker that starts next
    policies: dict[int, Policy] = field(default_factory=dict)  # of each worker
    retry: RetryPolicy = field(init=False)
    processes: list[Process] = field(default_factory=list)
    clock_offset_seconds: float = 0.0
    down_until: float = 0.0
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.broker = Broker(self.loop, self.chance, self.history, returns_to_front=self.chance.coin())
        self.broker.declare(TOPOLOGY)
        self.broker.routes.bind(names.RESULTS, "results", "#")
        self.provider = ProviderServer(self.loop, self.chance, self.history, self._now)
        self.disk = Disk(self.history)
        self.disk.now = self._wall_clock
        self.database = Database(self.loop, self.chance, self.history)
        self.people = People(self.disk, self.provider, self.chance, self.history, self._wall_clock)
        self.policy = self._policy()
        # some runs give up early, most as late as by default
        budget, attempts = self.chance.one_of(((1, 2), (5, 4), (60, 8), (60, 8)))
        self.retry = RetryPolicy(timedelta(seconds=budget), RETRY_DELAYS, attempts)

    def _policy(self) -> Policy:
        removal = self.chance.one_of(list(Removal))
        rename = UnknownRename.REJECT if self.chance.coin(0.3) else UnknownRename.CREATE
        if self.chance.profile.loses_the_ledger:  # departments that the lost ledger knew need not be rejected
            rename = UnknownRename.CREATE
            removal = (
                Removal.DELETE if self.chance.coin() else removal
            )  # a lost ledger had later incarnations
        enable = Enable.PUBLISHED if self.chance.coin(0.3) else Enable.CREATED
        if self.chance.profile.removals:
            plain = Policy(settle_window=SETTLE_WINDOW, enable=enable)
            return self._removal_policy(plain, Removal.DISABLE_THEN_DELETE, Removal.DELETE)
        return Policy(removal, unknown_rename=rename, settle_window=SETTLE_WINDOW, enable=enable)

    def _removal_policy(self, policy: Policy, *choices: Removal) -> Policy:
        """The policy with other choices about removals."""
        return replace(
            policy,
            removal=self.chance.one_of(choices),
            grace=timedelta(seconds=self.chance.one_of(GRACES)),
            limit=self.chance.one_of(LIMITS),
            protected=Protected(self.chance.one_of(PROTECTED) if self.chance.coin(0.4) else ()),
        )

    @property
    def conditions(self) -> RunConditions:
        return RunConditions(
            published_first=self.policy.enable is Enable.PUBLISHED,
            gives_up_early=self.retry.attempts < RetryPolicy().attempts,
            removals_ignored=self.policy.removal is Removal.IGNORE and not self.chance.profile.removals,
            unknown_renames_rejected=self.policy.unknown_rename is UnknownRename.REJECT,
            duplicates_allowed=self.chance.profile.duplicates_allowed,
            outages_only=self.chance.profile.outages_only,
            many_workers=self.chance.profile.many_workers,
            removals=self.chance.profile.removals,
            deletes_very_late=self.chance.profile.deletes_very_late,
        )

    async def run(self) -> list[str]:
        most = self.chance.profile.workers
        for _ in range(self.chance.number(2, most) if most > 1 else 1):
            self.start_worker()
        await self._inject_faults()
        await self._wait_until_idle()
        if self.chance.profile.removals:
            self.people.rule_on_the_rest()
            await self._wait_until_idle()
        broken = judge_before_replay(self.history.notes, self.conditions)
        for _ in range(ROUNDS):
            self._replay_dead_letters()
            await self._wait_until_idle()
        before = self._snapshot()
        broken += judge_history(self.history.notes, before, self.conditions)
        begun = len(self.history.notes)
        self._replay([sent.event for sent in self.schedule.sent])
        await self._wait_until_idle()
        if self.chance.profile.loses_the_ledger:
            return judge_after_ledger_loss(self.history.notes, self.conditions)
        return broken + judge_replay(self.history.notes[begun:], before, self._snapshot())

    def start_worker(self) -> None:
        if self.loop.time() < self.down_until:
            self.loop.call_at(self.down_until, self.start_worker)
            return
        if self.chance.strikes("policy changed"):
            self.policy = self._removal_policy(self.policy, *Removal)
        process = Process(self.loop, next(self.numbers))
        self.history.note("worker started", worker=process.number, **policy_facts(self.policy))
        self.processes.append(process)
        self.policies[process.number] = self.policy
        process.at_death.append(lambda: self._restart_later(process))
        process.begin(self._run_worker(process, self.policy))

    async def _run_worker(self, process: Process, policy: Policy) -> None:
        clock = SimulatedClock(self.loop, self._wall_clock, self.chance, process)
        ledger, locks, fence = self._ledger(process)
        ports = Ports(
            ledger=ledger,
            locks=locks,
            fence=fence,
            provider=SimulatedProvider(self.provider, process, self.database.endanger),
            publisher=SimulatedPublisher(
                self.broker, process, lambda sent: message_facts(sent, self.broker.events)
            ),
            sealer=Unsealed(),
            fingerprints=KeyedFingerprints(SecretStr("simulated")),
            clock=clock,
        )
        rules = Rules(
            owner=OWNER_NAME,
            account="MA1",
            template=TEMPLATE,
            policy=policy,
            retry=self.retry,
            prefetch=PREFETCH,
        )
        worker = assemble(ports, rules, HistoryTelemetry(self.history), asyncio.Event(), self.parts)
        receive = worker.handler.receive
        consumer = SimulatedConsumer(self.broker, names.WORK_QUEUE, PREFETCH, receive, process)

        async def leave() -> None:
            await consumer.stop()
            await worker.handler.drain()

        process.leave = leave
        process.begin(worker.gate.control(consumer))
        if self.chance.profile.removals:
            process.begin(worker.sweeps.run())
        if self.chance.profile.many_workers:
            process.begin(worker.ledger_watch.watch_fence())
        process.begin(worker.upkeep.stay_current())
        process.begin(worker.upkeep.purge_daily())
        await worker.scheduler.run()

    def _ledger(self, process: Process) -> tuple[Ledger, DepartmentLocks, Fence]:
        """The ledger as a worker uses it. It has the part of the port that a run uses."""
        if not self.chance.profile.many_workers:
            alone = SimulatedLedger(self.disk, self.loop, self.chance, process)
            return cast(Ledger, alone), InProcessLocks(), UNBROKEN
        client = connected(self.database, process, self.database_parts)
        return cast(Ledger, DatabaseLedger(self.disk, client, self.chance)), client.locks, client.fence

    def _restart_later(self, process: Process) -> None:
        self.history.note("worker dead", worker=process.number)
        self.processes.remove(process)
        if process.left_for_good:
            return
        self.loop.call_later(self.chance.seconds(0.1, 5), self.start_worker)

    async def _inject_faults(self) -> None:
        """Sends the events and injects faults; then ends all faults."""
        last = self.schedule.sent[-1].after_seconds
        end = last + self.chance.seconds(1, self.chance.one_of((20, 40, 80)))
        for after, event in self.schedule.sent:
            self.loop.call_later(after, self._send, event)
        for fault, strike in self._timed_faults():
            self._schedule(fault, strike, end)
        for action, act in self.people.actions():
            while self.chance.draws(action):
                self.loop.call_later(self.chance.seconds(0, end), self._act, action, act)
        await asyncio.sleep(end)
        self.chance.healed = True
        self.provider.refuses = None
        self._bind_secrets()
        self.database.heal()
        self.history.note("healed")

    def _send(self, event: ProducerEvent) -> None:
        self.broker.events[event.body] = event
        self.history.note(
            "sent",
            event.department,
            event=event.id,
            kind=event.kind,
            sequence=event.sequence,
            name=event.name,
            producer_event=event,
        )
        self.broker.put(inbound(event))

    def _schedule(self, fault: str, strike: Callable[[], None], end: float) -> None:
        while self.chance.strikes(fault):
            self.loop.call_later(self.chance.seconds(0, end), strike)

    def _act(self, action: str, act: Callable[[], bool]) -> None:
        if act():
            self.chance.struck[action] += 1

    def _timed_faults(self) -> Sequence[tuple[str, Callable[[], None]]]:
        """Faults that strike at a moment, not at a call, each with its action."""
        return (
            ("crash", self._crash),
            ("drained and restarted", self._drain),
            ("another worker", self._add_worker),
            ("worker leaves", self._leave),
            ("session cut", self.database.cut),
            ("database silent", self.database.silence),
            ("database fails over", self.database.fail_over),
            ("ledger lost", self._lose_ledger),
            ("clock set", self._set_clock),
            ("consumer lost", self.broker.lose_consumers),
            ("secrets unroutable", self._unbind_secrets),
            ("refused for a while", self._refuse),
            ("list shifts", self.provider.shift),
        )

    def _crash(self) -> None:
        if self.processes:
            self.chance.one_of(self.processes).die()

    def _lose_ledger(self) -> None:
        for process in list(self.processes):
            process.die()
        self.disk.lose()
        self.down_until = self.loop.time() + DOWN_SECONDS

    def _set_clock(self) -> None:
        self.clock_offset_seconds = self.chance.seconds(-MAX_CLOCK_OFFSET_SECONDS, MAX_CLOCK_OFFSET_SECONDS)
        self.history.note("clock set", ahead=round(self.clock_offset_seconds, 3))

    def _add_worker(self) -> None:
        if len(self.processes) < self.chance.profile.workers:
            self.start_worker()

    def _leave(self) -> None:
        """A worker drains and does not come back, unless it is the last one."""
        self._drain(for_good=sum(not one.leaving for one in self.processes) > 1)

    def _drain(self, *, for_good: bool = False) -> None:
        staying = [(one, one.leave) for one in self.processes if one.leave and not one.leaving]
        if not staying:
            return
        process, drain = self.chance.one_of(staying)
        process.leaving, process.left_for_good = True, for_good
        self.history.note("draining", worker=process.number)

        async def leave() -> None:
            await drain()
            await asyncio.sleep(1)  # lets its acks arrive
            process.die()

        process.begin(leave())

    def _unbind_secrets(self) -> None:
        self.broker.routes.unbind(names.SECRETS, names.SECRETS_QUEUE, "#")
        self.loop.call_later(self.chance.seconds(0.5, 20), self._bind_secrets)

    def _bind_secrets(self) -> None:
        self.broker.routes.bind(names.SECRETS, names.SECRETS_QUEUE, "#")

    def _refuse(self) -> None:
        def take_again() -> None:
            self.provider.refuses = None

        self.provider.refuses = self.chance.one_of(REFUSALS)
        self.loop.call_later(self.chance.seconds(0.5, self.chance.profile.longest_outage_seconds), take_again)

    async def _wait_until_idle(self) -> None:
        """Waits until no work is left, now or later; raises `NeverIdle`."""
        deadline = self.loop.time() + LONGEST_RUN_SECONDS
        await asyncio.sleep(POLL_SECONDS)
        while not self._idle():
            if self.loop.time() > deadline:
                raise NeverIdle(self._left())
            await asyncio.sleep(POLL_SECONDS)

    def _idle(self) -> bool:
        return not self._left()

    def _left(self) -> str:
        """The work that is left, now or later; empty if there is none."""
        soon = self._wall_clock() + timedelta(seconds=LONGEST_RUN_SECONDS)
        policies = [self.policies[process.number] for process in self.processes] or [self.policy]
        times = [time for policy in policies if (time := deletable_before(policy, soon))]
        left = self.disk.left(max(times, default=None))
        if not self.processes:
            left.append("no worker")
        if not self.broker.idle:
            left.append("messages")
        if self.provider.under_way:
            left.append("requests under way")
        return ", ".join(left)

    def _replay_dead_letters(self) -> None:
        dead = [
            self.broker.events[letter.message.body] for letter in self.broker.take(names.DEAD_LETTER_QUEUE)
        ]
        self._replay([event for event in dead if event.department])

    def _replay(self, events: Sequence[ProducerEvent]) -> None:
        self.history.note("replayed", count=len(events))
        for event in self.chance.shuffled(events):
            self.broker.put(replace(inbound(event), exchange=names.REPLAY))

    def _snapshot(self) -> Snapshot:
        shown = [
            (one.department, one.auth_id, one.name, one.enabled, one.auth_token)
            for one in self.provider.subaccounts
            if one.department
        ]
        return Snapshot(sorted(shown))

    def _now(self) -> datetime:
        return self.schedule.start + timedelta(seconds=self.loop.time())

    def _wall_clock(self) -> datetime:
        return self.schedule.start + timedelta(seconds=self.loop.time() + self.clock_offset_seconds)


def policy_facts(policy: Policy) -> dict[str, Any]:
    """The choices about removals, as fields of a history note."""
    return {
        "removal": str(policy.removal),
        "grace": policy.grace.total_seconds(),
        "limit": [(float(one.most), one.is_percentage, one.length.total_seconds()) for one in policy.limit],
        "protected": list(policy.protected.patterns),
    }


def inbound(event: ProducerEvent) -> Outgoing:
    """The message of an event, as its producer publishes it."""
    return Outgoing(names.DEPARTMENTS, routing_key_of(event), Message(event.body, STRUCTURED))


def simulate(
    profile: Profile,
    seed: int,
    parts: Parts | None = None,
    without: Sequence[str] = (),
    database_parts: DatabaseParts | None = None,
) -> Run:
    """Runs one seed of a profile; a pure function of its arguments."""
    chance = Chance(profile, seed, without)
    loop = VirtualLoop()
    history = History(loop.time)
    schedule = draw_schedule(chance)
    world = SimulatedWorld(
        loop, chance, parts or Parts(), history, schedule, database_parts or DatabaseParts()
    )
    try:
        broken = loop.run_until_complete(world.run())
    except NeverIdle as left:
        broken = [f"G1: does not become idle: {left}"]
    except NothingScheduled:
        broken = ["no timer is set, but work is left"]
    finally:
        for process in list(world.processes):
            process.die()
        loop.run_until_complete(asyncio.sleep(0))  # lets cancelled tasks end
        loop.close()
    broken += [f"unhandled: {error}" for error in loop.unhandled if "ProcessDead" not in error]
    broken += [f"crashed: {one.detail}" for one in history.notes if one.what == "step crashed"]
    return Run(profile.name, seed, broken, history, chance)
