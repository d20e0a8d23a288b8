"""Broker faults under load: `python -m tests.soak.chaos --rounds 3 --seed 7`.

A worker behind a fault proxy serves departments at a mildly faulty sandbox. Meanwhile its broker restarts,
closes connections, loses the work queue, runs out of memory, stops responding and withholds confirms, in an
order drawn from the seed. Then the state must follow the newest events and all queues must be empty;
otherwise the exit code is 1.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from contracts.topology import delay_label
from tests.soak import verdict
from tests.soak.broker_faults import BROKER_FAULTS, BrokerFault, FaultTargets
from tests.soak.client import SoakClient, soak_client
from tests.soak.command import CONSOLE, Report, parser, run_and_report
from tests.soak.leftovers import left_in_queues, nothing_due, nothing_queued
from tests.soak.lives import sped_up
from tests.soak.statements import Statement, draw_statements
from tests.soak.verdict import Violation
from tests.soak.worker_process import worker_process
from tests.support.fault_proxy import fault_proxy
from worker.demo.private_node import private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN, PROFILES, Rule, Sandbox, fault, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

REST_SECONDS = 120
PACE_SECONDS = 0.02

Stop = Callable[[], Awaitable[int]]
RunWorker = Callable[[Mapping[str, str]], AbstractAsyncContextManager[Stop]]
"""Runs a worker during the block; yields a function that drains it and returns its exit code."""


@dataclass(frozen=True)
class ChaosPlan:
    """The size of a chaos run, its seed, and its timings and provider faults."""

    departments: int
    rounds: int
    seed: int
    settle_window: timedelta = timedelta(seconds=2)
    api_timeout: timedelta = timedelta(seconds=1)
    rules: tuple[Rule, ...] = (
        *sped_up(PROFILES["mild"], 0.3),
        Rule("*", fault("slow", delay_seconds=0.1), probability=0.3),
    )


@dataclass
class Chaos:
    """One chaos run: a worker that gets events during broker faults."""

    plan: ChaosPlan
    environ: dict[str, str]
    targets: FaultTargets
    client: SoakClient
    on_fault: Callable[[str, float], None]
    broken: list[Violation] = field(default_factory=list)

    async def run(self, stop: Stop) -> list[Violation]:
        rng = random.Random(self.plan.seed)
        statements = draw_statements(self.plan.departments, rng)
        faults = [
            fault for _ in range(self.plan.rounds) for fault in rng.sample(BROKER_FAULTS, len(BROKER_FAULTS))
        ]
        share = len(statements) // len(faults) + 1
        for number, one in enumerate(faults):
            await self._run_fault(one, statements[number * share : (number + 1) * share])
        await self._wait_until_idle()
        if code := await stop():
            self.broken.append(Violation("-", f"the worker ended with {code}"))
        await self._judge()
        return self.broken

    async def _run_fault(self, one: BrokerFault, statements: Sequence[Statement]) -> None:
        """Injects the fault while these events are handled; afterwards half of them must be answered."""
        began = time.monotonic()
        feeding = asyncio.create_task(self._feed(statements))
        received = self.client
        try:
            async with asyncio.timeout(REST_SECONDS):
                await received.wait_until(lambda: len(received.unanswered(statements)) < len(statements))
                await one(self.targets)
                await feeding
                await received.wait_until(lambda: len(received.unanswered(statements)) <= len(statements) / 2)
        except TimeoutError:
            self.broken.append(Violation("-", f"after {one.__name__} no event is answered"))
        self.on_fault(one.__name__, time.monotonic() - began)

    async def _feed(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            await self.client.send(statement)
            await asyncio.sleep(PACE_SECONDS)

    async def _wait_until_idle(self) -> None:
        """Waits until every event is answered and no duty is left."""
        received = self.client
        try:
            async with asyncio.timeout(REST_SECONDS):
                await received.wait_until(lambda: received.sent.keys() <= received.answered)
                await nothing_due(self.environ)
                await nothing_queued(self.targets.node)
        except TimeoutError:
            self.broken.append(Violation("-", f"not idle within {REST_SECONDS} s"))

    async def _judge(self) -> None:
        received, there = self.client, self.targets.sandbox.subaccounts()
        self.broken += verdict.judge(received.sent.values(), received.results, received.credentials, there)
        self.broken += verdict.unmet_faults(self.plan.rules, self.targets.sandbox.requests)
        self.broken += await left_in_queues(self.targets.node.url)
        self.broken += [
            Violation("-", f"the fault {fault} affected nothing") for fault in self.targets.proxy.unspent
        ]
        self.targets.proxy.unspent.clear()


async def chaos(
    plan: ChaosPlan,
    folder: Path,
    run_worker: RunWorker,
    on_fault: Callable[[str, float], None] = lambda *_: None,
) -> list[Violation]:
    """Runs the soak on a private node, with the ledger in `folder`."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(private_node())
        proxy = await stack.enter_async_context(fault_proxy(node.url))
        sandbox = await stack.enter_async_context(
            running_sandbox(faults=plan.rules, seed=plan.seed, rate_limit="off")
        )
        direct = load(TopologySettings, {"AMQP_URL": node.url})
        received = await stack.enter_async_context(soak_client(direct))
        environ = worker_environ(proxy.url, sandbox, folder, plan.settle_window, plan.api_timeout)
        stop = await stack.enter_async_context(run_worker(environ))
        targets = FaultTargets(
            node, proxy, sandbox, plan.rules, received.send, received.send_to_work, received.send_again
        )
        return await Chaos(plan, environ, targets, received, on_fault).run(stop)


def worker_environ(
    amqp_url: str,
    sandbox: Sandbox,
    folder: Path,
    settle_window: timedelta = timedelta(seconds=2),
    api_timeout: timedelta = timedelta(seconds=1),
) -> dict[str, str]:
    """The settings of a worker that is limited by the broker alone, with its ledger in `folder`."""
    return {
        "AMQP_URL": amqp_url,
        "PLIVO_AUTH_ID": AUTH_ID,
        "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
        "PLIVO_API_URL": sandbox.url,
        "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PROVISIONER_PLAINTEXT_SECRETS": "true",
        "PROVISIONER_RATE_LIMIT": "100000/1s",
        "PROVISIONER_SETTLE_WINDOW": delay_label(settle_window),
        "PROVISIONER_API_TIMEOUT": delay_label(api_timeout),
        "PROVISIONER_REMOVAL_LIMIT": "off",
    }


@asynccontextmanager
async def in_its_own_process(environ: Mapping[str, str]) -> AsyncIterator[Stop]:
    """Runs the worker in its own process."""
    async with worker_process(environ) as worker:
        yield worker.stop


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("chaos", __doc__)
    options.add_argument("--rounds", type=int, default=3, help="how often each fault comes")
    asked = options.parse_args(arguments)
    plan = ChaosPlan(asked.departments, asked.rounds, asked.seed)

    async def run(folder: Path) -> Report:
        return Report(await chaos(plan, folder, in_its_own_process, _say))

    return run_and_report(asked.seed, run)


def _say(name: str, seconds: float) -> None:
    CONSOLE.print(f"{name.replace('_', ' ')}: through in {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
