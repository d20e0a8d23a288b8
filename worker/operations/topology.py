"""Declares, compares and exports the broker's exchanges, queues and bindings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from contracts.topology import BrokerVersion, Namespace, Topology, definitions, topology


class Finding(Protocol):
    """How one object at the broker compares with the expected one."""

    @property
    def kind(self) -> str:
        """exchange, queue, binding or policy."""

    @property
    def name(self) -> str:
        """The object's name; of a binding, its two ends and its routing key."""

    @property
    def state(self) -> str:
        """ok, missing, differs or refused."""

    @property
    def detail(self) -> str:
        """The difference or the remedy, in one line; empty if ok."""

    @property
    def loses(self) -> bool:
        """Whether messages can be lost with the object as it is."""


class BrokerObjects(Protocol):
    """The broker over AMQP. Every call raises `BrokerUnavailable`."""

    version: str

    async def apply(self, wanted: Topology) -> None:
        """Declares and binds everything; raises `BrokerRefuses` if an existing object differs."""

    async def check(self, wanted: Topology) -> Sequence[Finding]:
        """Compares each exchange and queue. Changes nothing."""


class InEffect(Protocol):
    """The broker's management API: bindings, arguments and policies."""

    def adapted(self, topology: Topology) -> Topology:
        """The topology as it can be declared: without what a policy gives already."""

    def findings(self, topology: Topology, broker: BrokerVersion) -> Sequence[Finding]:
        """Each binding, what is missing or loses messages, and policies that change a queue."""


class Managed(Protocol):
    """The broker over its management API."""

    async def read(self) -> InEffect:
        """The state in effect now."""


@dataclass(frozen=True, slots=True)
class TopologyOptions:
    """The inputs of the topology besides the broker's version."""

    retry_delays: Sequence[timedelta]
    recipients: Sequence[str]
    namespace: Namespace

    def at(self, version: BrokerVersion) -> Topology:
        """The topology for a version of RabbitMQ."""
        return topology(version, tuple(self.retry_delays), tuple(self.recipients), self.namespace)


@dataclass(frozen=True, slots=True)
class Applied:
    """The version of RabbitMQ, and the numbers of objects in place now."""

    broker: str
    exchanges: int
    queues: int
    bindings: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a check; `complete` is False if bindings and policies were not checked."""

    findings: Sequence[Finding]
    complete: bool

    @property
    def fits(self) -> bool:
        """Whether every object is as expected."""
        return all(found.state == "ok" for found in self.findings)


async def apply_topology(broker: BrokerObjects, managed: Managed | None, options: TopologyOptions) -> Applied:
    """Declares every object that is missing. Raises as `BrokerObjects.apply` does."""
    wanted = options.at(BrokerVersion.parse(broker.version))
    await broker.apply((await managed.read()).adapted(wanted) if managed else wanted)
    return Applied(broker.version, len(wanted.exchanges), len(wanted.queues), len(wanted.bindings))


async def check_topology(
    broker: BrokerObjects, managed: Managed | None, options: TopologyOptions
) -> Comparison:
    """Compares the broker's objects with the expected ones; bindings and policies only with `managed`."""
    version = BrokerVersion.parse(broker.version)
    wanted = options.at(version)
    if managed is None:
        return Comparison(await broker.check(wanted), complete=False)
    in_effect = await managed.read()
    compared = await broker.check(in_effect.adapted(wanted))
    known = {(found.kind, found.name) for found in compared if found.state != "ok"}
    shown = [found for found in in_effect.findings(wanted, version) if (found.kind, found.name) not in known]
    return Comparison([*compared, *shown], complete=True)


def export_topology(version: BrokerVersion, options: TopologyOptions, vhost: str) -> dict[str, Any]:
    """The topology as RabbitMQ definitions, for `rabbitmqctl import_definitions`."""
    return definitions(options.at(version), version, vhost)
