"""Nodes of a RabbitMQ cluster are lost under load; the final state must be correct."""

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from contracts.topology import WORK_QUEUE
from tests.integration.test_chaos import in_this_process
from tests.soak.chaos import worker_environ
from tests.soak.client import soak_client
from tests.soak.cluster import (
    CLUSTER_FAULTS,
    ClusterPlan,
    Pulses,
    Times,
    cluster_run,
    described,
)
from tests.support.cluster import private_cluster
from tests.support.fault_proxy import fault_proxy
from worker.sandbox import running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

pytestmark = [
    pytest.mark.xdist_group("alone"),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("rabbitmq_server"),
]


async def test_no_message_is_lost_while_nodes_of_a_cluster_are_lost(tmp_path: Path):
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    pauses: dict[str, float] = {}

    def note(fault: str, times: Times) -> None:
        print(f"{fault}: {described(times)}")  # noqa: T201 - shown if it fails
        pauses[fault] = times.pause

    plan = ClusterPlan(40, seed, frozen_seconds=15.0)
    assert await cluster_run(plan, tmp_path, in_this_process, note) == []
    assert len(pauses) == len(CLUSTER_FAULTS)
    assert max(pauses.values()) < 30


async def test_a_worker_reconnects_while_another_node_is_frozen(tmp_path: Path):
    """Every bind and every new queue wait for the frozen node until it counts as lost: here 60 s."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(private_cluster(net_ticktime_seconds=60))
        leader, _, follower = cluster.nodes
        proxy = await stack.enter_async_context(fault_proxy(leader.url))
        sandbox = await stack.enter_async_context(running_sandbox(rate_limit="off"))
        client = await stack.enter_async_context(
            soak_client(load(TopologySettings, {"AMQP_URL": leader.url}))
        )
        stop = await stack.enter_async_context(in_this_process(worker_environ(proxy.url, sandbox, tmp_path)))
        pulses = Pulses(client, "pulse")
        await pulses.answered(await pulses.send())
        assert await cluster.leader(WORK_QUEUE) is leader
        follower.freeze()
        try:
            async with proxy.connected_anew(2):
                proxy.reset()
            await pulses.answered(await pulses.send())
        finally:
            follower.thaw()
        print(described(pulses.times()))  # noqa: T201 - shown if it fails
        assert pulses.times().slowest < 30
        await cluster.whole()
        await pulses.answered(await pulses.send())
        assert await stop() == 0


@pytest.mark.parametrize("which", [0, 2], ids=["leader", "follower"])
async def test_a_worker_leaves_a_node_that_is_cut_off_from_the_others(which: int, tmp_path: Path):
    """Such a node answers clients and delivers nothing, even if it led the queue."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(private_cluster())
        leader, whole, _ = cluster.nodes
        async with soak_client(load(TopologySettings, {"AMQP_URL": leader.url})):
            assert await cluster.leader(WORK_QUEUE) is leader
        client = await stack.enter_async_context(soak_client(load(TopologySettings, {"AMQP_URL": whole.url})))
        first = await stack.enter_async_context(fault_proxy(cluster.nodes[which].url))
        second = await stack.enter_async_context(fault_proxy(whole.url))
        second.refuse()
        sandbox = await stack.enter_async_context(running_sandbox(rate_limit="off"))
        environ = worker_environ(f"{first.url},{second.url}", sandbox, tmp_path)
        stop = await stack.enter_async_context(in_this_process(environ))
        pulses = Pulses(client, "pulse")
        await pulses.answered(await pulses.send())
        await second.listen()
        await cluster.cut_off(cluster.nodes[which])
        await pulses.answered(await pulses.send())
        print(described(pulses.times()))  # noqa: T201 - shown if it fails
        assert pulses.times().slowest < 75
        await cluster.join_again(cluster.nodes[which])
        await pulses.answered(await pulses.send())
        assert await stop() == 0
