"""A real Prometheus scrapes a real worker, and evaluates the dashboard and the alerts on what it finds."""

import asyncio
from pathlib import Path

import aiohttp

from contracts import topology as names
from tests.monitoring.exported import ALERTS, DASHBOARD, METRICS, expressions, written_out
from tests.support.builders import department_created
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.real import RealSystem
from worker.adapters.system import SystemClock
from worker.bootstrap.running import running_worker
from worker.demo.private_node import Ports
from worker.service.intake.serve import running_intake
from worker.service.probes import Probes, serving
from worker.settings.load import load
from worker.settings.model import IntakeSettings
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry
from worker.telemetry.metrics import Process

NEEDS_TROUBLE = ("waits_total", "sweep_findings", "> 0")
"""Parts of expressions that have no series while all is well."""


async def test_a_real_prometheus_evaluates_dashboard_and_alerts(system: RealSystem, tmp_path: Path):
    telemetry = Telemetry()
    probes = Probes(telemetry, None)
    own = {"AMQP_URL": system.environ["AMQP_URL"], "PROVISIONER_INTAKE": f"127.0.0.1:{Ports.free().amqp}"}
    of_intake = load(IntakeSettings, own)
    async with (
        serving(probes, Address("127.0.0.1", 0)) as address,
        running_worker(system.settings, telemetry) as running,
        running_intake(of_intake, Telemetry(process=Process.INTAKE), {}) as intake,
        running_prometheus(
            tmp_path, [f"127.0.0.1:{one.port}" for one in (address, intake.server.address)]
        ) as prometheus,
    ):
        telemetry.started("1.0", SystemClock().now(), {})
        with probes.watching(running):
            results = await system.listen(names.RESULTS)
            await _until_scraped(prometheus, "provisioner_consuming == 1")
            await _until_scraped(prometheus, "provisioner_intake_ready == 1")
            await system.send(department_created().model_dump_json().encode())
            await system.send(b"{")
            await results.count(2)
            await _until_scraped(prometheus, "sum(increase(provisioner_events_total[5s])) > 1.5")
            await _until_scraped(prometheus, "rate(provisioner_intake_confirm_seconds_count[15s])")
            for expression in expressions(DASHBOARD):
                found = await prometheus.query(written_out(expression, interval="15s"))
                assert found or any(part in expression for part in NEEDS_TROUBLE), expression
            fired = {rule["alert"]: await prometheus.query(rule["expr"]) for rule in ALERTS}
            assert [one["metric"]["reason"] for one in fired["ProvisionerDeadLetters"]] == ["malformed"]
            assert fired["ProvisionerAbsent"] == fired["ProvisionerNotConsuming"] == []
            assert await running.drain()
        url = f"http://127.0.0.1:{address.port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as page:
            text = await page.text()
    of_worker = [name for name, metric in METRICS.items() if metric.of is not Process.INTAKE]
    assert all(f"# HELP {name} " in text for name in of_worker)
    assert "_created" not in text


async def _until_scraped(prometheus: Prometheus, expression: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if await prometheus.query(expression):
                return
            await asyncio.sleep(0.2)
