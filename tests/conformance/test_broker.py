"""The conformance suite of every broker, publishing and consuming: memory, simulated and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest

from contracts.envelope import STRUCTURED, Message
from contracts.topology import DEAD_LETTER_QUEUE, DEAD_LETTERS, DEPARTMENTS, RESULTS, WORK_QUEUE
from tests.conformance.brokers import (
    Bench,
    Inbox,
    RabbitBench,
    link,
    memory_bench,
    rabbit_bench,
    simulated_bench,
)
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.core.messages import Outgoing
from worker.ports import PublishFailed, Unroutable

on_rabbitmq = pytest.mark.xdist_group("broker")


BROKERS = ["memory", "simulated-to-tail", "simulated-to-front", pytest.param("rabbitmq", marks=on_rabbitmq)]
"""The simulated broker requeues unacked messages at the tail, as RabbitMQ 3.10 may, or at the front."""


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("clean_broker") if request.param == "rabbitmq" else request.param


@pytest.fixture
async def bench(url: str) -> AsyncIterator[Bench]:
    if url == "memory":
        yield memory_bench()
    elif url.startswith("simulated"):
        yield simulated_bench(returns_to_front=url == "simulated-to-front")
    else:
        async with rabbit_bench(url) as running:
            yield running


@pytest.fixture
async def rabbit(clean_broker: str) -> AsyncIterator[RabbitBench]:
    async with rabbit_bench(clean_broker) as running:
        yield running


def department(body: bytes = b"{}", headers: Mapping[str, Any] | None = None) -> Outgoing:
    return Outgoing(DEPARTMENTS, "department.created", Message(body, STRUCTURED, headers or {}))


async def publish(bench: Bench, count: int) -> list[bytes]:
    bodies = [str(number).encode() for number in range(count)]
    for body in bodies:
        await bench.publisher.publish(department(body))
    return bodies


async def test_a_confirmed_message_is_in_its_queue(bench):
    await publish(bench, 1)
    assert await bench.ready(WORK_QUEUE) == 1
    assert await bench.ready(DEAD_LETTER_QUEUE) == 0


async def test_an_unroutable_message_raises_unroutable(bench):
    with pytest.raises(
        Unroutable, match=r"no queue is bound for subaccount\.created on .*provisioner\.results"
    ):
        await bench.publisher.publish(Outgoing(RESULTS, "subaccount.created", Message(b"{}", None)))


async def test_a_missing_exchange_is_not_reported_as_unroutable(bench):
    with pytest.raises(PublishFailed) as failure:
        await bench.publisher.publish(Outgoing("nowhere", "key", Message(b"{}", None)))
    assert not isinstance(failure.value, Unroutable)
    assert len(str(failure.value).splitlines()) == 1


async def test_concurrent_publishes_each_get_their_own_outcome(bench):
    nowhere = Outgoing(RESULTS, "subaccount.created", Message(b"{}", None))
    outgoing = [nowhere if number % 7 == 3 else department() for number in range(100)]
    outcomes = await asyncio.gather(
        *(bench.publisher.publish(one) for one in outgoing), return_exceptions=True
    )
    assert [isinstance(outcome, Unroutable) for outcome in outcomes] == [one is nowhere for one in outgoing]
    assert await bench.ready(WORK_QUEUE) == outgoing.count(department())


async def test_every_bound_queue_gets_one_copy(bench):
    await bench.bind(DEPARTMENTS, "test.one", "department.created")
    await bench.bind(DEPARTMENTS, "test.one", "#")
    await bench.bind(DEPARTMENTS, "test.other", "department.*")
    await publish(bench, 1)
    assert [await bench.ready(queue) for queue in (WORK_QUEUE, "test.one", "test.other")] == [1, 1, 1]


TOPICS = {
    "a": {"a"},
    "*": {"a", "b"},
    "#": {"", "a", "b", "a.b", "a..b", "a.b.c", "b.a"},
    "a.*": {"a.b"},
    "*.b": {"a.b"},
    "a.#": {"a", "a.b", "a..b", "a.b.c"},
    "#.a": {"a", "b.a"},
    "#.b.#": {"b", "a.b", "a..b", "a.b.c", "b.a"},
    "a.#.c": {"a.b.c"},
    "a.*.b": {"a..b"},
    "*.*": {"a.b", "b.a"},
    "*.#": {"a", "b", "a.b", "a..b", "a.b.c", "b.a"},
    "a.b.c.#": {"a.b.c"},
}


async def test_topics_match_word_by_word(bench):
    queues = {pattern: f"test.{number}" for number, pattern in enumerate(TOPICS)}
    for pattern, queue in queues.items():
        await bench.bind(RESULTS, queue, pattern)
    for key in sorted(TOPICS["#"]):
        await bench.publisher.publish(Outgoing(RESULTS, key, Message(key.encode(), None)))
    for pattern, queue in queues.items():
        assert await bench.bodies(queue) == sorted(key.encode() for key in TOPICS[pattern]), pattern


async def test_deliveries_arrive_in_order(bench):
    bodies, inbox = await publish(bench, 20), Inbox()
    async with bench.consumer(WORK_QUEUE, 50, inbox) as consumer:
        assert consumer.consuming
        await inbox.holds(20)
    assert inbox.bodies == bodies


async def test_unacked_deliveries_never_exceed_the_prefetch(bench):
    await publish(bench, 5)
    inbox = Inbox()
    async with bench.consumer(WORK_QUEUE, 2, inbox):
        await inbox.holds(2)
        assert await bench.ready(WORK_QUEUE) == 3
        assert inbox.bodies == [b"0", b"1"]
        await inbox.deliveries[1].ack()
        await inbox.holds(3)
        assert await bench.ready(WORK_QUEUE) == 2
        assert inbox.bodies == [b"0", b"1", b"2"]


async def test_unacked_messages_are_redelivered_in_order_and_counted(bench):
    await publish(bench, 5)
    first, again = Inbox(), Inbox()
    async with bench.consumer(WORK_QUEUE, 10, first):
        for delivery in (await first.holds(5))[::2]:
            await delivery.ack()
    async with bench.consumer(WORK_QUEUE, 10, again):
        await again.holds(2)
        await publish(bench, 1)  # would arrive later if more had been requeued
        await again.holds(3)
    assert again.bodies == [b"1", b"3", b"0"]
    returns = [delivery.original.message.headers.get("x-delivery-count") for delivery in again.deliveries]
    assert returns == [1, 1, None]
    assert [delivery.original.message.headers for delivery in first.deliveries] == [{}] * 5


async def test_an_ack_after_the_connection_closed_has_no_effect(bench):
    await publish(bench, 1)
    inbox, again = Inbox(), Inbox()
    async with bench.consumer(WORK_QUEUE, 10, inbox):
        (delivery,) = await inbox.holds(1)
        assert inbox.deliveries[0].live
    assert not delivery.live
    await delivery.ack()
    async with bench.consumer(WORK_QUEUE, 10, again):
        await again.holds(1)
        await delivery.ack()
        assert again.deliveries[0].live
    async with bench.consumer(WORK_QUEUE, 10, again):
        await again.holds(2)


async def test_a_second_ack_has_no_effect(bench):
    bodies, inbox = await publish(bench, 2), Inbox()
    async with bench.consumer(WORK_QUEUE, 1, inbox):
        (delivery,) = await inbox.holds(1)
        await delivery.ack()
        await inbox.holds(2)
    assert inbox.bodies == bodies


async def test_a_stopped_consumer_takes_no_deliveries_but_can_ack(bench):
    await publish(bench, 3)
    inbox, again = Inbox(), Inbox()
    async with bench.consumer(WORK_QUEUE, 2, inbox) as consumer:
        await inbox.holds(2)
        await consumer.stop()
        assert not consumer.consuming
        for delivery in inbox.deliveries:
            assert delivery.live
            await delivery.ack()
    assert inbox.bodies == [b"0", b"1"]
    async with bench.consumer(WORK_QUEUE, 2, again):
        await again.holds(1)
    assert again.bodies == [b"2"]


async def test_a_paused_consumer_takes_no_deliveries_but_can_ack(bench):
    await publish(bench, 3)
    inbox = Inbox()
    async with bench.consumer(WORK_QUEUE, 2, inbox) as consumer:
        first, second = await inbox.holds(2)
        await consumer.pause()
        await consumer.pause()
        assert not consumer.consuming
        await first.ack()
        assert second.live
        await publish(bench, 1)
        await consumer.resume()
        await consumer.resume()
        assert consumer.consuming
        await inbox.holds(3)
        await second.ack()
        await inbox.holds(4)
    assert inbox.bodies == [b"0", b"1", b"2", b"0"]


async def test_released_deliveries_are_requeued_in_order_and_not_live(bench):
    await publish(bench, 4)
    inbox, again = Inbox(), Inbox()
    async with bench.consumer(WORK_QUEUE, 3, inbox) as consumer:
        acked, *held = await inbox.holds(3)
        await consumer.pause()
        await acked.ack()
        await consumer.release()
        assert not any(delivery.live for delivery in inbox.deliveries)
        await held[0].ack()
        await wait_until_ready(bench, WORK_QUEUE, 3)
        await consumer.release()
        await consumer.resume()
        await inbox.holds(6)
        assert [delivery.live for delivery in inbox.deliveries] == [False] * 3 + [True] * 3
        for delivery in inbox.deliveries[4:]:
            await delivery.ack()
    assert inbox.bodies == [b"0", b"1", b"2", b"1", b"2", b"3"]
    async with bench.consumer(WORK_QUEUE, 3, again):
        (left,) = await again.holds(1)
    headers = left.original.message.headers
    assert (again.bodies, headers["x-delivery-count"]) == ([b"1"], 2)
    assert headers.keys() <= {"x-delivery-count", "x-acquired-count"}  # RabbitMQ 4.3 counts both


async def test_no_delivery_arrives_after_a_pause(bench):
    await publish(bench, 300)
    inbox = Inbox()
    async with bench.consumer(WORK_QUEUE, 300, inbox) as consumer:
        await inbox.holds(1)
        await consumer.pause()
        taken = len(inbox.deliveries)
        await bench.ready(WORK_QUEUE)
        assert len(inbox.deliveries) == taken


async def test_pausing_keeps_the_prefetch_available(bench):
    inbox = Inbox()
    async with bench.consumer(WORK_QUEUE, 2, inbox) as consumer:
        for _ in range(3):
            await consumer.pause()
            await consumer.resume()
        await publish(bench, 2)
        await inbox.holds(2)


async def test_a_stopped_consumer_does_not_resume(bench):
    await publish(bench, 1)
    inbox = Inbox()
    async with bench.consumer(WORK_QUEUE, 2, inbox) as consumer:
        await inbox.holds(1)
        await consumer.stop()
        await consumer.resume()
        assert not consumer.consuming
        await consumer.release()
        async with asyncio.timeout(10):
            while await bench.ready(WORK_QUEUE) != 1:  # noqa: ASYNC110 - a quorum queue's count lags
                await asyncio.sleep(0.05)


HEADERS = {
    "text": "Ärzte 日本 🏥",
    "empty": "",
    "long": "x" * 5000,
    "number": 2**62,
    "negative": -5,
    "fraction": 0.25,
    "yes": True,
    "nothing": None,
    "list": ["a", 1, {"b": "c"}],
    "table": {"a": {"b": 1}},
    "when": datetime(2026, 11, 21, 12, tzinfo=UTC),
}


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 300_000])
@pytest.mark.parametrize("content_type", [None, STRUCTURED, "text/plain; charset=utf-8"])
async def test_a_message_arrives_byte_for_byte(bench, body, content_type):
    sent = Outgoing(DEPARTMENTS, "department.created.extra", Message(body, content_type, HEADERS))
    assert await arrived(bench, sent) == sent


async def test_properties_are_preserved(bench):
    properties = {
        "priority": 3,
        "correlation_id": "c-1",
        "reply_to": "somewhere",
        "timestamp": datetime(2026, 11, 21, 12, tzinfo=UTC),
        "type": "t",
        "app_id": "hr",
    }
    packed = replace(department().message, content_encoding="gzip")
    sent = replace(department(), message=packed, properties=properties)
    assert await arrived(bench, sent) == sent


async def test_a_dead_letter_keeps_the_routing_key_of_the_original(bench):
    sent = replace(department(), exchange=DEAD_LETTERS)
    assert await arrived(bench, sent, DEAD_LETTER_QUEUE) == sent


@on_rabbitmq
async def test_each_publish_has_its_own_message_id_and_is_persistent(rabbit):
    await rabbit.publisher.publish(department())
    await rabbit.publisher.publish(department())
    async with await aio_pika.connect(rabbit.url) as plain:
        queue = await (await plain.channel()).get_queue(WORK_QUEUE, ensure=False)
        one, other = [await queue.get(no_ack=True) for _ in range(2)]
    assert one.message_id
    assert other.message_id
    assert one.message_id != other.message_id
    assert (one.delivery_mode, other.delivery_mode) == (2, 2)


@on_rabbitmq
async def test_properties_that_endanger_a_message_are_not_passed_on(rabbit):
    exchange = await rabbit.channel.get_exchange(DEPARTMENTS, ensure=False)
    foreign = aio_pika.Message(b"{}", expiration=3600, user_id="guest", message_id="theirs")
    await exchange.publish(foreign, "department.created")
    inbox = Inbox()
    async with rabbit.consumer(WORK_QUEUE, 1, inbox):
        (delivery,) = await inbox.holds(1)
    assert not {"expiration", "user_id", "message_id"} & set(delivery.original.properties)


@on_rabbitmq
async def test_a_message_keeps_its_original_message_id(rabbit):
    """Two copies may be in flight at once: each publish gets its own outcome."""
    exchange = await rabbit.channel.get_exchange(DEPARTMENTS, ensure=False)
    await exchange.publish(aio_pika.Message(b"{}", message_id="theirs"), "department.created")
    inbox = Inbox()
    async with rabbit.consumer(WORK_QUEUE, 1, inbox):
        (delivery,) = await inbox.holds(1)
        original = delivery.original
        nowhere = replace(original, exchange=RESULTS, routing_key="subaccount.created")
        await rabbit.publisher.publish(replace(original, exchange=DEAD_LETTERS))
        outcomes = await asyncio.gather(
            *(rabbit.publisher.publish(nowhere) for _ in range(3)),
            rabbit.publisher.publish(replace(original, exchange=DEAD_LETTERS)),
            return_exceptions=True,
        )
    assert [type(one) for one in outcomes] == [Unroutable, Unroutable, Unroutable, type(None)]
    queue = await rabbit.channel.get_queue(DEAD_LETTER_QUEUE, ensure=False)
    assert [(await queue.get(no_ack=True)).message_id for _ in range(2)] == ["theirs", "theirs"]


@on_rabbitmq
async def test_publishing_without_a_connection_fails_immediately(rabbit):
    async with RabbitPublisher.running(link("publisher", rabbit.url)) as publisher:
        await publisher.publish(department())
    with pytest.raises(PublishFailed, match="no connection"):
        await publisher.publish(department())


@on_rabbitmq
async def test_an_unnoticed_closed_channel_fails_the_publish(rabbit):
    async with RabbitPublisher.running(link("publisher", rabbit.url)) as publisher:
        channel = publisher._channel
        assert channel is not None
        await channel._channel.close()
        publisher._channel = channel
        with pytest.raises(PublishFailed):
            await publisher.publish(department())


async def arrived(bench: Bench, sent: Outgoing, queue: str = WORK_QUEUE) -> Outgoing:
    await bench.publisher.publish(sent)
    inbox = Inbox()
    async with bench.consumer(queue, 1, inbox):
        (delivery,) = await inbox.holds(1)
    properties = dict(delivery.original.properties)
    if properties.get("priority") == 0:  # aio-pika writes 0 if there is none
        del properties["priority"]
    return replace(delivery.original, properties=properties)


async def wait_until_ready(bench: Bench, queue: str, count: int) -> None:
    """Waits until a queue has this many ready messages: a quorum queue requeues after a short delay."""
    async with asyncio.timeout(30):
        while await bench.ready(queue) != count:  # noqa: ASYNC110 - the broker sends no event
            await asyncio.sleep(0.01)
