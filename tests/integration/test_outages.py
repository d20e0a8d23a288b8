"""The provider fails in every way, one after the other, while events keep arriving."""

import random
from pathlib import Path

import pytest

from tests.soak.outages import OutagePlan, outage

pytestmark = [
    pytest.mark.xdist_group("broker"),
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("rabbitmq_server"),
]

HASTY = {
    "PROVISIONER_SETTLE_WINDOW": "1s",
    "PROVISIONER_API_TIMEOUT": "500ms",
    "PROVISIONER_RETRY_BUDGET": "300ms",
    "PROVISIONER_RETRY_DELAYS": "500ms,1s",
    "PROVISIONER_MAX_ATTEMPTS": "3",
}


async def test_every_kind_of_outage_only_delays_events(tmp_path: Path):
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    run = await outage(OutagePlan(40, 0.2, seed, HASTY, rest_seconds=60), tmp_path)
    assert run.broken == []
