"""Checks of the broker's objects, as far as they can be seen without a change."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from contracts import topology as names
from contracts.topology import BrokerVersion, Topology
from worker.core.checks import (
    BY_ITSELF,
    Check,
    CheckStatus,
    consumer_timeout,
    fail,
    ok,
    told,
    warn,
    work_queue_cap,
)
from worker.operations.topology import BrokerObjects, Finding, InEffect, TopologyOptions, check_topology

APPLY = "run `provisioner topology apply` as a user who may configure the objects"
UNSEEN = "bindings and policies are not looked at: AMQP does not show them"
"""Without the management API."""
SHOW = "set PROVISIONER_MANAGEMENT_URL to have them checked, too"
MOST_SHOWN = 6
"""Of the objects that are missing, by name."""
GRANT = "grant it with `rabbitmqctl set_permissions`"


class EffectiveArguments(InEffect, Protocol):
    """The state in effect, with arguments and policies of one queue taken together."""

    def arguments(self, queue: str, broker: BrokerVersion) -> Mapping[str, Any]:
        """The arguments of a queue together with its policies; those of a missing queue are empty."""


class Rights(Protocol):
    """The rights of our user at the broker. Both raise `BrokerUnavailable`."""

    async def missing_to_work(self) -> Sequence[str]:
        """A line for each kind of right that a worker lacks to consume and publish."""

    async def missing_to_declare(self, wanted: Topology, absent: Sequence[str]) -> Sequence[str]:
        """A line for each kind that it lacks to declare everything; `absent`: objects not there yet."""


class _Read:
    """The state in effect as it was read once."""

    def __init__(self, in_effect: EffectiveArguments) -> None:
        self._in_effect = in_effect

    async def read(self) -> EffectiveArguments:
        return self._in_effect


async def topology_checks(
    broker: BrokerObjects,
    rights: Rights,
    in_effect: EffectiveArguments | None,
    options: TopologyOptions,
    *,
    declares: bool,
) -> Sequence[Check]:
    """The objects and our rights on them; `declares`: a worker would make what is missing.

    Raises `BrokerUnavailable`.
    """
    managed = None if in_effect is None else _Read(in_effect)
    compared = await check_topology(broker, managed, options)
    wrong = [found for found in compared.findings if found.state != "ok"]
    absent = [found.name for found in wrong if found.state == "missing"]
    lacking = [*await rights.missing_to_work()]
    if declares:
        wanted = options.at(BrokerVersion.parse(broker.version))
        lacking += await rights.missing_to_declare(wanted, absent)
    found = [told("rights", line, GRANT) for line in dict.fromkeys(lacking)]
    return [
        *(found or [ok("rights", "our user has the rights that a worker needs")]),
        *_objects(wrong, len(compared.findings), declares=declares),
    ]


def _objects(wrong: Sequence[Finding], number: int, *, declares: bool) -> Iterator[Check]:
    if not wrong:
        yield ok("topology", f"all {number} objects that were looked at are as they should be")
    if missing := [f"{found.kind} {found.name}" for found in wrong if found.state == "missing"]:
        detail = f"missing: {', '.join(missing[:MOST_SHOWN])}"
        if (more := len(missing) - MOST_SHOWN) > 0:
            detail += f" and {more} more; `provisioner topology check` lists them"
        yield warn("topology", detail, BY_ITSELF) if declares else fail("topology", detail, APPLY)
    for found in wrong:
        if found.state != "missing":
            yield _object(found, declares=declares)


def _object(found: Finding, *, declares: bool) -> Check:
    """Judges one object that is there and not as it should be. A worker that declares is refused then."""
    status = CheckStatus.FAIL if found.loses or declares else CheckStatus.WARN
    match found.state, found.kind:
        case "refused", _:
            detail = f"{found.kind} {found.name} cannot be looked at: {found.detail}"
            return told(found.kind, detail, GRANT, status)
        case _, "policy":
            status = CheckStatus.FAIL if found.loses else CheckStatus.WARN
            detail = f"queue {found.name}: {found.detail}"
            return Check("policy", status, detail, "remove these keys from it, or keep it off the queue")
        case _, "binding":
            detail = f"{found.name} is not of this project"
            return warn("binding", detail, "unbind it, unless it is meant")
        case _:
            remedy = "empty it, then delete it" if found.kind == "queue" else "delete it"
            detail = f"{found.kind} {found.name} differs: {found.detail}"
            return Check(found.kind, status, detail, f"{remedy}, then {APPLY}")


def queue_checks(
    in_effect: EffectiveArguments | None,
    options: TopologyOptions,
    version: BrokerVersion,
    prefetch: int,
    waits: Mapping[str, timedelta],
) -> Iterator[Check]:
    """Judges the work queue's arguments and policies against the settings of a worker."""
    queue = options.namespace.of(names.WORK_QUEUE)
    if in_effect is None:
        yield warn("policies", UNSEEN, SHOW)
        yield from consumer_timeout(None, version, waits)
        return
    arguments = in_effect.arguments(queue, version)
    if (cap := work_queue_cap(queue, arguments, prefetch)) is not None:
        yield cap
    yield from consumer_timeout(arguments, version, waits)
