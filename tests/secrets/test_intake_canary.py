"""Searches everything the intake writes for its tokens and the secrets of its profiles."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import aio_pika
import aiohttp
import pytest

from contracts import topology as names
from tests.soak.intake import INTAKE, declare
from tests.soak.worker_process import worker_process
from tests.support.canaries import Canaries, assert_absent
from tests.support.secured import Secured

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(120)]

PAGES = ("/livez", "/readyz", "/metrics", "/nowhere")
SAMPLES: list[dict[str, Any]] = [
    {
        "body": {"id": "1", "name": "Sales", "at": "2026-11-01T08:30:00Z"},
        "events": [{"department_id": "1", "name": "Sales"}],
    }
]
FIELDS = {"id": "item.id", "name": "item.name", "time": "item.at", "samples": SAMPLES}
BEARER = FIELDS | {"auth": {"kind": "bearer", "header": "X-Acme-Token", "secret_file": "acme.secret"}}
SIGNED = FIELDS | {
    "auth": {
        "kind": "hmac",
        "header": "X-Signature",
        "signed": "{id}.{body}",
        "id_header": "X-Id",
        "secret_file": "signed.secret",
    },
    "event_id": 'headers."x-id"',
    "samples": [SAMPLES[0] | {"headers": {"X-Id": "e"}}],
}


@dataclass
class Running:
    """An intake process, and everything it has answered so far."""

    http: aiohttp.ClientSession
    canaries: Canaries
    answers: bytearray

    async def post(self, path: str, body: bytes, **headers: str) -> int:
        async with self.http.post(path, data=body, headers=headers) as response:
            self.answers += await response.read() + repr(response.headers).encode()
            return response.status

    async def play(self) -> None:
        """Events and payloads that are taken, refused or kept, each with a secret or one close to it."""
        token, acme = (self.canaries.secrets[name] for name in ("token", "acme"))
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": "e1",
            "source": "/test",
            "type": "department.created.v1",
        }
        event |= {"time": "2026-11-01T08:30:00Z", "data": {"department_id": "d1", "name": "Sales"}}
        structured = {"Content-Type": "application/cloudevents+json"}
        json_ = {"Content-Type": "application/json"}
        whole = json.dumps(SAMPLES[0]["body"]).encode()
        broken = b'{"id": "2"}'
        events, kept = "/v1/events", "/in/acme"
        bearer = {"Authorization": f"Bearer {token}"}
        assert await self.post(events, json.dumps(event).encode(), **structured, **bearer) == 202
        assert await self.post(events, b"{", **structured, **bearer) == 400
        assert await self.post(events, b"{}", **structured, **bearer) == 422
        for wrong in (f"Basic {token}", f"Bearer  {token} x", f"Bearer {token}{token}", acme):
            assert await self.post(events, b"{}", **structured, Authorization=wrong) == 401
        assert await self.post(kept, whole, **json_, **{"X-Acme-Token": acme}) == 202
        assert await self.post(kept, broken, **json_, **{"X-Acme-Token": acme}) == 202
        assert await self.post(kept, b"no json", **json_, **{"X-Acme-Token": acme}, Cookie=f"a={acme}") == 202
        assert await self.post(kept, whole, **json_, **{"X-Acme-Token": f"{acme}."}) == 401
        for body in (whole, broken):
            assert await self.post("/in/signed", body, **json_, **self.signed(body)) == 202
        assert await self.post("/in/signed", whole, **json_, **self.signed(broken)) == 401

    def signed(self, body: bytes) -> dict[str, str]:
        key = self.canaries.secrets["signed"].encode()
        signature = hmac.new(key, b"m-1." + body, hashlib.sha256).hexdigest()
        self.canaries.secrets.setdefault(f"signature {len(body)}", signature)
        return {"X-Id": "m-1", "X-Signature": signature}


@pytest.fixture
def canaries() -> Canaries:
    found = Canaries()
    for name in ("token", "acme", "signed"):
        found.add(name, token_hex(20))
    return found


@pytest.fixture
def environ(secured: Secured, canaries: Canaries, tmp_path: Path) -> dict[str, str]:
    files = {
        "tokens": f"hr: {canaries.secrets['token']}\n",
        "sources/acme.yaml": json.dumps(BEARER),
        "sources/acme.secret": canaries.secrets["acme"],
        "sources/signed.yaml": json.dumps(SIGNED),
        "sources/signed.secret": canaries.secrets["signed"],
    }
    (tmp_path / "sources").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return {
        "AMQP_URL": secured.node.url,
        "PROVISIONER_INTAKE": "127.0.0.1:0",
        "PROVISIONER_INTAKE_TOKENS": str(tmp_path / "tokens"),
        "PROVISIONER_SOURCES": str(tmp_path / "sources"),
        "PROVISIONER_LOG_LEVEL": "debug",
        "PYTHONASYNCIODEBUG": "1",
    }


@pytest.fixture
async def channel(secured: Secured) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel to a broker with the topology, whose queues go with the test."""
    await declare(secured.node.url)
    async with await aio_pika.connect(secured.node.url) as connection:
        channel = await connection.channel()
        yield channel
        for queue in names.topology(names.BrokerVersion(4, 1)).queues:
            await channel.queue_delete(queue.name)


async def test_nothing_the_intake_writes_contains_a_secret(
    environ: dict[str, str], canaries: Canaries, channel: aio_pika.abc.AbstractChannel
):
    """A payload in its queue keeps its body, and only the headers that its profile reads."""
    found: dict[str, set[str]] = {}
    async with worker_process(environ, INTAKE, "intake_started") as process:
        (started,) = (line for line in process.log if line["event"] == "intake_started")
        async with aiohttp.ClientSession(f"http://{started['http']}") as http:
            running = Running(http, canaries, bytearray())
            async with asyncio.timeout(30):
                await until_ready(http)
            await running.play()
            for page in PAGES:
                async with http.get(page) as response:
                    found[page] = canaries.found_in(await response.read() + repr(response.headers).encode())
        assert await process.stop() == 0
    found["answers"] = canaries.found_in(bytes(running.answers))
    found["logs"] = canaries.found_in(json.dumps(process.log).encode())
    queues = {name: await taken(channel, name) for name in (names.WORK_QUEUE, names.UNMAPPED_QUEUE)}
    assert [len(messages) for messages in queues.values()] == [3, 3]
    for name, messages in queues.items():
        found[name] = canaries.found_in(b"".join(map(written, messages)))
    assert_absent(found)
    assert process.count("intake_refused") >= 6, "nothing was logged of the refused requests"
    assert b"m-1" in b"".join(map(written, queues[names.UNMAPPED_QUEUE])), "no header was kept"


async def until_ready(http: aiohttp.ClientSession) -> None:
    status = 503
    while status == 503:
        async with http.get("/readyz") as response:
            status = response.status


async def taken(channel: aio_pika.abc.AbstractChannel, name: str) -> list[Any]:
    """Takes all messages out of a queue."""
    queue = await channel.get_queue(name, ensure=False)
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append(message)
    return found


def written(message: aio_pika.abc.AbstractIncomingMessage) -> bytes:
    return f"{message.routing_key} {message.headers!r} {message.info()!r}".encode() + message.body
