"""Events sent with the default settings of client packages, as the bytes that these packages write."""

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import amqp as py_amqp
import kombu
import pika
import pytest
from aio_pika import Message as AioPikaMessage
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent as OtherEvent
from faststream.rabbit.parser import AioPikaParser
from kombu.transport import pyamqp
from pamqp.header import ContentHeader

from tests.support.npm import installed
from worker.adapters.amqp.codec.properties import read
from worker.core.model.causes import Event
from worker.pipeline.reading import Unreadable, reading_of

DATA = {"department_id": 67610, "name": "Engineering"}
ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/hr", "type": "department.created.v1"}
EVENT = ATTRIBUTES | {"time": "2026-11-21T08:30:00Z", "data": DATA}
BODY = json.dumps(EVENT).encode()


def event_in(properties: bytes, body: bytes) -> Event:
    """The event that the worker reads from the bytes of a message."""
    reading = reading_of(read("departments", b"department.created", properties, body))
    assert isinstance(reading, Event), reading
    assert (reading.department.id, reading.name) == ("67610", "Engineering")
    assert reading.version.time == datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
    return reading


def test_pika() -> None:
    event_in(b"".join(pika.BasicProperties().encode()), BODY)


class Channel:
    """The part of kombu's channel for AMQP that makes messages; it keeps what is published."""

    prepare_message = pyamqp.Channel.prepare_message

    def __init__(self) -> None:
        self.sent: list[py_amqp.Message] = []

    def basic_publish(self, message: py_amqp.Message, **_: Any) -> None:
        self.sent.append(message)


def sent_by_kombu(body: Any, **options: Any) -> tuple[bytes, bytes]:
    channel = Channel()
    producer = kombu.Producer(channel)
    producer.publish(body, exchange="departments", routing_key="department.created", **options)
    (message,) = channel.sent
    return message._serialize_properties(), message.body if isinstance(
        message.body, bytes
    ) else message.body.encode()


@pytest.mark.parametrize("body", [EVENT, BODY.decode(), BODY], ids=["dict", "text", "bytes"])
@pytest.mark.parametrize("compression", [None, "zlib", "gzip"])
def test_kombu(body: Any, compression: str | None) -> None:
    event_in(*sent_by_kombu(body, compression=compression))


def test_a_compression_of_kombu_that_is_not_read_is_named() -> None:
    reading = reading_of(
        read("departments", b"department.created", *sent_by_kombu(EVENT, compression="bzip2"))
    )
    assert isinstance(reading, Unreadable)
    assert "application/x-bz2" in reading.verdict.detail


def written(message: AioPikaMessage) -> tuple[bytes, bytes]:
    header = ContentHeader(0, len(message.body), message.properties).marshal()
    return header[12:], message.body


@pytest.mark.parametrize("body", [EVENT, BODY.decode(), BODY], ids=["dict", "text", "bytes"])
async def test_faststream(body: Any) -> None:
    event_in(*written(await AioPikaParser.encode_message(body)))


def test_aio_pika() -> None:
    event_in(*written(AioPikaMessage(BODY)))


def other_event() -> OtherEvent:
    return OtherEvent(ATTRIBUTES | {"time": datetime(2026, 11, 21, 8, 30, tzinfo=UTC)}, DATA)


def in_pika(content_type: str | None, headers: dict[str, Any]) -> bytes:
    return b"".join(pika.BasicProperties(content_type=content_type, headers=headers).encode())


@pytest.mark.parametrize("write", [rabbitmq.to_binary_event, rabbitmq.to_structured_event])
def test_the_cloudevents_package_for_rabbitmq(write: Any) -> None:
    sent = write(other_event())
    event_in(in_pika(sent.content_type, dict(sent.headers)), sent.body)


@pytest.mark.parametrize("write", [amqp.to_binary_event, amqp.to_structured_event])
def test_the_cloudevents_package_for_amqp(write: Any) -> None:
    """Its binary mode writes the time as milliseconds."""
    sent = write(other_event())
    content_type = sent.properties.get("content-type")
    event_in(in_pika(content_type, dict(sent.application_properties)), sent.application_data)


AMQPLIB = """
const lib = process.argv[1];
const defs = require(`${lib}/defs.js`);
const fields = require(`${lib}/api_args.js`).publish("departments", "department.created", {});
const frame = defs.encodeProperties(defs.BasicProperties, 1, 0, fields);
console.log(frame.subarray(7 + 12, -1).toString("hex"));
"""


def test_amqplib_of_node() -> None:
    lib = installed("amqplib@2.3.1") / "amqplib" / "lib"
    done = subprocess.run(["node", "-e", AMQPLIB, str(lib)], capture_output=True, text=True, check=True)
    event_in(bytes.fromhex(done.stdout), BODY)
