"""Which arguments of a queue lose messages, for each version of RabbitMQ."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.topology import (
    DEAD_LETTER_QUEUE,
    UNROUTED_QUEUE,
    WORK_QUEUE,
    BrokerVersion,
    retry_queue,
    topology,
)
from worker.core.losses import in_effect, losses

RABBITMQ_3, RABBITMQ_4 = BrokerVersion(3, 10), BrokerVersion(4, 1)
BOTH = pytest.mark.parametrize("broker", [RABBITMQ_3, RABBITMQ_4], ids=str)
RETRY = retry_queue(timedelta(seconds=30))


def lost(name: str, broker: BrokerVersion, **changes: Any) -> list[str]:
    """The losses of a queue whose arguments were changed; None takes an argument away."""
    wanted = topology(broker).queue(name)
    given = wanted.arguments | {f"x-{key.replace('_', '-')}": value for key, value in changes.items()}
    return losses(wanted, {key: value for key, value in given.items() if value is not None}, broker)


@BOTH
def test_our_own_topology_loses_nothing(broker: BrokerVersion):
    for queue in topology(broker, recipients=["crm"]).queues:
        assert losses(queue, queue.arguments, broker) == []


@BOTH
def test_the_topology_of_another_version_loses_messages(broker: BrokerVersion):
    other = RABBITMQ_4 if broker == RABBITMQ_3 else RABBITMQ_3
    for queue in topology(broker).queues:
        (line,) = losses(queue, topology(other).queue(queue.name).arguments, broker)
        assert "x-delivery-limit" in line


@BOTH
@pytest.mark.parametrize("name", [WORK_QUEUE, DEAD_LETTER_QUEUE, UNROUTED_QUEUE])
@pytest.mark.parametrize(
    "changes",
    [
        {"message_ttl": 3000},
        {"expires": 60_000},
        {"max_length": 10},
        {"max_length_bytes": 1000},
        {"delivery_limit": 20},
        {"delivery_limit": 0},
    ],
    ids=str,
)
def test_what_drops_messages(broker: BrokerVersion, name: str, changes: dict[str, Any]):
    assert len(lost(name, broker, **changes)) == 1


@BOTH
@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 10, "overflow": "reject-publish"},
        {"quorum_initial_group_size": 5},
        {"dead_letter_exchange": "others"},
        {"queue_type": "classic", "delivery_limit": None},
        {"overflow": "drop-head"},
    ],
    ids=str,
)
def test_what_is_no_harm(broker: BrokerVersion, changes: dict[str, Any]):
    assert lost(WORK_QUEUE, broker, **changes) == []


@BOTH
@pytest.mark.parametrize(
    "changes",
    [
        {"dead_letter_exchange": "others"},
        {"dead_letter_exchange": None},
        {"dead_letter_strategy": None},
        {"dead_letter_strategy": "at-most-once"},
        {"overflow": None},
        {"message_ttl": None},
        {"queue_type": "classic", "delivery_limit": None},
    ],
    ids=str,
)
def test_a_retry_queue_that_does_not_pass_its_messages_on(broker: BrokerVersion, changes: dict[str, Any]):
    assert len(lost(RETRY, broker, **changes)) == 1
    assert lost(RETRY, broker, message_ttl=1000) == []


@BOTH
def test_the_unrouted_queue_may_be_longer_but_not_shorter(broker: BrokerVersion):
    assert lost(UNROUTED_QUEUE, broker, max_length=20_000) == []
    assert lost(UNROUTED_QUEUE, broker, max_length=None) == []
    assert lost(UNROUTED_QUEUE, broker, max_length=9_999)


@pytest.mark.parametrize(
    ("broker", "argument", "policy", "whole"),
    [
        (RABBITMQ_3, -1, 3, -1),
        (RABBITMQ_4, -1, 3, 3),
        (RABBITMQ_4, -1, -1, -1),
        (RABBITMQ_4, 5, 3, 3),
        (RABBITMQ_3, None, 3, 3),
    ],
)
def test_a_delivery_limit_of_argument_and_policy(
    broker: BrokerVersion, argument: int | None, policy: int, whole: int
):
    arguments = {} if argument is None else {"x-delivery-limit": argument}
    assert in_effect(arguments, {"delivery-limit": policy}, broker) == {"x-delivery-limit": whole}


@BOTH
def test_of_other_values_the_smaller_number_or_the_argument_counts(broker: BrokerVersion):
    arguments = {"x-message-ttl": 10, "x-overflow": "reject-publish"}
    policy = {"message-ttl": 5, "overflow": "drop-head", "expires": 7}
    whole = {"x-message-ttl": 5, "x-overflow": "reject-publish", "x-expires": 7}
    assert in_effect(arguments, policy, broker) == whole
