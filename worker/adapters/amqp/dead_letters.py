"""The dead-letter queue of RabbitMQ, read without harm.

A quorum queue has no browsing. What was delivered and not acked when its channel closes goes back in order,
before what was never delivered, but behind what came back earlier; after `basic.nack` it goes to the end of
all. So a look is a channel that consumes the whole queue, to its end, and closes. It holds everything until
then, hence it is short and alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property

import aiormq.abc
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity
from aiormq.exceptions import ChannelAccessRefused

from contracts.topology import DEAD_LETTER_QUEUE, BrokerVersion, topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.codec.frames import (
    DELIVER,
    GET_EMPTY,
    GET_OK,
    Delivered,
    ack,
    delivered,
    get,
    got,
    taken_elsewhere,
)
from worker.adapters.amqp.link import (
    ANSWER_SECONDS,
    BROKER_ERRORS,
    BrokerRefuses,
    BrokerUnavailable,
    Connection,
    cancelled_only_if_asked,
    explain,
    version_of,
)
from worker.core.messages import Outgoing
from worker.ports import Clock, HeldLetter, QueueTaken, TooManyLooks

# What a consumer may hold, one consumer after the other; AMQP allows one no more than 65,535. A window opens
# when all before it are full of what is kept, so that what goes back does so in order. Up to 32 consumers are
# kept by Erlang in the order of their names, more in any.
WINDOWS = (1_000, *[4_000] * 22, *[65_535] * 8)
AT_ONCE = 1_000
QUIET_SECONDS = 0.05
STALL_SECONDS = 5.0
TURN_SECONDS = 15.0
TURN_PAUSE_SECONDS = 0.2
GONE = "the channel was closed"


class RabbitLetter:
    def __init__(self, message: Delivered) -> None:
        self._message = message

    @property
    def tag(self) -> int:
        return self._message.tag

    @property
    def returns(self) -> int:
        headers = self.original.message.headers
        counts = [headers.get(name, 0) for name in ("x-delivery-count", "x-acquired-count")]
        return max([count for count in counts if isinstance(count, int)], default=0)

    @cached_property
    def original(self) -> Outgoing:
        return self._message.original


class RabbitLook:
    """One channel's worth of looking."""

    def __init__(
        self, connection: Connection, channel: aiormq.abc.AbstractChannel, broker: BrokerVersion
    ) -> None:
        self.broker = broker
        self._connection = connection
        self._channel = channel
        self._got: asyncio.Future[Delivered | None] = asyncio.get_running_loop().create_future()
        self._arrived: deque[RabbitLetter] = deque()
        self._news = asyncio.Event()
        self._expected = self._delivered = self._removed = self._allowed = self._opened = 0
        self._lost = self._ended = False
        self._short = False  # of deliveries: the broker gives less than a window holds
        connection.listen(
            channel.number, {DELIVER: self._deliver, GET_OK: self._get_ok, GET_EMPTY: self._get_empty}
        )

    def lose(self, _sender: object, error: BaseException | None = None) -> None:
        """The broker has closed the channel or cancelled the consumer."""
        self._lost = True
        self._news.set()
        if not self._got.done():
            self._got.set_exception(error if isinstance(error, Exception) else ConnectionError(GONE))
            self._got.exception()  # often nobody waits

    async def batches(self, most: int) -> AsyncIterator[Sequence[HeldLetter]]:
        if not self._delivered:
            if (oldest := await self._get()) is None:
                return
            yield [oldest]
        while not self._ended:
            if not self._arrived and (self._is_full or self._short):
                await self._open_next()
            if batch := await self._next(most):
                yield batch

    async def finish(self) -> None:
        """Takes the rest in hand too, lest what is given back is put behind it."""
        async for _ in self.batches(AT_ONCE):
            pass

    async def remove(self, letters: Sequence[HeldLetter]) -> None:
        tags = sorted(letter.tag for letter in letters if isinstance(letter, RabbitLetter))
        self._removed += len(tags)
        # Tags count from 1: is nothing before the last of these kept, then one ack is for all.
        together = tags[-1:] if tags and self._removed == tags[-1] else []
        with _explained():
            number, multiple = self._channel.number, bool(together)
            self._send(b"".join([ack(tag, number, multiple=multiple) for tag in together or tags]))

    @property
    def _is_full(self) -> bool:
        return self._delivered - self._removed >= self._allowed

    async def _open_next(self) -> None:
        """Those before it are full of what is kept: they get nothing newer than what this one gets."""
        if self._opened == len(WINDOWS):
            raise BrokerUnavailable(f"more than {sum(WINDOWS):,} dead letters cannot be looked at at once")
        window, name = WINDOWS[self._opened], f"look-{self._opened:02d}"
        self._opened += 1
        self._allowed = self._delivered - self._removed + window
        self._short = False
        with _explained():
            await self._channel.basic_qos(prefetch_count=window)
            await self._channel.basic_consume(DEAD_LETTER_QUEUE, taken_elsewhere, consumer_tag=name)

    async def _get(self) -> RabbitLetter | None:
        """The next, where nothing is on its way to us."""
        with _explained():
            self._got = asyncio.get_running_loop().create_future()
            self._send(get(DEAD_LETTER_QUEUE, self._channel.number))
            async with asyncio.timeout(ANSWER_SECONDS):
                message = await self._got
        if message is None:
            return None
        if not self._delivered:
            self._expected = 1 + message.left
        self._delivered += 1
        return RabbitLetter(message)

    def _send(self, frames: bytes) -> None:
        if self._lost:
            raise ConnectionError(GONE)
        self._connection.send(frames)

    def _get_ok(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        if not self._got.done():
            self._got.set_result(got(arguments, properties, body))

    def _get_empty(self, _arguments: bytes, _properties: bytes, _body: bytes) -> None:
        if not self._got.done():
            self._got.set_result(None)

    def _deliver(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        self._delivered += 1
        self._arrived.append(RabbitLetter(delivered(arguments, properties, body)))
        self._news.set()

    async def _next(self, most: int) -> Sequence[RabbitLetter]:
        """Fewer than `most` where the windows are full, and at the end of the queue."""
        while len(self._arrived) < most and not (self._is_full or self._short or self._ended):
            if self._lost:
                raise BrokerUnavailable("RabbitMQ has closed the channel; nothing is lost, try again")
            self._ended = await self._at_the_end()
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    async def _at_the_end(self) -> bool:
        """All that lay there has come, nothing more does, and there is nothing to get.

        What is on its way to us cannot be got, so emptiness alone proves nothing.
        """
        self._news.clear()
        due = self._delivered < self._expected
        try:
            async with asyncio.timeout(STALL_SECONDS if due else QUIET_SECONDS):
                await self._news.wait()
        except TimeoutError:
            letter = await self._get()
            if letter is None:
                return not self._news.is_set()
            self._arrived.append(letter)
            self._short = due
        return False


class RabbitDeadLetters:
    """The dead-letter queue port. Needs to read the queue, and nothing else."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._on_wait = on_wait

    @asynccontextmanager
    async def look(self) -> AsyncIterator[RabbitLook]:
        with _explained():
            await self._take_turn()
            channel = await self._connection.channel(publisher_confirms=False)
        try:
            look = await self._begun(channel)
            try:
                yield look
            except (TooManyLooks, BrokerUnavailable):
                raise
            except Exception:
                await look.finish()
                raise
            await look.finish()
        finally:
            with _explained():
                await channel.close()

    async def _begun(self, channel: AbstractChannel) -> RabbitLook:
        underlay = await channel.get_underlay_channel()
        look = RabbitLook(self._connection, underlay, BrokerVersion.parse(version_of(self._connection)))
        channel.close_callbacks.add(look.lose)
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: look.lose(None))
        return look

    async def _take_turn(self) -> None:
        """Two who look at once would each see a part, and give it back out of order."""
        deadline = self._clock.monotonic() + TURN_SECONDS
        told = False
        while readers := await self._readers():
            if self._clock.monotonic() > deadline:
                raise QueueTaken(
                    f"somebody else is reading {DEAD_LETTER_QUEUE} ({readers} consumers), so it is in part or"
                    " all out of sight; try again when they are done"
                )
            if not told and self._clock.monotonic() > deadline - TURN_SECONDS + 5 * TURN_PAUSE_SECONDS:
                told = True
                self._on_wait()
            await self._clock.sleep(TURN_PAUSE_SECONDS)

    async def _readers(self) -> int:
        """0 where the broker does not tell: before 4.3.1, version 4 does so only who may configure."""
        try:
            state = await rabbitmq_topology.state_of(self._connection, DEAD_LETTER_QUEUE)
        except ChannelAccessRefused:
            return 0
        if state is None:
            raise _no_queue()
        return state.consumers

    async def is_unlimited(self) -> bool:
        """By declaring it once more, as this project does: for that one must be allowed to configure it."""
        wanted = topology(BrokerVersion.parse(version_of(self._connection))).queue(DEAD_LETTER_QUEUE)
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(wanted.name, durable=True, arguments=dict(wanted.arguments))
        except ChannelClosed:
            return False
        finally:
            await channel.close()
        return True


@contextmanager
def _explained() -> Iterator[None]:
    try:
        with cancelled_only_if_asked():
            yield
    except ChannelAccessRefused as error:
        raise BrokerRefuses(f"the queue {DEAD_LETTER_QUEUE} cannot be read: {explain(error)}") from None
    except ChannelNotFoundEntity:
        raise _no_queue() from None
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(f"RabbitMQ cannot be used: {explain(error)}") from None


def _no_queue() -> BrokerRefuses:
    return BrokerRefuses(f"there is no queue {DEAD_LETTER_QUEUE}; run `provisioner topology apply`")
