"""A ready worker consumes, publishes and can write to its ledger; each fault is reported with a reason."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import aiohttp
import apsw
import pytest
from pamqp.common import FieldTable

from contracts.topology import SECRETS, WORK_QUEUE
from tests.support.builders import department_created
from tests.support.fault_proxy import BrokerProxy, fault_proxy
from tests.support.real import RealSystem
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.sqlite.ledger import SqliteLedger
from worker.bootstrap.running import RunningWorker, running_worker
from worker.service import probes
from worker.service.probes import serving
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry

pytestmark = pytest.mark.xdist_group("broker")


DEAF, MUTE = "no consumer is registered at the broker: ", "no connection to publish on: "


@dataclass(frozen=True)
class ProbedWorker:
    """A worker and its probes behind a fault proxy. The worker does not declare the topology."""

    system: RealSystem
    running: RunningWorker
    proxy: BrokerProxy
    url: str
    http: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.json()

    async def problems(self, status: int, lines: int | None = None) -> list[str]:
        """Polls /readyz until it has this status and number of reasons; returns the problems."""
        while True:
            answered, problems = await self.get("/readyz")
            reasons = [line for line in problems["wrong"] if "it is being made" not in line]
            if answered == status and lines in {None, len(reasons)}:
                assert (problems["status"] == "ready") == (status == 200)
                return list(problems["wrong"])
            await asyncio.sleep(0.02)


@pytest.fixture
async def probed_worker(system: RealSystem, monkeypatch) -> AsyncIterator[ProbedWorker]:
    monkeypatch.setattr(probes, "LEDGER_CHECK_SECONDS", 0.0)
    async with system.worker():
        """Declares the topology."""
    async with fault_proxy(system.url) as proxy:
        system.environ |= {"AMQP_URL": proxy.url, "PROVISIONER_TOPOLOGY": "assume"}
        telemetry = Telemetry()
        answers = probes.Probes(telemetry, system.settings.signing_key_path)
        async with (
            serving(answers, Address("127.0.0.1", 0)) as address,
            running_worker(system.settings, telemetry) as running,
            aiohttp.ClientSession() as http,
        ):
            with answers.watching(running):
                yield ProbedWorker(system, running, proxy, f"http://127.0.0.1:{address.port}", http)


async def nobody_listens(there: ProbedWorker) -> None:
    there.proxy.refuse()
    there.proxy.reset()


async def the_queue_is_deleted(there: ProbedWorker) -> None:
    await there.system.channel.queue_delete(WORK_QUEUE)


async def the_channel_is_closed(there: ProbedWorker) -> None:
    """The broker closes it with 406, as after a consumer timeout."""
    there.proxy.refuse()
    consumer = there.running.consumer
    assert isinstance(consumer, RabbitConsumer)
    assert consumer._channel is not None
    consumer._channel.ack(4711)


async def the_publisher_is_gone(there: ProbedWorker) -> None:
    there.proxy.refuse()
    publisher = there.running.worker.handler.outbox.publisher
    assert isinstance(publisher, RabbitPublisher)
    assert publisher._connection is not None
    publisher._connection.hang_up()


async def the_ledger_is_read_only(there: ProbedWorker) -> None:
    ledger = there.running.ledger
    assert isinstance(ledger, SqliteLedger)
    ledger.store._writing.pragma("query_only", 1)


async def the_ledger_is_deleted(there: ProbedWorker) -> None:
    there.system.ledger.unlink()


async def the_secrets_queue_is_full(there: ProbedWorker) -> None:
    """One of the queues is full."""
    full: FieldTable = {"x-max-length": 0, "x-overflow": "reject-publish"}
    queue = await there.system.channel.declare_queue(exclusive=True, arguments=full)
    await queue.bind(SECRETS, "#")
    await there.system.send(department_created().model_dump_json().encode())


async def it_is_paused(there: ProbedWorker) -> None:
    await there.running.consumer.pause()


@pytest.mark.parametrize(
    ("fault", "problems"),
    [
        (nobody_listens, [f"{DEAF}.*(reset|refused)", f"{MUTE}.*(reset|refused)"]),
        (the_queue_is_deleted, [f"{DEAF}.*(its queue was deleted|no queue)"]),
        (the_channel_is_closed, [f"{DEAF}.*(PRECONDITION_FAILED|refused|gone)"]),
        (the_publisher_is_gone, [MUTE]),
        (the_ledger_is_read_only, ["the ledger cannot be written: .*readonly"]),
        (the_ledger_is_deleted, ["the ledger cannot be written: its file was deleted"]),
        (
            the_secrets_queue_is_full,
            ["credentials cannot be delivered: RabbitMQ did not take", "consuming is paused"],
        ),
        (it_is_paused, ["consuming is paused"]),
    ],
)
async def test_each_fault_makes_the_worker_not_ready_with_a_reason(
    probed_worker: ProbedWorker, fault: Callable[[ProbedWorker], Awaitable[None]], problems: list[str]
):
    assert await probed_worker.problems(200) == []
    await fault(probed_worker)
    for line, pattern in zip(await probed_worker.problems(503, len(problems)), problems, strict=True):
        assert re.search(pattern, line)
        assert "\n" not in line


async def test_a_worker_is_ready_again_once_it_consumes_again(probed_worker: ProbedWorker):
    await nobody_listens(probed_worker)
    await probed_worker.problems(503)
    await probed_worker.proxy.listen()
    assert await probed_worker.problems(200) == []
    await it_is_paused(probed_worker)
    await probed_worker.problems(503)
    await probed_worker.running.consumer.resume()
    assert await probed_worker.problems(200) == []


async def test_a_slow_ledger_makes_the_worker_not_ready_within_the_timeout(probed_worker: ProbedWorker):
    another = apsw.Connection(str(probed_worker.system.ledger))
    another.execute("BEGIN IMMEDIATE")
    assert await probed_worker.problems(503) == [
        "the ledger takes no write in time: the disk is slow, or another process holds the file"
    ]
    another.close()
    assert await probed_worker.problems(200) == []


async def test_a_blocked_event_loop_fails_every_probe(probed_worker: ProbedWorker, monkeypatch):
    assert await probed_worker.get("/livez") == (200, {"status": "alive", "wrong": []})
    monkeypatch.setattr(probes, "STUCK_SECONDS", 0.3)
    answers: dict[str, bytes] = {}
    all_answered = threading.Event()

    def ask() -> None:
        for path in ("/livez", "/readyz"):
            while path not in answers:
                try:
                    urlopen(probed_worker.url + path, timeout=10).close()  # noqa: S310 - ours
                except HTTPError as refusal:
                    answers[path] = refusal.read()
        all_answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert all_answered.wait(30)  # blocks the event loop
    asking.join()
    assert all(b"the event loop has hung for" in answer for answer in answers.values())
    monkeypatch.undo()
    assert await probed_worker.problems(200) == []


async def test_the_metrics_count_connections(probed_worker: ProbedWorker):
    async with probed_worker.proxy.connected_anew(2):
        probed_worker.proxy.reset()
    await probed_worker.problems(200)
    async with probed_worker.http.get(f"{probed_worker.url}/metrics") as answer:
        lines = set((await answer.text()).splitlines())
    assert {
        "provisioner_broker_reconnects_total 2.0",
        'provisioner_broker_disconnections_total{link="publisher"} 1.0',
        'provisioner_broker_connected{link="consumer"} 1.0',
        'provisioner_broker_connected{link="publisher"} 1.0',
        "provisioner_consuming 1.0",
    } <= lines
    await nobody_listens(probed_worker)
    await probed_worker.problems(503)
    async with probed_worker.http.get(f"{probed_worker.url}/metrics") as answer:
        lines = set((await answer.text()).splitlines())
    assert {'provisioner_broker_connected{link="consumer"} 0.0', "provisioner_consuming 0.0"} <= lines


async def test_another_path_is_not_found(probed_worker: ProbedWorker):
    async with probed_worker.http.get(f"{probed_worker.url}/") as answer:
        assert answer.status == 404
        assert "/readyz" in await answer.text()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/.well-known/jwks.json", "/nothing"])
async def test_head_is_answered_as_get_without_a_body(probed_worker: ProbedWorker, path: str):
    await probed_worker.problems(200)
    async with probed_worker.http.get(f"{probed_worker.url}{path}") as got:
        expected = (got.status, got.headers["Content-Type"])
    async with probed_worker.http.head(f"{probed_worker.url}{path}") as head:
        assert (head.status, head.headers["Content-Type"]) == expected
        assert int(head.headers["Content-Length"]) > 0
        assert await head.read() == b""


@pytest.mark.parametrize("path", ["/livez/", "/readyz/", "/readyz/?verbose", "/livez?", "/metrics/"])
async def test_a_slash_or_a_query_at_the_end_does_not_matter(probed_worker: ProbedWorker, path: str):
    await probed_worker.problems(200)
    async with probed_worker.http.get(f"{probed_worker.url}{path}") as got:
        assert got.status == 200


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_other_methods_are_not_allowed(probed_worker: ProbedWorker, method: str):
    async with probed_worker.http.request(method, f"{probed_worker.url}/livez") as refused:
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
