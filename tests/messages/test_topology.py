"""Exchanges, queues and bindings, for each broker version."""

import json
from datetime import timedelta

import pytest

from contracts import topology as names
from contracts.topology import (
    Binding,
    BrokerVersion,
    Namespace,
    Queue,
    Topology,
    definitions,
    delay_label,
    retry_queue,
    topology,
)

BROKERS = [
    BrokerVersion(3, 8),
    BrokerVersion(3, 10),
    BrokerVersion(3, 13),
    BrokerVersion(4, 0),
    BrokerVersion(4, 3),
]
BEFORE_4, FROM_4 = BROKERS[:3], BROKERS[3:]
DELAYS = [timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1)]


def queue_of(whole: Topology, name: str) -> Queue:
    return next(queue for queue in whole.queues if queue.name == name)


def bound(whole: Topology, queue: str) -> set[tuple[str, str]]:
    return {(each.exchange, each.routing_key) for each in whole.bindings if each.queue == queue}


@pytest.mark.parametrize(
    ("text", "version"),
    [("3.10.8", (3, 10)), ("3.13.0-rc.4", (3, 13)), ("4.0.2", (4, 0)), ("4.3.0+1.gabcdef", (4, 3))],
)
def test_broker_versions(text: str, version: tuple[int, int]) -> None:
    assert BrokerVersion.parse(text) == version


@pytest.mark.parametrize("broker", BROKERS, ids=str)
@pytest.mark.parametrize("recipients", [[], ["crm", "billing_2"]])
def test_every_queue_is_a_quorum_queue(broker: BrokerVersion, recipients: list[str]) -> None:
    assert {queue.arguments["x-queue-type"] for queue in topology(broker, DELAYS, recipients).queues} == {
        "quorum"
    }


@pytest.mark.parametrize("broker", BEFORE_4, ids=str)
def test_before_4_no_queue_has_a_delivery_limit(broker: BrokerVersion) -> None:
    """Before 4.0, -1 drops a message at its first return."""
    whole = topology(broker, DELAYS, ["crm"])
    assert not [queue.name for queue in whole.queues if "x-delivery-limit" in queue.arguments]


@pytest.mark.parametrize("broker", FROM_4, ids=str)
def test_from_4_every_queue_lifts_the_delivery_limit(broker: BrokerVersion) -> None:
    """From 4.0 on, the default is 20."""
    whole = topology(broker, DELAYS, ["crm"])
    assert {queue.arguments["x-delivery-limit"] for queue in whole.queues} == {-1}


@pytest.mark.parametrize("broker", BROKERS, ids=str)
def test_a_retry_queue_returns_its_messages_without_loss(broker: BrokerVersion) -> None:
    whole = topology(broker, DELAYS)
    retry = [queue for queue in whole.queues if queue.name.startswith("provisioner.retry.")]
    assert [queue.arguments["x-message-ttl"] for queue in retry] == [30_000, 300_000, 3_600_000]
    for queue in retry:
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"
        back = queue.arguments["x-dead-letter-exchange"]
        assert (back, "#") in bound(whole, names.WORK_QUEUE)
        assert "x-dead-letter-routing-key" not in queue.arguments


def test_a_parked_message_reaches_the_queue_of_its_delay_and_no_other() -> None:
    whole = topology(BROKERS[1], [*DELAYS, timedelta(milliseconds=1500)])
    for queue in (retry_queue(delay) for delay in DELAYS):
        assert bound(whole, queue) == {(names.RETRY, queue.removeprefix("provisioner.retry."))}


def test_the_work_queue_takes_events_requests_and_replays() -> None:
    assert bound(topology(BROKERS[1]), "provisioner.departments") == {
        ("departments", "department.#"),
        ("departments", "subaccount.credentials.reissue.#"),
        ("provisioner.replay", "#"),
    }


def test_a_message_that_no_queue_takes_is_kept() -> None:
    whole = topology(BROKERS[1])
    (departments,) = [exchange for exchange in whole.exchanges if exchange.name == names.DEPARTMENTS]
    assert departments.arguments == {"alternate-exchange": "provisioner.unrouted"}
    assert bound(whole, "provisioner.unrouted") == {("provisioner.unrouted", "#")}
    kept = queue_of(whole, "provisioner.unrouted").arguments
    assert (kept["x-max-length"], kept["x-overflow"]) == (10_000, "drop-head")
    assert [one.name for one in whole.queues if "x-max-length" in one.arguments] == ["provisioner.unrouted"]


@pytest.mark.parametrize("broker", BROKERS, ids=str)
def test_a_namespace_is_before_every_name_and_no_routing_key(broker: BrokerVersion) -> None:
    plain = topology(broker, DELAYS, ["crm"])
    named = topology(broker, DELAYS, ["crm"], Namespace("staging"))
    shown, expected = str(named), str(plain)
    ours = {exchange.name for exchange in plain.exchanges} | {queue.name for queue in plain.queues}
    for name in ours:
        expected = expected.replace(f"'{name}'", f"'staging.{name}'")
    assert shown == expected
    assert "'staging.departments'" in shown
    assert "'staging.provisioner.secrets.crm'" in shown
    assert [each.routing_key for each in named.bindings] == [each.routing_key for each in plain.bindings]


@pytest.mark.parametrize("name", ["departments", "provisioner.retry", "", "hr.events"])
def test_a_name_goes_into_a_namespace_and_back(name: str) -> None:
    for namespace in (Namespace(), Namespace("staging"), Namespace("a.b")):
        assert namespace.without(namespace.of(name)) == name
    assert Namespace("staging").without("production.departments") == "production.departments"


def test_without_recipients_one_queue_takes_all_credentials() -> None:
    assert bound(topology(BROKERS[1]), "provisioner.secrets") == {("provisioner.secrets", "#")}


def test_with_recipients_each_has_a_queue_and_there_is_no_common_one() -> None:
    whole = topology(BROKERS[1], recipients=["crm", "billing"])
    secrets = {binding for binding in whole.bindings if binding.exchange == names.SECRETS}
    assert secrets == {
        Binding(names.SECRETS, "provisioner.secrets.crm", "subaccount.credentials.*.crm"),
        Binding(names.SECRETS, "provisioner.secrets.billing", "subaccount.credentials.*.billing"),
    }
    assert names.SECRETS_QUEUE not in {queue.name for queue in whole.queues}


@pytest.mark.parametrize("recipient", ["", "*", "#", "a.b", "a.#", "x" * 101])
def test_a_recipient_cannot_bind_the_credentials_of_others(recipient: str) -> None:
    with pytest.raises(ValueError, match="a recipient is named by"):
        topology(BROKERS[1], recipients=[recipient])


@pytest.mark.parametrize("broker", BROKERS, ids=str)
@pytest.mark.parametrize("recipients", [[], ["crm"]])
def test_names_are_unique_and_bindings_refer_to_them(broker: BrokerVersion, recipients: list[str]) -> None:
    whole = topology(broker, DELAYS, recipients)
    exchanges = [exchange.name for exchange in whole.exchanges]
    queues = [queue.name for queue in whole.queues]
    assert len(set(exchanges)) == len(exchanges)
    assert len(set(queues)) == len(queues)
    assert {binding.exchange for binding in whole.bindings} <= set(exchanges)
    assert {binding.queue for binding in whole.bindings} == set(queues)
    dead_letter_exchanges = {queue.arguments.get("x-dead-letter-exchange") for queue in whole.queues}
    assert dead_letter_exchanges <= {*exchanges, None}


@pytest.mark.parametrize(
    ("delay", "label"),
    [
        (timedelta(milliseconds=1500), "1500ms"),
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=90), "90s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=36), "36h"),
        (timedelta(days=30), "30d"),
    ],
)
def test_delays_are_named_as_settings_are_written(delay: timedelta, label: str) -> None:
    assert delay_label(delay) == label


def test_definitions_contain_the_whole_topology() -> None:
    whole = topology(BrokerVersion(4, 1), DELAYS, ["crm"])
    shown = json.loads(json.dumps(definitions(whole, BrokerVersion(4, 1), vhost="hr")))
    assert (shown.pop("rabbit_version"), shown.pop("vhosts")) == ("4.1", [{"name": "hr"}])
    assert shown.keys() == {"exchanges", "queues", "bindings"}
    assert {each["vhost"] for part in shown.values() for each in part} == {"hr"}
    assert {each["name"]: each["type"] for each in shown["exchanges"]} == {
        exchange.name: "topic" for exchange in whole.exchanges
    }
    assert {each["name"]: each["arguments"] for each in shown["queues"]} == {
        queue.name: queue.arguments for queue in whole.queues
    }
    assert {each["name"]: each["arguments"] for each in shown["exchanges"]} == {
        exchange.name: exchange.arguments for exchange in whole.exchanges
    }
    assert {(each["source"], each["destination"], each["routing_key"]) for each in shown["bindings"]} == {
        (each.exchange, each.queue, each.routing_key) for each in whole.bindings
    }
    assert all(each["durable"] and not each["auto_delete"] for each in shown["exchanges"] + shown["queues"])
    assert {each["destination_type"] for each in shown["bindings"]} == {"queue"}
