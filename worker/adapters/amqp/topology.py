"""Declares exchanges, queues and bindings, and compares existing ones."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.topology import BrokerVersion, Exchange, Queue, Topology
from worker.adapters.amqp.connect import unavailable_if_lost
from worker.adapters.amqp.errors import BrokerRefuses, explain
from worker.adapters.amqp.seam import (
    BrokerObjects,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    Connection,
    QueueState,
)
from worker.core.losses import losses

MOST_ARGUMENTS = 16
"""How many arguments of one queue are looked at."""

TO_MAKE_IT = "run `provisioner topology apply`"
NO_ALTERNATE = (
    "has no such alternate exchange, so what no queue takes is lost: delete it (its bindings go too) and run"
    " `provisioner topology apply`; or set a policy alternate-exchange on it, and PROVISIONER_MANAGEMENT_URL"
)
OTHER_TYPE = "it is of another type, which does not pass on by patterns of routing keys: delete it"

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' .*but current is"
    r" (?:none|(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?)$"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """How one object compares with the expected one: `state` is ok, missing, differs or refused.

    `loses`: messages can be lost with it as it is.
    """

    kind: str
    name: str
    state: str
    detail: str = ""
    loses: bool = False


async def present(connection: Connection, topology: Topology) -> bool:
    """Whether all exchanges and queues exist, with any bindings. Raises as `apply` does if one differs.

    Makes nothing and needs no lock, so a cluster answers even while one of its nodes is frozen.
    """
    with unavailable_if_lost():
        async with connection.channel() as channel:
            try:
                for exchange in topology.exchanges:
                    await channel.objects.check_exchange(exchange.name)
                for queue in topology.queues:
                    await channel.objects.queue_state(queue.name)
            except ChannelClosed:
                return False
            await _declare_queues(channel.objects, topology)
            await _declare_exchanges(channel.objects, topology.exchanges)
    return True


async def apply(connection: Connection, topology: Topology) -> None:
    """Declares and binds everything; equal objects stay as they are.

    Raises `BrokerRefuses` with the name of an object that differs or may not be made, or `BrokerUnavailable`.
    """
    with unavailable_if_lost():
        await _apply(connection, topology)


async def _apply(connection: Connection, topology: Topology) -> None:
    # An exchange with an alternate exchange comes last, so that it loses no message before it is bound.
    guarded = {exchange.name for exchange in topology.exchanges if exchange.arguments}
    async with connection.channel() as channel:
        objects = channel.objects
        await _declare_queues(objects, topology)
        for is_guarded in (False, True):
            await _declare_exchanges(
                objects, [one for one in topology.exchanges if (one.name in guarded) is is_guarded]
            )
            for binding in topology.bindings:
                if (binding.exchange in guarded) is is_guarded:
                    bound = objects.bind(binding.queue, binding.exchange, binding.routing_key)
                    await _or_refuse(f"binding {binding.exchange} -> {binding.queue}", bound)


async def _declare_queues(objects: BrokerObjects, topology: Topology) -> None:
    for queue in topology.queues:
        declared = _declare_queue(objects, queue)
        await _or_refuse(f"queue {queue.name}", declared, "empty it, then delete it")


async def _declare_exchanges(objects: BrokerObjects, exchanges: Iterable[Exchange]) -> None:
    for exchange in exchanges:
        await _or_refuse(f"exchange {exchange.name}", _declare_exchange(objects, exchange), "delete it")


async def _or_refuse(what: str, declaration: Awaitable[Any], remedy: str = "") -> None:
    try:
        await declaration
    except ChannelPreconditionFailed as error:
        if _lacks_alternate(error):
            raise BrokerRefuses(f"{what} {NO_ALTERNATE}") from None
        raise BrokerRefuses(
            f"{what} exists with other arguments; {remedy}, or run with PROVISIONER_TOPOLOGY=assume:"
            f" {explain(error)}"
        ) from None
    except ChannelClosed as error:
        raise BrokerRefuses(f"{what} cannot be made: {explain(error)}") from None


def _lacks_alternate(error: BaseException) -> bool:
    return "inequivalent arg 'alternate-exchange'" in explain(error)


async def check(connection: Connection, topology: Topology) -> list[Finding]:
    """Compares each exchange and queue. Changes nothing: an object is declared only if it exists.

    Raises `BrokerUnavailable`.
    """
    with unavailable_if_lost():
        exchanges = [await _compare_exchange(connection, exchange) for exchange in topology.exchanges]
        queues = [await _compare_queue(connection, queue) for queue in topology.queues]
    return exchanges + queues


Probe = Callable[[BrokerObjects], Awaitable[Any]]


async def _compare_exchange(connection: Connection, wanted: Exchange) -> Finding:
    found = await _compare(
        connection,
        "exchange",
        wanted.name,
        lambda objects: objects.check_exchange(wanted.name),
        lambda objects: _declare_exchange(objects, wanted),
    )
    if isinstance(found, Finding):
        return found
    if _lacks_alternate(found):
        return Finding("exchange", wanted.name, "differs", NO_ALTERNATE)
    refusal = explain(found)
    if "inequivalent arg 'type'" in refusal:
        return Finding("exchange", wanted.name, "differs", f"{OTHER_TYPE} ({refusal})", loses=True)
    return Finding("exchange", wanted.name, "differs", refusal)


async def _compare_queue(connection: Connection, wanted: Queue) -> Finding:
    """Reads the arguments of a queue that differs: RabbitMQ tells one difference at each declaration."""
    tried, first = wanted, ""
    for _ in range(MOST_ARGUMENTS):
        found = await _compare(
            connection,
            "queue",
            wanted.name,
            lambda objects: objects.queue_state(wanted.name),
            lambda objects, tried=tried: _declare_queue(objects, tried),  # type: ignore[misc]
        )
        if isinstance(found, Finding):
            break
        first = first or explain(found)
        adapted = as_it_is(tried.arguments, explain(found))
        if adapted is None:
            break
        tried = Queue(wanted.name, adapted)
    if not first:
        assert isinstance(found, Finding)  # noqa: S101 - the first turn has no difference to tell
        return found
    version = BrokerVersion.parse(connection.server_version)
    lost = losses(wanted, tried.arguments, version) if tried != wanted else []
    if any(f"inequivalent arg '{name}'" in first for name in ("durable", "auto_delete", "exclusive")):
        lost.append(f"it does not outlive a restart or its readers ({first})")
    return Finding("queue", wanted.name, "differs", "; ".join(lost) or first, loses=bool(lost))


def as_it_is(arguments: Mapping[str, Any], refusal: str) -> dict[str, Any] | None:
    """The arguments with the one that a refused declaration names as it is at the broker.

    None if the refusal names no argument of a queue.
    """
    found = _INEQUIVALENT.search(refusal)
    if found is None or not found["name"].startswith("x-"):
        return None
    others = {name: value for name, value in arguments.items() if name != found["name"]}
    if found["value"] is None:
        return others
    is_text = found["type"] == "longstr" or (
        found["type"] is None and isinstance(arguments.get(found["name"]), str)
    )
    if is_text:
        return others | {found["name"]: found["value"]}
    if found["type"] == "bool":
        return others | {found["name"]: found["value"] == "true"}
    try:
        return others | {found["name"]: int(found["value"])}
    except ValueError:
        return None


async def _compare(
    connection: Connection, kind: str, name: str, exists: Probe, is_same: Probe
) -> Finding | ChannelPreconditionFailed:
    """The finding about an object; the refusal of its declaration if it differs."""
    for probe in (exists, is_same):
        channel = await connection.open_channel()  # one per probe: a refusal closes it
        try:
            await probe(channel.objects)
        except ChannelNotFoundEntity:
            return Finding(kind, name, "missing", TO_MAKE_IT)
        except ChannelPreconditionFailed as error:
            return error
        except ChannelClosed as error:
            return Finding(kind, name, "refused", explain(error))
        finally:
            await channel.close()
    return Finding(kind, name, "ok")


async def _declare_exchange(objects: BrokerObjects, exchange: Exchange) -> None:
    await objects.declare_exchange(exchange.name, exchange.type, exchange.arguments)


async def _declare_queue(objects: BrokerObjects, queue: Queue) -> None:
    await objects.declare_queue(queue.name, queue.arguments)


async def state_of(connection: Connection, queue: str) -> QueueState | None:
    """The state of a queue; None if it does not exist."""
    async with connection.channel() as channel:
        try:
            return await channel.objects.queue_state(queue)
        except ChannelNotFoundEntity:
            return None
