"""Why RabbitMQ refuses a connection or an operation, in words: limits, rights, logins and wrong ports."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from tests.support.management import delete, put
from tests.support.nodes import running_node
from worker.adapters.amqp import connect as connecting
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable, explain
from worker.adapters.amqp.seam import BROKER_ERRORS, Channel, Connection
from worker.demo.private_node import PrivateNode, private_node

pytestmark = [pytest.mark.xdist_group("refusals"), pytest.mark.timeout(120)]

USER, PASSWORD, VHOST = "without-rights", "pa55-of-the-user", "two"


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    """A node with a virtual host on which a user has no right."""
    with running_node(private_node(management=True)) as (running, runner):
        runner.run(put(running, f"vhosts/{VHOST}"))
        runner.run(put(running, f"users/{USER}", password=PASSWORD, tags=""))
        yield running


def url_of(node: PrivateNode, vhost: str = VHOST) -> str:
    return str(URL(node.url).with_user(USER).with_password(PASSWORD).with_path(f"/{vhost}"))


async def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        async with await connect(url, "test") as connection:
            await usable(connection)
    assert PASSWORD not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


async def usable(connection: Connection) -> None:
    """Opens two channels; raises `BrokerUnavailable`."""
    with connecting.unavailable_if_lost():
        await connection.open_channel()
        await connection.open_channel()


@asynccontextmanager
async def limit(node: PrivateNode, of: str, name: str, value: int) -> AsyncIterator[None]:
    """Sets one limit of a virtual host or a user during the block."""
    await put(node, f"{of}/{name}", value=value)
    try:
        yield
    finally:
        await delete(node, f"{of}/{name}")


OF_VHOST, OF_USER = "vhost-limits/%2F", "user-limits/guest"


async def test_a_limit_of_connections_of_a_virtual_host_is_told(node: PrivateNode):
    async with limit(node, OF_VHOST, "max-connections", 0):
        told = await refusal(node.url)
    assert told.endswith(
        "the limit of connections of this virtual host is reached (0): raise it, or end other connections"
    )
    async with await connect(node.url, "test") as connection:
        await usable(connection)


async def test_a_limit_of_connections_of_a_user_is_told(node: PrivateNode):
    async with limit(node, OF_USER, "max-connections", 0):
        assert "the limit of connections of this user is reached (0)" in await refusal(node.url)


async def test_a_limit_of_channels_is_told(node: PrivateNode):
    async with limit(node, OF_USER, "max-channels", 1):
        assert "the limit of channels is reached (1): raise it" in await refusal(node.url)


async def test_a_missing_virtual_host_and_a_missing_right_to_it_differ(node: PrivateNode):
    assert "there is no virtual host nowhere: correct the path" in await refusal(url_of(node, "nowhere"))
    told = await refusal(url_of(node))
    assert f"user {USER} has no right to virtual host {VHOST}: grant it with `rabbitmqctl" in told


async def test_a_wrong_password_is_told_as_one(node: PrivateNode):
    wrong = str(URL(node.url).with_password("wrong"))
    with pytest.raises(BrokerRefuses, match=r"refuses the login in AMQP_URL: wrong user or password$"):
        await connect(wrong, "test")


def test_the_user_guest_from_another_machine_is_explained():
    told = connecting.explain_login("amqp://guest:guest@broker/", "ACCESS_REFUSED - Login was refused")
    assert told == "RabbitMQ lets its user guest in from its own machine only; make another user"


@asynccontextmanager
async def answering(says: bytes) -> AsyncIterator[str]:
    """A server that says this whatever it reads."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(says)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "that port speaks HTTP, not AMQP: write the port of AMQP"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "that port speaks TLS: write amqps:// in AMQP_URL"),
        (b"AMQP\x00\x01\x00\x00", "it speaks another version of AMQP than 0-9-1"),
        (b"", "it closed the connection without a reason; is that the port of AMQP"),
    ],
)
async def test_a_port_of_another_protocol_is_told(says: bytes, words: str):
    async with answering(says) as url:
        assert words in await refusal(url)


async def test_a_silent_port_is_told_with_the_time(node: PrivateNode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 1.0)
    port = URL(str(node.management_url)).port
    assert "no answer within 1 s; is that the host and the port" in await refusal(
        f"amqp://guest:guest@127.0.0.1:{port}/"
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-such.invalid", "no-such.invalid:5672/ cannot be used: name not known (DNS)"),
        ("127.0.0.1:1", "127.0.0.1:1/ cannot be used: connection refused"),
        ("[::1]:1", "[::1]:1/ cannot be used: "),
    ],
)
async def test_host_port_and_cause_of_an_unreachable_broker_are_told(host: str, words: str):
    assert words in await refusal(f"amqp://guest:guest@{host}/")


RIGHTS = {
    "declare a queue": (lambda channel: channel.objects.declare_queue("q"), "configure right on queue q"),
    "declare an exchange": (
        lambda channel: channel.objects.declare_exchange("e", "topic"),
        "configure right on exchange e",
    ),
    "dead-letter to an exchange": (
        lambda channel: channel.objects.declare_queue("mine-2", {"x-dead-letter-exchange": "e"}),
        "write right on exchange e",
    ),
    "bind a queue": (
        lambda channel: channel.objects.bind("theirs", "amq.topic", "#"),
        "write right on queue theirs",
    ),
    "bind to an exchange": (
        lambda channel: channel.objects.bind("mine", "amq.topic", "#"),
        "read right on exchange amq.topic",
    ),
    "delete a queue": (lambda channel: channel.objects.queue_delete("q"), "configure right on queue q"),
    "purge a queue": (lambda channel: channel.objects.queue_purge("theirs"), "read right on queue theirs"),
    "consume": (lambda channel: channel.consume("theirs"), "read right on queue theirs"),
}


@pytest.fixture
async def mine(node: PrivateNode) -> AsyncIterator[Channel]:
    """A channel of a user with rights on names that begin with `mine`."""
    await put(node, f"permissions/{VHOST}/{USER}", configure="^mine", write="^mine", read="^mine")
    await put(node, f"permissions/{VHOST}/guest", configure=".*", write=".*", read=".*")
    other = str(URL(node.url).with_path(f"/{VHOST}"))
    async with await connect(other, "other") as theirs, await connect(url_of(node), "test") as connection:
        async with theirs.channel() as channel:
            await channel.objects.declare_queue("theirs", temporary=False)
        async with connection.channel() as channel:
            await channel.objects.declare_queue("mine")
        yield await connection.open_channel()
        async with theirs.channel() as channel:
            await channel.objects.queue_delete("theirs")
            await channel.objects.queue_delete("mine")
    await delete(node, f"permissions/{VHOST}/{USER}")


@pytest.mark.parametrize("act", RIGHTS)
async def test_a_refused_operation_tells_right_and_object(mine: Channel, act: str):
    attempt, missing = RIGHTS[act]
    with pytest.raises(BROKER_ERRORS) as refused:
        await attempt(mine)
    assert explain(refused.value) == (
        f"user {USER} has no {missing} in virtual host {VHOST}: grant it with `rabbitmqctl set_permissions`"
    )


def test_texts_of_later_brokers_are_read():
    text = "ACCESS_REFUSED - write access to exchange 'e' in vhost '/' refused for user 'u'"
    assert explain(ConnectionError(text)).startswith("user u has no write right on exchange e in virtual")
    node_limit = "NOT_ALLOWED - connection refused: node connection limit (5) is reached"
    assert explain(ConnectionError(node_limit)).startswith("the limit of connections of this node is reached")
    topic = "ACCESS_REFUSED - access to topic 'a.b' in exchange 'e' in vhost '/' refused for user 'u'"
    assert explain(ConnectionError(topic)).startswith("user u may not use routing key a.b on exchange e")
    down = "INTERNAL_ERROR - access to vhost '/' refused for user 'u': vhost '/' is down"
    assert explain(ConnectionError(down)).startswith("virtual host / is down")


async def test_run_topology_and_emit_tell_the_limit(node: PrivateNode, tmp_path: Path):
    environ = os.environ | {
        "AMQP_URL": node.url,
        "PLIVO_AUTH_ID": "MA00000000000000000X",
        "PLIVO_AUTH_TOKEN": "not-a-real-token",
        "PLIVO_API_URL": "http://127.0.0.1:9",
        "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "PROVISIONER_HTTP": "127.0.0.1:0",
        "COLUMNS": "200",
    }

    async def end_of(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", *arguments, env=environ, stdout=PIPE, stderr=PIPE
        )
        _, errors = await process.communicate()
        return process.returncode, errors.decode()

    async with limit(node, OF_VHOST, "max-connections", 0):
        ends = await asyncio.gather(
            end_of("run"),
            end_of("topology", "apply"),
            end_of("emit", "created", "--id", "d-1", "--name", "Sales"),
        )
    for code, errors in ends:
        assert code == 1
        assert "the limit of connections of this virtual host is reached (0)" in errors
        assert "Traceback" not in errors
