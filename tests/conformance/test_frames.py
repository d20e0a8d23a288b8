"""Frames: listeners get complete messages and confirms; the client library gets all other frames."""

import asyncio
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import pamqp.commands
import pamqp.frame
import pytest
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError, ProtocolSyntaxError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic

from tests.simulation.virtual_time import VirtualLoop
from tests.support.raw_amqp import ODD_PROPERTIES, content_header, frame, properties, short
from worker.adapters.amqp.codec.dispatch import Listener
from worker.adapters.amqp.codec.frames import (
    ACK,
    DELIVER,
    GET_EMPTY,
    GET_OK,
    NACK,
    RETURN,
    Delivered,
    ack,
    confirmed,
    content,
    delivered,
    get,
    got,
    publish,
    returned,
)
from worker.adapters.amqp.tap import HEARTBEAT_EVERY_SECONDS, FrameTap

POISON = ODD_PROPERTIES | {"content-type": properties(content_type=b"\xff\xfe")}
BODY = b'{"a": 1}'


def deliver(routing_key: bytes = b"department.created", channel: int = 1) -> bytes:
    strings = short("departments") + short(routing_key)
    return frame(1, channel, struct.pack(">HH", 60, 60) + short("tag") + struct.pack(">QB", 200, 0) + strings)


def got_ok(routing_key: bytes) -> bytes:
    strings = short("departments") + short(routing_key)
    return frame(1, 1, struct.pack(">HHQB", 60, 71, 200, 0) + strings + struct.pack(">I", 255))


def basic_return(routing_key: bytes) -> bytes:
    strings = short("NO_ROUTE") + short("departments") + short(routing_key)
    return frame(1, 1, struct.pack(">HHH", 60, 50, 312) + strings)


class Received:
    """The frames that listeners get on some channels, and the frames that the library gets to decode."""

    def __init__(self) -> None:
        self.listened: list[tuple[int, bytes, bytes, bytes, bytes]] = []
        self.shown: list[pamqp.frame.FrameTypes] = []

    @property
    def messages(self) -> list[Delivered]:
        return [
            (got if method == GET_OK else delivered)(*args)
            for _, method, *args in self.listened
            if method in {DELIVER, GET_OK}
        ]

    def listen(self, reader: FrameTap, channels: Iterable[int]) -> None:
        def listener_for(channel: int, method: bytes) -> Listener:
            return lambda *args: self.listened.append((channel, method, *args))

        for channel in channels:
            methods = (DELIVER, GET_OK, GET_EMPTY, RETURN, ACK, NACK)
            reader.listen(channel, {method: listener_for(channel, method) for method in methods})


def frames_of(reader: FrameTap) -> FrameReceiver:
    """The library's own reader of frames, on the tap that the worker gives it."""
    return FrameReceiver(cast(asyncio.StreamReader, reader))


async def receive(stream: bytes, at_once: int = 2**20, channels: Iterable[int] = (1, 2)) -> Received:
    """Feeds the stream in pieces of `at_once` bytes."""
    source, received = asyncio.StreamReader(), Received()
    reader = FrameTap(source)
    received.listen(reader, channels)

    async def arrive() -> None:
        for first in range(0, len(stream), at_once):
            source.feed_data(stream[first : first + at_once])
            await asyncio.sleep(0)
        source.feed_eof()

    arriving = asyncio.create_task(arrive())
    try:
        async for _, _, one in frames_of(reader):
            received.shown.append(one)
    except AMQPConnectionError as lost:
        if not isinstance(lost.__cause__, asyncio.IncompleteReadError) or lost.__cause__.partial:
            raise
    await arriving
    return received


def message(header: bytes = b"\0\0", body: bytes = BODY, channel: int = 1) -> bytes:
    return content_header(header, body, channel) + (frame(3, channel, body) if body else b"")


@pytest.mark.parametrize("kind", POISON)
async def test_messages_that_the_library_cannot_decode_are_complete(kind):
    with pytest.raises(Exception):  # noqa: B017, PT011 - without an error the library would need no help
        pamqp.frame.unmarshal(content_header(POISON[kind], BODY))

    received = await receive(deliver() + message(POISON[kind]))
    assert received.shown == []
    (arrived,) = received.messages
    assert (arrived.tag, arrived.properties) == (200, POISON[kind])
    original = arrived.original
    assert (original.exchange, original.routing_key) == ("departments", "department.created")
    assert original.message.body == BODY
    assert original.message.content_type


@pytest.mark.parametrize("method", [deliver, got_ok])
async def test_a_routing_key_that_is_not_text_is_kept(method):
    with pytest.raises(pamqp.exceptions.UnmarshalingException):
        pamqp.frame.unmarshal(method(b"department.\xff"))

    received = await receive(method(b"department.\xff") + message() + method(b"a") + message())
    odd, plain = received.messages
    assert odd.routing_key == b"department.\xff"
    assert odd.original.routing_key == "department.?"
    assert (plain.routing_key, plain.original.routing_key) == (b"a", "a")
    assert {one.left for one in received.messages} == {255 if method is got_ok else 0}


async def test_channels_are_kept_apart():
    stream = deliver(b"x", 1) + deliver(b"y", 2) + message(body=b"of y", channel=2) + message(body=b"of x")
    assert [(one.routing_key, one.body) for one in (await receive(stream)).messages] == [
        (b"y", b"of y"),
        (b"x", b"of x"),
    ]


@pytest.mark.parametrize("longest", [1, 7, 1_000, 200_000])
@pytest.mark.parametrize("size", [0, 1, 7, 1_000])
async def test_a_message_is_delivered_once_it_is_complete(size, longest):
    body = bytes(range(250)) * 4
    one = deliver() + content(b"\0\0", body[:size], 1, longest)
    (first, second) = (await receive(one + one, at_once=11)).messages
    assert first == second
    assert first.body == body[:size]


async def test_a_returned_message_is_identified_by_its_message_id():
    sent = struct.pack(">H", 1 << 13 | 1 << 7) + b"\0\0\0\0" + short("m-1")
    received = await receive(basic_return(b"a") + message(sent) + basic_return(b"\xff") + message())
    assert [returned(arguments, header) for _, _, arguments, header, _ in received.listened] == [
        ("departments", b"a", b"m-1"),
        ("departments", b"\xff", b""),
    ]


async def test_confirms_are_passed_to_listeners():
    sent = [Basic.Ack(7), Basic.Ack(2**40, multiple=True), Basic.Nack(9, multiple=True, requeue=False)]
    received = await receive(b"".join(pamqp.frame.marshal(one, 1) for one in [*sent, Basic.GetEmpty()]))
    assert [(method, confirmed(arguments)) for _, method, arguments, _, _ in received.listened[:-1]] == [
        (ACK, (7, False)),
        (ACK, (2**40, True)),
        (NACK, (9, True)),
    ]
    assert received.listened[-1][1] == GET_EMPTY
    assert received.shown == []


async def test_the_library_gets_all_frames_of_other_channels():
    received = await receive(deliver(channel=7) + message(channel=7) + pamqp.frame.marshal(Basic.Ack(7), 7))
    assert [type(one).__name__ for one in received.shown] == [
        "Deliver",
        "ContentHeader",
        "ContentBody",
        "Ack",
    ]
    assert received.listened == []


@pytest.mark.parametrize(
    "end", [pamqp.commands.Channel.CloseOk(), pamqp.commands.Channel.Close(406, "", 0, 0)]
)
async def test_a_closed_channel_drops_its_listeners(end):
    stream = deliver() + message() + deliver() + pamqp.frame.marshal(end, 1) + deliver() + message()
    received = await receive(stream)
    assert len(received.messages) == 1
    assert [type(one).__name__ for one in received.shown[1:]] == ["Deliver", "ContentHeader", "ContentBody"]


METHODS = st.sampled_from(
    [
        pamqp.commands.Basic.QosOk(),
        pamqp.commands.Channel.CloseOk(),
        pamqp.commands.Connection.Close(320, "CONNECTION_FORCED - \u00e4", 0, 0),
        pamqp.commands.Basic.CancelOk("tag"),
    ]
)


@given(st.lists(METHODS | st.binary(min_size=1, max_size=200)), st.integers(1, 50))
def test_the_library_gets_all_other_frames_between_messages(sent, at_once):
    def encoded(one):
        return frame(3, 1, one) if isinstance(one, bytes) else pamqp.frame.marshal(one, 1)

    between = deliver(channel=2) + message(channel=2)
    received = asyncio.run(receive(between + b"".join(encoded(one) + between for one in sent), at_once, (2,)))
    assert b"".join(pamqp.frame.marshal(one, 1) for one in received.shown) == b"".join(map(encoded, sent))
    assert len(received.messages) == len(sent) + 1


def test_messages_alone_keep_the_librarys_heartbeat_alive():
    """The library counts only the frames that it gets, and would give up the connection otherwise."""
    loop = VirtualLoop()

    async def scenario() -> list[float]:
        source, received = asyncio.StreamReader(), Received()
        reader, shown = FrameTap(source), []
        received.listen(reader, [1])

        async def arrive() -> None:
            for _ in range(100):
                source.feed_data(deliver() + message())
                await asyncio.sleep(HEARTBEAT_EVERY_SECONDS / 4)
            source.feed_eof()

        arriving = asyncio.create_task(arrive())
        with suppress(AMQPConnectionError):  # the end of the stream
            async for _, channel, one in frames_of(reader):
                assert (channel, type(one).__name__) == (0, "Heartbeat")
                shown.append(loop.time())
        await arriving
        assert len(received.messages) == 100
        return shown

    shown = loop.run_until_complete(scenario())
    loop.close()
    gaps = [later - earlier for earlier, later in zip([0.0, *shown], shown, strict=False)]
    assert len(shown) > 10
    assert max(gaps) < 2 * HEARTBEAT_EVERY_SECONDS


def test_a_slow_broker_gets_no_made_up_heartbeats():
    """During a login the library would take a made-up heartbeat for the awaited response."""
    loop = VirtualLoop()

    async def scenario() -> list[str]:
        source = asyncio.StreamReader()
        reader, shown = FrameTap(source), []

        async def arrive() -> None:
            for _ in range(5):
                await asyncio.sleep(3 * HEARTBEAT_EVERY_SECONDS)
                source.feed_data(pamqp.frame.marshal(Basic.QosOk(), 1))
            source.feed_eof()

        arriving = asyncio.create_task(arrive())
        with suppress(AMQPConnectionError):  # the end of the stream
            async for _, _, one in frames_of(reader):
                shown.append(type(one).__name__)
        await arriving
        return shown

    assert loop.run_until_complete(scenario()) == ["QosOk"] * 5
    loop.close()


async def test_a_frame_longer_than_any_buffer():
    (body,) = (await receive(frame(3, 1, b"x" * 1_000_000), at_once=1_000)).shown
    assert isinstance(body, ContentBody)
    assert body.value == b"x" * 1_000_000


@pytest.mark.parametrize("cut", [1, 6, 7, 9])
async def test_a_stream_that_ends_inside_a_frame_is_a_lost_connection(cut):
    with pytest.raises(AMQPConnectionError) as lost:
        await receive(frame(3, 1, b"body")[:cut])
    assert isinstance(lost.value.__cause__, asyncio.IncompleteReadError)


@pytest.mark.parametrize("whole", [deliver(b"\xff"), content_header(properties(), BODY), frame(3, 1, BODY)])
async def test_an_invalid_frame_is_an_error(whole):
    with pytest.raises(InvalidFrameError):
        await receive(whole[:-1] + b"?")


async def test_a_broker_of_another_version_is_an_error():
    with pytest.raises(ProtocolSyntaxError):
        await receive(b"AMQP\0\0\x09\1")


def test_our_frames_equal_those_of_the_library():
    wanted = pamqp.commands.Basic.Publish(exchange="x", routing_key="a.b", mandatory=True)
    assert publish("x", b"a.b", 7) == pamqp.frame.marshal(wanted, 7)
    assert get("q", 7) == pamqp.frame.marshal(Basic.Get(queue="q"), 7)
    for multiple in (False, True):
        acked = pamqp.frame.marshal(Basic.Ack(2**40, multiple=multiple), 7)
        assert ack(2**40, 7, multiple=multiple) == acked
    body = bytes(range(256)) * 10
    frames, written = list[Any](), content(properties(), body, 7, 1_000)
    while written:
        size, _, one = pamqp.frame.unmarshal(written)
        frames, written = [*frames, one], written[size:]
    header, *parts = frames
    assert header.body_size == len(body)
    assert b"".join(part.value for part in parts) == body
    assert max(len(part.value) for part in parts) == 1_000
