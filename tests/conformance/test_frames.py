"""Frames as the client library gets to see them: it decodes each, and the message inside is whole."""

import asyncio
import struct

import pamqp.commands
import pamqp.frame
import pytest
from aiormq.abc import DeliveredMessage
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError, ProtocolSyntaxError
from hypothesis import given
from hypothesis import strategies as st
from raw_amqp import content_header, entry, frame, nested, properties, short, timestamp

from worker.adapters.rabbitmq_frames import TolerantReader, content, publish, unwrapped

POISON = {
    "timestamp": properties(timestamp=timestamp(1700000000000000)),
    "time-header": properties(entry("at", "T", timestamp(1700000000000000))),
    "header-name": properties(entry(b"\xff\xfe", "V")),
    "correlation-id": properties(correlation_id=short(b"\xff\xfe")),
    "content-type": properties(content_type=b"\xff\xfe"),
    "nested": properties(entry("a", "F", nested(1_200))),
}
BODY = b'{"a": 1}'


def deliver(routing_key: bytes = b"department.created", channel: int = 1) -> bytes:
    strings = short("departments") + short(routing_key)
    return frame(1, channel, struct.pack(">HH", 60, 60) + short("tag") + struct.pack(">QB", 200, 0) + strings)


def got(routing_key: bytes) -> bytes:
    strings = short("departments") + short(routing_key)
    return frame(1, 1, struct.pack(">HHQB", 60, 71, 200, 0) + strings + struct.pack(">I", 255))


def returned(routing_key: bytes) -> bytes:
    strings = short("NO_ROUTE") + short("departments") + short(routing_key)
    return frame(1, 1, struct.pack(">HHH", 60, 50, 312) + strings)


async def seen(stream: bytes, at_once: int = 2**20) -> list[pamqp.frame.FrameTypes]:
    """What the library decodes of it, arriving in pieces."""
    reader = asyncio.StreamReader()
    receiver = FrameReceiver(TolerantReader(reader))

    async def arrive() -> None:
        for first in range(0, len(stream), at_once):
            reader.feed_data(stream[first : first + at_once])
            await asyncio.sleep(0)
        reader.feed_eof()

    arriving = asyncio.create_task(arrive())
    frames = []
    try:
        async for _, _, one in receiver:
            frames.append(one)
    except AMQPConnectionError as lost:
        if not isinstance(lost.__cause__, asyncio.IncompleteReadError) or lost.__cause__.partial:
            raise
    await arriving
    return frames


def message(method, header, body) -> DeliveredMessage:
    return DeliveredMessage(delivery=method, header=header, body=body.value, channel=None)


@pytest.mark.parametrize("kind", POISON)
async def test_what_the_library_cannot_decode_comes_whole(kind):
    with pytest.raises(Exception):  # noqa: B017, PT011 - were it none, the library would need no help any more
        pamqp.frame.unmarshal(content_header(POISON[kind], BODY))

    original = unwrapped(
        message(*await seen(deliver() + content_header(POISON[kind], BODY) + frame(3, 1, BODY)))
    )
    assert (original.exchange, original.routing_key) == ("departments", "department.created")
    assert original.message.body == BODY
    assert original.message.content_type


@pytest.mark.parametrize("method", [deliver, got, returned])
async def test_a_routing_key_that_is_not_text_comes_whole(method):
    with pytest.raises(pamqp.exceptions.UnmarshalingException):
        pamqp.frame.unmarshal(method(b"department.\xff"))

    stream = method(b"department.\xff") + content_header(properties(), BODY) + frame(3, 1, BODY)
    frames = await seen(stream + method(b"a") + content_header(properties(), BODY) + frame(3, 1, BODY))
    odd, plain = unwrapped(message(*frames[:3])), unwrapped(message(*frames[3:]))
    assert (odd.routing_key, odd.sent_as.fields["routing_key"][1]) == ("department.?", b"department.\xff")
    assert (plain.routing_key, plain.sent_as.fields["routing_key"][1]) == ("a", b"a")


async def test_channels_do_not_mix():
    odd, plain = content_header(properties(), BODY, 1), content_header(properties(), BODY, 2)
    frames = await seen(deliver(b"\xff", 1) + deliver(b"a", 2) + plain + odd)
    inside = [header.properties.headers.get("routing_key") for header in frames[2:]]
    assert inside == [None, b"\xff"]


async def test_what_comes_back_is_told_by_its_message_id():
    sent = struct.pack(">H", 1 << 13 | 1 << 7) + b"\0\0\0\0" + short("m-1")
    frames = await seen(returned(b"a") + content_header(sent, BODY) + content_header(sent, BODY))
    assert [header.properties.message_id for header in frames[1:]] == ["m-1", None]


METHODS = st.sampled_from(
    [
        pamqp.commands.Basic.Ack(2**40, multiple=True),
        pamqp.commands.Channel.CloseOk(),
        pamqp.commands.Connection.Close(320, "CONNECTION_FORCED - \u00e4", 0, 0),
        pamqp.commands.Basic.CancelOk("tag"),
    ]
)


@given(st.lists(METHODS | st.binary(min_size=1, max_size=200)), st.integers(1, 50))
def test_everything_else_is_as_it_was(sent, at_once):
    def encoded(one):
        return frame(3, 1, one) if isinstance(one, bytes) else pamqp.frame.marshal(one, 1)

    frames = asyncio.run(seen(b"".join(map(encoded, sent)), at_once))
    assert b"".join(pamqp.frame.marshal(one, 1) for one in frames) == b"".join(map(encoded, sent))


async def test_a_frame_that_is_longer_than_any_buffer():
    (body,) = await seen(frame(3, 1, b"x" * 1_000_000), at_once=1_000)
    assert body.value == b"x" * 1_000_000


@pytest.mark.parametrize("cut", [1, 6, 7, 9])
async def test_a_stream_that_ends_within_a_frame_is_a_lost_connection(cut):
    with pytest.raises(AMQPConnectionError) as lost:
        await seen(frame(3, 1, b"body")[:cut])
    assert isinstance(lost.value.__cause__, asyncio.IncompleteReadError)


@pytest.mark.parametrize("whole", [deliver(b"\xff"), content_header(properties(), BODY), frame(3, 1, BODY)])
async def test_bytes_that_are_no_frame_are_not_made_one(whole):
    with pytest.raises(InvalidFrameError):
        await seen(whole[:-1] + b"?")


async def test_a_broker_of_another_version_is_told_as_ever():
    with pytest.raises(ProtocolSyntaxError):
        await seen(b"AMQP\0\0\x09\1")


def test_frames_we_write_are_the_librarys():
    wanted = pamqp.commands.Basic.Publish(exchange="x", routing_key="a.b", mandatory=True)
    assert publish("x", b"a.b", 7) == pamqp.frame.marshal(wanted, 7)
    body = bytes(range(256)) * 10
    frames, written = [], content(properties(), body, 7, 1_000)
    while written:
        size, _, one = pamqp.frame.unmarshal(written)
        frames, written = [*frames, one], written[size:]
    header, *parts = frames
    assert header.body_size == len(body)
    assert b"".join(part.value for part in parts) == body
    assert max(len(part.value) for part in parts) == 1_000
