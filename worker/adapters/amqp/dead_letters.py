"""Reads the dead-letter queue of RabbitMQ without loss or disorder.

A quorum queue cannot be browsed. Messages that were delivered and not acked when their channel closes return
to the queue in order, ahead of messages that were never delivered but behind those returned earlier; after
`basic.nack` they go to the very end. So a pass is one channel that consumes the whole queue and then closes.
It holds every letter until then, so it is short and exclusive. Its first consumer takes one letter, not
`basic.get`, whose letter RabbitMQ 4 returns last. Measured on 3.10.8, 4.0.5 and 4.3.6.

Quorum queues ignore the exclusive flag of consumers (measured on 3.10.8), and a lock of another kind would
need more rights than to read. So a reader waits until the queue has no consumer, starts its own, and looks
again: if there is another now, both step back for a random time. A reader that holds letters counts as a
consumer, also by `basic.get` and after a cancel. A pass ends only when it sees no consumer but its own.
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
    QueueState,
)
from worker.adapters.amqp.topology import state_of
from worker.core.messages import Outgoing
from worker.ports import BrowsedLetter, Clock, QueueTaken, TooManyReturns

# The prefetch of each consumer in turn; AMQP allows at most 65,535. A window opens once all earlier ones are
# full of kept letters, so that letters return in order. Erlang keeps up to 32 consumers sorted
# by name, and more in any order.
WINDOWS = (1, 1_000, *[4_000] * 22, *[65_535] * 8)
BATCH_LETTERS = 1_000
QUIET_SECONDS = 0.05
STALL_SECONDS = 5.0
TURN_SECONDS = 300.0
"""How long to wait for other readers: a person has Ctrl-C, a script must end some day."""
TURN_PAUSE_SECONDS = 0.2
INTRUDER_SECONDS = 15.0
"""How long a pass that has read all waits for a reader that came later."""


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
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._namespace = namespace
        self._getter = Getter(connection, channel, queue, {DELIVER: self._deliver})
        self._arrived: deque[RabbitLetter] = deque()
        self._news = asyncio.Event()
        self._expected = self._delivered = self._removed = self._allowed = self._opened = self._got = 0
        self._lost = self._ended = self._finishing = False
        self._alone_by = 0.0
        self._short = False  # the broker delivers less than a window holds

    def lose(self, error: BaseException | None = None) -> None:
        """Called when the broker closes the channel or cancels the consumer."""
        self._lost = True
        self._news.set()
        self._getter.lose(error)

    async def batches(self, most: int) -> AsyncIterator[Sequence[BrowsedLetter]]:
        """Yields the oldest letter alone, then up to `most` at a time; raises `BrokerUnavailable`."""
        while not self._ended:
            if not self._arrived and (self._is_full or self._short or self._first_is_done):
                await self._open_next()
            if batch := await self._next(most):
                yield batch

    async def finish(self) -> None:
        """Consumes the rest of the queue too; otherwise returned letters would end up behind it."""
        self._finishing = True
        async for _ in self.batches(BATCH_LETTERS):
            pass

    async def remove(self, letters: Sequence[BrowsedLetter]) -> None:
        """Acks letters of the batch yielded last."""
        if self._opened == 1 and letters:  # else it would take a later letter, and return it ahead of others
            with _explained(self._queue):
                await self._channel.cancel(_name(0))
        tags = sorted(letter.tag for letter in letters if isinstance(letter, RabbitLetter))
        self._removed += len(tags)
        # Tags count from 1. If no letter before the last of these is kept, one ack covers all.
        last = tags[-1:] if tags and self._removed == tags[-1] else []
        with _explained(self._queue):
            number, multiple = self._channel.number, bool(last)
            self._getter.send(b"".join([ack(tag, number, multiple=multiple) for tag in last or tags]))

    async def begin(self, expected: int) -> bool:
        """Starts the first consumer, for one letter; returns whether there is no other reader.

        `expected`: the number of letters in the queue, as far as it is known.
        """
        self._expected = expected
        await self._open_next()
        return not await self._others()

    async def _others(self) -> int:
        """The number of other readers, or less: whoever keeps a letter counts as a consumer."""
        with _explained(self._queue):
            state = await _seen_state(self._connection, self._queue)
        return max(0, state.consumers - self._opened - self._got) if state else 0

    @property
    def _first_is_done(self) -> bool:
        """Whether the first consumer has taken its one letter; if that was removed, it is cancelled."""
        return self._opened == 1 and self._delivered > 0

    @property
    def _is_full(self) -> bool:
        return self._delivered - self._removed >= self._allowed

    async def _open_next(self) -> None:
        """Starts the next consumer. The earlier ones are full of kept letters and receive nothing newer."""
        if self._opened == len(WINDOWS):
            raise BrokerUnavailable(f"more than {sum(WINDOWS):,} dead letters cannot be read at once")
        window, name = WINDOWS[self._opened], _name(self._opened)
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
        self._delivered += 1
        self._got += 1
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
                return not self._news.is_set() and await self._is_alone()
            self._arrived.append(letter)
            self._short = due
        return False

    async def _is_alone(self) -> bool:
        """Whether no other reader has letters; if one has, a moment later: it steps back before us."""
        if self._finishing or not (others := await self._others()):
            return True
        now = asyncio.get_running_loop().time()
        self._alone_by = self._alone_by or now + INTRUDER_SECONDS
        if now > self._alone_by:
            raise _taken(self._queue, others)
        await asyncio.sleep(TURN_PAUSE_SECONDS)
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
        self._waited = False

    @asynccontextmanager
    async def browse(self, *, waits: bool = True) -> AsyncIterator[RabbitBrowse]:
        """Begins the only pass; raises `QueueTaken`, `BrokerRefuses` or `BrokerUnavailable`."""
        browse, channel = await self._alone(self._clock.monotonic() + TURN_SECONDS * waits)
        try:
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

    async def _alone(self, deadline: float) -> tuple[RabbitBrowse, Channel]:
        """A pass that has begun, without another: two at once would each see a part and change the order."""
        while True:
            expected = await self._take_turn(deadline)
            with _explained(self._queue):
                channel = await self._connection.open_channel()
            broker = BrokerVersion.parse(self._connection.server_version)
            browse = RabbitBrowse(self._connection, channel, broker, self._queue, self._namespace)
            channel.on_closed(browse.lose)
            channel.on_consumer_cancelled(browse.lose)
            alone = False
            try:
                if alone := await browse.begin(expected):
                    return browse, channel
            finally:
                if not alone:
                    with _explained(self._queue):
                        await channel.close()
            await self._clock.sleep(2 * TURN_PAUSE_SECONDS * self._clock.jitter())

    async def _take_turn(self, deadline: float) -> int:
        """Waits until nobody reads the queue; returns the number of its messages, as far as it is known."""
        while True:
            with _explained(self._queue):
                state = await _seen_state(self._connection, self._queue)
            if state is None or not state.consumers:
                return state.messages if state else 0
            if self._clock.monotonic() >= deadline:
                raise _taken(self._queue, state.consumers)
            self._say_waiting()
            await self._clock.sleep(TURN_PAUSE_SECONDS)

    def _say_waiting(self) -> None:
        if not self._waited:
            self._waited = True
            self._on_wait()

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


async def _seen_state(connection: Connection, queue: str) -> QueueState | None:
    """The state of the queue; None where RabbitMQ shows it only with the right to configure (4.2.6 to 4.3.0).

    Raises `BrokerRefuses` if there is no such queue.
    """
    try:
        state = await state_of(connection, queue)
    except ChannelAccessRefused:
        return None
    if state is None:
        raise _no_queue(queue)
    return state


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


def _name(window: int) -> str:
    return f"look-{window:02d}"


def _taken(queue: str, readers: int) -> QueueTaken:
    return QueueTaken(
        f"another consumer is reading {queue} ({readers} consumers) and hides letters in it;"
        " try again when it is done"
    )


def _no_queue(queue: str) -> BrokerRefuses:
    return BrokerRefuses(f"there is no queue {queue}; run `provisioner topology apply`")
