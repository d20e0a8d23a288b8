"""Two workers on one PostgreSQL ledger and one queue: one loses its connection, or its life, in mid-work."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from contracts import topology as names
from tests.soak.scale import ScalePlan, scale
from tests.soak.worker_process import worker_process
from tests.support.fault_proxy import database_proxy
from tests.support.real import EVENT, TIMEOUT_SECONDS, Listener, RealSystem
from worker.bootstrap.running import RunningWorker, running_worker
from worker.sandbox import Rule, fault
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

DEPARTMENTS = [f"d{number}" for number in range(6)]
TIMES = {
    "PROVISIONER_API_TIMEOUT": "8s",
    "PROVISIONER_SETTLE_WINDOW": "8s",
    "PROVISIONER_HTTP": "127.0.0.1:0",
}


@pytest.fixture
def shared(system: RealSystem, postgres_database: str) -> RealSystem:
    """The parts of two workers."""
    return replace(system, environ=system.environ | TIMES | {"LEDGER_URL": postgres_database})


@asynccontextmanager
async def worker_with(environ: Mapping[str, str]) -> AsyncIterator[RunningWorker]:
    async with running_worker(load(WorkerSettings, environ), Telemetry()) as running:
        yield running
        assert await running.drain()


async def send_all(system: RealSystem) -> None:
    for number, department in enumerate(DEPARTMENTS):
        data = {"department_id": department, "name": f"Name of {department}"}
        await system.send(json.dumps(EVENT | {"id": f"event-{number}", "data": data}).encode())


async def all_done(system: RealSystem, results: Listener, secrets: Listener) -> None:
    """Each event is answered, each department has one subaccount and one set of credentials."""
    events = {f"event-{number}" for number in range(len(DEPARTMENTS))}

    def answered(listener: Listener) -> bool:
        return {one["causationid"] for one in listener.documents} >= events

    await results.until(answered)
    assert {one["type"] for one in results.documents} == {"subaccount.created.v1"}
    assert len({one["id"] for one in results.documents}) == len(DEPARTMENTS)
    issued = {(one["id"], one["data"]["department_id"], one["data"]["auth_id"]) for one in secrets.documents}
    made = system.sandbox.subaccounts()
    assert {department for _, department, _ in issued} == set(DEPARTMENTS)
    assert {auth_id for _, _, auth_id in issued} == {one.auth_id for one in made if one.enabled}
    assert len(issued) == len(made) == len(DEPARTMENTS)
    assert await system.depth(names.WORK_QUEUE) == 0
    assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


async def all_being_made(system: RealSystem) -> None:
    """Sends the events, and returns once each create is carried out; the responses take some seconds."""
    slow = fault("slow", delay_seconds=6)
    system.sandbox.add_rule(Rule("create_subaccount", slow, times=len(DEPARTMENTS)))
    await send_all(system)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while len(system.sandbox.subaccounts()) < len(DEPARTMENTS):  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["cut", "frozen"])
async def test_a_worker_whose_connection_is_lost_in_a_create_leaves_it_to_the_other(shared, how):
    async with (
        database_proxy(shared.environ["LEDGER_URL"]) as proxy,
        worker_with(shared.environ | {"LEDGER_URL": proxy.url}) as losing,
    ):
        results, secrets = await shared.listen(names.RESULTS), await shared.listen(names.SECRETS)
        await all_being_made(shared)
        async with worker_with(shared.environ):
            if how == "cut":
                proxy.reset()
            else:
                proxy.black_hole()
            await all_done(shared, results, secrets)
            proxy.heal()
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while losing.blocks() or not losing.consumer.consuming:  # noqa: ASYNC110 - a server
                    await asyncio.sleep(0.05)


async def test_a_killed_worker_leaves_its_creates_to_the_other(shared):
    async with worker_process(shared.environ) as killed:
        await killed.logged("consuming")
        results, secrets = await shared.listen(names.RESULTS), await shared.listen(names.SECRETS)
        await all_being_made(shared)
        async with worker_with(shared.environ):
            await killed.kill()
            await all_done(shared, results, secrets)


@pytest.mark.timeout(400)
async def test_a_short_soak_of_workers_that_come_and_go_keeps_all_rules(
    clean_broker: str, postgres_database: str
):
    """Two hundred events and two workers: one is killed in mid-work, and those at the end are drained."""
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    plan = ScalePlan(200, seed, workers=2, kills=1, drains=0, restarts=0, steady=True, settle_seconds=5)
    report = await scale(plan, clean_broker, postgres_database)
    assert report.broken == []
