"""The assumptions of the seam about aiormq: one test per row of worker/adapters/amqp/README.md.

If an upgrade of aiormq fails here, the name of the test states the broken assumption. Its row in the README
names the consequence in production and the place to change in the seam.
"""

import ast
import asyncio
import inspect
import re
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import create_autospec

import aiormq
import pytest
from aiormq import connection as library
from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    InvalidFrameError,
)
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.frame import FrameTypes, marshal
from pamqp.header import ProtocolHeader
from pamqp.heartbeat import Heartbeat
from yarl import URL

import worker.adapters.amqp
from worker.adapters.amqp import seam as seam_module
from worker.adapters.amqp.codec.frames import BLOCKED, HEARTBEAT, UNBLOCKED
from worker.adapters.amqp.seam import (
    CHANNEL_CLOSED,
    CONNECTION_CLOSED,
    Channel,
    ClosedSilently,
    Connection,
    LoginRefused,
    OpenRefused,
    open_connection,
)
from worker.adapters.amqp.tap import HEARTBEAT_EVERY_SECONDS, FrameTap, UnexpectedRead
from worker.adapters.amqp.writer import CoalescingWriter

README = Path(worker.adapters.amqp.__file__).parent / "README.md"
HEARTBEAT_SECONDS = 12


# ---- the table itself


def test_each_row_of_the_readme_has_its_test_and_each_test_its_row():
    named = set(re.findall(r"`(test_\w+)`", README.read_text()))
    here = {name for name in globals() if name.startswith("test_aiormq_")}
    assert named == here


def test_no_other_module_of_the_worker_imports_the_library():
    package = Path(worker.adapters.amqp.__file__).parents[2]
    importers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if name and name.split(".")[0] in {"aiormq", "aio_pika", "pamqp"}
    }
    assert importers == {"adapters/amqp/seam.py"}


# ---- 1 to 3: the socket


class Recorder:
    """A `StreamReader` that records the sizes it is asked for."""

    def __init__(self, stream: bytes) -> None:
        self._reader = asyncio.StreamReader()
        self._reader.feed_data(stream)
        self._reader.feed_eof()
        self.sizes: list[int] = []

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    async def readexactly(self, size: int) -> bytes:
        self.sizes.append(size)
        return await self._reader.readexactly(size)


async def test_aiormq_reads_a_frame_as_1_then_6_then_the_rest():
    frames = [marshal(spec.Basic.QosOk(), 1), marshal(spec.Basic.CancelOk("tag"), 1)]
    recorder = Recorder(b"".join(frames))
    read = [one async for one in library.FrameReceiver(cast(asyncio.StreamReader, recorder))]
    assert recorder.sizes == [size for frame in frames for size in (1, 6, len(frame) - 7)]
    assert len(read) == 2


def attributes_used_of(name: str, source: str) -> set[str]:
    """The attributes read from any variable, argument or attribute of this name."""
    return {
        node.attr
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == name)
            or (isinstance(node.value, ast.Attribute) and node.value.attr == name)
        )
    }


def test_aiormq_uses_only_these_members_of_the_reader():
    used = attributes_used_of("reader", inspect.getsource(library.FrameReceiver))
    assert used == {"at_eof", "readexactly", "read"}
    assert all(hasattr(FrameTap, name) for name in used)


def test_aiormq_uses_only_these_members_of_the_writer():
    used = attributes_used_of("writer", inspect.getsource(library.Connection))
    assert used <= {name for name in dir(CoalescingWriter) if not name.startswith("_")}


async def test_a_read_across_the_end_of_a_frame_is_a_loud_error():
    source = asyncio.StreamReader()
    source.feed_data(marshal(spec.Basic.QosOk(), 1) * 2)
    tap = FrameTap(source)
    await tap.readexactly(1)
    with pytest.raises(UnexpectedRead, match="aiormq asked for 100 bytes of a frame that has 11 left"):
        await tap.readexactly(100)
    with pytest.raises(UnexpectedRead):
        await tap.read()


# ---- a scripted broker, to observe aiormq


START = spec.Connection.Start(
    server_properties={
        "version": "3.13.7",
        "capabilities": {"publisher_confirms": True, "basic.nack": True},
    },
    mechanisms="PLAIN AMQPLAIN",
)
TUNE = spec.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60)


class Broker:
    """Answers the handshake, and then sends only the frames of a test."""

    url = ""
    reader: asyncio.StreamReader  # both are set once a client connects
    writer: asyncio.StreamWriter

    def send(self, frame: FrameTypes, channel: int = 0) -> None:
        self.writer.write(marshal(frame, channel))

    async def read_frame(self) -> bytes:
        head = await self.reader.readexactly(7)
        return head + await self.reader.readexactly(int.from_bytes(head[3:]) + 1)

    async def read_method(self, *wanted: type[Frame]) -> bytes:
        """Skips frames until one of these methods."""
        indexes = {one.index.to_bytes(4) for one in wanted}
        while (frame := await self.read_frame())[7:11] not in indexes:
            pass
        return frame

    async def handshake(self, *, until: type[Frame] | None = None) -> None:
        await self.reader.readexactly(len(ProtocolHeader().marshal()))
        self.send(START)
        for request, answer in (
            (spec.Connection.StartOk, TUNE),
            (spec.Connection.Open, spec.Connection.OpenOk()),
        ):
            await self.read_method(request)
            if until is request:
                return
            self.send(answer)

    async def accept_channel(self) -> None:
        await self.read_method(spec.Channel.Open)
        self.send(spec.Channel.OpenOk(), 1)


@asynccontextmanager
async def broker(serve: Callable[[Broker], Awaitable[None]]) -> AsyncIterator[Broker]:
    """Serves one connection with `serve`, which may end or fail at any time."""
    made, tasks = Broker(), list[asyncio.Task[Any]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.reader, made.writer = reader, writer
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await serve(made)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def accept(made: Broker) -> None:
    """Accepts a connection and a channel, and then stays silent."""
    await made.handshake()
    await made.accept_channel()
    await asyncio.Event().wait()


def library_of(connection: Connection) -> library.Connection:
    assert isinstance(connection._library, library.Connection)
    return connection._library


async def test_aiormq_connects_through_the_transport_factory_it_is_given():
    async with broker(accept) as made:
        connection = await open_connection(made.url, "seam", HEARTBEAT_SECONDS)
        assert isinstance(connection._tap, FrameTap)
        assert isinstance(connection._writer, CoalescingWriter)
        assert not connection._library.is_closed
        connection.hang_up()
        await connection.close()


async def test_aiormq_opens_plain_and_tls_sockets_through_its_two_factories():
    for factory in (library.TCPTransportFactory, library.TLSTransportFactory):
        assert issubclass(factory, library.TransportFactory)
        assert list(inspect.signature(factory.create).parameters) == ["self", "url", "kwargs"]
        assert inspect.signature(factory).parameters == {}
    named = inspect.signature(library.Connection).parameters
    assert {"transport_factory", "client_properties"} <= named.keys()


async def test_aiormq_reports_the_version_of_the_broker():
    async with broker(accept) as made:
        connection = await open_connection(made.url, "seam", HEARTBEAT_SECONDS)
        assert connection.server_version == "3.13.7"
        connection.hang_up()
        await connection.close()


async def test_aiormq_takes_the_heartbeat_from_the_url():
    async with broker(accept) as made:
        connection = await open_connection(made.url, "seam", HEARTBEAT_SECONDS)
        assert library_of(connection).heartbeat_timeout == HEARTBEAT_SECONDS
        connection.hang_up()
        await connection.close()


# ---- blocked connections, decoded without the library


async def test_blocked_and_unblocked_are_read_without_the_library():
    source = asyncio.StreamReader()
    tap = FrameTap(source)
    connection = Connection(
        create_autospec(AbstractConnection), tap, CoalescingWriter(create_autospec(asyncio.StreamWriter))
    )
    assert not connection.blocked
    shown = marshal(spec.Basic.QosOk(), 1)
    for sent, blocked in (
        (spec.Connection.Blocked("low on disk"), True),
        (spec.Connection.Unblocked(), False),
    ):
        assert marshal(sent, 0)[7:11] in {BLOCKED, UNBLOCKED}
        source.feed_data(marshal(sent, 0) + shown)
        assert await tap.readexactly(7) + await tap.readexactly(len(shown) - 7) == shown
        assert connection.blocked is blocked
    await connection.unblocked()


async def test_aiormq_announces_that_it_understands_blocked():
    announced = asyncio.get_running_loop().create_future()

    async def serve(made: Broker) -> None:
        await made.reader.readexactly(8)
        made.send(START)
        announced.set_result(await made.read_method(spec.Connection.StartOk))

    async with broker(serve) as made:
        with pytest.raises(OSError):  # noqa: PT011 - any will do
            await open_connection(made.url, "seam", HEARTBEAT_SECONDS)
        assert b"connection.blockedt\x01" in await announced


# ---- channels


async def opened(made: Broker) -> tuple[Connection, Channel]:
    connection = await open_connection(made.url, "seam", HEARTBEAT_SECONDS)
    return connection, await connection.open_channel()


async def test_aiormq_names_a_channel_and_its_limits_as_the_seam_does():
    async with broker(accept) as made:
        connection, channel = await opened(made)
        assert (channel.number, channel.is_closed) == (1, False)
        assert channel.max_payload == TUNE.frame_max - 8
        connection.hang_up()
        await connection.close()


async def test_aiormq_reports_a_channel_closed_by_the_broker_with_a_reason():
    async def serve(made: Broker) -> None:
        await made.handshake()
        await made.accept_channel()
        await made.read_method(spec.Basic.Qos)
        made.send(spec.Channel.Close(406, "PRECONDITION_FAILED - unknown delivery tag", 60, 80), 1)
        await asyncio.Event().wait()

    async with broker(serve) as made:
        connection, channel = await opened(made)
        reasons: asyncio.Queue[BaseException | None] = asyncio.Queue()
        channel.on_closed(reasons.put_nowait)
        with pytest.raises(ChannelPreconditionFailed):
            await channel.set_prefetch(1)
        reason = await asyncio.wait_for(reasons.get(), 5)
        assert "unknown delivery tag" in str(reason)
        assert channel.is_closed
        connection.hang_up()
        await connection.close()
        assert reasons.empty()


async def test_aiormq_reports_a_channel_lost_with_its_connection():
    async with broker(accept) as made:
        connection, channel = await opened(made)
        reasons: asyncio.Queue[BaseException | None] = asyncio.Queue()
        channel.on_closed(reasons.put_nowait)
        connection.hang_up()
        await asyncio.wait_for(reasons.get(), 5)
        await connection.close()
        assert channel.is_closed


async def test_aiormq_reports_a_consumer_cancelled_by_the_broker():
    async def serve(made: Broker) -> None:
        await made.handshake()
        await made.accept_channel()
        await made.read_method(spec.Basic.Consume)
        made.send(spec.Basic.ConsumeOk("tag"), 1)
        made.send(spec.Basic.Cancel("tag", nowait=True), 1)
        await asyncio.Event().wait()

    async with broker(serve) as made:
        connection, channel = await opened(made)
        cancelled = asyncio.Event()
        channel.on_consumer_cancelled(cancelled.set)
        assert await channel.consume("q", "tag") == "tag"
        await asyncio.wait_for(cancelled.wait(), 5)
        connection.hang_up()
        await connection.close()


class AnswersWhenCancelled:
    """A channel of aiormq whose answer comes in the moment in which the caller is cancelled."""

    number = 1

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def basic_qos(self, **_: object) -> None:
        await asyncio.wait_for(self.answer, 5)


@pytest.mark.parametrize("seam", [False, True])
async def test_a_cancellation_goes_through_although_the_answer_comes_in_the_same_moment(seam: bool):  # noqa: FBT001
    """Lost, it would let a worker that is to stop go on. `asyncio.wait_for` loses it until Python 3.11."""
    stub = AnswersWhenCancelled()
    call = Channel(cast(Any, stub)).set_prefetch(1) if seam else stub.basic_qos()
    calling = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    stub.answer.set_result(None)
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled() is (seam or sys.version_info >= (3, 12))


def test_aiormq_maps_the_codes_of_closed_channels_to_these_errors():
    wanted = {403: ChannelAccessRefused, 404: ChannelNotFoundEntity, 406: ChannelPreconditionFailed}
    for code, error in wanted.items():
        frame = spec.Channel.Close(code, "text", 0, 0)
        assert type(aiormq.channel.exception_by_code(frame)) is error
        assert issubclass(error, ChannelClosed)


def test_aiormq_has_one_base_for_its_errors():
    raised = (AMQPConnectionError, InvalidFrameError, ChannelClosed, AuthenticationError)
    assert all(issubclass(one, AMQPError) for one in raised)
    assert issubclass(ChannelInvalidStateError, RuntimeError)
    assert not issubclass(ChannelInvalidStateError, AMQPError)


async def test_aiormq_raises_runtime_error_on_closed_objects():
    async with broker(accept) as made:
        connection, channel = await opened(made)
        connection.hang_up()
        await connection.close()
        with pytest.raises(RuntimeError):
            await channel._library.basic_qos(prefetch_count=1)
        with pytest.raises(RuntimeError):
            await connection._library.channel()
        with pytest.raises(ConnectionError, match=CHANNEL_CLOSED):
            await channel.set_prefetch(1)
        with pytest.raises(ConnectionError, match=CONNECTION_CLOSED):
            await connection.open_channel()


async def test_aiormq_cancels_waiting_tasks_when_the_broker_falls_silent():
    async with broker(accept) as made:
        connection, channel = await opened(made)
        waiting = asyncio.create_task(channel.set_prefetch(1))
        await asyncio.sleep(0.05)
        library_of(connection)._reader_task.cancel()  # as its own heartbeat does
        with pytest.raises(ConnectionError):
            await waiting
        await connection.close()


async def test_aiormq_can_be_cancelled_where_it_waits_for_an_answer(monkeypatch):
    """A node of a cluster answers heartbeats and no binds while another node is frozen."""
    monkeypatch.setattr(seam_module, "ANSWER_SECONDS", 0.05)
    async with broker(accept) as made:
        connection, channel = await opened(made)
        with pytest.raises(TimeoutError):
            await channel.objects.bind("queue", "exchange", "#")
        connection.hang_up()
        await connection.close()


async def test_a_requested_cancellation_is_not_swallowed():
    async with broker(accept) as made:
        connection, channel = await opened(made)
        waiting = asyncio.create_task(channel.set_prefetch(1))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        connection.hang_up()
        await connection.close()


def test_aiormq_counts_any_frame_as_a_sign_of_life():
    """So the heartbeats that the tap generates are enough at their interval."""
    source = textwrap.dedent(inspect.getsource(vars(library.Connection)["_Connection__reader"]))
    loop_of = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFor))
    assert "__last_frame_time = self.loop.time()" in ast.unparse(loop_of.body[0])
    assert marshal(Heartbeat(), 0) == HEARTBEAT
    grace = (HEARTBEAT_SECONDS + 1) * library.Connection.HEARTBEAT_GRACE_MULTIPLIER
    assert grace > 10 * HEARTBEAT_EVERY_SECONDS


# ---- error texts and types


async def test_aiormq_reports_the_login_mechanisms_of_the_broker():
    async with broker(accept) as made:
        with pytest.raises(LoginRefused, match=r"^it offers PLAIN, AMQPLAIN, and not what auth in AMQP_URL"):
            await open_connection(f"{made.url}?auth=external", "seam", HEARTBEAT_SECONDS)


async def test_aiormq_reports_a_refused_login():
    async def serve(made: Broker) -> None:
        await made.handshake(until=spec.Connection.StartOk)
        made.send(spec.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))
        await asyncio.Event().wait()

    async with broker(serve) as made:
        with pytest.raises(LoginRefused, match="ACCESS_REFUSED"):
            await open_connection(made.url, "seam", HEARTBEAT_SECONDS)


async def test_aiormq_reports_a_refused_open_as_an_invalid_frame():
    async def serve(made: Broker) -> None:
        await made.handshake(until=spec.Connection.Open)
        made.send(spec.Connection.Close(530, "NOT_ALLOWED - vhost nowhere not found", 10, 40))
        await asyncio.Event().wait()

    async with broker(serve) as made:
        with pytest.raises(OpenRefused, match=r"^NOT_ALLOWED - vhost nowhere not found$"):
            await open_connection(made.url, "seam", HEARTBEAT_SECONDS)


async def test_aiormq_keeps_the_cause_of_a_connection_closed_in_the_handshake():
    async def serve(made: Broker) -> None:
        await made.reader.readexactly(8)

    async with broker(serve) as made:
        with pytest.raises(ClosedSilently):
            await open_connection(made.url, "seam", HEARTBEAT_SECONDS)


async def test_aiormq_keeps_the_errno_of_a_refused_connect():
    async with broker(accept) as made:
        port = URL(made.url).port
    with pytest.raises(AMQPConnectionError) as refused:
        await open_connection(f"amqp://127.0.0.1:{port}/", "seam", HEARTBEAT_SECONDS)
    assert refused.value.args[0] == 111
