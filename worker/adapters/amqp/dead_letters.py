"""Reads the dead-letter queue of RabbitMQ without loss or disorder.

A quorum queue cannot be browsed. Messages that were delivered and not acked when their channel closes return
to the queue in order, ahead of messages that were never delivered but behind those returned earlier; after
`basic.nack` they go to the very end. So a pass is one channel that consumes the whole queue and then closes.
It holds every letter until then, so it is short and exclusive.

Measured on 3.10.8. RabbitMQ 4.x (4.0.5, 4.3.6) returns messages of `basic.get` last, so each pass moves the
oldest letter, which `_get` took, to the end of the queue. Nothing is lost.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property

from contracts.topology import DEAD_LETTER_QUEUE, NO_NAMESPACE, BrokerVersion, Namespace, topology
from worker.adapters.amqp.codec.frames import DELIVER, Delivered, ack, delivered
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable, explain
from worker.adapters.amqp.getter import Getter
from worker.adapters.amqp.seam import (
    BROKER_ERRORS,
    Channel,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    Connection,
)
from worker.adapters.amqp.topology import state_of
from worker.core.messages import Outgoing
from worker.ports import BrowsedLetter, Clock, QueueTaken, TooManyReturns

# The prefetch of each consumer in turn; AMQP allows at most 65,535. A window opens once all earlier ones are
# full of kept letters, so that letters return in order. Erlang keeps up to 32 consumers sorted
# by name, and more in any order.
WINDOWS = (1_000, *[4_000] * 22, *[65_535] * 8)
BATCH_LETTERS = 1_000
QUIET_SECONDS = 0.05
STALL_SECONDS = 5.0
TURN_SECONDS = 15.0
TURN_PAUSE_SECONDS = 0.2


class RabbitLetter:
    """A dead letter held while the queue is browsed."""

    def __init__(self, message: Delivered) -> None:
        self._message = message

    @property
    def tag(self) -> int:
        """The delivery tag, to ack it."""
        return self._message.tag

    @property
    def returns(self) -> int:
        """See `BrowsedLetter.returns`."""
        headers = self.original.message.headers
        counts = [headers.get(name, 0) for name in ("x-delivery-count", "x-acquired-count")]
        return max([count for count in counts if isinstance(count, int)], default=0)

    @cached_property
    def original(self) -> Outgoing:
        """See `BrowsedLetter.original`."""
        return self._message.original


class RabbitBrowse:
    """The `Browse` port: a channel that consumes the whole queue."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        broker: BrokerVersion,
        queue: str = DEAD_LETTER_QUEUE,
        namespace: Namespace = NO_NAMESPACE,
    ) -> None:
        self.broker = broker
        self._channel = channel
        self._queue = queue
        self._namespace = namespace
        self._getter = Getter(connection, channel, queue, {DELIVER: self._deliver})
        self._arrived: deque[RabbitLetter] = deque()
        self._news = asyncio.Event()
        self._expected = self._delivered = self._removed = self._allowed = self._opened = 0
        self._lost = self._ended = False
        self._short = False  # the broker delivers less than a window holds

    def lose(self, error: BaseException | None = None) -> None:
        """Called when the broker closes the channel or cancels the consumer."""
        self._lost = True
        self._news.set()
        self._getter.lose(error)

    async def batches(self, most: int) -> AsyncIterator[Sequence[BrowsedLetter]]:
        """Yields the oldest letter alone, then up to `most` at a time; raises `BrokerUnavailable`."""
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
        """Consumes the rest of the queue too; otherwise returned letters would end up behind it."""
        async for _ in self.batches(BATCH_LETTERS):
            pass

    async def remove(self, letters: Sequence[BrowsedLetter]) -> None:
        """Acks letters of the batch yielded last."""
        tags = sorted(letter.tag for letter in letters if isinstance(letter, RabbitLetter))
        self._removed += len(tags)
        # Tags count from 1. If no letter before the last of these is kept, one ack covers all.
        last = tags[-1:] if tags and self._removed == tags[-1] else []
        with _explained(self._queue):
            number, multiple = self._channel.number, bool(last)
            self._getter.send(b"".join([ack(tag, number, multiple=multiple) for tag in last or tags]))

    @property
    def _is_full(self) -> bool:
        return self._delivered - self._removed >= self._allowed

    async def _open_next(self) -> None:
        """Starts the next consumer. The earlier ones are full of kept letters and receive nothing newer."""
        if self._opened == len(WINDOWS):
            raise BrokerUnavailable(f"more than {sum(WINDOWS):,} dead letters cannot be read at once")
        window, name = WINDOWS[self._opened], f"look-{self._opened:02d}"
        self._opened += 1
        self._allowed = self._delivered - self._removed + window
        self._short = False
        with _explained(self._queue):
            await self._channel.set_prefetch(window)
            await self._channel.consume(self._queue, name)

    async def _get(self) -> RabbitLetter | None:
        """Gets the next letter; None if the queue is empty. Call it only while no delivery is in flight."""
        with _explained(self._queue):
            message = await self._getter.get()
        if message is None:
            return None
        if not self._delivered:
            self._expected = 1 + message.left
        self._delivered += 1
        return RabbitLetter(message.within(self._namespace))

    def _deliver(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        self._delivered += 1
        message = delivered(arguments, properties, body)
        self._arrived.append(RabbitLetter(message.within(self._namespace)))
        self._news.set()

    async def _next(self, most: int) -> Sequence[RabbitLetter]:
        """The next letters: fewer than `most` if the windows are full or the queue ends."""
        while len(self._arrived) < most and not (self._is_full or self._short or self._ended):
            if self._lost:
                raise BrokerUnavailable("RabbitMQ has closed the channel; nothing is lost, try again")
            self._ended = await self._at_the_end()
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    async def _at_the_end(self) -> bool:
        """Waits for a delivery; returns whether the queue has ended.

        Deliveries in flight cannot be got, so an empty queue alone proves nothing.
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
    """The `DeadLetterQueue` port. Needs only the right to read the queue.

    `queue` is its name inside the namespace: the dead letters, or the unrouted messages.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        on_wait: Callable[[], None] = lambda: None,
        namespace: Namespace = NO_NAMESPACE,
        queue: str = DEAD_LETTER_QUEUE,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._queue = namespace.of(queue)
        self._clock = clock
        self._on_wait = on_wait

    @asynccontextmanager
    async def browse(self) -> AsyncIterator[RabbitBrowse]:
        """Begins the only pass; raises `QueueTaken`, `BrokerRefuses` or `BrokerUnavailable`."""
        with _explained(self._queue):
            await self._take_turn()
            channel = await self._connection.open_channel()
        try:
            broker = BrokerVersion.parse(self._connection.server_version)
            browse = RabbitBrowse(self._connection, channel, broker, self._queue, self._namespace)
            channel.on_closed(browse.lose)
            channel.on_consumer_cancelled(browse.lose)
            try:
                yield browse
            except (TooManyReturns, BrokerUnavailable):
                raise
            except Exception:
                await browse.finish()
                raise
            await browse.finish()
        finally:
            with _explained(self._queue):
                await channel.close()

    async def _take_turn(self) -> None:
        """Waits for other consumers: two passes at once would each see a part and return it out of order."""
        deadline = self._clock.monotonic() + TURN_SECONDS
        waiting = False
        while readers := await self._readers():
            if self._clock.monotonic() > deadline:
                raise QueueTaken(
                    f"another consumer is reading {self._queue} ({readers} consumers) and hides letters"
                    " in it; try again when it is done"
                )
            if not waiting and self._clock.monotonic() > deadline - TURN_SECONDS + 5 * TURN_PAUSE_SECONDS:
                waiting = True
                self._on_wait()
            await self._clock.sleep(TURN_PAUSE_SECONDS)

    async def _readers(self) -> int:
        """The number of consumers; 0 if unknown: 4.2.6 to 4.3.0 show it only with the right to configure."""
        try:
            state = await state_of(self._connection, self._queue)
        except ChannelAccessRefused:
            return 0
        if state is None:
            raise _no_queue(self._queue)
        return state.consumers

    async def is_unlimited(self) -> bool:
        """Redeclares the queue with this project's arguments, which needs the right to configure it."""
        version = BrokerVersion.parse(self._connection.server_version)
        wanted = topology(version, namespace=self._namespace).queue(self._queue)
        async with self._connection.channel() as channel:
            try:
                await channel.objects.declare_queue(wanted.name, wanted.arguments)
            except ChannelClosed:
                return False
            return True


@contextmanager
def _explained(queue: str) -> Iterator[None]:
    """Raises the broker's errors as `BrokerRefuses` or `BrokerUnavailable`."""
    try:
        yield
    except ChannelAccessRefused as error:
        raise BrokerRefuses(f"the queue {queue} cannot be read: {explain(error)}") from None
    except ChannelNotFoundEntity:
        raise _no_queue(queue) from None
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(f"RabbitMQ cannot be used: {explain(error)}") from None


def _no_queue(queue: str) -> BrokerRefuses:
    return BrokerRefuses(f"there is no queue {queue}; run `provisioner topology apply`")
