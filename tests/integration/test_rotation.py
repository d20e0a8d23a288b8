"""Logins are rotated while the worker runs: it reads their files again, without a restart."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from yarl import URL

from contracts import topology as names
from tests.support.nodes import running_node
from tests.support.real import EVENT, RealSystem
from worker.bootstrap.running import RunningWorker, running_worker
from worker.demo.private_node import PrivateNode, private_node
from worker.sandbox import Sandbox, running_sandbox
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("rotation"), pytest.mark.timeout(120)]

USER = "rotated"


class Noted(Telemetry):
    """Tells when a login was refused, and which settings were read again."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = asyncio.Event()
        self.read_again: list[tuple[str, str | None]] = []

    def broker_lost(self, link: str, detail: str) -> None:
        super().broker_lost(link, detail)
        if "refuses the login in AMQP_URL: wrong user or password" in detail:
            self.refused.set()

    def circuit_opened(self, operation: Any, detail: str, **more: Any) -> None:
        super().circuit_opened(operation, detail, **more)
        if "401" in detail:
            self.refused.set()

    def setting_read_again(self, name: str, why_kept: str | None) -> None:
        super().setting_read_again(name, why_kept)
        self.read_again.append((name, why_kept))


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    """A node with a user whose password changes."""
    with running_node(private_node()) as (running, runner):
        runner.run(running.rabbitmqctl("add_user", USER, "old"))
        runner.run(running.rabbitmqctl("set_permissions", USER, ".*", ".*", ".*"))
        yield running


@pytest.fixture
async def channel(node: PrivateNode) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(node.url) as connection:
        yield await connection.channel()


def url_with(node: PrivateNode, password: str) -> str:
    return str(URL(node.url).with_user(USER).with_password(password))


def environ(sandbox: Sandbox, folder: Path, **more: str) -> dict[str, str]:
    return {
        "PLIVO_AUTH_ID": sandbox.auth_id,
        "PLIVO_API_URL": sandbox.url,
        "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PROVISIONER_PLAINTEXT_SECRETS": "true",
        **more,
    }


@asynccontextmanager
async def working(settings: dict[str, str], telemetry: Noted) -> AsyncIterator[RunningWorker]:
    async with running_worker(load(WorkerSettings, settings), telemetry) as running:
        yield running
        assert await running.drain()


async def is_answered(system: RealSystem, department: str) -> None:
    """Sends an event and waits for its answer."""
    results = await system.listen(names.RESULTS)
    data = {"department_id": department, "name": "Sales"}
    event = EVENT | {"id": f"event-of-{department}", "data": data}
    await system.send(json.dumps(event).encode())
    await results.count(1)
    (result,) = results.documents
    assert result["data"]["outcome"] == "created"


async def test_a_broker_password_is_rotated(node: PrivateNode, channel: AbstractChannel, tmp_path: Path):
    url, telemetry = tmp_path / "amqp-url", Noted()
    url.write_text(url_with(node, "old"))
    async with running_sandbox(rate_limit="off") as sandbox:
        settings = environ(sandbox, tmp_path, AMQP_URL_FILE=str(url), PLIVO_AUTH_TOKEN=sandbox.auth_token)
        system = RealSystem(node.url, sandbox, settings, channel)
        async with working(settings, telemetry):
            await is_answered(system, "d-1")
            await node.rabbitmqctl("change_password", USER, "new")
            url.write_text("")  # as between truncating and writing
            await node.rabbitmqctl("close_all_user_connections", USER, "rotated")
            await telemetry.refused.wait()
            url.write_text(url_with(node, "new"))
            await is_answered(system, "d-2")
    assert telemetry.read_again == [("AMQP_URL", "AMQP_URL_FILE is empty"), ("AMQP_URL", None)]


async def test_a_plivo_token_is_rotated(node: PrivateNode, channel: AbstractChannel, tmp_path: Path):
    """Plivo has the new token; the worker begins with the old one."""
    token, telemetry = tmp_path / "token", Noted()
    token.write_text("old")
    async with running_sandbox(rate_limit="off", auth_token="new") as sandbox:
        settings = environ(sandbox, tmp_path, AMQP_URL=node.url, PLIVO_AUTH_TOKEN_FILE=str(token))
        system = RealSystem(node.url, sandbox, settings, channel)
        async with working(settings, telemetry):
            answered = asyncio.create_task(is_answered(system, "d-3"))
            await telemetry.refused.wait()
            token.write_text("new")
            await answered
    assert telemetry.read_again == [("PLIVO_AUTH_TOKEN", None)]
