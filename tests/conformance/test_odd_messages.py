"""Odd messages that RabbitMQ accepts but no client library sends: they are read and passed on unchanged."""

from collections.abc import AsyncIterator

import pytest

from contracts.envelope import Message
from contracts.subaccounts import DeadReason
from contracts.topology import DEAD_LETTER_QUEUE, DEAD_LETTERS, DEPARTMENTS, RESULTS, WORK_QUEUE
from tests.conformance.brokers import Inbox, RabbitBench, rabbit_bench
from tests.support.raw_amqp import (
    ODD_HEADERS,
    RawProducer,
    entry,
    long,
    properties,
    raw_producer,
    short,
    timestamp,
)
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.dead_letters import RabbitDeadLetters
from worker.adapters.system import SystemClock
from worker.core.judge import DeadLetter
from worker.core.messages import Outgoing, dead_letter
from worker.ports import Delivery, PublishFailed, Unroutable

pytestmark = pytest.mark.xdist_group("broker")

KEY = b"department.created"
MALFORMED = DeadLetter(DeadReason.MALFORMED, "no")
LONGEST = 131_064  # bytes of a payload, by default
HEADERS = ODD_HEADERS | {
    "widths": b"".join(entry(kind, kind, b"\1" * 8) for kind in "lL")
    + entry("I", "I", b"\1" * 4)
    + entry("s", "s", b"\0\1")
    + entry("u", "u", b"\0\1")
    + entry("b", "b", b"\1"),
    "decimal": entry("a", "D", b"\2\0\0\1\0"),
}
PROPERTIES = {
    "timestamp": properties(timestamp=timestamp(1700000000000000)),
    "correlation-id": properties(correlation_id=short(b"\xff\xfe")),
    "content-type": properties(content_type=b"application/\xff"),
    **{name: properties(headers) for name, headers in HEADERS.items()},
}


@pytest.fixture
async def rabbit(clean_broker: str) -> AsyncIterator[RabbitBench]:
    async with rabbit_bench(clean_broker) as running:
        yield running


@pytest.fixture
async def producer(rabbit: RabbitBench) -> AsyncIterator[RawProducer]:
    async with raw_producer(rabbit.url) as producing:
        yield producing


def buried(delivery: Delivery) -> Outgoing:
    return dead_letter(delivery.original, MALFORMED, None, 1, SystemClock().now())


def bytes_of(outgoing: Outgoing) -> dict[str, bytes]:
    """Headers and properties as on the wire, without those of the broker and ours."""
    parts = {**outgoing.sent_as.fields, **outgoing.sent_as.headers}
    return {name: encoded for name, (_, encoded) in parts.items() if not name.startswith("x-")}


@pytest.mark.parametrize("kind", PROPERTIES)
async def test_odd_messages_are_dead_lettered_byte_for_byte(rabbit, producer, kind):
    bodies = [b"before", b"odd \xff", b"after"]
    for body, sent in zip(bodies, (properties(), PROPERTIES[kind], properties()), strict=True):
        await producer.publish(DEPARTMENTS, KEY, sent, body)
    inbox, dead = Inbox(), Inbox()
    async with rabbit.consumer(WORK_QUEUE, 10, inbox), rabbit.consumer(DEAD_LETTER_QUEUE, 10, dead):
        for delivery in await inbox.holds(3):
            await rabbit.publisher.publish(buried(delivery))
        await dead.holds(3)
    assert inbox.bodies == dead.bodies == bodies
    originals = [[one.original for one in box.deliveries] for box in (inbox, dead)]
    for came, went in zip(*originals, strict=True):
        assert bytes_of(came) == {name: part for name, part in bytes_of(went).items() if name != "message_id"}
    assert [one.message.headers["x-dead-reason"] for one in originals[1]] == ["malformed"] * 3


async def test_a_routing_key_that_is_not_text_is_kept(rabbit, producer):
    await producer.publish(DEPARTMENTS, b"department.\xff", properties(), b"odd")
    await producer.publish(DEPARTMENTS, KEY, properties(), b"after")
    inbox, dead = Inbox(), Inbox()
    async with rabbit.consumer(WORK_QUEUE, 10, inbox), rabbit.consumer(DEAD_LETTER_QUEUE, 10, dead):
        for delivery in await inbox.holds(2):
            await rabbit.publisher.publish(buried(delivery))
        await dead.holds(2)
    for box in (inbox, dead):
        assert [one.original.routing_key for one in box.deliveries] == ["department.?", "department.created"]
        assert box.deliveries[0].original.sent_as.fields["routing_key"][1] == b"department.\xff"


async def test_an_odd_unroutable_message_raises_unroutable(rabbit, producer):
    await producer.publish(DEPARTMENTS, b"department.\xff", properties(HEADERS["deep"]), b"odd")
    inbox = Inbox()
    async with rabbit.consumer(WORK_QUEUE, 10, inbox):
        (delivery,) = await inbox.holds(1)
        original = delivery.original
        nowhere = Outgoing(RESULTS, original.routing_key, original.message, {}, original.sent_as)
        for _ in range(2):
            with pytest.raises(Unroutable):
                await rabbit.publisher.publish(nowhere)


@pytest.mark.parametrize("room", [0, 50, 300])
async def test_headers_that_fill_a_frame_keep_the_connection(rabbit, producer, room):
    """The headers of a dead letter do not fit too; other messages are confirmed on the same connection."""
    filler = LONGEST - 12 - len(properties(entry("big", "S", long(b"")))) - room
    sent = properties(entry("big", "S", long(b"z" * filler)))
    await producer.publish(DEPARTMENTS, KEY, sent, b"odd \xff")
    inbox, dead = Inbox(), Inbox()
    async with rabbit.consumer(WORK_QUEUE, 10, inbox), rabbit.consumer(DEAD_LETTER_QUEUE, 10, dead):
        (delivery,) = await inbox.holds(1)
        connection = rabbit.publisher._connection
        await rabbit.publisher.publish(buried(delivery))
        await rabbit.publisher.publish(Outgoing(DEAD_LETTERS, "after", Message(b"after", None)))
        (letter, after) = await dead.holds(2)
        assert rabbit.publisher._connection is connection
    assert (letter.original.message.body, after.original.message.body) == (b"odd \xff", b"after")
    headers = letter.original.message.headers
    assert headers["x-dead-reason"] == "malformed"
    assert ("big" in headers, headers.get("x-left-out")) == ((True, None) if room == 300 else (False, "big"))


async def test_operators_see_odd_messages(rabbit, producer):
    odd = properties(HEADERS["name"] + HEADERS["deep"], correlation_id=short(b"\xff"))
    await producer.publish(DEAD_LETTERS, b"department.\xff", odd, b"odd")
    async with (
        await connect(rabbit.url, "test") as connection,
        RabbitDeadLetters(connection, SystemClock()).browse() as browse,
    ):
        seen = [held.original async for batch in browse.batches(10) for held in batch]
    assert [(one.routing_key, one.message.body) for one in seen] == [("department.?", b"odd")]


async def test_a_header_that_rabbitmq_refuses_is_left_out(rabbit):
    """RabbitMQ closes the connection on NaN."""
    odd = Message(b"{}", None, {"good": 1, "none": float("nan")})
    inbox = Inbox()
    async with rabbit.consumer(WORK_QUEUE, 10, inbox):
        try:
            await rabbit.publisher.publish(Outgoing(DEPARTMENTS, "department.created", odd))
        except PublishFailed:
            pytest.fail("the connection was closed")
        (delivery,) = await inbox.holds(1)
    assert delivery.original.message.headers == {"good": 1, "x-left-out": "none"}
