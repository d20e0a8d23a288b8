"""Losses of nodes of a RabbitMQ cluster under load: `python -m tests.soak.cluster --seed 7`.

A worker serves departments on three nodes. The leader of its work queue is killed, then a follower; a node is
frozen and let go on; all are restarted one after the other. Events keep arriving. Then the state must follow
the newest events, and nothing may be left in a queue; otherwise the exit code is 1. The figures tell the
longest pause between two answers while each fault lasts, and the slowest answer.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from contracts.topology import WORK_QUEUE
from tests.soak import verdict
from tests.soak.chaos import RunWorker, Stop, in_its_own_process, worker_environ
from tests.soak.client import SoakClient, soak_client
from tests.soak.command import CONSOLE, Report, parser, run_and_report
from tests.soak.leftovers import left_in_queues, nothing_due
from tests.soak.statements import Statement, draw_statements
from tests.soak.verdict import Violation
from tests.support.cluster import PARTITIONS, Cluster, ClusterNode, private_cluster
from worker.sandbox import Sandbox, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

DOWN_SECONDS = 3.0
PULSE_SECONDS = 0.3
REST_SECONDS = 120.0
HEAL_SECONDS = 90.0

ClusterFault = Callable[[Cluster, float], Coroutine[None, None, None]]
"""Injects a fault and repairs it; the second argument is how long a node is frozen, in seconds."""


class Times(NamedTuple):
    """How the answers to the pulses of one fault came, in seconds.

    `pause`: the longest time without any answer. `slowest`: the longest time to one answer, which also
    contains the time for which the broker keeps a single message from all consumers.
    """

    pause: float
    slowest: float
    pulses: int


OnFault = Callable[[str, Times], None]
"""Takes the fault and its times."""


async def leader_killed(cluster: Cluster, _: float) -> None:
    """Kills the node that leads the work queue."""
    await _kill(await cluster.leader(WORK_QUEUE))


async def follower_killed(cluster: Cluster, _: float) -> None:
    """Kills a node that follows."""
    leader = await cluster.leader(WORK_QUEUE)
    await _kill(next(node for node in cluster.nodes if node is not leader))


async def leader_frozen(cluster: Cluster, seconds: float) -> None:
    """Freezes the node that leads the work queue; its connections stay open.

    RabbitMQ before 4.3 does not always heal by itself after that; the RUNBOOK has the node restarted then.
    """
    leader = await cluster.leader(WORK_QUEUE)
    leader.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        leader.thaw()
    try:
        async with asyncio.timeout(HEAL_SECONDS):
            await cluster.whole()
    except TimeoutError:
        await leader.stop()
        await leader.start()


async def rolling_restart(cluster: Cluster, _: float) -> None:
    """Stops and starts one node after the other, as an upgrade does."""
    for node in cluster.nodes:
        await node.stop()
        await node.start()
        await cluster.joined(node)


CLUSTER_FAULTS: tuple[ClusterFault, ...] = (leader_killed, follower_killed, leader_frozen, rolling_restart)


async def _kill(node: ClusterNode) -> None:
    await node.kill()
    await asyncio.sleep(DOWN_SECONDS)
    await node.start()


@dataclass(frozen=True)
class ClusterPlan:
    """The size of a run, its seed, and how nodes are lost and judged lost."""

    departments: int
    seed: int
    frozen_seconds: float = 25.0
    partitions: str = "autoheal"
    net_ticktime_seconds: int = 8
    pace_seconds: float = 0.05
    faults: tuple[ClusterFault, ...] = CLUSTER_FAULTS


@dataclass
class Pulses:
    """Events of one department each, sent while a fault lasts, and when each was sent and answered."""

    client: SoakClient
    prefix: str
    _sent: dict[str, float] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)

    async def send(self) -> Statement:
        """Sends the next one."""
        department = f"{self.prefix}-{len(self._sent)}"
        pulse = Statement(department, "created", 1, f"{department} north")
        self._sent[pulse.id] = time.monotonic()
        await self.client.send(pulse)
        return pulse

    async def answered(self, pulse: Statement) -> None:
        """Returns once it is answered."""
        await self.client.wait_until(lambda: pulse.id in self.client.answered)
        self._answered[pulse.id] = time.monotonic()

    def times(self) -> Times:
        """All must be answered."""
        at = sorted(self._answered.values())
        slowest = max(self._answered[id_] - sent for id_, sent in self._sent.items())
        return Times(max(later - earlier for earlier, later in pairwise(at)), slowest, len(at))


@dataclass
class ClusterRun:
    """One run: a worker that gets events while nodes of its broker are lost."""

    plan: ClusterPlan
    environ: dict[str, str]
    cluster: Cluster
    sandbox: Sandbox
    client: SoakClient
    on_fault: OnFault
    broken: list[Violation] = field(default_factory=list)

    async def run(self, stop: Stop) -> None:
        statements = draw_statements(self.plan.departments, random.Random(self.plan.seed))
        share = len(statements) // len(self.plan.faults) + 1
        for number, fault in enumerate(self.plan.faults):
            await self._run_fault(fault, statements[number * share : (number + 1) * share])
        await self._wait_until_idle()
        if code := await stop():
            self._broke(f"the worker ended with {code}")
        self.broken += verdict.judge(
            self.client.sent.values(),
            self.client.results,
            self.client.credentials,
            self.sandbox.subaccounts(),
        )
        if made := verdict.duplicates(self.sandbox.subaccounts()):
            self._broke(f"{made} duplicates were created")
        self.broken += await left_in_queues(self.cluster.nodes[0].url)

    async def _run_fault(self, fault: ClusterFault, statements: Sequence[Statement]) -> None:
        """Injects the fault while these events are sent, and a pulse every `PULSE_SECONDS`."""
        name = fault.__name__.replace("_", " ")
        pulses = Pulses(self.client, fault.__name__)
        longest_seconds = self.plan.frozen_seconds + HEAL_SECONDS + REST_SECONDS
        try:
            async with asyncio.timeout(longest_seconds), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(statements))
                await pulses.answered(await pulses.send())
                faulty = tasks.create_task(fault(self.cluster, self.plan.frozen_seconds))
                while not faulty.done():
                    tasks.create_task(pulses.answered(await pulses.send()))
                    await asyncio.sleep(PULSE_SECONDS)
                await self.client.wait_until(lambda: not self.client.unanswered(statements))
        except TimeoutError:
            self._broke(f"{name}: {len(self._unanswered())} events are not answered in time")
        else:
            await self.cluster.whole()
            self.on_fault(name, pulses.times())

    async def _feed(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            await self.client.send(statement)
            await asyncio.sleep(self.plan.pace_seconds)

    async def _wait_until_idle(self) -> None:
        try:
            async with asyncio.timeout(REST_SECONDS):
                await self.client.wait_until(lambda: not self._unanswered())
                await nothing_due(self.environ)
        except TimeoutError:
            self._broke(f"not idle within {REST_SECONDS:.0f} s: {len(self._unanswered())} events unanswered")

    def _unanswered(self) -> list[Statement]:
        return self.client.unanswered(list(self.client.sent.values()))

    def _broke(self, what: str) -> None:
        self.broken.append(Violation("-", what))


async def cluster_run(
    plan: ClusterPlan, folder: Path, run_worker: RunWorker, on_fault: OnFault
) -> list[Violation]:
    """Runs the soak on a private cluster, with the ledger in `folder`."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            private_cluster(partitions=plan.partitions, net_ticktime_seconds=plan.net_ticktime_seconds)
        )
        sandbox = await stack.enter_async_context(running_sandbox(seed=plan.seed, rate_limit="off"))
        client = await stack.enter_async_context(
            soak_client(load(TopologySettings, {"AMQP_URL": cluster.urls}))
        )
        environ = worker_environ(cluster.urls, sandbox, folder)
        stop = await stack.enter_async_context(run_worker(environ))
        run = ClusterRun(plan, environ, cluster, sandbox, client, on_fault)
        await run.run(stop)
        return run.broken


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("cluster", __doc__)
    options.set_defaults(departments=100)
    options.add_argument("--frozen", type=float, default=25.0, help="how long a node is frozen, in seconds")
    options.add_argument("--net-ticktime", type=int, default=60, help="when a silent node counts as lost")
    options.add_argument("--partitions", default="autoheal", help=PARTITIONS)
    asked = options.parse_args(arguments)
    plan = ClusterPlan(asked.departments, asked.seed, asked.frozen, asked.partitions, asked.net_ticktime)

    async def run(folder: Path) -> Report:
        return Report(await cluster_run(plan, folder, in_its_own_process, _say))

    return run_and_report(asked.seed, run)


def _say(name: str, times: Times) -> None:
    CONSOLE.print(f"{name}: {described(times)}", highlight=False)


def described(times: Times) -> str:
    """The times of one fault, as in the RUNBOOK."""
    pause, slowest, pulses = times
    return f"longest pause {pause:.1f} s, slowest of {pulses} answers {slowest:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
