"""Gets messages from a queue one at a time, with `basic.get`."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from worker.adapters.amqp.codec.dispatch import Listener
from worker.adapters.amqp.codec.frames import GET_EMPTY, GET_OK, Delivered, ack, get, got
from worker.adapters.amqp.seam import ANSWER_SECONDS, CHANNEL_CLOSED, Channel, Connection

NO_LISTENERS: Mapping[bytes, Listener] = MappingProxyType({})


class Getter:
    """Gets messages of one queue on a channel. `listeners` are for other methods of that channel."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        queue: str,
        listeners: Mapping[bytes, Listener] = NO_LISTENERS,
    ) -> None:
        self._connection = connection
        self._number = channel.number
        self._queue = queue
        self._answer: asyncio.Future[Delivered | None] = asyncio.get_running_loop().create_future()
        self._lost = False
        channel.on_closed(self.lose)
        connection.listen(channel.number, {**listeners, GET_OK: self._get_ok, GET_EMPTY: self._get_empty})

    async def get(self) -> Delivered | None:
        """Gets the next message, to be acked; None if the queue is empty. Raises `BROKER_ERRORS`."""
        self._answer = asyncio.get_running_loop().create_future()
        self.send(get(self._queue, self._number))
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._answer

    def ack(self, message: Delivered) -> None:
        """Takes the message off the queue; raises as `send` does."""
        self.send(ack(message.tag, self._number))

    def send(self, frames: bytes) -> None:
        """Sends frames of this channel; raises `ConnectionError` once it is closed."""
        if self._lost:
            raise ConnectionError(CHANNEL_CLOSED)
        self._connection.send(frames)

    def lose(self, error: BaseException | None) -> None:
        """Fails a pending `get` and all later ones: the channel is closed."""
        self._lost = True
        if not self._answer.done():
            why = error if isinstance(error, Exception) else ConnectionError(CHANNEL_CLOSED)
            self._answer.set_exception(why)
            self._answer.exception()  # marks it as retrieved: often no `get` waits

    def _get_ok(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        self._finish(got(arguments, properties, body))

    def _get_empty(self, _arguments: bytes, _properties: bytes, _body: bytes) -> None:
        self._finish(None)

    def _finish(self, message: Delivered | None) -> None:
        if not self._answer.done():
            self._answer.set_result(message)
