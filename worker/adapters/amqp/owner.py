"""Keeps the workers of two owners off one work queue.

AMQP shows how many consumers a queue has, but not whose. So each worker also consumes a small queue whose
arguments name its owner: RabbitMQ refuses to declare a queue again with other arguments, and its refusal
quotes them. Workers of one owner share that queue. It is deleted with its last consumer, and expires if a
restart of the broker left it without any. No message goes through it; the exchange it names does not exist.

Considered: an argument of the work queue would change the contract and outlive its owner; an exclusive queue
would keep out a second worker of the same owner; only the management API shows consumer tags and bindings.
Measured on 3.10.8.
"""

import re

from contracts.topology import OWNER_QUEUE, WORK_QUEUE, Namespace
from worker.adapters.amqp.errors import BrokerRefuses, explain
from worker.adapters.amqp.seam import (
    Channel,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    Connection,
)

FORGOTTEN_MILLISECONDS = 60_000
"""How long the queue stays after a restart of the broker, if no worker comes back."""
TRIES = 5


class ForeignOwner(BrokerRefuses):
    """A worker of another owner reads the work queue."""

    exit_code = 2


class OwnerUnseen(Exception):
    """The broker does not let us see who reads the work queue; the text says why."""


class OwnerLease:
    """The right of one owner's workers to read the work queue, held as long as one of them is connected."""

    def __init__(self, namespace: Namespace, owner: str) -> None:
        self._work_queue = namespace.of(WORK_QUEUE)
        self._queue = namespace.of(OWNER_QUEUE)
        self._owner = owner
        self._arguments = {
            "x-expires": FORGOTTEN_MILLISECONDS,
            "x-dead-letter-exchange": self._queue,
            "x-dead-letter-routing-key": owner,
        }
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._held = False

    async def look(self, connection: Connection) -> None:
        """Compares with the owner whose workers read the work queue now, if any do. Takes nothing.

        Raises `ForeignOwner`, `OwnerUnseen` or `BROKER_ERRORS`.
        """
        channel = await connection.open_channel()
        try:
            await channel.objects.queue_state(self._queue)
            await channel.objects.declare_queue(self._queue, self._arguments, auto_delete=True)
        except ChannelNotFoundEntity:
            return
        except ChannelPreconditionFailed as error:
            raise self._foreign(explain(error)) from None
        except ChannelClosed as error:
            raise OwnerUnseen(explain(error)) from None
        finally:
            await channel.close()

    async def take(self, connection: Connection) -> None:
        """Takes the lease on this connection, unless it is held there already.

        Raises `ForeignOwner`, `OwnerUnseen` or `BROKER_ERRORS`. A lease held on an earlier connection may be
        out of sight: while a node of a cluster is frozen, neither its queue nor a new one answers anybody.
        """
        if self._held and self._connection is connection and self._channel and not self._channel.is_closed:
            return
        try:
            for _ in range(TRIES):
                if await self._taken(connection):
                    return
        except TimeoutError as error:
            if self._connection is None:
                raise
            raise OwnerUnseen(explain(error)) from None
        raise OwnerUnseen(f"the queue {self._queue} comes and goes")

    async def _taken(self, connection: Connection) -> bool:
        """Whether the lease was taken; False if the queue went with its last consumer meanwhile."""
        channel = await connection.open_channel()
        try:
            await channel.objects.declare_queue(self._queue, self._arguments, auto_delete=True)
            channel.on_consumer_cancelled(self._lose)
            await channel.consume(self._queue)
        except ChannelPreconditionFailed as error:
            raise self._foreign(explain(error)) from None
        except ChannelAccessRefused:
            raise OwnerUnseen(f"no right to configure, write and read {self._queue}") from None
        except ChannelNotFoundEntity:
            return False
        except ChannelClosed as error:
            raise OwnerUnseen(explain(error)) from None
        self._connection, self._channel, self._held = connection, channel, True
        return True

    def _lose(self) -> None:
        self._held = False

    def _foreign(self, refusal: str) -> ForeignOwner:
        found = re.search(r"'x-dead-letter-routing-key'.*but current is (?:the value )?'([^']*)'", refusal)
        other = f"owner {found[1]}" if found else f"another owner ({refusal})"
        return ForeignOwner(
            f"workers of {other} read {self._work_queue}, and this one is of owner {self._owner}: set"
            " PROVISIONER_NAMESPACE, so that each deployment has queues of its own, and leave the owners"
            " different"
        )
