"""The broker's exchanges, queues and bindings: making them, comparing them, exporting them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from contracts.topology import BrokerVersion, Topology, definitions, topology


class Finding(Protocol):
    """One object as it is at the broker: `state` is ok, missing, differs or refused."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def detail(self) -> str: ...


class BrokerObjects(Protocol):
    """The broker over AMQP. Every call raises `BrokerUnavailable`."""

    version: str

    async def apply(self, wanted: Topology) -> None:
        """Declares and binds everything; raises `BrokerRefuses` where something is there and differs."""

    async def check(self, wanted: Topology) -> Sequence[Finding]:
        """How each exchange and queue compares. Changes nothing."""


class InEffect(Protocol):
    """The broker over its management API, which shows bindings and policies; AMQP does not."""

    async def check(self, wanted: Topology) -> Sequence[Finding]:
        """How each binding compares, and which policy changes a queue. Changes nothing."""


@dataclass(frozen=True, slots=True)
class TopologyOptions:
    """What the topology depends on besides the broker's version."""

    retry_delays: Sequence[timedelta]
    recipients: Sequence[str]

    def at(self, version: BrokerVersion) -> Topology:
        return topology(version, tuple(self.retry_delays), tuple(self.recipients))


@dataclass(frozen=True, slots=True)
class Applied:
    """What is in place now, by number, on this version of RabbitMQ."""

    broker: str
    exchanges: int
    queues: int
    bindings: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`complete` is False where nobody looked at bindings and policies."""

    findings: Sequence[Finding]
    complete: bool

    @property
    def fits(self) -> bool:
        return all(found.state == "ok" for found in self.findings)


async def apply_topology(broker: BrokerObjects, options: TopologyOptions) -> Applied:
    """Makes every object that is not there yet."""
    wanted = options.at(BrokerVersion.parse(broker.version))
    await broker.apply(wanted)
    return Applied(broker.version, len(wanted.exchanges), len(wanted.queues), len(wanted.bindings))


async def check_topology(
    broker: BrokerObjects, in_effect: InEffect | None, options: TopologyOptions
) -> Comparison:
    """Compares what is at the broker with what should be; without `in_effect` no bindings and policies."""
    wanted = options.at(BrokerVersion.parse(broker.version))
    findings = [*await broker.check(wanted)]
    if in_effect is not None:
        findings += await in_effect.check(wanted)
    return Comparison(findings, complete=in_effect is not None)


def export_topology(version: BrokerVersion, options: TopologyOptions, vhost: str) -> dict[str, Any]:
    """The topology as RabbitMQ definitions, for `rabbitmqctl import_definitions`."""
    return definitions(options.at(version), vhost)
