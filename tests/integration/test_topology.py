"""`provisioner topology` against a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from contracts import topology as names
from tests.support.commands import CommandOutput, in_process
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from worker.demo.private_node import PrivateNode, private_node

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

QUORUM = {"x-queue-type": "quorum"}


async def provisioner(*arguments: str, **environ: str) -> CommandOutput:
    return await in_process(environ, "topology", *arguments)


async def states(**environ: str) -> dict[str, str]:
    completed = await provisioner("check", "--json", **environ)
    findings: list[dict[str, Any]] = json.loads(completed.out)
    assert completed.code == (0 if {finding["state"] for finding in findings} == {"ok"} else 1)
    return {f"{finding['kind']} {finding['name']}": finding["state"] for finding in findings}


@pytest.fixture
async def channel(clean_broker: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(clean_broker) as connection:
        yield await connection.channel()


async def test_apply_and_check_can_be_repeated(clean_broker: str):
    assert set((await states(AMQP_URL=clean_broker)).values()) == {"missing"}
    for _ in range(2):
        applied = await provisioner("apply", AMQP_URL=clean_broker)
        assert applied.code == 0
        assert applied.out.startswith("8 exchanges, 8 queues, 10 bindings in place on RabbitMQ")
        assert set((await states(AMQP_URL=clean_broker)).values()) == {"ok"}


async def test_each_recipient_has_a_queue_and_the_common_queue_is_absent(
    clean_broker: str, channel: AbstractChannel, tmp_path: Path
):
    keys = write_keys(tmp_path / "keys.json", fresh_sealing_key("crm.1"), fresh_sealing_key("hr.1"))
    environ = {"AMQP_URL": clean_broker, "PROVISIONER_RECIPIENTS": str(keys)}
    own = [names.secrets_queue(recipient) for recipient in ("crm", "hr")]
    try:
        assert (await provisioner("apply", **environ)).code == 0
        found = await states(**environ)
        assert set(found.values()) == {"ok"}
        assert {name for name in found if name.startswith("queue provisioner.secrets")} == {
            f"queue {name}" for name in own
        }
        assert (await states(AMQP_URL=clean_broker))[f"queue {names.SECRETS_QUEUE}"] == "missing"
    finally:
        for queue in own:
            await channel.queue_delete(queue)


async def test_check_declares_nothing(clean_broker: str):
    await states(AMQP_URL=clean_broker)
    assert set((await states(AMQP_URL=clean_broker)).values()) == {"missing"}


async def test_a_queue_with_other_arguments_is_reported_and_unchanged(
    clean_broker: str, channel: AbstractChannel
):
    await channel.declare_queue(names.WORK_QUEUE, durable=True, arguments=QUORUM | {"x-message-ttl": 1000})
    assert (await states(AMQP_URL=clean_broker))[f"queue {names.WORK_QUEUE}"] == "differs"
    applied = await provisioner("apply", AMQP_URL=clean_broker)
    assert applied.code == 1
    assert applied.err.count("\n") == 1
    assert applied.err.startswith(f"queue {names.WORK_QUEUE} exists with other arguments")
    await channel.declare_queue(names.WORK_QUEUE, durable=True, arguments=QUORUM | {"x-message-ttl": 1000})


async def test_a_parked_message_returns_to_the_work_queue(clean_broker: str, channel: AbstractChannel):
    """Uses a retry queue that the product declares, with a short delay."""
    delays = {"AMQP_URL": clean_broker, "PROVISIONER_RETRY_DELAYS": "50ms"}
    assert (await provisioner("apply", **delays)).code == 0
    try:
        retry = await channel.get_exchange(names.RETRY, ensure=False)
        await retry.publish(aio_pika.Message(b"parked", delivery_mode=2), "50ms")
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        work = await channel.get_queue(names.WORK_QUEUE)
        await work.consume(partial(_pass_on, arrived), no_ack=True)
        assert await asyncio.wait_for(arrived.get(), 10) == b"parked"
    finally:
        await channel.queue_delete(f"{names.RETRY}.50ms")


async def _pass_on(arrived: "asyncio.Queue[bytes]", message: aio_pika.abc.AbstractIncomingMessage) -> None:
    arrived.put_nowait(message.body)


async def test_an_unreachable_broker_prints_one_line_and_exits_1():
    completed = await provisioner("check", AMQP_URL="amqp://hr:very-secret@127.0.0.1:1/")
    assert completed.code == 1
    assert completed.err == "RabbitMQ at amqp://127.0.0.1:1/ cannot be used: connection refused\n"


async def test_an_export_is_for_the_broker_it_sees_or_the_version_it_is_told(clean_broker: str):
    seen = await provisioner("export", AMQP_URL=clean_broker)
    version = names.BrokerVersion.parse(json.loads(seen.out)["rabbit_version"])
    wanted = names.topology(version)
    queues = {queue["name"]: queue["arguments"] for queue in json.loads(seen.out)["queues"]}
    assert queues == {queue.name: queue.arguments for queue in wanted.queues}
    assert (await states(AMQP_URL=clean_broker))["queue provisioner.departments"] == "missing"

    other = "4.1" if version < (4, 0) else "3.10"
    told = await provisioner("export", "--broker", other, AMQP_URL=clean_broker)
    assert json.loads(told.out)["rabbit_version"] == other
    assert told.err == (
        f"these definitions are for RabbitMQ {other}, and the broker at AMQP_URL is"
        f" {version.major}.{version.minor}: do not import them there\n"
    )

    away = {"AMQP_URL": "amqp://127.0.0.1:1/hr"}
    refused = await provisioner("export", **away)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith("give --broker VERSION, such as 3.10 or 4.1: ")
    without = await provisioner("export", "--broker", "3.13", **away)
    document = json.loads(without.out)
    assert (document["rabbit_version"], document["vhosts"], without.err) == ("3.13", [{"name": "hr"}], "")
    assert not any("x-delivery-limit" in queue["arguments"] for queue in document["queues"])
    assert (await provisioner("export", "--broker", "newest")).code == 2


@pytest.fixture
async def managed_node() -> AsyncIterator[PrivateNode]:
    async with private_node(management=True) as node:
        yield node


@pytest.mark.usefixtures("rabbitmq_server")
async def test_the_management_api_shows_bindings_and_policies(managed_node: PrivateNode, tmp_path: Any):
    environ = {"AMQP_URL": managed_node.url, "PROVISIONER_MANAGEMENT_URL": managed_node.management_url or ""}
    definitions = tmp_path / "definitions.json"
    definitions.write_text((await provisioner("export", **environ)).out)
    await managed_node.rabbitmqctl("import_definitions", str(definitions))
    other = await provisioner("export", "--vhost", "hr", **environ)
    definitions.write_text(other.out)
    await managed_node.rabbitmqctl("import_definitions", str(definitions))  # makes the virtual host, too
    await managed_node.rabbitmqctl("set_permissions", "-p", "hr", "guest", ".*", ".*", ".*")
    assert set((await states(**environ | {"AMQP_URL": f"{managed_node.url}hr"})).values()) == {"ok"}
    assert set((await states(**environ)).values()) == {"ok"}

    async with await aio_pika.connect(managed_node.url) as connection, connection.channel() as channel:
        work = await channel.get_queue(names.WORK_QUEUE)
        await work.unbind(names.REPLAY, "#")
        await work.bind(names.RESULTS, "#")
    await managed_node.rabbitmqctl("set_policy", "trap", "^provisioner", '{"delivery-limit": 3}')
    wrong = {name for name, state in (await states(**environ)).items() if state != "ok"}
    assert f"binding {names.REPLAY} → {names.WORK_QUEUE} (#)" in wrong
    assert f"binding {names.RESULTS} → {names.WORK_QUEUE} (#)" in wrong
    assert f"policy {names.WORK_QUEUE}" in wrong
