"""The broker of the intake: one connection, whose user may publish events and payloads, and nothing else."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from worker.adapters.amqp.connect import unavailable_if_lost
from worker.adapters.amqp.errors import BrokerRefuses
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.amqp.rights import missing_to_publish
from worker.adapters.amqp.seam import ChannelClosed, ChannelNotFoundEntity, Connection
from worker.ports import Clock
from worker.settings.load import rotating
from worker.settings.model import IntakeSettings
from worker.telemetry.events import Telemetry


@asynccontextmanager
async def intake_publisher(
    settings: IntakeSettings, exchanges: Callable[[], Sequence[str]], clock: Clock, telemetry: Telemetry
) -> AsyncIterator[RabbitPublisher]:
    """A publisher to these exchanges. It declares nothing; until they are there it cannot publish.

    They are asked for at each connect.
    """
    urls = rotating(settings, "amqp_url", telemetry.setting_read_again)
    link = Link("publisher", urls.value, clock, telemetry, urls.read_again)

    async def prepare(connection: Connection) -> None:
        for exchange in exchanges():
            await _require(connection, settings.namespace.of(exchange))
        if lacking := await missing_to_publish(connection, settings.namespace, exchanges()):
            raise BrokerRefuses("; ".join(lacking))

    async with RabbitPublisher.trying(link, prepare, settings.namespace) as publisher:
        yield publisher


async def _require(connection: Connection, exchange: str) -> None:
    """Raises `BrokerRefuses` for an exchange that is certainly not there.

    A publish to it would close the channel, and fail the others on it.
    """
    with unavailable_if_lost():
        channel = await connection.open_channel()
        try:
            await channel.objects.check_exchange(exchange)
        except ChannelNotFoundEntity:
            raise BrokerRefuses(
                f"exchange {exchange} is missing: start `provisioner run` or `provisioner topology apply`"
            ) from None
        except ChannelClosed:
            pass  # the user may not ask, since RabbitMQ 4.2.6
        finally:
            await channel.close()
