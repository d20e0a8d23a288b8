"""Workers that are ended repeatedly, and the state after a final undisturbed run."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from tests.soak import verdict
from tests.soak.result_log import ResultLog
from tests.soak.statements import Statement
from tests.soak.verdict import Violation
from tests.soak.worker_process import WorkerProcess, start
from tests.support.entries import entries_of
from worker.cli.open_ports import ledger_to_read
from worker.sandbox import PROFILES, Rule, Sandbox
from worker.settings.load import load
from worker.settings.model import LedgerSettings

CALLS = ("create_subaccount", "update_subaccount", "list_subaccounts")
MAX_CALLS = 10
MOMENT_SECONDS = 0.05
REST_SECONDS = 600
POLL_SECONDS = 0.5


def sped_up(rules: Sequence[Rule], factor: float) -> list[Rule]:
    """The same rules with their delays multiplied by the factor."""
    return [
        replace(
            rule,
            fault=replace(
                rule.fault,
                delay_seconds=rule.fault.delay_seconds * factor,
                view=replace(rule.fault.view, lag_seconds=rule.fault.view.lag_seconds * factor),
            ),
        )
        for rule in rules
    ]


@dataclass(frozen=True)
class SoakPlan:
    """`longest_life` is the maximum time a worker runs before it is killed."""

    departments: int
    kills: int
    seed: int
    settle_window: timedelta = timedelta(seconds=5)
    api_timeout: timedelta = timedelta(seconds=2)
    longest_life: timedelta = timedelta(seconds=2)
    faults: Sequence[Rule] = PROFILES["harsh"]


@dataclass
class Soak:
    """One run of workers that are ended repeatedly, and its figures."""

    plan: SoakPlan
    environ: dict[str, str]
    sandbox: Sandbox
    result_log: ResultLog
    statements: list[Statement]
    on_kill: Callable[[int], None]
    sent: set[str] = field(default_factory=set)
    killed_at: list[datetime] = field(default_factory=list)
    unanswered_at_kill: list[int] = field(default_factory=list)
    logged: Counter[str] = field(default_factory=Counter)
    ending: ClassVar[str] = "kills"
    moment_weights: ClassVar[Sequence[int]] = (1, 7, 2)
    calls: ClassVar[Sequence[str]] = CALLS
    settings: ClassVar[Mapping[str, str]] = {"PROVISIONER_REMOVAL_LIMIT": "off"}

    async def run(self) -> list[Violation]:
        rng = random.Random(self.plan.seed)
        share = len(self.statements) // (self.plan.kills + 1) + 1
        for number in range(self.plan.kills):
            await self._send(self.statements[number * share : (number + 1) * share])
            await self._run_and_end_worker(rng)
            self.on_kill(number + 1)
        await self._send(self.statements[self.plan.kills * share :])
        return await self._final_run()

    def more_figures(self) -> list[tuple[str, str]]:
        return []

    async def _send(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            await self.result_log.send(statement)
            self.sent.add(statement.id)

    async def _run_and_end_worker(self, rng: random.Random) -> None:
        worker = await start(self.environ)
        try:
            await self._wait_for_moment(worker, rng)
            self.unanswered_at_kill.append(len(self.sent - self.result_log.answered))
            await self._end(worker)
        finally:
            await worker.kill()
        self.killed_at.append(datetime.now(UTC))
        self._read(worker)

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.kill()

    async def _wait_for_moment(self, worker: WorkerProcess, rng: random.Random) -> None:
        longest = self.plan.longest_life.total_seconds()
        asked = rng.choice(self.calls)
        at_count = self.sandbox.journal.answered[asked] + rng.randint(1, MAX_CALLS)
        match rng.choices(("starting", "working", "any"), self.moment_weights)[0]:
            case "starting":
                await asyncio.sleep(rng.uniform(0, longest / 2))
            case "working":
                await worker.logged("consuming")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.sandbox.called(asked, at_count), longest)
                await asyncio.sleep(rng.uniform(0, MOMENT_SECONDS))
            case _:
                await worker.logged("consuming")
                await asyncio.sleep(rng.uniform(0, longest))

    async def _final_run(self) -> list[Violation]:
        """Runs a worker undisturbed until no duty is left; returns the violations."""
        worker = await start(self.environ)
        try:
            async with asyncio.timeout(REST_SECONDS):
                await worker.logged("consuming")  # before that, nothing takes its SIGTERM
                await self._wait_until_idle()
            code = await worker.stop()
        except TimeoutError:
            code = None
        finally:
            await worker.kill()
        self._read(worker)
        return list(self._verdict(code, await self.result_log.waiting()))

    async def _wait_until_idle(self) -> None:
        while True:
            if self.sent <= self.result_log.answered | self._dead_ids():
                await self.result_log.replay()
            if self.sent <= self.result_log.answered and not self.result_log.dead and not await self._owed():
                return
            await asyncio.sleep(POLL_SECONDS)

    def _dead_ids(self) -> set[str]:
        return {str(letter.headers.get("x-event-id")) for letter in self.result_log.dead}

    async def _owed(self) -> bool:
        """Whether a department has a duty or a message waits."""
        async with ledger_to_read(load(LedgerSettings, self.environ)) as (ledger, _):
            entries = await entries_of(ledger)
        return any(entry.due_at for entry in entries) or await self.result_log.waiting() > 0

    def _read(self, worker: WorkerProcess) -> None:
        self.logged.update(line["event"] for line in worker.log)

    def _verdict(self, code: int | None, waiting: int) -> list[Violation]:
        received, there = self.result_log, self.sandbox.subaccounts()
        broken = verdict.judge(self.statements, received.results, received.credentials, there)
        broken += verdict.unmet_faults(self.plan.faults, self.sandbox.requests)
        if code is None:
            broken.append(Violation("-", f"not idle within {REST_SECONDS} s"))
        elif code:
            broken.append(Violation("-", f"the last worker ended with {code}"))
        if waiting or received.dead:
            broken.append(
                Violation("-", f"{waiting} messages and {len(received.dead)} dead letters were left")
            )
        if crashes := self.logged["step_crashed"]:
            broken.append(Violation("-", f"{crashes} steps crashed"))
        return broken
