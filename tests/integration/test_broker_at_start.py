"""The checks of `provisioner run` at the broker before it takes a message: losses, gaps, other owners."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractChannel
from yarl import URL

from contracts import topology as names
from contracts.topology import BrokerVersion, Topology, topology
from tests.support.real import RealSystem
from worker.adapters.amqp.errors import BrokerRefuses
from worker.adapters.amqp.owner import ForeignOwner
from worker.adapters.amqp.start import TopologyUnsafe
from worker.adapters.amqp.topology import as_it_is
from worker.adapters.brokers import open_connection
from worker.bootstrap.running import running_worker
from worker.demo.private_node import PrivateNode, private_node
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

OTHERS = ("x-message-ttl", "x-expires", "x-max-length", "x-delivery-limit")


async def start(environ: dict[str, str]) -> None:
    async with running_worker(load(WorkerSettings, environ), Telemetry()) as running:
        assert running.consumer.consuming
        assert await running.drain()


async def refusal(environ: dict[str, str]) -> list[str]:
    """The lines with which a start is refused; each is about another object."""
    with pytest.raises(TopologyUnsafe) as refused:
        await start(environ)
    assert refused.value.exit_code == 2
    return str(refused.value).splitlines()


@pytest.fixture
async def version(clean_broker: str) -> BrokerVersion:
    async with open_connection([clean_broker]) as connection:
        return BrokerVersion.parse(connection.server_version)


@pytest.fixture
def assumed(system: RealSystem) -> dict[str, str]:
    return system.environ | {"PROVISIONER_TOPOLOGY": "assume"}


async def made(channel: AbstractChannel, whole: Topology) -> None:
    """Makes the objects as an import of definitions does."""
    for exchange in whole.exchanges:
        await channel.declare_exchange(
            exchange.name, aio_pika.ExchangeType.TOPIC, durable=True, arguments=dict(exchange.arguments)
        )
    for queue in whole.queues:
        await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
    for binding in whole.bindings:
        bound = await channel.get_queue(binding.queue, ensure=False)
        await bound.bind(binding.exchange, binding.routing_key)


async def test_the_topology_of_another_version_is_refused(
    system: RealSystem, assumed: dict[str, str], version: BrokerVersion
):
    """On RabbitMQ 3 a delivery limit of -1 drops a message at its first return; on 4 none means 20."""
    other = BrokerVersion(3, 10) if version >= (4, 0) else BrokerVersion(4, 1)
    await made(system.channel, topology(other))
    lines = await refusal(assumed)
    assert {line.split(":")[0] for line in lines} == {
        f"queue {queue.name}" for queue in topology(other).queues
    }
    assert all("x-delivery-limit" in line for line in lines)


async def test_what_is_missing_is_refused_and_not_made(
    system: RealSystem, assumed: dict[str, str], version: BrokerVersion
):
    await made(system.channel, topology(version))
    await system.channel.queue_delete(names.DEAD_LETTER_QUEUE)
    await system.channel.exchange_delete(names.RESULTS)
    for _ in range(2):
        assert await refusal(assumed) == [
            f"exchange {names.RESULTS} is missing: run `provisioner topology apply`",
            f"queue {names.DEAD_LETTER_QUEUE} is missing: run `provisioner topology apply`",
        ]


async def test_arguments_are_seen_without_the_management_api(
    system: RealSystem, assumed: dict[str, str], version: BrokerVersion
):
    """RabbitMQ names one difference at a time, and the first one here is no harm."""
    await made(system.channel, topology(version))
    await system.channel.queue_delete(names.SECRETS_QUEUE)
    arguments = topology(version).queue(names.SECRETS_QUEUE).arguments
    odd = arguments | {"x-dead-letter-exchange": "others", "x-max-length": 5, "x-message-ttl": 60_000}
    await system.channel.declare_queue(names.SECRETS_QUEUE, durable=True, arguments=odd)
    (line,) = await refusal(assumed)
    assert line.startswith(f"queue {names.SECRETS_QUEUE}: ")
    assert "x-message-ttl 60000" in line
    assert "x-max-length 5" in line
    await system.channel.declare_queue(names.SECRETS_QUEUE, durable=True, arguments=odd)  # as it was


async def test_a_difference_without_harm_is_one_warning(
    system: RealSystem,
    assumed: dict[str, str],
    version: BrokerVersion,
    capsys: pytest.CaptureFixture[str],
):
    await made(system.channel, topology(version))
    await system.channel.queue_delete(names.SECRETS_QUEUE)
    arguments = topology(version).queue(names.SECRETS_QUEUE).arguments
    odd = arguments | {"x-max-length": 5, "x-overflow": "reject-publish"}
    await system.channel.declare_queue(names.SECRETS_QUEUE, durable=True, arguments=odd)
    configure_logging("json", "warning")
    await start(assumed)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["event"] == "topology_unseen"
    assert line["details"][0] == "not seen: bindings and policies (set PROVISIONER_MANAGEMENT_URL)"
    assert line["details"][1].startswith(f"queue {names.SECRETS_QUEUE}: ")
    assert len(line["details"]) == 2


async def test_departments_without_an_alternate_exchange_says_what_to_do(system: RealSystem):
    await system.channel.declare_exchange(names.DEPARTMENTS, aio_pika.ExchangeType.TOPIC, durable=True)
    with pytest.raises(
        BrokerRefuses, match=r"^exchange departments has no such alternate exchange.*delete it"
    ):
        await start(system.environ)


async def test_a_queue_with_other_arguments_is_to_be_emptied_first(system: RealSystem):
    await system.channel.declare_queue(names.WORK_QUEUE, durable=True)
    with pytest.raises(BrokerRefuses, match="empty it, then delete it"):
        await start(system.environ)


async def test_a_worker_of_another_owner_is_refused(system: RealSystem, tmp_path: Any):
    def owned(owner: str, ledger: str) -> dict[str, str]:
        return system.environ | {
            "PROVISIONER_OWNER": owner,
            "LEDGER_URL": f"sqlite:///{tmp_path / ledger}",
        }

    async with AsyncExitStack() as stack:
        for ledger in ("a.db", "b.db"):  # two workers of one owner
            settings = load(WorkerSettings, owned("production", ledger))
            running = await stack.enter_async_context(running_worker(settings, Telemetry()))
            assert running.consumer.consuming
        with pytest.raises(ForeignOwner) as refused:
            await start(owned("staging", "c.db"))
        assert refused.value.exit_code == 2
        assert str(refused.value) == (
            f"workers of owner production read {names.WORK_QUEUE}, and this one is of owner staging: set"
            " PROVISIONER_NAMESPACE, so that each deployment has queues of its own, and leave the owners"
            " different"
        )
        await start(owned("staging", "d.db") | {"PROVISIONER_NAMESPACE": "staging"})
        for whole in (topology(BrokerVersion(4, 1), namespace=names.Namespace("staging")),):
            for queue in whole.queues:
                await system.channel.queue_delete(queue.name)
            for exchange in whole.exchanges:
                await system.channel.exchange_delete(exchange.name)
    await start(owned("staging", "c.db"))  # nobody else is there any more


@pytest.mark.parametrize(
    ("refused", "given"),
    [
        ("received none but current is the value '-1' of type 'long'", {"x-a": "b", "x-c": -1}),
        ("received none but current is the value 'y' of type 'longstr'", {"x-a": "b", "x-c": "y"}),
        ("received none but current is the value 'true' of type 'bool'", {"x-a": "b", "x-c": True}),
    ],
)
def test_a_refusal_tells_an_argument(refused: str, given: dict[str, Any]):
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-c' for queue 'q' in vhost '/': {refused}"
    assert as_it_is({"x-a": "b"}, text) == given
    assert as_it_is({"x-a": "b"}, text.replace("'x-c'", "'durable'")) is None
    gone = "inequivalent arg 'x-a' for queue 'q' in vhost '/': received 'b' but current is none"
    assert as_it_is({"x-a": "b"}, gone) == {}
    other = "inequivalent arg 'x-a' for queue 'q' in vhost '/': received 'b' but current is 'd'"
    assert as_it_is({"x-a": "b"}, other) == {"x-a": "d"}


class TestWithTheManagementApi:
    @pytest.fixture
    async def node(self) -> AsyncIterator[PrivateNode]:
        async with private_node(management=True) as node:
            yield node

    @pytest.fixture
    def environ(self, node: PrivateNode, system: RealSystem) -> dict[str, str]:
        managed = {"AMQP_URL": node.url, "PROVISIONER_MANAGEMENT_URL": node.management_url or ""}
        return system.environ | managed

    @pytest.mark.usefixtures("rabbitmq_server")
    async def test_policies_and_rights(
        self, node: PrivateNode, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
    ):
        """One node for all of it: starting one takes long."""
        await start(environ)
        for key, value in (
            ("message-ttl", 3000),
            ("max-length", 5),
            ("max-length-bytes", 100),
            ("expires", 60_000),
            ("delivery-limit", 3),
        ):
            for kind in ("policies", "operator-policies"):
                await self._policy(node, kind, {key: value})
                for mode in ("declare", "assume"):
                    lines = await refusal(environ | {"PROVISIONER_TOPOLOGY": mode})
                    assert any(
                        line.startswith(f"policy {names.WORK_QUEUE}: policy all sets {key}") for line in lines
                    )
                await self._policy(node, kind, None)

        configure_logging("json", "warning")
        await node.rabbitmqctl("set_policy", "all", ".*", json.dumps({"dead-letter-exchange": "others"}))
        await start(environ)
        (warned,) = map(json.loads, capsys.readouterr().err.splitlines())
        assert f"policy {names.WORK_QUEUE}: policy all sets dead-letter-exchange" in warned["details"]
        await node.rabbitmqctl("clear_policy", "all")

        await self._unbind(node)
        assumed = environ | {"PROVISIONER_TOPOLOGY": "assume"}
        (line,) = await refusal(assumed)
        assert line.startswith("binding departments → provisioner.departments (department.#) is missing")
        await start(environ)  # declares it again
        await start(assumed)
        assert capsys.readouterr().err == ""

        await self._departments_by_policy(node, environ)
        await start(environ)
        await start(assumed)
        assert capsys.readouterr().err == ""

        await node.rabbitmqctl("add_user", "plain", "secret")
        await node.rabbitmqctl("set_permissions", "plain", "^$", "^provisioner", "^provisioner")
        plain = str(URL(node.url).with_user("plain").with_password("secret"))
        await start(assumed | {"AMQP_URL": plain, "PROVISIONER_MANAGEMENT_URL": ""})
        (warned,) = map(json.loads, capsys.readouterr().err.splitlines())
        assert [detail.split(" ")[:3] for detail in warned["details"]] == [
            ["not", "seen:", "bindings"],
            ["not", "seen:", "the"],
            ["not", "seen:", "workers"],
        ]

    async def _policy(self, node: PrivateNode, kind: str, definition: dict[str, Any] | None) -> None:
        """Makes the policy `all`, or removes it; rabbitmqctl would take a second each time."""
        url = f"{node.management_url}/api/{kind}/%2F/all"
        body = {"pattern": ".*", "definition": definition, "apply-to": "queues"}
        async with aiohttp.ClientSession(raise_for_status=True) as http:
            target = URL(url, encoded=True)
            async with http.put(target, json=body) if definition else http.delete(target):
                return

    async def _unbind(self, node: PrivateNode) -> None:
        async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
            work = await channel.get_queue(names.WORK_QUEUE)
            await work.unbind(names.DEPARTMENTS, "department.#")

    async def _departments_by_policy(self, node: PrivateNode, environ: dict[str, str]) -> None:
        """An exchange of HR's own making, to which a policy gives the alternate exchange."""
        async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
            await channel.exchange_delete(names.DEPARTMENTS)
            await channel.declare_exchange(names.DEPARTMENTS, aio_pika.ExchangeType.TOPIC, durable=True)
        with pytest.raises(BrokerRefuses, match="alternate exchange"):
            await start(environ)
        await node.rabbitmqctl(
            *("set_policy", "--apply-to", "exchanges", "unrouted", "^departments$"),
            json.dumps({"alternate-exchange": names.UNROUTED}),
        )
