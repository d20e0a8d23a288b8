"""The conformance suite for browsing every dead-letter queue: memory and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import aio_pika
import pytest

from contracts.envelope import Message
from contracts.topology import DEAD_LETTER_QUEUE, DEAD_LETTERS, BrokerVersion
from tests.conformance.brokers import Bench, memory_bench, rabbit_bench
from tests.conformance.silent_socket import Socket
from worker.adapters.amqp import dead_letters as rabbitmq_dead_letters
from worker.adapters.amqp import getter
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.dead_letters import WINDOWS, RabbitBrowse, RabbitDeadLetters
from worker.adapters.amqp.errors import BrokerUnavailable
from worker.adapters.amqp.seam import Channel, Connection
from worker.adapters.memory.dead_letters import MemoryDeadLetters
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.ports import BrowsedLetter, DeadLetterQueue, QueueTaken

pytestmark = pytest.mark.xdist_group("broker")


@dataclass(frozen=True)
class Place:
    bench: Bench
    queue: DeadLetterQueue
    other: DeadLetterQueue

    async def fill(self, count: int, start: int = 0) -> None:
        for number in range(start, start + count):
            message = Message(str(number).encode(), "text/plain", {"x-dead-reason": "invalid"})
            await self.bench.publisher.publish(Outgoing(DEAD_LETTERS, f"key.{number}", message))

    async def numbers(self, most: int = 10, stop_after: int | None = None) -> list[int]:
        return [number(held) for held in await self.held(most, stop_after)]

    async def held(self, most: int = 10, stop_after: int | None = None) -> list[BrowsedLetter]:
        seen: list[BrowsedLetter] = []
        async with self.queue.browse() as browse:
            async for batch in browse.batches(most):
                seen += batch
                if stop_after is not None and len(seen) >= stop_after:
                    break
        return seen

    async def remove(self, chosen: Callable[[int], bool]) -> None:
        async with self.queue.browse() as browse:
            async for batch in browse.batches(7):
                await browse.remove([held for held in batch if chosen(number(held))])


def number(held: BrowsedLetter) -> int:
    return int(held.original.message.body)


@asynccontextmanager
async def in_memory() -> AsyncIterator[Place]:
    bench = memory_bench()
    queue = MemoryDeadLetters(bench.publisher, BrokerVersion(4, 1))
    yield Place(bench, queue, queue)


@asynccontextmanager
async def on_rabbitmq(url: str) -> AsyncIterator[Place]:
    async with rabbit_bench(url) as bench, await connect(url, "one") as one, await connect(url, "two") as two:
        yield Place(bench, RabbitDeadLetters(one, SystemClock()), RabbitDeadLetters(two, SystemClock()))


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_dead_letters, "WINDOWS", (1, 5, 20, 65_535))


@pytest.fixture(params=["memory", "rabbitmq"])
def opened(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Place]:
    return in_memory() if request.param == "memory" else on_rabbitmq(request.getfixturevalue("clean_broker"))


@pytest.fixture
async def place(opened: AbstractAsyncContextManager[Place]) -> AsyncIterator[Place]:
    async with opened as made:
        yield made


async def test_an_empty_queue_shows_no_letters(place):
    assert await place.held() == []


async def test_the_first_batch_is_the_oldest_letter_then_all_in_order(place):
    await place.fill(60)
    async with place.queue.browse() as browse:
        sizes = [len(batch) async for batch in browse.batches(10)]
    assert sizes[0] == 1
    assert sum(sizes) == 60
    assert max(sizes) <= 10
    assert await place.numbers() == list(range(60))


async def test_a_letter_shows_the_complete_message(place):
    await place.fill(1)
    (held,) = await place.held()
    assert (held.original.routing_key, held.original.message.content_type) == ("key.0", "text/plain")
    assert held.original.message.headers["x-dead-reason"] == "invalid"


async def test_browsing_removes_nothing_and_keeps_the_order(place):
    await place.fill(60)
    for stop_after in (None, 1, 3, 17, None, 40):
        await place.numbers(stop_after=stop_after)
    await place.fill(3, start=60)
    assert await place.numbers() == list(range(63))


async def test_a_letter_counts_its_returns(place):
    await place.fill(2)
    for _ in range(2):
        await place.numbers()
    assert [held.returns for held in await place.held()] == [2, 2]


async def test_only_the_removed_letters_are_gone(place):
    await place.fill(60)
    await place.remove(lambda one: one % 3 == 0)
    assert await place.numbers() == [one for one in range(60) if one % 3]
    await place.remove(lambda one: one < 30)
    assert await place.numbers() == [one for one in range(30, 60) if one % 3]
    await place.remove(lambda _: True)
    assert await place.numbers() == []


async def test_a_reader_that_leaves_after_removing_the_oldest_does_not_wait(place, monkeypatch):
    """A replay begins so: the consumer of the oldest letter is cancelled, and another reads on to the end."""
    monkeypatch.setattr(rabbitmq_dead_letters, "STALL_SECONDS", 60.0)
    await place.fill(3)
    async with asyncio.timeout(20), place.queue.browse() as browse:
        async for batch in browse.batches(10):
            await browse.remove(batch)
            break
    assert await place.numbers() == [1, 2]


async def test_letters_that_arrive_while_browsing_are_kept(place):
    await place.fill(30)
    async with place.queue.browse() as browse:
        async for batch in browse.batches(4):
            if any(number(held) == 10 for held in batch):
                await place.fill(5, start=30)
    assert await place.numbers() == list(range(35))


async def test_a_crash_while_browsing_keeps_all_letters(place):
    await place.fill(30)
    with pytest.raises(ZeroDivisionError):
        await place.remove(lambda one: 1 // (one - 5) > 1)
    assert await place.numbers() == list(range(30))


async def test_a_second_reader_gets_an_error_not_an_empty_queue(place, monkeypatch):
    monkeypatch.setattr(rabbitmq_dead_letters, "TURN_SECONDS", 0.3)
    await place.fill(5)
    async with place.queue.browse() as browse:
        batches = browse.batches(10)
        await anext(batches)
        with pytest.raises(QueueTaken, match="another consumer is reading"):
            async with place.other.browse():
                pass
    async with place.other.browse() as browse:
        assert [number(held) async for batch in browse.batches(10) for held in batch] == list(range(5))


async def test_a_reader_waits_for_a_reader_that_finishes_soon(clean_broker):
    async with on_rabbitmq(clean_broker) as place:
        await place.fill(3)
        async with place.queue.browse() as browse:
            await anext(browse.batches(10))
            waiting = asyncio.create_task(numbers_in(place.other))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        assert await waiting == [0, 1, 2]


async def test_many_readers_at_once_see_every_letter(clean_broker):
    """All start at the same moment, so each may find the queue free and take a letter of another."""
    async with on_rabbitmq(clean_broker) as place, AsyncExitStack() as stack:
        await place.fill(50)
        readers = [
            RabbitDeadLetters(
                await stack.enter_async_context(await connect(clean_broker, "r")), SystemClock()
            )
            for _ in range(6)
        ]
        for _ in range(3):
            seen = await asyncio.gather(*map(numbers_in, readers))
            assert [sorted(numbers) for numbers in seen] == [list(range(50))] * 6


async def test_a_reader_that_comes_in_between_hides_no_letter(clean_broker):
    """Another client may start to consume while we read; the pass ends once it is gone."""
    async with on_rabbitmq(clean_broker) as place, await aio_pika.connect(clean_broker) as stranger:
        await place.fill(30)
        seen: list[int] = []
        async with place.queue.browse() as browse:
            batches = browse.batches(10)
            seen += [number(held) for held in await anext(batches)]
            channel = await stranger.channel()
            await channel.set_qos(3)
            await (await channel.get_queue(DEAD_LETTER_QUEUE, ensure=False)).consume(_keep)
            reading = asyncio.create_task(_rest(batches))
            await asyncio.sleep(0.5)
            assert not reading.done()
            await channel.close()
            seen += await reading
        assert sorted(seen) == list(range(30))


async def _keep(_message: object) -> None:
    """Acks nothing."""


async def _rest(batches: AsyncIterator[Sequence[BrowsedLetter]]) -> list[int]:
    return [number(held) async for batch in batches for held in batch]


async def test_our_queue_has_no_delivery_limit(clean_broker):
    async with on_rabbitmq(clean_broker) as place:
        await place.fill(3)
        assert await place.queue.is_unlimited()
        for _ in range(25):
            await place.numbers(stop_after=2)
        assert await place.numbers() == [0, 1, 2]


async def numbers_in(queue: DeadLetterQueue) -> list[int]:
    async with queue.browse() as browse:
        return [number(held) async for batch in browse.batches(10) for held in batch]


def test_windows_hold_100000_letters_with_few_consumers():
    """Erlang requeues the messages of more than 32 consumers in arbitrary order."""
    assert sum(WINDOWS) > 100_000
    assert len(WINDOWS) <= 32


def silent_browse() -> RabbitBrowse:
    return RabbitBrowse(cast(Connection, Socket()), cast(Channel, Socket()), BrokerVersion(3, 10))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ConnectionResetError("reset"), None])
async def test_a_channel_lost_while_browsing_is_an_error(error):
    """The client library cancels its waiters when the broker falls silent."""
    browse = silent_browse()
    waiting = asyncio.ensure_future(anext(browse.batches(1)))
    await asyncio.sleep(0)
    browse.lose(error)
    with pytest.raises(BrokerUnavailable, match="RabbitMQ has closed the channel; nothing is lost"):
        await waiting


async def test_browsing_has_a_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(getter, "ANSWER_SECONDS", 0.01)
    browse = silent_browse()
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await anext(browse.batches(1))
