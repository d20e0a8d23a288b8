"""Raw AMQP frames, to send messages that client libraries do not produce."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiormq
from aiormq.abc import AbstractChannel, ChannelFrame

FLAGS = {
    "content_type": 15,
    "headers": 13,
    "delivery_mode": 12,
    "correlation_id": 10,
    "timestamp": 6,
    "app_id": 3,
}
STRUCTURED = "application/cloudevents+json"


def short(text: bytes | str) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return bytes([len(encoded)]) + encoded


def long(encoded: bytes) -> bytes:
    return struct.pack(">I", len(encoded)) + encoded


def entry(name: bytes | str, kind: str, value: bytes = b"") -> bytes:
    return short(name) + kind.encode() + value


def timestamp(count: int) -> bytes:
    return struct.pack(">Q", count)


def nested(depth: int) -> bytes:
    """A table in a table in a table."""
    table = long(entry("deepest", "t", b"\1"))
    for _ in range(depth):
        table = long(entry("deeper", "F", table))
    return table


def properties(headers: bytes = b"", content_type: bytes | str = STRUCTURED, **more: bytes) -> bytes:
    """Encodes the properties. `headers` are table entries; other values are already encoded."""
    parts = {"content_type": short(content_type), "headers": long(headers), "delivery_mode": b"\2", **more}
    flags = sum(1 << FLAGS[name] for name in parts)
    return struct.pack(">H", flags) + b"".join(parts[name] for name in FLAGS if name in parts)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def content_header(properties: bytes, body: bytes, channel: int = 1) -> bytes:
    return frame(2, channel, struct.pack(">HHQ", 60, 0, len(body)) + properties)


@dataclass(frozen=True)
class RawProducer:
    """A producer that sends raw frames on one channel."""

    channel: AbstractChannel

    async def publish(
        self, exchange: str, routing_key: bytes | str, properties: bytes, body: bytes = b"{}"
    ) -> None:
        """Returns once the broker has read the message and kept the connection open."""
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(routing_key) + b"\0"
        number = self.channel.number
        frames = frame(1, number, method) + content_header(properties, body, number) + frame(3, number, body)
        await self.channel.connection.write_queue.put(ChannelFrame(payload=frames, should_close=False))
        await self.channel.basic_qos(prefetch_count=1)


@asynccontextmanager
async def raw_producer(url: str) -> AsyncIterator[RawProducer]:
    """Yields a producer on a new connection."""
    connection = await aiormq.connect(url)
    try:
        yield RawProducer(await connection.channel(publisher_confirms=False))
    finally:
        await connection.close()


ODD_HEADERS = {
    "double": entry("a", "d", struct.pack(">d", 1.1)),
    "huge": entry("a", "d", struct.pack(">d", 1e300)),
    "float": entry("a", "f", struct.pack(">f", 1.1)),
    "milliseconds": entry("a", "T", timestamp(1700000000123)),
    "microseconds": entry("a", "T", timestamp(1700000000000000)),
    "octets": entry("a", "x", long(b"\xff\xfe")),
    "no-text": entry("a", "S", long(b"\xff\xfe")),
    "void": entry("a", "V"),
    "array": entry("a", "A", long(b"b\1s\0\1V")),
    "table": entry("a", "F", long(entry("z", "b", b"\1") + entry("a", "f", b"\0" * 4))),
    "name": entry(b"\xff\xfe", "V"),
    "long-name": entry("n" * 255, "V"),
    "deep": entry("a", "F", nested(1_200)),
}
"""Headers that RabbitMQ accepts and the client library decodes or encodes wrongly."""

ODD_PROPERTIES = {
    "timestamp": properties(timestamp=timestamp(1700000000000000)),
    "time-header": properties(entry("at", "T", timestamp(1700000000000000))),
    "header-name": properties(ODD_HEADERS["name"]),
    "correlation-id": properties(correlation_id=short(b"\xff\xfe")),
    "nested": properties(ODD_HEADERS["deep"]),
}
"""Bytes that RabbitMQ lets through and the client library cannot decode."""
