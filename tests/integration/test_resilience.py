"""Parking, the circuit and collapsing, with a real broker and the sandbox over HTTP."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from contracts import topology as names
from tests.support.real import RealSystem
from worker.sandbox.faults import Rule, fault

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

SHORT_RETRIES = {
    "PROVISIONER_RETRY_BUDGET": "300ms",
    "PROVISIONER_RETRY_DELAYS": "500ms,1s",
    "PROVISIONER_MAX_ATTEMPTS": "3",
}


def event(kind: str, department: str, sequence: int, name: str | None = None) -> bytes:
    data = {"department_id": department} | ({"name": name} if name else {})
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"{department}-{sequence}",
            "source": "/test/hr",
            "type": f"department.{kind}.v1",
            "time": "2026-11-01T08:30:00Z",
            "sequence": sequence,
            "data": data,
        }
    ).encode()


def outcomes(documents: list[dict[str, Any]]) -> dict[str, str]:
    return {one["data"]["event"]["id"]: one["data"]["outcome"] for one in documents}


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the worker has no event for it
            await asyncio.sleep(0.01)


async def create_departments(system: RealSystem, results: Any, *departments: str) -> None:
    for department in departments:
        await system.send(event("created", department, 1, "Before"))
    await results.count(len(departments))


async def test_a_failing_event_is_parked_and_finally_dead_lettered(system: RealSystem):
    system.environ |= SHORT_RETRIES
    async with system.worker():
        results, dead = await system.listen(names.RESULTS), await system.listen(names.DEAD_LETTERS)
        parked = await system.listen(names.RETRY)
        await create_departments(system, results, "sales")
        system.sandbox.set_rules(Rule("update_subaccount", fault("error", status=503)))
        headers = {"x-producer": "hr", "x-death": [{"count": 1}]}
        await system.send(event("renamed", "sales", 2, "After"), "department.renamed.north", headers=headers)
        await dead.count(1)
        system.sandbox.set_rules()
        letter = dead.messages[0]
    assert [one.routing_key for one in parked.messages] == ["500ms", "1s"]
    assert [one.headers["x-attempts"] for one in parked.messages] == [1, 2]
    assert letter.headers["x-dead-reason"] == "exhausted"
    assert letter.headers["x-attempts"] == 3
    assert letter.routing_key == "department.renamed.north"
    assert letter.body == event("renamed", "sales", 2, "After")
    assert letter.headers["x-producer"] == "hr"
    assert not {name for name in letter.headers if name.startswith(("x-death", "x-original"))}
    assert outcomes(results.documents)["sales-2"] == "failed"


async def test_a_parked_event_returns_and_succeeds(system: RealSystem):
    system.environ |= SHORT_RETRIES | {"PROVISIONER_MAX_ATTEMPTS": "8"}
    async with system.worker():
        results, parked = await system.listen(names.RESULTS), await system.listen(names.RETRY)
        await create_departments(system, results, "sales")
        system.sandbox.set_rules(Rule("update_subaccount", fault("error", status=503)))
        await system.send(event("renamed", "sales", 2, "After"))
        await parked.count(1)
        system.sandbox.set_rules()
        await results.count(2)
    assert outcomes(results.documents)["sales-2"] == "renamed"
    assert system.sandbox.subaccounts()[0].name.startswith("After [")
    assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


@pytest.mark.parametrize("name", ["unauthorized", "no-credit", "error", "reset"])
async def test_an_outage_leaves_messages_queued_and_dead_letters_nothing(system: RealSystem, name: str):
    system.environ |= SHORT_RETRIES | {"PROVISIONER_PREFETCH": "10", "PROVISIONER_SETTLE_WINDOW": "20s"}
    system.environ |= {"PROVISIONER_API_TIMEOUT": "5s"}
    departments = [f"dept-{number}" for number in range(40)]
    async with system.worker() as running:
        results, dead = await system.listen(names.RESULTS), await system.listen(names.DEAD_LETTERS)
        parked = await system.listen(names.RETRY)
        await create_departments(system, results, *departments)
        system.sandbox.set_rules(Rule("*", fault(name)))
        for department in departments:
            await system.send(event("renamed", department, 2, "After"))
        await wait_until(lambda: bool(running.worker.gate.blocks))
        await wait_until(lambda: not running.consumer.consuming)
        calls_before = len(system.sandbox.calls("update_subaccount"))
        await asyncio.sleep(2)  # leaves time for calls that must not happen
        assert len(system.sandbox.calls("update_subaccount")) == calls_before
        system.sandbox.set_rules()
        await results.count(2 * len(departments))
    assert list(outcomes(results.documents).values()).count("renamed") == len(departments)
    assert not parked.messages
    assert not dead.messages
    assert all(one.name.startswith("After [") for one in system.sandbox.subaccounts())


async def test_many_renames_need_at_most_two_calls_per_department(system: RealSystem):
    departments = [f"dept-{number}" for number in range(100)]
    system.environ["PROVISIONER_PREFETCH"] = "1000"
    async with system.worker():
        results = await system.listen(names.RESULTS)
        await create_departments(system, results, *departments)
    # All wait in the queue before the first call, and each call takes long enough for the rest to be read.
    for department in departments:
        for sequence in range(2, 12):
            await system.send(event("renamed", department, sequence, f"Name {sequence}"))
    system.sandbox.set_rules(Rule("update_subaccount", fault("slow", delay_seconds=0.5)))
    async with system.worker():
        await results.count(11 * len(departments))
    renames = [entry.path for entry in system.sandbox.calls("update_subaccount")]
    assert max(renames.count(path) for path in set(renames)) <= 2
    assert all(one.name.startswith("Name 11 [") for one in system.sandbox.subaccounts())
    assert len(outcomes(results.documents)) == 11 * len(departments)
