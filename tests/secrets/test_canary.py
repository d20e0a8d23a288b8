"""Searches everything the product writes for tokens, passwords and private keys. One hit fails the test."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import randbits, token_hex
from typing import Any

import aio_pika
import aiohttp
import pytest

from contracts import topology as names
from contracts.topology import BrokerVersion, topology
from tests.support.canaries import Canaries, assert_absent
from tests.support.collector import collector
from tests.support.management import delete, put
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from tests.support.secured import Secured
from worker.adapters.jose.key_files import read_signing_key
from worker.core.keyring import public_part
from worker.demo.private_node import Ports
from worker.sandbox import Rule, Sandbox, fault, running_sandbox

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(180)]

USER = "canary"
DEPARTMENTS = ("sales", "legal", "field-ops", "support", "finance", "people")
# Consecutive creates meet these faults; later calls succeed.
FAULTS = ("half-json", "cut-off", "error-after-commit", "lost-answer", "html-after-commit")
OTHER_FAULTS = (
    Rule("list_subaccounts", fault("half-json"), times=1),
    Rule("list_subaccounts", fault("cut-off"), times=1),
    Rule("get_subaccount", fault("half-json"), times=1),
    Rule("get_subaccount", fault("unauthorized"), times=1),
    Rule("update_subaccount", fault("body-after-204"), times=1),
    Rule("update_subaccount", fault("lost-answer"), times=1),
)
PAGES = ("/livez", "/readyz", "/metrics", "/.well-known/jwks.json", "/nowhere", "/metrics?token=1")


def event(number: int, kind: str, department: str, **data: Any) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "/test/hr",
            "type": f"department.{kind}.v1",
            "time": "2026-11-01T08:30:00Z",
            "sequence": number,
            "data": {"department_id": department, **data},
        }
    ).encode()


@dataclass
class PublishedMessages:
    """All messages published on an exchange, as bytes: body, headers, properties, routing key."""

    messages: list[bytes] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def record(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        about = f"{message.routing_key} {message.headers!r} {message.properties!r} {message.info()!r}"
        async with self.arrived:
            self.messages.append(about.encode() + b" " + message.body)
            self.arrived.notify_all()

    async def count(self, number: int) -> None:
        async with asyncio.timeout(60), self.arrived:
            await self.arrived.wait_for(lambda: len(self.messages) >= number)


@dataclass
class CanarySystem:
    """A worker with secrets in files, a broker on disk, and a sandbox with faulty responses."""

    secured: Secured
    sandbox: Sandbox
    folder: Path
    canaries: Canaries
    channel: aio_pika.abc.AbstractChannel
    published: dict[str, PublishedMessages]
    http: int = field(default_factory=lambda: Ports.free().management)

    def environ(self, *, sealed: bool) -> dict[str, str]:
        (self.folder / "secrets").mkdir()
        files = {"AMQP_URL": self.url, "PLIVO_AUTH_TOKEN": self.sandbox.auth_token}
        for name, value in files.items():
            (self.folder / "secrets" / name).write_text(value)
            (self.folder / "secrets" / name).chmod(0o600)
        keys = write_keys(self.folder / "recipients.json", fresh_sealing_key("crm.1"))
        return {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.made("tmp")),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONASYNCIODEBUG": "1",
            **{f"{name}_FILE": str(self.folder / "secrets" / name) for name in files},
            "PLIVO_AUTH_ID": self.sandbox.auth_id,
            "PLIVO_API_URL": self.sandbox.url,
            "LEDGER_URL": f"sqlite:///{self.made('ledger') / 'ledger.db'}",
            "PROVISIONER_HTTP": f"127.0.0.1:{self.http}",
            "PROVISIONER_LOG_LEVEL": "debug",
            "PROVISIONER_API_TIMEOUT": "900ms",
            "PROVISIONER_SETTLE_WINDOW": "1s",
            **({"PROVISIONER_RECIPIENTS": str(keys)} if sealed else {}),
        }

    @property
    def url(self) -> str:
        return self.secured.node.url.replace(
            "guest:guest", f"{USER}:{self.canaries.secrets['broker password']}"
        )

    def made(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    async def send(self, body: bytes) -> None:
        exchange = await self.channel.get_exchange(names.DEPARTMENTS, ensure=False)
        message = aio_pika.Message(body, content_type="application/cloudevents+json", delivery_mode=2)
        await exchange.publish(message, "department.created")

    async def play(self) -> None:
        """Creates departments while creates fail in every way that may expose a token; then changes them."""
        for number, department in enumerate(DEPARTMENTS):
            await self.send(event(number, "created", department, name=department))
        await self.published[names.SECRETS].count(len(DEPARTMENTS))
        self.sandbox.faults.replace_rules(OTHER_FAULTS)
        await self.send(event(10, "renamed", "sales", name="Sales and more"))
        await self.send(event(11, "removed", "legal"))
        await self.send(event(0, "created", "sales", name="sales"))
        await self.send(event(12, "created", "nameless", name=" "))
        await self.send(b"{")
        await self.published[names.DEAD_LETTERS].count(2)
        await self.published[names.RESULTS].count(len(DEPARTMENTS) + 3)


@pytest.fixture
async def canary_system(secured: Secured, tmp_path: Path) -> AsyncIterator[CanarySystem]:
    canaries = Canaries()
    canaries.add("main account", token_hex(20))
    canaries.add("broker password", token_hex(20))
    await put(secured.node, f"users/{USER}", password=canaries.secrets["broker password"], tags="")
    await put(secured.node, f"permissions/%2F/{USER}", configure=".*", write=".*", read=".*")
    rules = [Rule("create_subaccount", fault(name), times=1) for name in FAULTS]
    seed = randbits(32)
    print(f"sandbox seed {seed}")  # noqa: T201 - shown where a test fails
    try:
        async with (
            running_sandbox(
                auth_token=canaries.secrets["main account"], faults=rules, seed=seed, rate_limit="off"
            ) as sandbox,
            await aio_pika.connect(secured.node.url) as connection,
        ):
            channel = await connection.channel(on_return_raises=True)
            published = {
                exchange: PublishedMessages()
                for exchange in (names.SECRETS, names.RESULTS, names.DEAD_LETTERS)
            }
            yield CanarySystem(secured, sandbox, tmp_path, canaries, channel, published)
            for queue in topology(BrokerVersion(4, 1), recipients=["crm"]).queues:
                await channel.queue_delete(queue.name)
            await channel.queue_delete(names.SECRETS_QUEUE)
    finally:
        await delete(secured.node, f"users/{USER}")


@dataclass
class Running:
    process: Process
    printed: bytearray = field(default_factory=bytearray)
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.printed += line
            if b'"worker_started"' in line:
                self.seen.set()

    def proc(self, name: str) -> bytes:
        """Command lines and environments of the worker and its child processes."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids)


def _children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


@asynccontextmanager
async def running(environ: dict[str, str]) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "run", env=environ, stdout=PIPE, stderr=PIPE
    )
    worker = Running(process)
    reading = asyncio.create_task(worker.read())
    try:
        async with asyncio.timeout(60):
            await worker.seen.wait()
        yield worker
    except TimeoutError:
        pytest.fail(worker.printed.decode())
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdout is not None
        worker.printed += await process.stdout.read()
        await reading
        await process.wait()


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plain"])
async def test_nothing_the_worker_writes_contains_a_secret(canary_system: CanarySystem, *, sealed: bool):
    """Without seals the token is in the message and at the broker, where the search must find it."""
    found: dict[str, set[str]] = {}
    spans = bytearray()
    async with (
        collector(spans) as endpoint,
        running(canary_system.environ(sealed=sealed) | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as worker,
    ):
        await listen(canary_system)
        await canary_system.play()
        signing = (
            read_signing_key(Path(canary_system.folder / "ledger/ledger.db.signing-key.json"))
            if sealed
            else {}
        )
        canary_system.canaries.add("signing key", signing.get("d", "x" * 43))
        for held in canary_system.sandbox.subaccounts():
            canary_system.canaries.add(f"token of {held.name}", held.auth_token)
        search = canary_system.canaries.found_in
        async with aiohttp.ClientSession(f"http://127.0.0.1:{canary_system.http}") as http:
            for page in PAGES:
                async with http.get(page) as answer:
                    found[page] = search(await answer.read() + repr(answer.headers).encode())
            async with http.get("/.well-known/jwks.json") as answer:
                keys = (await answer.json())["keys"]
        assert keys == ([public_part(signing)] if sealed else [])
        for name in ("cmdline", "environ"):
            found[f"/proc {name}"] = search(worker.proc(name))
        assert b"Max core file size        0                    0" in worker.proc("limits")
        found |= {
            f"ledger while it is open: {path}": hits
            for path, hits in canary_system.canaries.found_in_folder(canary_system.made("ledger")).items()
        }
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.process.wait() == 0, worker.printed.decode()
    assert len(canary_system.sandbox.subaccounts()) >= len(DEPARTMENTS)
    found["logs"] = search(bytes(worker.printed))
    found["spans"] = search(bytes(spans))
    assert spans.count(b"plivo create") >= len(DEPARTMENTS)
    assert b"Sales and more" not in spans
    found["results"] = search(b"".join(canary_system.published[names.RESULTS].messages))
    found["dead letters"] = search(b"".join(canary_system.published[names.DEAD_LETTERS].messages))
    found |= canary_system.canaries.found_in_folder(canary_system.made("tmp"))
    own = found.pop("ledger while it is open: ledger.db.signing-key.json", set())
    assert own == ({"signing key"} if sealed else set())
    at_the_broker = canary_system.canaries.found_in_folder(canary_system.secured.node._folder)
    in_credentials = search(b"".join(canary_system.published[names.SECRETS].messages))
    assert_absent(found)
    assert b'"step_recorded"' in worker.printed, "nothing was logged at debug"
    if sealed:
        assert_absent(at_the_broker | {"credentials": in_credentials})
    else:
        assert len(in_credentials) == len(DEPARTMENTS)
        assert at_the_broker, "the search finds nothing, not even what is there"


async def listen(canary_system: CanarySystem) -> None:
    for exchange, published in canary_system.published.items():
        queue = await canary_system.channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "#")
        await queue.consume(published.record, no_ack=True)
