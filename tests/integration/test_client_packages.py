"""Events published by the client packages of producers, with the default settings of each package."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kombu
import pika
import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent
from faststream.rabbit import RabbitBroker

from contracts import topology as names
from tests.support.npm import installed
from tests.support.real import EVENT, RealSystem

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

KEY = "department.created"
AMQPLIB = """
import amqp from "amqplib";
import { readFileSync } from "node:fs";
const connection = await amqp.connect(process.argv[2]);
const channel = await connection.createChannel();
channel.publish("departments", "department.created", readFileSync(0));
await channel.close();
await connection.close();
"""

Publish = Callable[[str, dict[str, Any], Path], Awaitable[None]]


async def with_pika(url: str, event: dict[str, Any], _folder: Path) -> None:
    await asyncio.to_thread(_pika, url, json.dumps(event).encode())


def _pika(url: str, body: bytes, properties: pika.BasicProperties | None = None) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish(names.DEPARTMENTS, KEY, body, properties)


async def with_kombu(url: str, event: dict[str, Any], _folder: Path) -> None:
    def publish() -> None:
        with kombu.Connection(url) as connection:
            connection.Producer().publish(event, exchange=names.DEPARTMENTS, routing_key=KEY)

    await asyncio.to_thread(publish)


async def with_faststream(url: str, event: dict[str, Any], _folder: Path) -> None:
    async with RabbitBroker(url) as broker:
        await broker.publish(event, exchange=names.DEPARTMENTS, routing_key=KEY)


async def with_amqplib(url: str, event: dict[str, Any], folder: Path) -> None:
    (folder / "node_modules").symlink_to(await asyncio.to_thread(installed, "amqplib@2.3.1", "jose@6.2.17"))
    script = folder / "publish.mjs"
    await asyncio.to_thread(script.write_text, AMQPLIB)
    node = await asyncio.create_subprocess_exec("node", str(script), url, stdin=subprocess.PIPE)
    await node.communicate(json.dumps(event).encode())
    assert node.returncode == 0


def _cloudevent(event: dict[str, Any]) -> CloudEvent:
    """The event as the SDK makes it: with a time and a content type of its own."""
    attributes = {name: value for name, value in event.items() if name not in {"data", "specversion"}}
    return CloudEvent(attributes | {"time": datetime.now(UTC)}, event["data"])


async def with_cloudevents_binary(url: str, event: dict[str, Any], _folder: Path) -> None:
    made = rabbitmq.to_binary_event(_cloudevent(event))
    properties = pika.BasicProperties(content_type=made.content_type, headers=made.headers)
    await asyncio.to_thread(_pika, url, made.body, properties)


async def with_cloudevents_structured(url: str, event: dict[str, Any], _folder: Path) -> None:
    made = rabbitmq.to_structured_event(_cloudevent(event))
    properties = pika.BasicProperties(content_type=made.content_type, headers=made.headers)
    await asyncio.to_thread(_pika, url, made.body, properties)


async def with_cloudevents_for_amqp_1(url: str, event: dict[str, Any], _folder: Path) -> None:
    made = amqp.to_binary_event(_cloudevent(event))
    properties = pika.BasicProperties(
        content_type=made.properties.get("content-type"), headers=made.application_properties
    )
    await asyncio.to_thread(_pika, url, made.application_data, properties)


PACKAGES: dict[str, Publish] = {
    "pika": with_pika,
    "kombu": with_kombu,
    "faststream": with_faststream,
    "amqplib": with_amqplib,
    "cloudevents, RabbitMQ binding, binary": with_cloudevents_binary,
    "cloudevents, RabbitMQ binding, structured": with_cloudevents_structured,
    "cloudevents, AMQP 1.0 binding, binary": with_cloudevents_for_amqp_1,
}


async def test_each_package_gets_an_event_through_with_its_defaults(system: RealSystem, tmp_path: Path):
    """One worker for all packages: starting one takes longer than its event."""
    async with system.worker():
        results = await system.listen(names.RESULTS)
        for number, publish in enumerate(PACKAGES.values()):
            data = {"department_id": f"d-{number}", "name": "Vertrieb für Öl"}
            await publish(system.url, EVENT | {"id": f"e-{number}", "data": data}, tmp_path)
        await results.count(len(PACKAGES))
    answered = {
        document["data"]["event"]["id"]: (document["data"]["outcome"], document["data"].get("reason"))
        for document in results.documents
        if document["data"]["event"]
    }
    told = {name: answered.get(f"e-{number}") for number, name in enumerate(PACKAGES)}
    assert told == dict.fromkeys(PACKAGES, ("created", None))
    assert {one.name.partition(" [")[0] for one in system.sandbox.subaccounts()} == {"Vertrieb für Öl"}
