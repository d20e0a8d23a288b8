"""Declares exchanges, queues and bindings, and compares existing ones."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from contracts.topology import Exchange, Queue, Topology
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


@dataclass(frozen=True, slots=True)
class Finding:
    """How one object compares with the expected one: `state` is ok, missing, differs or refused."""

    kind: str
    name: str
    state: str
    detail: str = ""


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
        for queue in topology.queues:
            await _or_refuse(f"queue {queue.name}", _declare_queue(objects, queue))
        for is_guarded in (False, True):
            for exchange in topology.exchanges:
                if (exchange.name in guarded) is is_guarded:
                    await _or_refuse(f"exchange {exchange.name}", _declare_exchange(objects, exchange))
            for binding in topology.bindings:
                if (binding.exchange in guarded) is is_guarded:
                    bound = objects.bind(binding.queue, binding.exchange, binding.routing_key)
                    await _or_refuse(f"binding {binding.exchange} -> {binding.queue}", bound)


async def check(connection: Connection, topology: Topology) -> list[Finding]:
    """Compares each exchange and queue. Changes nothing: an object is declared only if it exists.

    Raises `BrokerUnavailable`.
    """
    with unavailable_if_lost():
        exchanges = [
            await _compare(connection, "exchange", exchange.name, _exchange_probe(exchange))
            for exchange in topology.exchanges
        ]
        queues = [
            await _compare(connection, "queue", queue.name, _queue_probe(queue)) for queue in topology.queues
        ]
    return exchanges + queues


Probe = Callable[[BrokerObjects], Awaitable[Any]]


async def _compare(connection: Connection, kind: str, name: str, probes: tuple[Probe, Probe]) -> Finding:
    exists, same = probes
    for probe in (exists, same):
        channel = await connection.open_channel()  # one per probe: a refusal closes it
        try:
            await probe(channel.objects)
        except ChannelNotFoundEntity:
            return Finding(kind, name, "missing", "run `provisioner topology apply`")
        except ChannelPreconditionFailed as error:
            return Finding(kind, name, "differs", explain(error))
        except ChannelClosed as error:
            return Finding(kind, name, "refused", explain(error))
        finally:
            await channel.close()
    return Finding(kind, name, "ok")


def _exchange_probe(exchange: Exchange) -> tuple[Probe, Probe]:
    return (
        lambda objects: objects.check_exchange(exchange.name),
        lambda objects: _declare_exchange(objects, exchange),
    )


def _queue_probe(queue: Queue) -> tuple[Probe, Probe]:
    return (
        lambda objects: objects.queue_state(queue.name),
        lambda objects: _declare_queue(objects, queue),
    )


async def _declare_exchange(objects: BrokerObjects, exchange: Exchange) -> None:
    await objects.declare_exchange(exchange.name, exchange.type, exchange.arguments)


async def _declare_queue(objects: BrokerObjects, queue: Queue) -> None:
    await objects.declare_queue(queue.name, queue.arguments)


async def _or_refuse(what: str, declaration: Awaitable[Any]) -> None:
    try:
        await declaration
    except ChannelPreconditionFailed as error:
        raise BrokerRefuses(
            f"{what} exists with other arguments; delete it, or run with PROVISIONER_TOPOLOGY=assume:"
            f" {explain(error)}"
        ) from None
    except ChannelClosed as error:
        raise BrokerRefuses(f"{what} cannot be made: {explain(error)}") from None


async def state_of(connection: Connection, queue: str) -> QueueState | None:
    """The state of a queue; None if it does not exist."""
    async with connection.channel() as channel:
        try:
            return await channel.objects.queue_state(queue)
        except ChannelNotFoundEntity:
            return None
