"""Nodes of a RabbitMQ cluster are lost under load; the final state must be correct."""

import random
from pathlib import Path

import pytest

from tests.integration.test_chaos import in_this_process
from tests.soak.cluster import CLUSTER_FAULTS, ClusterPlan, cluster_run

pytestmark = [
    pytest.mark.xdist_group("alone"),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("rabbitmq_server"),
]


async def test_no_message_is_lost_while_nodes_of_a_cluster_are_lost(tmp_path: Path):
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    seconds: dict[str, float] = {}

    def note(fault: str, longest: float, _answers: int) -> None:
        print(f"{fault}: {longest:.1f} s")  # noqa: T201 - shown if it fails
        seconds[fault] = longest

    plan = ClusterPlan(40, seed, frozen_seconds=15.0)
    assert await cluster_run(plan, tmp_path, in_this_process, note) == []
    assert len(seconds) == len(CLUSTER_FAULTS)
    assert max(seconds.values()) < 30
