"""The topology and the owner's lease: made before a connection is used, kept up beside the deliveries.

In a cluster, every bind and every new queue wait for all nodes, also for a frozen one, until that counts as
lost (`net_ticktime`, 60 s by default). So a connection is used as soon as all objects are seen to exist.
"""

from contextlib import suppress
from dataclasses import dataclass

from contracts.topology import (
    DEAD_LETTER_QUEUE,
    UNMAPPED_QUEUE,
    UNROUTED_QUEUE,
    WORK_QUEUE,
    BrokerVersion,
    Topology,
    retry_queue,
    topology,
)
from worker.adapters.amqp.errors import BrokerRefuses, BrokerSilent, BrokerUnavailable
from worker.adapters.amqp.owner import OwnerLease, OwnerUnseen
from worker.adapters.amqp.seam import ChannelClosed, Connection
from worker.adapters.amqp.start import Look
from worker.adapters.amqp.topology import apply, present, state_of
from worker.settings.model import TopologySettings, WorkerSettings
from worker.telemetry.events import Telemetry


def wanted_topology(connection: Connection, settings: TopologySettings) -> Topology:
    """The topology for the version of the connected broker."""
    version = BrokerVersion.parse(connection.server_version)
    return topology(version, settings.retry_delays, settings.recipient_names, settings.namespace)


@dataclass(frozen=True)
class BrokerSetup:
    """Sets up the two connections of a worker. `found`: the broker's objects as they were at the start."""

    settings: WorkerSettings
    found: Look
    lease: OwnerLease
    telemetry: Telemetry

    async def before_publishing(self, connection: Connection) -> None:
        """Makes the topology, unless all objects exist. Raises `BrokerUnavailable`, or `BrokerRefuses`."""
        if self.settings.topology == "declare":
            wanted = self._wanted(connection)
            if not await present(connection, wanted):
                await apply(connection, wanted)

    async def before_consuming(self, connection: Connection) -> None:
        """The same, and takes the owner's lease. Raises `ForeignOwner` and `BROKER_ERRORS` too."""
        await self.before_publishing(connection)
        await self._take_lease(connection)

    async def while_consuming(self, connection: Connection) -> None:
        """Makes again what is missing, and tells how many messages wait.

        Refusals are logged. Raises `ForeignOwner`, and `BROKER_ERRORS` once the connection is lost.
        """
        if self.settings.topology == "declare":
            try:
                await apply(connection, self._wanted(connection))
            except (BrokerRefuses, BrokerSilent) as error:
                self.telemetry.topology_refused(str(error))
            except BrokerUnavailable:
                pass  # that loss is told with its reason elsewhere
        with suppress(TimeoutError):
            await self._take_lease(connection)
        # RabbitMQ 4.2.6 to 4.3.0 tell the lengths only to users who may configure the queues.
        with suppress(ChannelClosed, TimeoutError):
            await self._tell_lengths(connection)

    def _wanted(self, connection: Connection) -> Topology:
        return self.found.adapted(wanted_topology(connection, self.settings))

    async def _take_lease(self, connection: Connection) -> None:
        with suppress(OwnerUnseen):  # told at the start, or held before and out of sight for now
            await self.lease.take(connection)

    async def _tell_lengths(self, connection: Connection) -> None:
        """Tells how many messages are ready in the queues. Raises `ChannelClosed` if it may not see them."""

        async def ready(*queues: str) -> int | None:
            names = map(self.settings.namespace.of, queues)
            states = [await state_of(connection, name) for name in names]
            seen = [state.messages for state in states if state is not None]
            return sum(seen) if seen else None

        if (unrouted := await ready(UNROUTED_QUEUE)) is not None:
            self.telemetry.unrouted(unrouted)
        self.telemetry.queued(
            ready=await ready(WORK_QUEUE),
            parked=await ready(*map(retry_queue, self.settings.retry_delays)),
            dead_letters=await ready(DEAD_LETTER_QUEUE),
            unmapped=await ready(UNMAPPED_QUEUE),
        )
