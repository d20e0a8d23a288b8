"""The rights that our user lacks at the broker, found out without a change there.

AMQP shows no rights, and the management API shows them to administrators only. So the broker is asked for
what it refuses in any case, after it has looked at the rights (`BrokerObjects.try_...`): whether it refuses
for lack of a right tells. Measured on RabbitMQ 3.10.8, 4.0.5 and 4.3.6.
"""

from collections.abc import Awaitable, Callable, Container, Iterable, Sequence

from contracts import topology as names
from contracts.topology import Namespace, Topology
from worker.adapters.amqp.connect import unavailable_if_lost
from worker.adapters.amqp.errors import Denied, denied
from worker.adapters.amqp.seam import BrokerObjects, ChannelAccessRefused, ChannelClosed, Connection

PUBLISHED_TO = (names.SECRETS, names.RESULTS, names.RETRY, names.DEAD_LETTERS)
"""The exchanges that a worker publishes to."""
NOWHERE = "provisioner.nowhere"
"""The name of an exchange and a routing key that nobody has."""

Try = Callable[[BrokerObjects], Awaitable[None]]


def _configure_exchange(name: str) -> Try:
    return lambda objects: objects.try_configure_exchange(name)


def _configure_queue(name: str) -> Try:
    return lambda objects: objects.try_configure_queue(name)


def _write(exchange: str, elsewhere: str) -> Try:
    return lambda objects: objects.try_write(exchange, elsewhere)


def _read(queue: str) -> Try:
    return lambda objects: objects.try_read(queue)


def _bind(queue: str, exchange: str, elsewhere: str) -> Try:
    return lambda objects: objects.try_bind(queue, exchange, elsewhere)


async def missing_to_work(connection: Connection, namespace: Namespace) -> Sequence[str]:
    """A line for each kind of right that a worker lacks to consume and publish.

    Raises `BrokerUnavailable`.
    """
    work, elsewhere = namespace.of(names.WORK_QUEUE), namespace.of(NOWHERE)
    tries = [_read(work)]
    tries += [_write(namespace.of(exchange), elsewhere) for exchange in PUBLISHED_TO]
    return await _missing(connection, tries)


async def missing_to_publish(
    connection: Connection, namespace: Namespace, exchanges: Iterable[str]
) -> Sequence[str]:
    """A line for each kind of right that our user lacks to publish to these exchanges.

    Raises `BrokerUnavailable`.
    """
    elsewhere = namespace.of(NOWHERE)
    return await _missing(connection, [_write(namespace.of(each), elsewhere) for each in exchanges])


async def missing_to_declare(
    connection: Connection, wanted: Topology, namespace: Namespace, absent: Container[str]
) -> Sequence[str]:
    """A line for each kind of right that a worker lacks to declare and bind everything.

    `absent`: the names of the objects that are not there yet, which take more rights. Raises
    `BrokerUnavailable`.
    """
    elsewhere = namespace.of(NOWHERE)
    tries: list[Try] = []
    for exchange in wanted.exchanges:
        tries.append(_configure_exchange(exchange.name))
        alternate = exchange.arguments.get("alternate-exchange")
        if alternate and exchange.name in absent:
            tries.append(_write(alternate, elsewhere))
    for queue in wanted.queues:
        tries.append(_configure_queue(queue.name))
        back = queue.arguments.get("x-dead-letter-exchange")
        if back and queue.name in absent:
            tries += [_write(back, elsewhere), _read(queue.name)]
    tries += [_bind(one.queue, one.exchange, elsewhere) for one in wanted.bindings]
    return await _missing(connection, tries)


async def _missing(connection: Connection, tries: Sequence[Try]) -> Sequence[str]:
    found: list[Denied] = []
    with unavailable_if_lost():
        for one in tries:
            channel = await connection.open_channel()  # one for each: a refusal closes it
            try:
                await one(channel.objects)
            except ChannelAccessRefused as error:
                found += filter(None, [denied(str(error))])
            except ChannelClosed:
                pass  # refused for another reason, which the comparison of the objects tells
            finally:
                await channel.close()
    return _lines(found)


def _lines(found: Sequence[Denied]) -> list[str]:
    """One line for each kind of right, with all objects: they are granted together."""
    objects: dict[tuple[str, str, str], dict[str, None]] = {}
    for one in found:
        objects.setdefault((one.right, one.user, one.vhost), {})[f"{one.kind} {one.name}"] = None
    return [
        f"user {user} has no {right} right in virtual host {vhost} on {', '.join(on)}:"
        " grant it with `rabbitmqctl set_permissions`"
        for (right, user, vhost), on in objects.items()
    ]
