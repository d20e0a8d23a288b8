"""Looks at the broker before a worker starts: everything must be there, and nothing may lose messages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.topology import BrokerVersion, Topology
from worker.adapters.amqp import topology as broker_objects
from worker.adapters.amqp.errors import BrokerRefuses
from worker.adapters.amqp.management import InEffect, ManagementUnavailable, read_in_effect
from worker.adapters.amqp.rights import missing_to_work
from worker.adapters.amqp.seam import Connection
from worker.adapters.amqp.topology import Finding
from worker.core.checks import too_old
from worker.settings.model import WorkerSettings


class TopologyUnsafe(BrokerRefuses):
    """Something is missing at the broker, or loses messages. One line for each object."""

    exit_code = 2


@dataclass
class Look:
    """The findings at the broker. `unseen` and `odd` have a text for each thing to warn of."""

    unseen: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    in_effect: InEffect | None = None

    def adapted(self, wanted: Topology) -> Topology:
        """The topology as it can be declared beside the broker's policies."""
        return self.in_effect.adapted(wanted) if self.in_effect else wanted


async def look(connection: Connection, wanted: Topology, settings: WorkerSettings) -> Look:
    """Declares the topology, or compares it with `PROVISIONER_TOPOLOGY=assume`; then looks at our rights.

    Raises `TopologyUnsafe` for a broker that is too old and for what is seen to be missing or to lose
    messages, `BrokerRefuses` for rights that are missing, and as `apply` does.
    """
    if why := too_old(BrokerVersion.parse(connection.server_version)):
        raise TopologyUnsafe(why)
    found = Look()
    await _read(found, settings)
    if settings.topology == "declare":
        await broker_objects.apply(connection, found.adapted(wanted))
        await _read(found, settings)
    elif settings.management_url is None:
        found.unseen.append("bindings and policies (set PROVISIONER_MANAGEMENT_URL)")
    findings = await _findings(connection, wanted, found, settings)
    if refused := [one for one in findings if one.state == "missing" or one.loses]:
        raise TopologyUnsafe("\n".join(dict.fromkeys(map(_line, refused))))
    if lacking := await missing_to_work(connection, settings.namespace):
        raise BrokerRefuses("\n".join(lacking))
    found.odd += [_line(one) for one in findings if one.state == "differs"]
    return found


async def _read(found: Look, settings: WorkerSettings) -> None:
    if settings.management_url is None or found.unseen:
        return
    try:
        found.in_effect = await read_in_effect(settings.management_url, settings.vhost)
    except ManagementUnavailable as error:
        found.unseen.append(f"bindings and policies ({error})")


async def _findings(
    connection: Connection, wanted: Topology, found: Look, settings: WorkerSettings
) -> Sequence[Finding]:
    """The management API takes precedence: it knows the policies, too."""
    version = BrokerVersion.parse(connection.server_version)
    in_effect = None if found.unseen else found.in_effect
    shown = in_effect.findings(wanted, version) if in_effect else []
    shown = [one for one in shown if one.kind != "binding" or one.state == "missing"]  # others' are no harm
    if settings.topology == "declare":
        return shown
    compared = await broker_objects.check(connection, found.adapted(wanted))
    if in_effect:  # which shows no types of exchanges
        other_type = [one for one in compared if one.kind == "exchange" and one.loses]
        return [one for one in compared if one.state == "missing"] + other_type + shown
    if refused := [one.name for one in compared if one.state == "refused"]:
        found.unseen.append(
            f"the arguments of {', '.join(dict.fromkeys(refused))} (no right to configure them)"
        )
    return compared


def _line(finding: Finding) -> str:
    if finding.state == "missing":
        return f"{finding.kind} {finding.name} is missing: {finding.detail}"
    return f"{finding.kind} {finding.name}: {finding.detail}"
