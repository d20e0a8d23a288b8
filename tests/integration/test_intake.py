"""`provisioner intake` as a process on real RabbitMQ, driven by clients that others wrote."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from contracts import topology as names
from contracts.intake import EVENTS_PATH
from tests.soak.intake import INTAKE, TOKEN, IntakeSoak, declare, event
from tests.soak.worker_process import WorkerProcess, worker_process
from tests.support.nodes import skip_or_fail
from tests.support.npm import installed
from worker.demo.private_node import private_node
from worker.service.intake.replies import RETRY_SECONDS

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

SEED = 7
AT = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)
NODE = """
import {{ CloudEvent, HTTP }} from "{module}";
const event = new CloudEvent({{
  id: "js-" + process.argv[3], source: "/test/js", type: "department.created.v1",
  time: "2026-11-01T08:30:00Z", data: {{ department_id: "js", name: "Büro" }},
}});
const {{ headers, body }} = HTTP[process.argv[3]](event);
const response = await fetch(process.argv[2], {{
  method: "POST", body, headers: {{ ...headers, authorization: "Bearer " + process.argv[4] }},
}});
console.log(response.status);
"""


@asynccontextmanager
async def intake(url: str, folder: Path) -> AsyncIterator[tuple[str, WorkerProcess]]:
    """An intake with a token; yields the URL for events."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tokens = folder / "tokens"
    await asyncio.to_thread(tokens.write_text, f"test: {TOKEN}\n")
    environ = {
        "AMQP_URL": url,
        "PROVISIONER_INTAKE": f"127.0.0.1:{port}",
        "PROVISIONER_INTAKE_TOKENS": str(tokens),
        "PROVISIONER_INTAKE_RATE": "100000/1s",
    }
    async with worker_process(environ, INTAKE, "intake_started") as process:
        yield f"http://127.0.0.1:{port}{EVENTS_PATH}", process


async def queued(url: str) -> list[dict[str, object]]:
    """Takes the events out of the work queue."""
    found = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(names.WORK_QUEUE, ensure=False)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
            found.append(json.loads(message.body))
    return found


async def ready(url: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url.replace(EVENTS_PATH, "/readyz")) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode().strip()


async def test_clients_that_others_wrote(clean_broker: str, tmp_path: Path):
    if shutil.which("curl") is None:
        skip_or_fail("curl is not installed")
    modules = await asyncio.to_thread(installed, "cloudevents@10.0.0")
    program = tmp_path / "send.mjs"
    text = NODE.format(module=modules / "cloudevents/dist/index.js")
    await asyncio.to_thread(program.write_text, text)
    attributes = {"id": "python", "source": "/test/py", "type": "department.created.v1"}
    data = {"department_id": "py", "name": "Büro"}
    await declare(clean_broker)
    async with intake(clean_broker, tmp_path) as (url, process), aiohttp.ClientSession() as session:
        await ready(url)
        for convert in (to_binary_event, to_structured_event):
            sent = convert(CloudEvent({**attributes, "id": convert.__name__, "time": AT}, data))
            headers = {**sent.headers, "Authorization": f"Bearer {TOKEN}"}
            async with session.post(url, data=sent.body, headers=headers) as response:
                assert response.status == 202, await response.text()
        for mode in ("binary", "structured"):
            assert await output_of("node", str(program), url, mode, TOKEN) == "202"
        shown = await output_of(
            *(
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                url,
                "-H",
                f"Authorization: Bearer {TOKEN}",
            ),
            *("-H", "Content-Type: application/cloudevents-batch+json", "-H", "Expect: 100-continue", "-d"),
            json.dumps([{"specversion": "1.0", **attributes, "time": "2026-11-01T08:30:00Z", "data": data}]),
        )
        assert shown == "202"
        assert await process.stop() == 0

    events = await queued(clean_broker)
    assert [event["id"] for event in events] == [
        *("to_binary_event", "to_structured_event", "js-binary", "js-structured", "python")
    ]
    assert {event["data"]["name"] for event in events} == {"Büro"}  # type: ignore[index]
    assert TOKEN not in json.dumps(process.log)


@pytest.mark.usefixtures("rabbitmq_server")
async def test_a_restart_of_the_broker_under_load_loses_nothing_accepted(tmp_path: Path):
    """The intake starts before the topology is there, and waits for it."""
    accepted: set[str] = set()
    ended = asyncio.Event()

    async def send(session: aiohttp.ClientSession, url: str, sender: int) -> None:
        number = 0
        while not ended.is_set():
            id_ = f"{sender}-{number}"
            headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {TOKEN}"}
            async with session.post(url, data=event(id_), headers=headers) as response:
                assert response.status in {202, 503}
                if response.status == 202:
                    accepted.add(id_)
                    number += 1
                else:
                    assert response.headers["Retry-After"]
                    await asyncio.sleep(0.02)

    async with private_node() as node, intake(node.url, tmp_path) as (url, process):
        await declare(node.url)
        await ready(url)
        async with aiohttp.ClientSession() as session:
            senders = [asyncio.create_task(send(session, url, each)) for each in range(4)]
            await process.logged("intake_accepted", 50)
            await node.stop()
            await process.logged("broker_lost", 1)
            await node.start()
            await ready(url)
            await process.logged("intake_accepted", process.count("intake_accepted") + 50)
            ended.set()
            await asyncio.gather(*senders)
        assert await process.stop() == 0
        found = {event["id"] for event in await queued(node.url)}
    assert accepted <= found


@pytest.mark.usefixtures("rabbitmq_server")
async def test_a_broker_out_of_memory_delays_and_loses_nothing(tmp_path: Path):
    """It blocks those who publish. Each request is answered all the same, and the intake is not ready."""
    async with private_node() as node, intake(node.url, tmp_path) as (url, process):
        await declare(node.url)
        await ready(url)
        headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def post(id_: str) -> aiohttp.ClientResponse:
                async with asyncio.timeout(10), session.post(url, data=event(id_)) as response:
                    return response

            await node.rabbitmqctl("set_vm_memory_high_watermark", "0.0000001")
            refused = await post("first")
            assert (refused.status, refused.headers["Retry-After"]) == (503, str(RETRY_SECONDS))
            async with session.get(url.replace(EVENTS_PATH, "/readyz")) as response:
                assert response.status == 503
            await node.rabbitmqctl("set_vm_memory_high_watermark", "0.6")
            await ready(url)
            assert [(await post(id_)).status for id_ in ("first", "second")] == [202, 202]
        assert await process.stop() == 0
        assert {one["id"] for one in await queued(node.url)} == {"first", "second"}


async def test_it_is_stopped_and_killed_under_load(clean_broker: str, tmp_path: Path):
    run = IntakeSoak(clean_broker, tmp_path, terms=5, kills=3, seed=SEED)
    assert await run.run() == []
    assert len(run.accepted) > 100
