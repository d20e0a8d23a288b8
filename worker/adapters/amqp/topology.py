"""Makes the broker's objects, and reads back what is there."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed

from contracts.topology import Exchange, Queue, Topology
from worker.adapters.amqp.link import BrokerRefuses, explain, unavailable_if_lost


@dataclass(frozen=True, slots=True)
class Finding:
    """One object as it is: `state` is ok, missing, differs or refused."""

    kind: str
    name: str
    state: str
    detail: str = ""


async def apply(connection: AbstractConnection, topology: Topology) -> None:
    """Declares and binds everything; what is there already and the same is left alone.

    Raises `BrokerRefuses`, naming the object, where it differs or may not be made, and `BrokerUnavailable`.
    """
    with unavailable_if_lost():
        await _apply(connection, topology)


async def _apply(connection: AbstractConnection, topology: Topology) -> None:
    async with connection.channel() as channel:
        for exchange in topology.exchanges:
            await _or_refuse(f"exchange {exchange.name}", _declare_exchange(channel, exchange))
        for queue in topology.queues:
            await _or_refuse(f"queue {queue.name}", _declare_queue(channel, queue))
        for binding in topology.bindings:
            bound = (await channel.get_queue(binding.queue, ensure=False)).bind(
                binding.exchange, binding.routing_key
            )
            await _or_refuse(f"binding {binding.exchange} -> {binding.queue}", bound)


async def check(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    """How each exchange and queue compares. Changes nothing: an object is declared only where it exists.

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


Probe = Callable[[AbstractChannel], Awaitable[Any]]


async def _compare(
    connection: AbstractConnection, kind: str, name: str, probes: tuple[Probe, Probe]
) -> Finding:
    exists, same = probes
    for probe in (exists, same):
        channel = await connection.channel()  # one of its own: a refusal closes it
        try:
            await probe(channel)
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
        lambda channel: channel.get_exchange(exchange.name, ensure=True),
        lambda channel: _declare_exchange(channel, exchange),
    )


def _queue_probe(queue: Queue) -> tuple[Probe, Probe]:
    return (
        lambda channel: channel.get_queue(queue.name, ensure=True),
        lambda channel: _declare_queue(channel, queue),
    )


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.declare_exchange(exchange.name, exchange.type, durable=True)


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))


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


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the broker tells of a queue: messages ready in it, and consumers."""

    messages: int
    consumers: int


async def state_of(connection: AbstractConnection, queue: str) -> QueueState | None:
    """None for a queue that is not there."""
    channel = await connection.channel()
    try:
        result = (await channel.get_queue(queue, ensure=True)).declaration_result
    except ChannelNotFoundEntity:
        return None
    finally:
        await channel.close()
    return QueueState(result.message_count or 0, result.consumer_count or 0)
