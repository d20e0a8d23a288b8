"""A long provider outage in real time: `python -m tests.soak.outages --minutes 12 --seed 7`.

A worker with default settings serves departments while the provider fails for every call and in every way:
connections refused and reset, no responses, 503, 401, 402 and 403, each for a share of the time. Events keep
arriving. Then the provider recovers, and the state must follow the newest events: no message dead-lettered
or charged with an attempt, one alert, and no message held as long as the broker allows. Otherwise the exit
code is 1.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak import verdict
from tests.soak.client import SoakClient, soak_client
from tests.soak.command import CONSOLE, Report, parser, run_and_report
from tests.soak.leftovers import left_in_queues, nothing_due, nothing_queued, work
from tests.soak.statements import Statement, draw_statements
from tests.soak.verdict import Violation
from tests.soak.worker_process import WorkerProcess, worker_process
from tests.support.fault_proxy import FaultProxy, server_proxy
from worker.demo.private_node import PrivateNode, private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN, Rule, Sandbox, fault, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

OUTAGE_KINDS = ("refused", "reset", "hang", "error", "unauthorized", "no-credit", "forbidden")
CALM_SHARE = 0.1
LONGEST_HELD_SECONDS = 11 * 60
POLL_SECONDS = 5.0


@dataclass(frozen=True)
class OutagePlan:
    """The size and duration of an outage run, its seed, and further worker settings."""

    departments: int
    minutes: float
    seed: int
    settings: Mapping[str, str] = field(default_factory=dict)
    rest_seconds: float = 1800


@dataclass
class Outage:
    """One outage run with its violations and figures."""

    plan: OutagePlan
    environ: dict[str, str]
    node: PrivateNode
    proxy: FaultProxy
    sandbox: Sandbox
    client: SoakClient
    worker: WorkerProcess
    over_at: float = 0.0
    broken: list[Violation] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)

    async def run(self) -> None:
        rng = random.Random(self.plan.seed)
        statements = draw_statements(self.plan.departments, rng)
        calm = int(len(statements) * CALM_SHARE)
        await self._feed(statements[:calm], 0.0)
        await self.client.wait_until(lambda: len(self.client.answered) >= calm / 2)
        async with asyncio.TaskGroup() as during:
            during.create_task(self._feed(statements[calm:], self.plan.minutes * 60 / len(statements[calm:])))
            during.create_task(self._inject_outages(rng.sample(OUTAGE_KINDS, len(OUTAGE_KINDS))))
        await self._wait_until_idle()
        if code := await self.worker.stop():
            self._broke(f"the worker ended with {code}")
        await self._judge()

    async def _feed(self, statements: Sequence[Statement], pace_seconds: float) -> None:
        for statement in statements:
            await self.client.send(statement)
            await asyncio.sleep(pace_seconds)

    async def _inject_outages(self, outage_kinds: Sequence[str]) -> None:
        """Injects one outage after the other without a gap between them."""
        began = time.monotonic()
        for number, outage_kind in enumerate(outage_kinds, start=1):
            refused = outage_kind == "refused"
            self.sandbox.set_rules(Rule("*", fault("error" if refused else outage_kind)))
            CONSOLE.print(f"{outage_kind} after {time.monotonic() - began:.0f} s", highlight=False)
            async with self._nobody_listening() if refused else nullcontext():
                await self._watch(began, began + self.plan.minutes * 60 * number / len(outage_kinds))
        self.sandbox.set_rules()
        self.over_at = time.monotonic()
        self._figure("events without an answer when it was over", str(len(self._unanswered())))

    @asynccontextmanager
    async def _nobody_listening(self) -> AsyncIterator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        yield
        await self.proxy.listen()

    async def _watch(self, began: float, until: float) -> None:
        while (now := time.monotonic()) < until:
            if now - began > LONGEST_HELD_SECONDS and (
                held := await work(self.node, "messages_unacknowledged")
            ):
                self._broke(f"{held} messages are held after {now - began:.0f} s")
                return
            await asyncio.sleep(min(POLL_SECONDS, until - now))

    def _unanswered(self) -> list[Statement]:
        return self.client.unanswered(list(self.client.sent.values()))

    async def _wait_until_idle(self) -> None:
        try:
            async with asyncio.timeout(self.plan.rest_seconds):
                await self.client.wait_until(lambda: not self._unanswered())
                self._figure("from then to the last answer", f"{time.monotonic() - self.over_at:.0f} s")
                await nothing_due(self.environ)
                await nothing_queued(self.node)
                self._figure("from then until no duty was left", f"{time.monotonic() - self.over_at:.0f} s")
        except TimeoutError:
            self._broke(f"not idle in time: {len(self._unanswered())} events unanswered")

    async def _judge(self) -> None:
        received = self.client
        self._figure("events", str(len(received.sent)))
        self.broken += verdict.judge(
            received.sent.values(), received.results, received.credentials, self.sandbox.subaccounts()
        )
        met = {one.fault for one in self.sandbox.requests if one.fault}
        self._figure("faults met", ", ".join(sorted(met)))
        if not met:
            self._broke("no call met a fault")
        if made := verdict.duplicates(self.sandbox.subaccounts()):
            self._broke(f"{made} duplicates were created")
        charged = sum(line["counted"] for line in self.worker.log if line["event"] == "message_parked")
        self._figure("messages parked, charged", f"{self.worker.count('message_parked')}, {charged}")
        if charged:
            self._broke(f"{charged} messages were charged with an attempt")
        if (alerts := self.worker.count("circuit_opened")) != 1:
            self._broke(f"{alerts} alerts")
        self.broken += await left_in_queues(self.node.url)

    def _broke(self, what: str) -> None:
        self.broken.append(Violation("-", what))

    def _figure(self, name: str, value: str) -> None:
        self.figures.append((name, value))


async def outage(plan: OutagePlan, folder: Path) -> Outage:
    """Runs the soak on a private node, with the ledger in `folder`."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(private_node())
        sandbox = await stack.enter_async_context(running_sandbox(seed=plan.seed))
        proxy = await stack.enter_async_context(server_proxy(sandbox.url))
        received = await stack.enter_async_context(
            soak_client(load(TopologySettings, {"AMQP_URL": node.url}))
        )
        environ = {
            "AMQP_URL": node.url,
            "PLIVO_AUTH_ID": AUTH_ID,
            "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
            "PLIVO_API_URL": proxy.url,
            "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
            "PROVISIONER_REMOVAL_LIMIT": "off",
            **plan.settings,
        }
        worker = await stack.enter_async_context(worker_process(environ))
        run = Outage(plan, environ, node, proxy, sandbox, received, worker)
        await run.run()
        return run


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("outages", __doc__)
    options.add_argument("--minutes", type=float, default=12, help="how long the provider is away")
    asked = options.parse_args(arguments)
    plan = OutagePlan(asked.departments, asked.minutes, asked.seed)

    async def run(folder: Path) -> Report:
        done = await outage(plan, folder)
        return Report(done.broken, done.figures)

    return run_and_report(asked.seed, run)


if __name__ == "__main__":
    sys.exit(main())
