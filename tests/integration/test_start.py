"""A broker lost while the topology is declared, or a database that is away, at the start.

It is retried within the grace period; then there is one error line.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.support.fault_proxy import BrokerProxy, DatabaseProxy, database_proxy, fault_proxy
from tests.support.real import RealSystem
from worker.adapters.amqp import broker as amqp_broker
from worker.adapters.amqp.errors import BrokerUnavailable
from worker.adapters.memory.broker import MemoryBroker
from worker.bootstrap import running as running_of_worker
from worker.bootstrap.running import running_worker
from worker.demo.story import DemoFailed, tell
from worker.ports import LedgerFailed, PublishFailed
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

HANDSHAKE, DECLARED = 3, 26
"""Broker frames until the connection is open, and until all objects but one are declared."""

DECLARING = [HANDSHAKE, HANDSHAKE + 1, HANDSHAKE + 2, 12, 20, DECLARED]


@pytest.fixture
async def proxy(system: RealSystem) -> AsyncIterator[BrokerProxy]:
    async with fault_proxy(system.url) as proxy:
        system.environ["AMQP_URL"] = proxy.url
        yield proxy


@pytest.mark.parametrize("frames", [1, *DECLARING, DECLARED + 1, DECLARED + 2])
async def test_a_start_that_loses_the_broker_is_retried(system: RealSystem, proxy: BrokerProxy, frames: int):
    proxy.reset_after(frames)
    async with running_worker(system.settings, Telemetry()) as running:
        assert running.consumer.consuming


async def test_a_retried_start_logs_why_it_waits(
    system: RealSystem, proxy: BrokerProxy, capsys: pytest.CaptureFixture[str]
):
    proxy.reset_after(HANDSHAKE)
    configure_logging("json", "warning")
    async with running_worker(system.settings, Telemetry()):
        (line,) = capsys.readouterr().err.splitlines()
    configure_logging("json", "error")
    logged = json.loads(line)
    assert (logged["event"], logged["link"]) == ("broker_lost", "start")
    assert logged["detail"].startswith("RabbitMQ cannot be used: ")


@pytest.mark.parametrize("frames", DECLARING)
async def test_a_start_fails_with_one_line_after_the_grace_period(
    system: RealSystem, proxy: BrokerProxy, frames: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(amqp_broker, "STARTUP_GRACE_SECONDS", 0.0)
    proxy.reset_after(frames)
    with pytest.raises(BrokerUnavailable, match=r"^RabbitMQ cannot be used: .*reset") as lost:
        async with running_worker(system.settings, Telemetry()):
            pytest.fail("the start succeeded without a broker")
    assert "\n" not in str(lost.value)
    assert lost.value.exit_code == 1


@pytest.fixture
async def database(system: RealSystem, postgres_database: str) -> AsyncIterator[DatabaseProxy]:
    async with database_proxy(postgres_database) as proxy:
        system.environ["LEDGER_URL"] = proxy.url
        yield proxy


class _SeesTheLedgerAway(Telemetry):
    """Calls `then` once the ledger was found away."""

    def __init__(self, then: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._then = then
        self.healing: asyncio.Future[None] | None = None

    def ledger_away(self, detail: str) -> None:
        assert detail.startswith("the ledger cannot be reached: ")
        assert "\n" not in detail
        self.healing = self.healing or asyncio.ensure_future(self._then())


async def test_a_start_waits_for_a_database_that_is_starting_too(system: RealSystem, database: DatabaseProxy):
    database.refuse()
    telemetry = _SeesTheLedgerAway(database.listen)
    async with running_worker(system.settings, telemetry) as running:
        assert running.consumer.consuming
    assert telemetry.healing is not None


async def test_a_start_fails_with_one_line_if_the_database_stays_away(
    system: RealSystem, database: DatabaseProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(running_of_worker, "LEDGER_GRACE_SECONDS", 0.0)
    database.refuse()
    with pytest.raises(LedgerFailed, match=r"^the ledger cannot be reached: .*refused") as lost:
        async with running_worker(system.settings, Telemetry()):
            pytest.fail("the start succeeded without a ledger")
    assert "\n" not in str(lost.value)
    assert lost.value.exit_code == 1


async def run_command(proxy: BrokerProxy, *command: str) -> tuple[int | None, str]:
    """Runs the command; returns its exit code and its standard error."""
    environ = os.environ | {"AMQP_URL": proxy.url, "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", *command, env=environ, stdout=PIPE, stderr=PIPE
    )
    _, line = await process.communicate()
    return process.returncode, line.decode()


@pytest.mark.parametrize("command", ["topology apply", "topology check", "demo"])
@pytest.mark.parametrize("frames", [HANDSHAKE, 12, DECLARED])
async def test_a_command_that_loses_the_broker_prints_one_line(proxy: BrokerProxy, command: str, frames: int):
    proxy.reset_after(frames)
    code, line = await run_command(proxy, *command.split())
    assert code == 1
    assert line.startswith("RabbitMQ cannot be used: ")
    assert line.count("\n") == 1


async def test_a_demo_that_loses_the_broker_reports_it(monkeypatch: pytest.MonkeyPatch):
    async def lost(*_: object) -> None:
        raise PublishFailed("there is no connection to publish on")

    monkeypatch.setattr(MemoryBroker, "publish", lost)
    with pytest.raises(DemoFailed, match=r"^the demo failed: there is no connection to publish on$"):
        await tell({}, memory=True)
