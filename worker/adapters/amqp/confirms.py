"""Publishing with confirms, in one go: a message takes its number and is handed to the socket in one step.

The client library's own publish takes three times the CPU: it waits for each message to be written, one at a
time.
"""

import asyncio
from collections import Counter, deque
from itertools import takewhile
from typing import Any, NamedTuple

from aiormq.channel import Channel

from worker.adapters.amqp.codec import properties as rabbitmq_properties
from worker.adapters.amqp.codec.frames import (
    ACK,
    NACK,
    RETURN,
    SIZES,
    confirmed,
    content,
    message_id,
    publish,
    returned,
)
from worker.adapters.amqp.link import Connection, cancelled_only_if_asked
from worker.core.messages import Outgoing

UNLIMITED = 2**24
"""Of a payload, where the broker sets no limit."""


class Returned(Exception):
    """Nobody is bound for it."""


class Refused(Exception):
    """The broker did not take it."""


class _Published(NamedTuple):
    """`name` is what it is known by if it is returned: exchange, routing key, message id."""

    name: tuple[str, bytes, bytes]
    confirmed: "asyncio.Future[None]"


class ConfirmingChannel:
    """On a channel that nobody else publishes on, opened with confirms."""

    def __init__(self, connection: Connection, channel: Channel, patience_seconds: float) -> None:
        self._connection = connection
        self._channel = channel
        self._longest = channel.max_content_size if channel.max_content_size > 0 else UNLIMITED
        self._patience = Patience(patience_seconds)
        self._last_tag = 0
        self._published: dict[int, _Published] = {}
        self._returned: Counter[tuple[str, bytes, bytes]] = Counter()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        connection.listen(
            channel.number,
            {
                ACK: lambda arguments, _properties, _body: self._confirmed(arguments, taken=True),
                NACK: lambda arguments, _properties, _body: self._confirmed(arguments, taken=False),
                RETURN: lambda arguments, properties, _body: self._returned.update(
                    [returned(arguments, properties)]
                ),
            },
        )

    async def publish(self, outgoing: Outgoing, fresh_id: str) -> None:
        """Returns once the broker has confirmed; raises `Returned` or `Refused` if it says otherwise.

        Raises `TimeoutError` if it says nothing for too long, `ConnectionError` if the channel is lost.
        `fresh_id` is its message id, unless it came with one of its own.
        """
        self._check_usable()
        key = rabbitmq_properties.routing_key(outgoing)
        properties = rabbitmq_properties.written(outgoing, fresh_id, self._longest - SIZES)
        self._send(outgoing, key, properties)
        self._last_tag += 1
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = outgoing.exchange, key, message_id(properties)
        self._published[self._last_tag] = _Published(name, answer)
        self._patience.begins(answer)
        await answer

    async def unblocked(self, seconds: float) -> None:
        """Returns once the broker reads what is sent; raises as `publish` does."""
        ready = asyncio.ensure_future(self._connection.unblocked())
        either: set[asyncio.Future[Any]] = {ready, self._lost}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self._check_usable()
            if not ready.done():
                raise TimeoutError
            with cancelled_only_if_asked():
                ready.result()
        finally:
            ready.cancel()

    def _check_usable(self) -> None:
        if self._lost.done():
            raise ConnectionError(self._lost.result())
        if self._channel.is_closed:
            raise ConnectionError("the channel is closed")

    def lose(self, why: str) -> None:
        """The channel is gone, and so are the confirms that had not come. Called once."""
        self._lost.set_result(why)
        for one in self._published.values():
            _end(one.confirmed, ConnectionError(why))
        self._published.clear()

    def _send(self, outgoing: Outgoing, key: bytes, properties: bytes) -> None:
        """A frame that is too long would cost the connection, and all that is on its way there."""
        method = publish(outgoing.exchange, key, self._channel.number)
        body = content(properties, outgoing.message.body, self._channel.number, self._longest)
        self._connection.send(method + body)

    def _confirmed(self, arguments: bytes, *, taken: bool) -> None:
        tag, multiple = confirmed(arguments)
        for one in self._up_to(tag) if multiple else (self._published.pop(tag, None),):
            if one is not None:
                _end(one.confirmed, self._failure(one, taken=taken))

    def _up_to(self, tag: int) -> list[_Published]:
        return [self._published.pop(one) for one in list(takewhile(lambda one: one <= tag, self._published))]

    def _failure(self, one: _Published, *, taken: bool) -> Exception | None:
        """What is returned is so before it is confirmed. Of several by one name any one will do."""
        if self._returned and self._returned[one.name]:
            self._returned -= Counter([one.name])
            return Returned()
        return None if taken else Refused()


def _end(future: "asyncio.Future[None]", failure: Exception | None) -> None:
    if future.done():  # given up, or cancelled
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


class Patience:
    """Gives up on whatever is not done in time. One timer for all: most are done long before."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waited_for: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begins(self, future: "asyncio.Future[None]") -> None:
        self._forget_what_is_done()
        self._waited_for.append((self._loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._ends)

    def _ends(self) -> None:
        while self._waited_for and self._waited_for[0][0] <= self._loop.time():
            _, future = self._waited_for.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._forget_what_is_done()
        self._timer = self._loop.call_at(self._waited_for[0][0], self._ends) if self._waited_for else None

    def _forget_what_is_done(self) -> None:
        while self._waited_for and self._waited_for[0][1].done():
            self._waited_for.popleft()
