"""Consumes one queue, on a separate connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from contracts.topology import NO_NAMESPACE, Namespace
from worker.adapters.amqp.channel import ConsumingChannel
from worker.adapters.amqp.errors import explain
from worker.adapters.amqp.link import Link, first_to_fail
from worker.adapters.amqp.publisher import Prepare, no_preparation
from worker.adapters.amqp.seam import ANSWER_SECONDS, BROKER_ERRORS, Connection
from worker.ports import Delivery
from worker.telemetry.events import Telemetry

MAINTAIN_SECONDS = 30.0
RENEW_SECONDS = 15.0


class RabbitConsumer:
    """The `Consumer` port: passes deliveries to `receive`, which runs in the reader and must only file them.

    Pausing keeps the channel, so that held deliveries can still be acked; `release` closes it. `queue` is the
    queue's name at the broker; exchanges of deliveries are named inside the namespace. `maintain` runs beside
    the deliveries, at once and every `MAINTAIN_SECONDS`; an error of it ends the connection.
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        receive: Callable[[Delivery], None],
        prepare: Prepare,
        telemetry: Telemetry,
        namespace: Namespace = NO_NAMESPACE,
        maintain: Prepare = no_preparation,
    ) -> None:
        self._namespace = namespace
        self._queue = queue
        self._prefetch = prefetch
        self._receive = receive
        self._prepare = prepare
        self._maintain = maintain
        self._telemetry = telemetry
        self._wanted = True
        self._stopped = False
        self._link: Link | None = None
        self._connection: Connection | None = None
        self._channel: ConsumingChannel | None = None
        self._lost: asyncio.Future[str] = asyncio.Future()
        self._changing = asyncio.Lock()
        self._begun = asyncio.Event()

    @property
    def consuming(self) -> bool:
        """See `Consumer.consuming`."""
        return self._channel is not None and self._channel.consuming

    @asynccontextmanager
    async def running(self, link: Link) -> AsyncIterator[None]:
        """Consumes for the time of the block. Messages not acked by its end are delivered again."""
        self._link = link
        async with link.kept(self._serve, self._begun):
            yield

    async def stop(self) -> None:
        """Pauses for good."""
        self._stopped = True
        await self.pause()

    async def pause(self) -> None:
        """No delivery arrives after the return. Held ones can still be acked."""
        self._wanted = False
        async with self._change():
            if self._channel is not None:
                await self._channel.unsubscribe()
        self._telemetry.consuming_ended()

    async def resume(self) -> None:
        """Consumes again, unless stopped."""
        self._wanted = not self._stopped
        await self._subscribe()

    async def release(self) -> None:
        """Returns all held deliveries to the queue, in order; they are void from now on."""
        async with self._change():
            channel, self._channel = self._channel, None
            if channel is not None:
                await channel.close()

    async def problems(self) -> list[str]:
        """Why no deliveries arrive, one line each. Empty when healthy."""
        if self.consuming:
            return []
        if not self._wanted:
            return ["consuming is paused"]
        why = self._link.failure if self._link is not None else None
        return [f"no consumer is registered at the broker: {why or 'it is being made'}"]

    async def _serve(self, connection: Connection) -> None:
        await self._prepare(connection)
        self._connection, self._channel = connection, None
        self._lost = asyncio.get_running_loop().create_future()
        try:
            await self._subscribe()
            if not self._lost.done():
                self._begun.set()
            await first_to_fail(self._until_lost(), self._keep_maintained(connection), self._keep_renewed())
        except asyncio.CancelledError:
            await self.release()  # so that the last acks reach the broker first
            raise
        finally:
            self._connection = self._channel = None
            self._telemetry.consuming_ended()

    async def _until_lost(self) -> None:
        raise ConnectionError(await self._lost)

    async def _keep_renewed(self) -> None:
        """Renews the subscription of an idle consumer, and gives the connection up if that is not answered.

        A node that a partition cuts off from its cluster keeps the consumer, answers most calls and delivers
        nothing. A subscription has to be agreed on by a majority of the queue's members.
        """
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            async with self._change():
                if self._channel is not None:
                    await self._channel.renew_if_idle()

    async def _keep_maintained(self, connection: Connection) -> None:
        while True:
            with suppress(ConnectionError):  # that loss is told with its reason elsewhere
                await self._maintain(connection)
            await asyncio.sleep(MAINTAIN_SECONDS)

    async def _subscribe(self) -> None:
        async with self._change():
            if not self._wanted or self._connection is None:
                return
            if self._channel is None:
                self._channel = await ConsumingChannel.open(
                    self._connection, self._prefetch, self._lose, self._namespace
                )
            await self._channel.subscribe(self._queue, self._pass_on)
            self._telemetry.consuming(self._queue, self._prefetch)

    def _pass_on(self, delivery: Delivery) -> None:
        try:
            self._receive(delivery)
        except Exception as error:  # noqa: BLE001 - a bug here must not cost the connection
            self._telemetry.step_crashed(error)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """One change at a time. A failed one ends the connection; the next starts in the wanted state."""
        async with self._changing:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    yield
            except BROKER_ERRORS as error:
                self._lose(explain(error))

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
