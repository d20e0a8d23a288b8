"""Many workers on one rate limit, in simulated time: no window has more calls, and nearly all are used.

Workers come, go, die and freeze; the ledger is slow, fails, and its clock jumps; calls overtake each other.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.test_rate import LoopClock, in_simulated_time, now
from tests.support.builders import NOW, a_worker
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.presence import WorkerSeen
from worker.core.share import LATEST_ARRIVAL
from worker.flow.gate import Gate
from worker.flow.presence import Announcer, SharedLimit
from worker.flow.waiting import WaitingRoom
from worker.ports import LedgerFailed, RateLimit
from worker.provider.rate import NoShare, RateLimiter
from worker.telemetry.events import Telemetry


@dataclass
class Scene:
    """One provider, one ledger, and any number of workers."""

    rate: RateLimit
    chance: random.Random
    ledger: MemoryLedger = field(init=False)
    ledger_jump: float = 0.0
    is_down: bool = False
    arrivals: list[float] = field(default_factory=list)
    void_slots: int = 0
    workers: "list[SimulatedWorker]" = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self._ledgers_clock)

    def _ledgers_clock(self) -> datetime:
        return NOW + timedelta(seconds=now() + self.ledger_jump)

    @property
    def window(self) -> float:
        return self.rate.window.total_seconds()

    def begin(self, *, hostile: bool = True) -> "SimulatedWorker":
        worker = SimulatedWorker(self, f"{self.chance.random():.12f}-{next(self.numbers)}", hostile=hostile)
        self.workers.append(worker)
        return worker

    def busiest(self) -> int:
        """The most calls that arrived within one window."""
        arrivals, first, most = sorted(self.arrivals), 0, 0
        for last, at in enumerate(arrivals):
            while arrivals[first] <= at - self.window + 1e-9:
                first += 1
            most = max(most, last - first + 1)
        return most

    def used(self, begin: float, end: float) -> float:
        """The part of the limit that was used."""
        sent = sum(begin < at <= end for at in self.arrivals)
        return sent / (self.rate.calls * (end - begin) / self.window)


class SimulatedWorker:
    """A process with its announcer and its limiter, which sends as many calls as it may.

    While it is frozen nothing of it goes on, but its clock does, and so does what the ledger has begun.
    """

    def __init__(self, scene: Scene, id_: str, *, hostile: bool) -> None:
        self.scene, self.id, self.hostile = scene, id_, hostile
        self.clock = LoopClock()
        self.thawed, self.stopping = asyncio.Event(), asyncio.Event()
        self.thawed.set()
        share = SharedLimit(scene.rate, id_, self.clock)
        self.limiter = RateLimiter(share, self.clock, self.stopping)
        telemetry = Telemetry()
        self.announcer = Announcer(
            presence=self,
            worker_id=id_,
            describe=self._describe,
            share=share,
            gate=Gate(self.clock, telemetry, WaitingRoom.for_half_of(10, self.clock)),
            is_stopping=self.stopping.is_set,
            clock=self.clock,
            telemetry=telemetry,
            on_failure=lambda _error: None,
        )
        loops = [self.announcer.run(), *(self._send() for _ in range(12))]
        self._tasks = [asyncio.create_task(one) for one in loops]

    async def _describe(self) -> WorkerSeen:
        await self.thawed.wait()
        return replace(a_worker(self.id), started_at=NOW)

    async def announce(self, worker: WorkerSeen) -> None:
        await self._at_the_ledger(lambda: self.scene.ledger.announce(worker))

    async def leave(self, worker_id: str) -> None:
        await self._at_the_ledger(lambda: self.scene.ledger.leave(worker_id))

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        return await self._at_the_ledger(lambda: self.scene.ledger.workers(within))

    async def _at_the_ledger(self, call: Callable):
        await self.thawed.wait()
        await self.clock.sleep(self._latency())
        if self.scene.is_down:
            raise LedgerFailed("gone")
        result = await call()
        await self.clock.sleep(self._latency())
        await self.thawed.wait()
        return result

    def _latency(self) -> float:
        if self.hostile and self.scene.chance.random() < 0.05:
            return self.scene.chance.uniform(0, 4)
        return self.scene.chance.uniform(0, 0.05)

    async def _send(self) -> None:
        chance, scene = self.scene.chance, self.scene
        while True:
            try:
                slot = await self.limiter.slot()
            except NoShare:
                continue
            if self.hostile and chance.random() < 0.05:  # the claim takes long
                await self.clock.sleep(chance.uniform(0, 3))
            await self.thawed.wait()
            try:
                slot.begin()
            except NoShare:
                scene.void_slots += 1
                self.limiter.give_back(slot)
                continue
            scene.arrivals.append(now() + chance.uniform(0, LATEST_ARRIVAL * scene.window))
            await self.clock.sleep(LATEST_ARRIVAL * scene.window)
            slot.arrived()

    async def freeze(self, seconds: float) -> None:
        self.thawed.clear()
        await self.clock.sleep(seconds)
        self.thawed.set()

    async def end(self) -> None:
        """Stops in order: no further call begins, then it leaves."""
        self.stopping.set()
        await self.announcer.leave()
        self.die()

    def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self in self.scene.workers:
            self.scene.workers.remove(self)


async def a_fault(scene: Scene) -> None:
    chance = scene.chance
    worker = chance.choice(scene.workers) if scene.workers else scene.begin()
    match chance.randrange(9):
        case 0 | 1 | 2 if len(scene.workers) < 8:
            scene.begin()
        case 3:
            await worker.end()
        case 4:
            worker.die()
        case 5:
            worker.die()
            scene.begin()  # restarted at once
        case 6:
            await worker.freeze(chance.choice([1.5, 2.5, 6.0, 12.0]))
        case 7:  # another server takes over, with another clock
            scene.is_down = True
            await asyncio.sleep(chance.choice([0.5, 3.0, 12.0]))
            scene.ledger_jump += chance.uniform(-20, 20)
            scene.is_down = False
        case _:
            await asyncio.sleep(chance.uniform(0, 10))


async def troubled(scene: Scene) -> None:
    for _ in range(scene.chance.randint(1, 4)):
        scene.begin()
    running = set[asyncio.Task[None]]()
    for _ in range(25):
        fault = asyncio.create_task(a_fault(scene))
        running.add(fault)
        await asyncio.sleep(scene.chance.choice([0.1, 1.0, 5.0, 15.0]))
    await asyncio.gather(*running)
    for worker in list(scene.workers):
        worker.die()


@settings(max_examples=25, deadline=None, print_blob=True)
@given(limit=st.sampled_from([(4, 1.0), (20, 5.0), (40, 5.0), (2, 5.0)]), seed=st.integers(0, 10**9))
def test_no_window_has_more_calls_whatever_happens(limit, seed):
    calls, window = limit
    scene = Scene(RateLimit(calls, timedelta(seconds=window)), random.Random(seed))
    in_simulated_time(lambda: troubled(scene))
    assert scene.arrivals, "nothing was sent at all"
    assert scene.busiest() <= calls, f"seed {seed}"


@pytest.mark.parametrize("workers", [3, 8])
def test_the_limit_is_used_while_workers_come_and_go(workers):
    """Every 30 seconds one leaves, or one comes, in turn."""
    scene = Scene(RateLimit(300, timedelta(seconds=5)), random.Random(workers))
    used: list[float] = []

    async def run() -> None:
        for _ in range(workers):
            scene.begin(hostile=False)
        await asyncio.sleep(30)
        begin = now()
        for turn in range(8):
            if turn % 2:
                scene.begin(hostile=False)
            else:
                await scene.workers[0].end()
            await asyncio.sleep(30)
        used.append(scene.used(begin, now()))

    in_simulated_time(run)
    assert scene.busiest() <= 300
    assert used[0] >= 0.9, used


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_the_limit_is_used_once_numbers_are_stable(workers):
    scene = Scene(RateLimit(300, timedelta(seconds=5)), random.Random(workers))

    async def run() -> tuple[float, float]:
        for _ in range(workers):
            scene.begin(hostile=False)
        await asyncio.sleep(30)
        begin = now()
        await asyncio.sleep(50)
        return begin, now()

    used: list[float] = []

    async def measured() -> None:
        used.append(scene.used(*await run()))

    in_simulated_time(measured)
    assert scene.busiest() <= 300
    assert used[0] >= 0.9, used
