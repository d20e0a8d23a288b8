"""All broker faults in one run under load; the final state must be correct."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contracts.topology import BrokerVersion
from tests.soak.chaos import ChaosPlan, Stop, chaos
from worker.adapters.amqp import link, publisher
from worker.adapters.amqp.channel import CANCELLED
from worker.bootstrap.running import running_worker
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging

pytestmark = [
    pytest.mark.xdist_group("broker"),
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("rabbitmq_server"),
]

NOTICED = ("CONNECTION_FORCED", CANCELLED, "connection reset", "connection refused")
OVERDUE = "delivery acknowledgement on channel"
"""Why RabbitMQ before 4.3 closes a channel; later ones cancel its consumer."""


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch):
    """Shortens the connection's timeouts."""
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 2.0)
    monkeypatch.setattr(link, "PULSE_SECONDS", 0.5)
    monkeypatch.setattr(link, "PULSE_ANSWER_SECONDS", 2.0)


@asynccontextmanager
async def in_this_process(environ: Mapping[str, str]) -> AsyncIterator[Stop]:
    async with running_worker(load(WorkerSettings, environ), Telemetry()) as running:

        async def stop() -> int:
            return int(not await running.drain())

        yield stop


async def test_no_message_is_lost_through_all_broker_faults(tmp_path: Path):
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    configure_logging("json", "info")  # which tells the broker's version
    with capture_logs() as log:
        broken = await chaos(ChaosPlan(80, 1, seed, timedelta(seconds=1)), tmp_path, in_this_process)
    assert broken == []
    details = " ".join(line["detail"] for line in log if line["event"] == "broker_lost")
    version = next(line["version"] for line in log if line["event"] == "broker_connected")
    noticed = NOTICED if BrokerVersion.parse(version) >= (4, 3) else (*NOTICED, OVERDUE)
    assert [reason for reason in noticed if reason not in details] == []
