"""Two deployments share a virtual host under different namespaces, and nothing crosses."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from contracts import topology as names
from contracts.topology import BrokerVersion, Namespace, topology
from tests.support.real import EVENT, RealSystem
from worker.adapters.amqp.listener import listening
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import open_connection
from worker.bootstrap.running import running_worker
from worker.sandbox import Sandbox, running_sandbox
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

DEPLOYMENTS = ("production", "staging")


class Deployment:
    """One deployment: its namespace, sandbox and environment."""

    def __init__(self, name: str, sandbox: Sandbox, system: RealSystem, folder: Path) -> None:
        self.namespace = Namespace(name)
        self.sandbox = sandbox
        self.channel: AbstractChannel = system.channel
        self.environ = system.environ | {
            "PROVISIONER_NAMESPACE": name,
            "PROVISIONER_OWNER": name,
            "PROVISIONER_RETRY_DELAYS": "200ms",
            "LEDGER_URL": f"sqlite:///{folder / name}.db",
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
        }

    async def cli(self, *arguments: str) -> Any:
        completed = await asyncio.to_thread(
            subprocess.run,
            (sys.executable, "-m", "worker", *arguments, "--json"),
            env=os.environ | self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (completed.returncode, completed.stderr) == (0, ""), (arguments, completed)
        return json.loads(completed.stdout)

    async def publish(self, exchange: str, key: str, event: dict[str, Any], **headers: Any) -> None:
        target = await self.channel.get_exchange(self.namespace.of(exchange), ensure=False)
        await target.publish(
            aio_pika.Message(
                json.dumps(event).encode(),
                content_type="application/cloudevents+json",
                headers=headers,
                delivery_mode=2,
            ),
            key,
        )

    async def depth(self, queue: str) -> int:
        found = await self.channel.declare_queue(self.namespace.of(queue), passive=True)
        return found.declaration_result.message_count or 0

    @property
    def names_at_plivo(self) -> set[str]:
        return {one.name.split(" [")[0] for one in self.sandbox.subaccounts()}

    async def delete(self) -> None:
        delays = load(WorkerSettings, self.environ).retry_delays
        for one in topology(BrokerVersion(4, 1), delays, namespace=self.namespace).queues:
            await self.channel.queue_delete(one.name)
        for exchange in topology(BrokerVersion(4, 1), namespace=self.namespace).exchanges:
            await self.channel.exchange_delete(exchange.name)


@pytest.fixture
async def deployments(system: RealSystem, tmp_path: Path) -> AsyncIterator[list[Deployment]]:
    async with AsyncExitStack() as stack:
        both = []
        for name in DEPLOYMENTS:
            sandbox = await stack.enter_async_context(running_sandbox(rate_limit="off"))
            both.append(Deployment(name, sandbox, system, tmp_path))
            stack.push_async_callback(both[-1].delete)
        yield both


@asynccontextmanager
async def running(deployment: Deployment) -> AsyncIterator[None]:
    async with running_worker(load(WorkerSettings, deployment.environ), Telemetry()) as worker:
        yield
        assert await worker.drain()


def event(number: int, name: str) -> dict[str, Any]:
    return EVENT | {"id": f"e-{number}", "data": {"department_id": f"d-{number}", "name": name}}


async def until(condition: Any) -> None:
    """Waits for a state that only the broker or the sandbox knows."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_two_deployments_in_one_virtual_host_do_not_meet(deployments: list[Deployment]):
    async with AsyncExitStack() as stack:
        for one in deployments:
            await stack.enter_async_context(running(one))
        for one in deployments:
            for number in range(10):
                name = one.namespace.prefix
                await one.publish(names.DEPARTMENTS, "department.created", event(number, f"{name} {number}"))
            await one.cli("emit", "created", "--id", "emitted", "--name", f"{one.namespace.prefix} by emit")
            await one.publish(names.DEPARTMENTS, "department.created", event(99, " "))
        for one in deployments:
            prefix = one.namespace.prefix

            async def is_done(one: Deployment = one) -> bool:
                return (await one.depth(names.SECRETS_QUEUE), await one.depth(names.DEAD_LETTER_QUEUE)) == (
                    11,
                    1,
                )

            await until(is_done)
            assert one.names_at_plivo == {
                *(f"{prefix} {number}" for number in range(10)),
                f"{prefix} by emit",
            }
            checked = await one.cli("topology", "check")
            assert {found["state"] for found in checked} == {"ok"}
            assert all(found["name"].startswith(f"{prefix}.") for found in checked)
    async with open_connection([deployments[0].environ["AMQP_URL"]]) as connection:
        assert await state_of(connection, names.WORK_QUEUE) is None


async def test_a_parked_message_comes_back_under_a_namespace(deployments: list[Deployment]):
    """Its own address is in headers; the exchange there is the one of the contract, without the prefix."""
    deployment = deployments[1]
    async with running(deployment):
        parked = {
            "x-attempts": 1,
            "x-original-exchange": names.DEPARTMENTS,
            "x-original-routing-key": "department.created",
        }
        await deployment.publish(names.RETRY, "200ms", event(1, " "), **parked)

        async def is_dead() -> bool:
            return await deployment.depth(names.DEAD_LETTER_QUEUE) == 1

        await until(is_dead)
        listed = await deployment.cli("dead-letters", "list")
        (letter,) = listed["dead_letters"]
        assert (letter["attempts"], letter["routing_key"]) == (2, "department.created")


async def test_dead_letters_go_from_one_namespace_to_another(deployments: list[Deployment], tmp_path: Path):
    production, staging = deployments
    async with running(production), running(staging):
        await production.publish(names.DEPARTMENTS, "department.created", event(1, " "))

        async def is_dead() -> bool:
            return await production.depth(names.DEAD_LETTER_QUEUE) == 1

        await until(is_dead)
        file = tmp_path / "dead.jsonl"
        await production.cli("dead-letters", "export", "--output", str(file))
        file.write_text(file.read_text().replace('\\"name\\": \\" \\"', '\\"name\\": \\"Sales\\"'))
        assert (await staging.cli("dead-letters", "import", str(file), "--yes"))["sent"] == 1

        async def is_created() -> bool:
            return staging.names_at_plivo == {"Sales"}

        await until(is_created)
        assert not production.names_at_plivo
        assert await production.depth(names.DEAD_LETTER_QUEUE) == 1


async def test_an_answer_is_heard_in_its_own_namespace_alone(deployments: list[Deployment]):
    production, staging = deployments
    created = ("emit", "created", "--id", "sales", "--name", "Sales", "--event-id", "hr-1", "--wait")
    async with (
        running(production),
        running(staging),
        listening([production.environ["AMQP_URL"]], staging.namespace) as elsewhere,
    ):
        (answer,) = await production.cli(*created)
        assert answer["data"]["outcome"] == "created"
        await staging.cli(*created, "--id", "other")
        assert b"other" in (await elsewhere.next()).message.body, "the first that staging hears is its own"


async def test_a_misspelt_routing_key_is_kept(system: RealSystem):
    async with system.worker():
        for key in ("Department.Created", "hr.department.created", ""):
            await system.send(json.dumps(EVENT).encode(), key)
        assert await system.depth(names.UNROUTED_QUEUE) == 3
        assert await system.depth(names.WORK_QUEUE) == 0


async def test_unrouted_messages_are_listed_exported_replayed_and_discarded(
    deployments: list[Deployment], tmp_path: Path
):
    """A producer cannot pass for the worker: its own parking and dead-letter headers mean nothing."""
    deployment = deployments[1]
    forged = {
        "x-dead-reason": "rejected",
        "x-attempts": 7,
        "x-original-exchange": "departments",
        "x-original-routing-key": "subaccount.credentials.reissue.requested",
    }
    async with running(deployment):
        for number, key in enumerate(("Department.Created", "hr.created", "")):
            await deployment.publish(names.DEPARTMENTS, key, event(number, f"Name {number}"), **forged)
        listed = await deployment.cli("dead-letters", "list", "--unrouted")
        assert listed["reasons"] == [{"reason": "unrouted", "count": 3, "departments": 3}]
        assert {letter["detail"] for letter in listed["dead_letters"]} == {
            f"no queue takes routing key {key!r} of exchange departments"
            for key in ("Department.Created", "hr.created", "")
        }
        assert (await deployment.cli("dead-letters", "list"))["seen"] == 0
        planned = await deployment.cli("dead-letters", "plan", "--unrouted")
        assert planned["outcomes"] == {"create": 3}
        shown = await deployment.cli("dead-letters", "show", "--unrouted", "--id", "e-1")
        assert [one["routing_key"] for one in shown] == ["hr.created"]
        file = tmp_path / "unrouted.jsonl"
        exported = await deployment.cli("dead-letters", "export", "--unrouted", "--output", str(file))
        assert exported == {"exported": 3}
        replayed = await deployment.cli("dead-letters", "replay", "--unrouted", "--id", "e-1", "--yes")
        assert (replayed["replayed"], replayed["answered"]) == (1, 1)
        assert deployment.names_at_plivo == {"Name 1"}
        assert await deployment.depth(names.UNROUTED_QUEUE) == 2
        gone = await deployment.cli("dead-letters", "discard", "--unrouted", "--all", "--yes")
        assert gone["discarded"] == 2
        assert await deployment.depth(names.UNROUTED_QUEUE) == 0
        audited = await deployment.cli("dead-letters", "audit", "--id", "e-1")
        assert {line["selection"].split(" ")[0] for line in audited} == {"--unrouted"}
