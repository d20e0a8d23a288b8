"""Messages that no client library would send do not delay others."""

import asyncio
import json
import struct
from typing import Any

import pytest

from contracts import topology as names
from tests.conformance.brokers import Inbox, link
from tests.support.raw_amqp import (
    ODD_PROPERTIES,
    entry,
    long,
    nested,
    properties,
    raw_producer,
    timestamp,
)
from tests.support.real import RealSystem
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.publisher import no_preparation
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(60)]

KEY = "department.created"


def event(department: str) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": department,
            "source": "/test/hr",
            "type": "department.created.v1",
            "time": "2026-11-01T08:30:00Z",
            "data": {"department_id": department, "name": department},
        }
    ).encode()


def outcomes(documents: list[dict[str, Any]]) -> dict[str, str]:
    events = [one["data"] for one in documents if one["data"]["event"]]
    return {one["event"]["id"]: one["outcome"] for one in events}


BINARY = b"".join(
    entry(f"cloudEvents_{name}", "S", long(value))
    for name, value in {
        "specversion": b"1.0",
        "id": b"odd",
        "source": b"/test/hr",
        "type": b"department.created.v1",
    }.items()
)
DATA = b'{"department_id": "odd", "name": "odd"}'

VALID = ODD_PROPERTIES | {
    "content-type": properties(content_type=b"application/cloudevents+json; charset=\xff"),
    "double": properties(entry("a", "d", struct.pack(">d", 1e300))),
    "full": properties(entry("a", "S", long(b"z" * 130_900))),
}


@pytest.mark.parametrize("kind", VALID)
async def test_an_event_with_odd_headers_is_answered(system: RealSystem, kind):
    async with system.worker(), raw_producer(system.url) as producer:
        results = await system.listen(names.RESULTS)
        await producer.publish(names.DEPARTMENTS, KEY, VALID[kind], event("odd"))
        await producer.publish(names.DEPARTMENTS, KEY, properties(), event("neighbour"))
        await results.count(2)
    assert outcomes(results.documents) == {"odd": "created", "neighbour": "created"}


NO_TIME = entry("cloudEvents_time", "T", timestamp(1700000000000000))
MALFORMED = {
    "time": (properties(BINARY + NO_TIME, "application/json"), DATA),
    "double": (properties(entry("a", "d", struct.pack(">d", 1e300))), b"not json \xff"),
    "nested": (properties(entry("a", "F", nested(1_200))), b"not json \xff"),
    "full": (properties(entry("a", "S", long(b"z" * 130_900))), b"not json \xff"),
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_an_invalid_message_is_dead_lettered_with_its_body(system: RealSystem, kind):
    encoded, body = MALFORMED[kind]
    inbox = Inbox()
    dead = RabbitConsumer(names.DEAD_LETTER_QUEUE, 10, inbox, no_preparation, Telemetry())
    async with system.worker(), raw_producer(system.url) as producer, dead.running(link("dead", system.url)):
        results = await system.listen(names.RESULTS)
        await producer.publish(names.DEPARTMENTS, KEY, encoded, body)
        await producer.publish(names.DEPARTMENTS, KEY, properties(), event("neighbour"))
        await results.until(lambda listener: "neighbour" in outcomes(listener.documents))
        async with asyncio.timeout(10):
            (letter,) = await inbox.holds(1)
    assert letter.original.message.body == body
    assert letter.original.message.headers["x-dead-reason"] == "malformed"
