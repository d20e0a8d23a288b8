"""The private node serves, restarts, and leaves nothing behind, even if its owner is killed."""

import asyncio
import os
import re
import select
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from pamqp.common import FieldTable
from yarl import URL

from worker.demo.private_node import ROOT_VARIABLE, NodeUnavailable, PrivateNode, private_node

pytestmark = pytest.mark.usefixtures("rabbitmq_server")

PROJECT = Path(__file__).parents[2]

QUORUM: FieldTable = {"x-queue-type": "quorum"}
WAITING_ROOM = QUORUM | {
    "x-dead-letter-exchange": "back",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-message-ttl": 100,
}

# RabbitMQ does this once a minute.
LOOK_AFTER_EPMD = "rabbit_epmd_monitor ! check, sys:get_state(rabbit_epmd_monitor)."

OWNER = """
import asyncio
from worker.demo.private_node import private_node

async def own():
    async with private_node() as node:
        print(node.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(own())
"""


async def test_a_node_serves_quorum_queues_with_at_least_once_dead_lettering():
    async with private_node() as node, channel_of(node) as channel:
        back = await channel.declare_exchange("back", aio_pika.ExchangeType.FANOUT, durable=True)
        home = await channel.declare_queue("home", durable=True, arguments=QUORUM)
        await home.bind(back)
        await channel.declare_queue("waiting", durable=True, arguments=WAITING_ROOM)

        arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
        await home.consume(arrived.put, no_ack=True)
        await send(channel, "waiting", b"patience")

        assert (await asyncio.wait_for(arrived.get(), 30)).body == b"patience"


async def test_a_start_reports_each_stage():
    stages: list[str] = []
    async with private_node(on_progress=stages.append) as node:
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", node.version)
    assert stages == [
        "starting Erlang",
        f"starting RabbitMQ {node.version}",
        f"RabbitMQ {node.version} is ready on port {port_of(node)}",
    ]


async def test_a_restarted_node_keeps_its_address_and_messages():
    async with private_node() as node:
        async with channel_of(node) as channel:
            await channel.declare_queue("kept", durable=True, arguments=QUORUM)
            await send(channel, "kept", b"still here")

        await node.stop()
        with pytest.raises(ConnectionError):
            await aio_pika.connect(node.url)
        await node.start()

        async with channel_of(node) as channel:
            message = await (await channel.get_queue("kept")).get(timeout=30)
            assert message is not None
            assert message.body == b"still here"


async def test_the_rabbit_application_stops_and_starts_alone():
    async with private_node() as node:
        await node.stop_app()
        with pytest.raises(NodeUnavailable, match="rabbitmqctl list_queues failed"):
            await node.rabbitmqctl("list_queues")
        await node.start_app()
        assert "/" in await node.rabbitmqctl("list_vhosts")


async def test_two_nodes_run_side_by_side():
    async with AsyncExitStack() as stack:
        one, other = await asyncio.gather(*(stack.enter_async_context(private_node()) for _ in range(2)))
        await one.rabbitmqctl("add_vhost", "mine")
        assert "mine" in await one.rabbitmqctl("list_vhosts")
        assert "mine" not in await other.rabbitmqctl("list_vhosts")


async def test_the_management_api_is_enabled_on_request():
    async with (
        private_node(management=True) as node,
        aiohttp.ClientSession() as session,
        session.get(f"{node.management_url}/api/overview") as answer,
    ):
        assert (await answer.json())["rabbitmq_version"] == node.version


async def test_a_stopped_node_leaves_no_process_and_no_folder():
    async with private_node() as node:
        folder = node._folder
        await node.rabbitmqctl("eval", LOOK_AFTER_EPMD)
        assert "beam.smp" in processes_of(folder)
        assert "epmd" not in processes_of(folder)
    assert processes_of(folder) == []
    assert not folder.exists()


async def test_a_node_of_a_killed_owner_leaves_no_process_and_no_folder():
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, stdout=PIPE, cwd=PROJECT)
    assert owner.stdout is not None
    await asyncio.wait_for(owner.stdout.readline(), 60)
    keeper, folder = keeper_and_folder_of(owner.pid)
    assert processes_of(folder) != []
    keeper_ends = os.pidfd_open(keeper)

    owner.kill()
    await owner.wait()
    ended, _, _ = await asyncio.to_thread(select.select, [keeper_ends], [], [], 60)
    os.close(keeper_ends)

    assert ended
    assert processes_of(folder) == []
    assert not folder.exists()


async def test_a_failed_start_reports_the_reason_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(NodeUnavailable, match=r"RabbitMQ does not start \(.*configuration.*AMQP_URL"):
        async with private_node(config={"no.such.key": "1"}):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(NodeUnavailable, match=r"apt-get install rabbitmq-server, or set AMQP_URL"):
        async with private_node():
            pass


@asynccontextmanager
async def channel_of(node: PrivateNode) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
        yield channel


async def send(channel: aio_pika.abc.AbstractChannel, queue: str, body: bytes) -> None:
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, routing_key=queue)


def port_of(node: PrivateNode) -> int:
    return URL(node.url).port or 0


def processes_of(folder: Path) -> list[str]:
    """The names of the live processes whose home is the folder of a node."""
    home = f"HOME={folder}".encode()
    return [name_of(process) for process in processes() if home in read(process, "environ")]


def keeper_and_folder_of(owner: int) -> tuple[int, Path]:
    for process in processes():
        match read(process, "cmdline"):
            case [_, _, _, b"keeper", folder, _] if parent_of(process) == owner:
                return int(process.name), Path(folder.decode())
    pytest.fail("the owner has no keeper")


def processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def read(process: Path, file: str) -> list[bytes]:
    """The NUL-terminated items of a file in /proc; empty if the process is gone or of another user."""
    try:
        return (process / file).read_bytes().split(b"\0")
    except OSError:
        return []


def name_of(process: Path) -> str:
    return status_of(process)[0]


def parent_of(process: Path) -> int:
    return int(status_of(process)[1])


def status_of(process: Path) -> tuple[str, str]:
    """Name and parent pid of a process."""
    found = re.search(rb"\((.*)\) \S (\d+)", b"".join(read(process, "stat")), re.DOTALL)
    return (found[1].decode(), found[2].decode()) if found else ("", "0")
