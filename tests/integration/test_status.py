"""`provisioner status` beside a real worker and a real broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contracts import topology as names
from tests.support.commands import CommandOutput, in_process
from tests.support.real import EVENT, RealSystem
from worker.demo.private_node import private_node

pytestmark = pytest.mark.xdist_group("broker")

KEYS = "workers departments queue parked dead_letters holds debts_overdue unrouted circuit"


async def status(system: RealSystem, **more: str) -> CommandOutput:
    return await in_process(system.environ | more, "status", "--json")


async def until(system: RealSystem, code: int, key: str, value: Any) -> CommandOutput:
    """Polls until a key has this value, and returns what is shown then."""
    async with asyncio.timeout(20):
        while True:
            shown = await status(system)
            if shown.json[key] == value and shown.code == code:
                assert " ".join(shown.json) == KEYS
                return shown
            await asyncio.sleep(0.05)


async def test_a_worker_is_shown_while_it_runs_and_all_is_well(system: RealSystem):
    async with system.worker() as running:
        await system.send(json.dumps(EVENT).encode())
        departments = {"absent": 0, "claimed": 0, "active": 1, "disabled": 0, "deleting": 0, "removed": 0}
        shown = await until(system, 0, "departments", departments)
        (worker,) = shown.json["workers"]
        assert (worker["consuming"], worker["rate_share"], worker["problems"]) == (True, 100_000, [])
        expected = {
            "queue": {"ready": 0, "unacked": None},
            "parked": 0,
            "dead_letters": 0,
            "holds": 0,
            "debts_overdue": 0,
            "unrouted": 0,
            "circuit": "closed",
        }
        assert {key: shown.json[key] for key in expected} == expected
        assert (await in_process(system.environ, "status")).out.endswith("nothing needs a person\n")

        running.worker.gate.block("test", "a reason to wait")
        shown = await until(system, 1, "circuit", "closed")
        assert shown.json["workers"][0]["problems"] == ["a reason to wait", "consuming is paused"]

    shown = await status(system)  # it has left, and is not taken for running until it would be missed
    assert (shown.code, shown.json["workers"], shown.json["circuit"]) == (1, [], None)


async def test_what_waits_for_a_person_is_counted(system: RealSystem):
    async with system.worker():
        await until(system, 0, "circuit", "closed")
        await system.send(b"{}")
        await system.send(json.dumps(EVENT).encode(), key="departmnt.created")
        await until(system, 1, "dead_letters", 1)
        await until(system, 1, "unrouted", 1)
        people = (await in_process(system.environ, "status")).out
        assert "provisioner dead-letters list --unrouted" in people


async def test_a_queue_that_is_missing_is_named(system: RealSystem):
    async with system.worker():
        shown = await until(system, 0, "circuit", "closed")
        await system.channel.queue_delete(names.UNROUTED_QUEUE)
        shown = await status(system)
        assert (shown.code, shown.json["unrouted"], shown.json["dead_letters"]) == (1, None, 0)
        assert shown.err.startswith(f"{names.UNROUTED_QUEUE}: missing")


@pytest.mark.usefixtures("rabbitmq_server")
async def test_the_management_api_tells_what_is_unacked(tmp_path: Path):
    async with private_node(management=True) as node:
        environ = {"AMQP_URL": node.url, "LEDGER_URL": f"sqlite:///{tmp_path}/none.db"}
        managed = environ | {"PROVISIONER_MANAGEMENT_URL": node.management_url or ""}
        assert (await in_process(environ, "topology", "apply")).code == 0
        async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
            exchange = await channel.get_exchange(names.DEPARTMENTS)
            for _ in range(3):
                await exchange.publish(aio_pika.Message(b"{}"), "department.created")
            await (await channel.get_queue(names.WORK_QUEUE)).get()
            counts = {"ready": 2, "unacked": 1}
            async with asyncio.timeout(30):  # RabbitMQ counts every five seconds
                while True:
                    shown = await in_process(managed, "status", "--json")
                    if shown.json["queue"] == counts:
                        break
                    await asyncio.sleep(0.2)
        wrong = managed | {"PROVISIONER_MANAGEMENT_URL": "http://guest:secret@127.0.0.1:1"}
        shown = await in_process(wrong, "status", "--json")
        assert (shown.code, shown.json["queue"]["unacked"]) == (1, None)
        assert "management API" in shown.err
        assert "secret" not in shown.err
