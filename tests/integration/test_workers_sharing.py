"""Two workers on one PostgreSQL ledger: each is shown, and together they keep the provider's rate limit."""

import asyncio
import json
from contextlib import AsyncExitStack

import aio_pika
import pytest

from contracts import topology as names
from tests.support.commands import in_process
from tests.support.real import EVENT, RealSystem
from worker.bootstrap.running import running_worker
from worker.sandbox import running_sandbox
from worker.telemetry.events import Telemetry

pytestmark = pytest.mark.xdist_group("alone")

LIMIT, SHARE, EVENTS = "100/5s", 50, 300


async def test_two_workers_share_the_limit(clean_broker: str, postgres_database: str):
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(running_sandbox(rate_limit=LIMIT))
        connection = await stack.enter_async_context(await aio_pika.connect(clean_broker))
        environ = {
            "AMQP_URL": clean_broker,
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": postgres_database,
            "PROVISIONER_PLAINTEXT_SECRETS": "true",
            "PROVISIONER_RATE_LIMIT": LIMIT,
            "PROVISIONER_PREFETCH": "20",
        }
        system = RealSystem(clean_broker, sandbox, environ, await connection.channel())
        telemetries = [Telemetry(), Telemetry()]
        running = [
            await stack.enter_async_context(running_worker(system.settings, telemetry))
            for telemetry in telemetries
        ]
        results = await system.listen(names.RESULTS)
        for number in range(EVENTS):
            event = EVENT | {"id": f"e{number}", "data": {"department_id": f"d{number}", "name": "A"}}
            await system.send(json.dumps(event).encode())
        async with asyncio.timeout(60):
            while True:
                workers = (await in_process(environ, "status", "--json")).json["workers"]
                if [worker["rate_share"] for worker in workers] == [SHARE, SHARE]:
                    break
                await asyncio.sleep(0.2)
        assert len({worker["id"] for worker in workers}) == 2
        await results.count(EVENTS)
        assert all([await one.drain() for one in running])
    assert len(sandbox.subaccounts()) == EVENTS
    calls = [_calls(telemetry) for telemetry in telemetries]
    assert all(made.get("201", 0) > EVENTS / 8 for made in calls), calls
    refused, sent = (sum(made.get("429", 0) for made in calls), sum(sum(made.values()) for made in calls))
    # The promise: under 0.5 %, unless a call takes more than 3 % of the window to its server.
    assert refused < 0.005 * sent, calls


def _calls(telemetry: Telemetry) -> dict[str, float]:
    """The number of calls by HTTP status."""
    found: dict[str, float] = {}
    for metric in telemetry.registry.collect():
        for sample in metric.samples:
            if sample.name == "provisioner_provider_requests_total":
                status = sample.labels["status"]
                found[status] = found.get(status, 0) + sample.value
    return found
