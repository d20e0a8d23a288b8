"""Offline checks of the AsyncAPI document."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

import contracts
from contracts.envelope import HEADER_PREFIX, JSON, STRUCTURED, Message
from contracts.subaccounts import DeadReason
from contracts.topology import BrokerVersion, topology
from worker.core.judge import DeadLetter
from worker.core.messages import LEFT_OUT, Outgoing, Subject, dead_letter
from worker.core.model.causes import Reference

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(contracts.__file__).parent / "asyncapi.yaml").read_text(encoding="utf-8")
)
MESSAGES = DOCUMENT["components"]["messages"]
CHANNELS = DOCUMENT["channels"]
OPERATIONS = DOCUMENT["operations"]
# All members defined by version 0.3.0 of the AMQP binding.
CHANNEL_BINDING = {"is", "exchange", "queue", "bindingVersion"}
EXCHANGE_BINDING = {"name", "type", "durable", "autoDelete", "vhost"}
QUEUE_BINDING = {"name", "durable", "exclusive", "autoDelete", "vhost"}
OPERATION_BINDING = {"ack", "deliveryMode", "mandatory", "expiration", "priority", "bindingVersion"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    assert reference.startswith("#/")
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def schema_at(reference: str) -> jsonschema_rs.Validator:
    whole = {"$ref": reference, "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft7Validator(whole, validate_formats=True)


def test_it_is_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    assert DOCUMENT.keys() == {"asyncapi", "info", "servers", "channels", "operations", "components"}


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        assert isinstance(resolve(reference), dict)


def test_every_component_is_used() -> None:
    used = set(references(DOCUMENT))
    for kind, components in DOCUMENT["components"].items():
        assert {f"#/components/{kind}/{name}" for name in components} <= used


@pytest.mark.parametrize("broker", [BrokerVersion(3, 10), BrokerVersion(4, 0)], ids=str)
def test_channels_are_the_topology(broker: BrokerVersion) -> None:
    common, sealed = topology(broker), topology(broker, recipients=["RECIPIENT"])
    shown = {name.removeprefix("exchange.") for name in CHANNELS if name.startswith("exchange.")}
    assert shown == {exchange.name for exchange in common.exchanges}
    queues = {queue.name: queue.arguments for queue in common.queues + sealed.queues}
    versions = "before-4.0" if broker < (4, 0) else "from-4.0"
    assert queues == {
        channel["address"]: channel["x-queue-arguments"][versions]
        for name, channel in CHANNELS.items()
        if name.startswith("queue.")
    }
    assert {
        (binding.queue, binding.exchange, binding.routing_key)
        for binding in common.bindings + sealed.bindings
    } == {
        (channel["address"], binding["exchange"], binding["routingKey"])
        for channel in CHANNELS.values()
        for binding in channel.get("x-queue-bindings", [])
    }


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_channel_bindings_have_only_known_members(channel: dict[str, Any]) -> None:
    binding = channel["bindings"]["amqp"]
    assert binding["bindingVersion"] == "0.3.0"
    assert binding.keys() <= CHANNEL_BINDING
    assert binding["is"] == ("queue" if "queue" in binding else "routingKey")
    assert binding.get("queue", {}).keys() <= QUEUE_BINDING
    assert binding.get("exchange", {}).keys() <= EXCHANGE_BINDING
    address = channel["address"] or ""
    assert all(f"{{{name}}}" in address for name in channel.get("parameters", {}))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operations_use_messages_of_their_channel(operation: dict[str, Any]) -> None:
    assert operation["action"] in {"send", "receive"}
    channel = operation["channel"]["$ref"]
    assert operation["messages"]
    assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])
    binding = operation["bindings"]["amqp"]
    assert binding.keys() <= OPERATION_BINDING
    assert binding["bindingVersion"] == "0.3.0"


def test_the_worker_receives_from_the_work_queue_alone() -> None:
    received = [each["channel"]["$ref"] for each in OPERATIONS.values() if each["action"] == "receive"]
    assert set(received) == {"#/channels/queue.provisioner.departments"}


@pytest.mark.parametrize("name", [name for name, message in MESSAGES.items() if "payload" in message])
def test_each_message_has_a_valid_example(name: str) -> None:
    message = MESSAGES[name]
    assert message["examples"]
    for example in message["examples"]:
        schema_at(message["payload"]["$ref"]).validate(example["payload"])
        if "headers" in message:
            schema_at(message["headers"]["$ref"]).validate(example["headers"])
    assert not schema_at(message["payload"]["$ref"]).is_valid({})


def test_events_are_described_in_both_modes() -> None:
    for name in ("DepartmentCreated", "DepartmentRenamed", "DepartmentRemoved"):
        assert MESSAGES[name]["contentType"] == STRUCTURED
        assert MESSAGES[f"{name}Binary"]["contentType"] == JSON
    headers = DOCUMENT["components"]["schemas"]["BinaryModeHeaders"]
    assert all(header.startswith(HEADER_PREFIX) for header in headers["properties"])
    assert set(headers["required"]) == {
        f"{HEADER_PREFIX}{name}" for name in ("specversion", "id", "source", "type", "time")
    }


@pytest.mark.parametrize("reason", DeadReason)
@pytest.mark.parametrize("read", [True, False])
def test_dead_letters_have_the_described_headers(reason: DeadReason, read: bool) -> None:  # noqa: FBT001
    subject = Subject(Reference("/hr", "1", "department.created.v1"), "default", "ENG-042") if read else None
    original = Outgoing("departments", "department.created", Message(b"{", STRUCTURED))
    buried = dead_letter(
        original, DeadLetter(reason, "data: wrong"), subject, 3, datetime(2026, 11, 21, tzinfo=UTC)
    )
    schema = DOCUMENT["components"]["schemas"]["DeadLetterHeaders"]
    schema_at(MESSAGES["DeadLetter"]["headers"]["$ref"]).validate(dict(buried.message.headers))
    described = set(schema["properties"] if read else schema["required"])
    assert buried.message.headers.keys() == described - {LEFT_OUT}
