"""Exchanges, queues and bindings: the one definition of every broker name and argument.

Quorum queues: https://www.rabbitmq.com/docs/quorum-queues
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple

DEPARTMENTS = "departments"
SECRETS = "provisioner.secrets"
RESULTS = "provisioner.results"
RETRY = "provisioner.retry"
DEAD_LETTERS = "provisioner.dead-letters"
REPLAY = "provisioner.replay"
UNROUTED = "provisioner.unrouted"
UNMAPPED = "provisioner.intake.unmapped"

WORK_QUEUE = "provisioner.departments"
SECRETS_QUEUE = "provisioner.secrets"
DEAD_LETTER_QUEUE = "provisioner.dead-letters"
UNROUTED_QUEUE = "provisioner.unrouted"
UNMAPPED_QUEUE = "provisioner.intake.unmapped"
"""Authentic payloads that no profile could map, as the intake received them."""

OWNER_QUEUE = "provisioner.owner"
"""Exists while a worker consumes. Its arguments name the owner, so that another owner's worker is refused."""

UNROUTED_MESSAGES = 10_000
"""The most messages that the unrouted queue keeps; beyond that the oldest is dropped."""

DEFAULT_RETRY_DELAYS = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))


class BrokerVersion(NamedTuple):
    """A RabbitMQ version, as far as it changes a declaration."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> "BrokerVersion":
        """`3.10.8` -> (3, 10)."""
        major, minor, *_ = text.split(".")
        return cls(int(major), int(minor))


@dataclass(frozen=True, slots=True)
class Namespace:
    """The prefix of every exchange and queue of one deployment; empty for none.

    Two deployments with different prefixes can share a virtual host. Routing keys have no prefix.
    """

    prefix: str = ""

    def __post_init__(self) -> None:
        """Raises `ValueError` for a prefix that would make unsafe or reserved names."""
        if not self.prefix:
            return
        if not re.fullmatch(r"(?=.{1,64}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", self.prefix):
            raise ValueError(
                "is not a namespace; write 1 to 64 of A-Z a-z 0-9 _ - and single dots between them"
            )
        if self.prefix.split(".")[0] == "amq":
            raise ValueError("begins with amq, which RabbitMQ reserves; choose another prefix")

    def of(self, name: str) -> str:
        """The name at the broker: `provisioner.secrets` -> `staging.provisioner.secrets`."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def has(self, name: str) -> bool:
        """Whether a name at the broker is of this namespace."""
        return name.startswith(self.of(""))

    def without(self, name: str) -> str:
        """The reverse of `of`; a name that is not of this namespace stays as it is."""
        return name.removeprefix(f"{self.prefix}.") if self.prefix else name


NO_NAMESPACE = Namespace()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange and its arguments."""

    name: str
    type: str = "topic"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """Routes messages from an exchange to a queue."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All broker objects of the project."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]

    def queue(self, name: str) -> Queue:
        """Returns the queue of this name, which must exist."""
        return next(queue for queue in self.queues if queue.name == name)


def delay_label(delay: timedelta) -> str:
    """Returns the last part of a retry queue's name: 30 s -> `30s`, 5 min -> `5m`, 1 h -> `1h`."""
    milliseconds = delay // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def retry_queue(delay: timedelta) -> str:
    """Returns the name of the queue that holds events for this delay."""
    return f"{RETRY}.{delay_label(delay)}"


def checked_recipient(recipient: str) -> str:
    """Returns the recipient if it is one word of a routing key; raises `ValueError`.

    The binding of a recipient named `*` or `#` would match the credentials of all others.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", recipient):
        raise ValueError("a recipient is named by 1 to 100 of A-Z a-z 0-9 _ -")
    return recipient


def secrets_queue(recipient: str) -> str:
    """Returns the name of a recipient's queue; raises `ValueError` like `checked_recipient`."""
    return f"{SECRETS_QUEUE}.{checked_recipient(recipient)}"


def recipient_of_queue(queue: str) -> str | None:
    """The reverse of `secrets_queue`; None for any other queue."""
    prefix = f"{SECRETS_QUEUE}."
    return queue.removeprefix(prefix) if queue.startswith(prefix) else None


def topology(
    broker: BrokerVersion,
    retry_delays: Sequence[timedelta] = DEFAULT_RETRY_DELAYS,
    recipients: Sequence[str] = (),
    namespace: Namespace = NO_NAMESPACE,
) -> Topology:
    """Returns all objects under their names at the broker, with the arguments for this broker version.

    With recipients, each has its own queue and there is no common one: nobody would read it, and credentials
    that stay in a queue may leak.
    """
    exchanges = [
        Exchange(DEPARTMENTS, arguments={"alternate-exchange": namespace.of(UNROUTED)}),
        *map(Exchange, (SECRETS, RESULTS, RETRY, DEAD_LETTERS, REPLAY, UNROUTED, UNMAPPED)),
    ]
    queues = [
        Queue(WORK_QUEUE, _quorum(broker)),
        Queue(DEAD_LETTER_QUEUE, _quorum(broker)),
        Queue(UNROUTED_QUEUE, _quorum(broker) | _newest(UNROUTED_MESSAGES)),
        Queue(UNMAPPED_QUEUE, _quorum(broker)),
    ]
    bindings = [
        Binding(DEPARTMENTS, WORK_QUEUE, "department.#"),
        Binding(DEPARTMENTS, WORK_QUEUE, "subaccount.credentials.reissue.#"),
        Binding(REPLAY, WORK_QUEUE, "#"),
        Binding(DEAD_LETTERS, DEAD_LETTER_QUEUE, "#"),
        Binding(UNROUTED, UNROUTED_QUEUE, "#"),
        Binding(UNMAPPED, UNMAPPED_QUEUE, "#"),
    ]
    for queue, key in _secrets_queues(recipients):
        queues.append(Queue(queue, _quorum(broker)))
        bindings.append(Binding(SECRETS, queue, key))
    for delay in retry_delays:
        queues.append(Queue(retry_queue(delay), _quorum(broker) | _delayed_return(delay, namespace)))
        bindings.append(Binding(RETRY, retry_queue(delay), delay_label(delay)))
    return Topology(
        tuple(replace(exchange, name=namespace.of(exchange.name)) for exchange in exchanges),
        tuple(replace(queue, name=namespace.of(queue.name)) for queue in queues),
        tuple(
            replace(each, exchange=namespace.of(each.exchange), queue=namespace.of(each.queue))
            for each in bindings
        ),
    )


def definitions(topology: Topology, broker: BrokerVersion, vhost: str = "/") -> dict[str, Any]:
    """Returns the topology in RabbitMQ's definitions format, for `rabbitmqctl import_definitions`.

    `broker` is the version that the topology is for; the import ignores it, a reader does not.
    https://www.rabbitmq.com/docs/definitions
    """
    place = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "rabbit_version": f"{broker.major}.{broker.minor}",
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {"name": exchange.name, "type": exchange.type, "internal": False, "arguments": exchange.arguments}
            | place
            for exchange in topology.exchanges
        ],
        "queues": [{"name": queue.name, "arguments": queue.arguments} | place for queue in topology.queues],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


def _secrets_queues(recipients: Iterable[str]) -> list[tuple[str, str]]:
    each = [(secrets_queue(recipient), f"subaccount.credentials.*.{recipient}") for recipient in recipients]
    return each or [(SECRETS_QUEUE, "#")]


def _quorum(broker: BrokerVersion) -> dict[str, Any]:
    # The delivery limit must be off: a lost connection counts against every prefetched message.
    # RabbitMQ 4.0 made 20 the default and accepts -1; before, -1 dropped a message at its first return.
    # https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    return {"x-queue-type": "quorum"} | ({"x-delivery-limit": -1} if broker >= (4, 0) else {})


def _newest(messages: int) -> dict[str, Any]:
    return {"x-max-length": messages, "x-overflow": "drop-head"}


def _delayed_return(delay: timedelta, namespace: Namespace) -> dict[str, Any]:
    # Without at-least-once, a broker restart at the wrong moment loses messages. It needs reject-publish.
    # https://www.rabbitmq.com/blog/2022/03/29/at-least-once-dead-lettering
    return {
        "x-message-ttl": delay // timedelta(milliseconds=1),
        "x-dead-letter-exchange": namespace.of(REPLAY),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
