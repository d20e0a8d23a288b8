"""Publishes with confirms in one step: a message takes its number and goes to the socket in the same turn.

aiormq's own publish takes three times the CPU: it waits until each message is written, one at a time. See
https://www.rabbitmq.com/docs/confirms
"""

import asyncio
from collections import Counter, deque
from itertools import takewhile
from typing import Any, NamedTuple

from worker.adapters.amqp.codec import properties as codec
from worker.adapters.amqp.codec.frames import (
    ACK,
    CONTENT_HEAD,
    NACK,
    RETURN,
    confirmed,
    content,
    message_id,
    publish,
    returned,
)
from worker.adapters.amqp.seam import Channel, Connection
from worker.core.messages import Outgoing

UNLIMITED = 2**24
"""Bytes of a frame's payload if the broker sets no limit."""


class Returned(Exception):
    """The broker returned the message: no queue is bound for it."""


class Refused(Exception):
    """The broker nacked the message, because a queue is full for example."""


class _InFlight(NamedTuple):
    """A publish without confirm. `name` identifies it in a return: exchange, routing key, message id."""

    name: tuple[str, bytes, bytes]
    confirmed: "asyncio.Future[None]"


class ConfirmingChannel:
    """Publishes on a channel with confirms. Nothing else may publish on that channel."""

    def __init__(self, connection: Connection, channel: Channel, timeout_seconds: float) -> None:
        self._connection = connection
        self._channel = channel
        self._max_payload = channel.max_payload if channel.max_payload > 0 else UNLIMITED
        self._timeouts = ConfirmTimeouts(timeout_seconds)
        self._last_tag = 0
        self._in_flight: dict[int, _InFlight] = {}
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

    async def publish(self, exchange: str, outgoing: Outgoing, fresh_id: str) -> None:
        """Returns once the broker has confirmed; raises `Returned` or `Refused` if it does not.

        Raises `TimeoutError` without a confirm in time, `ConnectionError` if the channel is lost. `exchange`
        is the exchange's name at the broker. `fresh_id` becomes the message id, unless the message arrived
        with one.
        """
        self._check_usable()
        key = codec.routing_key(outgoing)
        properties = codec.encode(outgoing, fresh_id, self._max_payload - CONTENT_HEAD.size)
        self._send(exchange, key, properties, outgoing.message.body)
        self._last_tag += 1
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = exchange, key, message_id(properties)
        self._in_flight[self._last_tag] = _InFlight(name, confirm)
        self._timeouts.start(confirm)
        await confirm

    async def unblocked(self, seconds: float) -> None:
        """Returns once the broker unblocks the connection; raises as `publish` does."""
        ready = asyncio.ensure_future(self._connection.unblocked())
        either: set[asyncio.Future[Any]] = {ready, self._lost}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self._check_usable()
            if not ready.done():
                raise TimeoutError
            ready.result()
        finally:
            ready.cancel()

    def _check_usable(self) -> None:
        if self._lost.done():
            raise ConnectionError(self._lost.result())
        if self._channel.is_closed:
            raise ConnectionError("the channel is closed")

    def lose(self, why: str) -> None:
        """Fails all publishes that wait for a confirm: the channel is gone. Called once."""
        self._lost.set_result(why)
        for one in self._in_flight.values():
            _end(one.confirmed, ConnectionError(why))
        self._in_flight.clear()

    def _send(self, exchange: str, key: bytes, properties: bytes, body: bytes) -> None:
        """Splits the body: a frame that is too long would end the connection and all publishes on it."""
        method = publish(exchange, key, self._channel.number)
        framed = content(properties, body, self._channel.number, self._max_payload)
        self._connection.send(method + framed)

    def _confirmed(self, arguments: bytes, *, taken: bool) -> None:
        tag, multiple = confirmed(arguments)
        for one in self._up_to(tag) if multiple else (self._in_flight.pop(tag, None),):
            if one is not None:
                _end(one.confirmed, self._failure(one, taken=taken))

    def _up_to(self, tag: int) -> list[_InFlight]:
        return [self._in_flight.pop(one) for one in list(takewhile(lambda one: one <= tag, self._in_flight))]

    def _failure(self, one: _InFlight, *, taken: bool) -> Exception | None:
        """The broker returns a message before it confirms it. Copies of one name are interchangeable."""
        if self._returned and self._returned[one.name]:
            self._returned -= Counter([one.name])
            return Returned()
        return None if taken else Refused()


def _end(future: "asyncio.Future[None]", failure: Exception | None) -> None:
    if future.done():  # timed out, or cancelled
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


class ConfirmTimeouts:
    """Sets `TimeoutError` in futures that are not done in time. All share one timer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, future: "asyncio.Future[None]") -> None:
        """Gives this future the full time from now on."""
        self._drop_done()
        self._pending.append((self._loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        while self._pending and self._pending[0][0] <= self._loop.time():
            _, future = self._pending.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._drop_done()
        self._timer = self._loop.call_at(self._pending[0][0], self._expire) if self._pending else None

    def _drop_done(self) -> None:
        while self._pending and self._pending[0][1].done():
            self._pending.popleft()
