"""`python -m tests.messages.fuzz --messages 1000000 --seed 1`: reads messages that no producer should send.

They come in every mode, encoding and kind of property, as the bytes that RabbitMQ delivers. Each one is an
event, a request, or a verdict of the closed set; it can be answered and shown; and its dead letter has the
bytes that came: body, headers, properties and routing key.
"""

# ruff: noqa: T201 - a command line program prints

import argparse
import gzip
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic_core import to_json

from contracts.encoding import MAX_DECODED_BYTES
from contracts.reissues import REISSUE, REISSUE_KEY
from contracts.subaccounts import DeadReason
from tests.messages.variants import Variants
from worker.adapters.amqp.codec import fields, properties
from worker.core.dead_letters import exported, letter_of
from worker.core.judge import DeadLetter
from worker.core.messages import (
    LEFT_OUT,
    Outgoing,
    attempts_of,
    dead_letter,
    failed,
    failed_unattributed,
    message_digest,
    unparked,
    without_broker_headers,
)
from worker.core.model.causes import Event, Reissue
from worker.pipeline.reading import Unreadable, reading_of, subject_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LONGEST = 131_052
VERDICTS = {DeadReason.MALFORMED, DeadReason.INVALID, DeadReason.UNSUPPORTED_TYPE}
EXHAUSTED = DeadLetter(DeadReason.EXHAUSTED, "all attempts failed")

UNPARSED = "with properties that RabbitMQ refuses"

_PREFIXES = ["cloudEvents_", "cloudEvents_", "cloudEvents:", "ce-", "ce_", "CE-", "CloudEvents:", "X-ce-"]
_CONTENT_TYPES = [
    *("application/cloudevents+json", "application/cloudevents+json; charset=utf-8", "application/json"),
    *("Application/CloudEvents+JSON", "application/cloudevents-batch+json", "application/cloudevents+avro"),
    *("text/plain", "application/octet-stream", "application/data", "text/xml", "", ";", "\xff", None),
]
_ENCODINGS = [
    "utf-8",
    "",
    "identity",
    "binary",
    "gzip",
    "GZIP",
    "x-gzip",
    "deflate",
    "br",
    "gzip, deflate",
    "\xff",
    "?",
]
_COMPRESSIONS = ["application/x-gzip", "application/x-bz2", "gzip", "zstd", "", True, 5, b"\xff", None]
_CODECS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252"]
_KEYS = [
    b"department.created",
    b"department.created.emea",
    REISSUE_KEY.encode(),
    b"",
    b"\xff.\xfe",
    b"x" * 255,
]
_EXCHANGES = ["departments", "departments", "provisioner.replay", "staging.departments"]
_HEADER_NAMES = [
    *(
        "x-death",
        "x-delivery-count",
        "x-first-death-queue",
        "x-attempts",
        "x-original-routing-key",
        "x-custom",
    ),
    *("x-original-exchange", "x-dead-reason", "x-event-id", "x-replay-id", "compression", "traceparent", ""),
]
_HEADER_VALUES: list[Any] = [
    *(
        True,
        False,
        None,
        0,
        -1,
        7,
        2**62,
        1.5,
        7.0,
        "text",
        "\u00e9",
        "",
        b"\xff\xfe",
        bytearray(b"\x00\xff"),
    ),
    *(
        Decimal("1.5"),
        Decimal(7),
        NOON := datetime(2026, 11, 21, 8, 30, tzinfo=UTC),
        [1, "a", None],
        {"a": {"b": 1}},
    ),
    *([], {}, 1_795_262_400_000, [NOON, b"\xff"]),
]
_RAW_ENTRIES = [
    *(
        b"\x01aT" + struct.pack(">Q", 2**63),
        b"\x01af" + struct.pack(">f", 1.1),
        b"\x02\xff\xfeV",
        b"\x01as\x00\x01",
    ),
    *(b"\x01ad" + struct.pack(">d", float("nan")), b"\x01ad" + struct.pack(">d", float("inf"))),
    b"\x10cloudEvents_timeT" + struct.pack(">Q", 1_795_262_400),
    b"\x05ce-idD\x02" + struct.pack(">i", 4711),
    b"\x05ce-idS" + struct.pack(">I", 2) + b"\xff\xfe",
    b"\x05ce-id?",
]
_SNIPPETS = [
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\x00Sw\xa1\x02{}",
        b"\xb0\x00\x00\x00\x02{}",
        b"\x1f\x8b",
        b"\xef\xbb\xbf",
    ),
    *(b"[" * 300, b'{"a":' * 201 + b"1" + b"}" * 201, b"9" * 5000, b'{"specversion":"1.0"}', b"\x00", b"NaN"),
]
_RAW_JSON = [
    "1e999",
    "NaN",
    '"\\ud800"',
    "9" * 4301,
    "7.0",
    "1E2",
    "-0",
    "[" * 150 + "]" * 150,
    '{"a":1,"a":2}',
    "01",
]


class Arrival(NamedTuple):
    """A message as its bytes arrive, and what it was made as."""

    made_as: str
    exchange: str
    routing_key: bytes
    properties: bytes
    body: bytes


class Arrivals:
    """A stream of messages; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.variants = Variants(seed + 1)

    def next(self) -> Arrival:
        """The next message."""
        make = self._one([self._structured, self._structured, self._binary, self._binary, self._garbage])
        headers, body = make()
        encoding = None
        if self._sometimes(0.3):
            body, encoding = self._encoded(body)
        if self._sometimes(0.05):
            headers["compression"] = self._one(_COMPRESSIONS)
        for _ in range(self._one([0, 0, 0, 1, 3])):
            headers[self._one(_HEADER_NAMES)] = self._one(_HEADER_VALUES)
        made_as = make.__name__.strip("_") + (" encoded" if encoding else "")
        parts = self._properties(headers, encoding)
        if self._sometimes(0.01):
            made_as, parts = UNPARSED, self.random.randbytes(self.random.randrange(30))
        return Arrival(made_as, self._one(_EXCHANGES), self._one(_KEYS), parts, body)

    def _structured(self) -> tuple[dict[str, Any], bytes]:
        body = json.dumps(self._event()).encode()
        if self._sometimes(0.1):
            quoted = self._one(['"1"', '"sales"', '"/hr"', '"Sales"', '"1.0"'])
            body = body.replace(quoted.encode(), self._one(_RAW_JSON).encode(), 1)
        if self._sometimes(0.05):
            body = b"[" + body + b"]"
        return {}, self._damaged(body)

    def _binary(self) -> tuple[dict[str, Any], bytes]:
        event = self._event()
        data = event.pop("data", None)
        prefix = self._one(_PREFIXES)
        headers = {self._name(prefix) + name: value for name, value in event.items()}
        if self._sometimes(0.2):
            headers[prefix + self._one(["id", "time", "type", "sequence", "tenant"])] = self._one(
                _HEADER_VALUES
            )
        return headers, self._damaged(json.dumps(data).encode())

    def _garbage(self) -> tuple[dict[str, Any], bytes]:
        body = self._one([*_SNIPPETS, self.random.randbytes(self.random.randrange(40))])
        return self._one([{}, {}, self._binary()[0]]), body + self._one([b"", b"", self._one(_SNIPPETS)])

    def _name(self, prefix: str) -> str:
        return prefix if self._sometimes(0.95) else self._one(_PREFIXES)

    def _event(self) -> dict[str, Any]:
        event = self.variants.event()
        if self._sometimes(0.05):
            event["type"] = REISSUE
        return event

    def _damaged(self, body: bytes) -> bytes:
        if self._sometimes(0.9):
            return body
        start = self.random.randrange(len(body) + 1)
        end = self.random.randrange(start, len(body) + 1)
        return body[:start] + self.random.randbytes(self.random.randrange(4)) + body[end:]

    def _encoded(self, body: bytes) -> tuple[bytes, str]:
        text = body.decode("utf-8", "replace")
        pack: Callable[[], bytes] = self._one(
            [
                lambda: body,
                lambda: gzip.compress(body, 1),
                lambda: zlib.compress(body, 1),
                lambda: zlib.compress(body, 1)[2:-4],
                lambda: gzip.compress(body, 1)[: self.random.randrange(30)],
                lambda: text.encode(self._one(_CODECS), "replace"),
                lambda: _BOMB if self._sometimes(0.01) else body,
            ]
        )
        return pack(), self._one(_ENCODINGS)

    def _properties(self, headers: dict[str, Any], encoding: str | None) -> bytes:
        table = b"".join(_entry(name, value) for name, value in headers.items())
        if self._sometimes(0.1):
            table += self._one(_RAW_ENTRIES)
        parts = {"headers": fields.long(table)} if table or self._sometimes(0.5) else {}
        content_type = self._one(_CONTENT_TYPES)
        if content_type is not None:
            parts["content_type"] = fields.short(content_type.encode("latin-1"))
        if encoding is not None:
            parts["content_encoding"] = fields.short(encoding.encode("latin-1"))
        for name in self.random.sample(sorted(_OTHER_PROPERTIES), self._one([0, 0, 1, 3])):
            parts[name] = self._one(_OTHER_PROPERTIES[name])
        flags = sum(properties._BITS[name] for name in parts)
        return flags.to_bytes(2) + b"".join(parts[name] for name in properties._NAMES if name in parts)

    def _sometimes(self, probability: float) -> bool:
        return self.random.random() < probability

    def _one(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)


def _entry(name: str, value: Any) -> bytes:
    """A header; empty where AMQP has no such value."""
    with suppress(fields.EncodeError, UnicodeEncodeError):
        return fields.field(name, value)
    return b""


_BOMB = gzip.compress(b" " * (MAX_DECODED_BYTES + 1), 1)
_OTHER_PROPERTIES = {
    "delivery_mode": [b"\1", b"\2"],
    "priority": [b"\0", b"\xff"],
    "correlation_id": [fields.short(b"c-1"), fields.short(b"\xff\xfe")],
    "reply_to": [fields.short("answers")],
    "expiration": [fields.short("1000")],
    "message_id": [fields.short("m-1"), fields.short(b"\xff")],
    "timestamp": [struct.pack(">Q", 1_795_262_400), struct.pack(">Q", 2**64 - 1)],
    "type": [fields.short("amqp-1.0")],
    "user_id": [fields.short("guest")],
    "app_id": [fields.short("hr"), fields.short(b"b\xfcro")],
}


def judge(arrival: Arrival) -> str:
    """Reads a message, checks what becomes of it, and returns the verdict; raises `AssertionError`."""
    original = properties.read(arrival.exchange, arrival.routing_key, arrival.properties, arrival.body)
    reading = reading_of(original)
    match reading:
        case Event():
            outcome, verdict = "event", EXHAUSTED
        case Reissue():
            outcome, verdict = "request", EXHAUSTED
        case Unreadable(verdict):
            outcome = str(verdict.reason)
            assert verdict.reason in VERDICTS, verdict
            assert verdict.detail, verdict
            assert verdict.detail.isprintable(), verdict
    subject = subject_of(reading)
    attempts_of(original)
    assert len(message_digest(original)) == 64
    buried = dead_letter(unparked(original), verdict, subject, 1, NOW)
    sent = properties.encode(buried, "m-2", LONGEST)
    arrived = properties.read(buried.exchange, properties.routing_key(buried), sent, buried.message.body)
    assert arrived.message.body == arrival.body
    if arrival.made_as != UNPARSED:
        assert_kept(unparked(original), arrived, set(buried.message.headers))
    if subject is None:
        result = failed_unattributed(buried, original, verdict, "default", NOW)
    else:
        result = failed(subject, verdict, "default", NOW)
    assert json.loads(result.message.body)["specversion"] == "1.0"
    letter = letter_of(arrived, subject)
    assert to_json(exported(letter, arrived))
    return outcome


def assert_kept(original: Outgoing, arrived: Outgoing, headers: set[str]) -> None:
    """Every header and property that a dead letter keeps has the bytes it came with."""
    assert LEFT_OUT not in headers
    before, after = original.sent_as, arrived.sent_as
    fields_kept = before.fields.keys() - {"routing_key"}
    assert {name: after.fields[name] for name in fields_kept} == {
        name: before.fields[name] for name in fields_kept
    }
    assert arrived.routing_key == original.routing_key
    kept = {name for name in without_broker_headers(original.message.headers) if not name.startswith("x-")}
    assert kept <= headers
    for name in kept | {name for name in headers if name == "x-custom"}:
        assert after.headers[name][1] == before.headers[name][1], name


def run(messages: int, seed: int, stop_at: int = 5) -> tuple[Counter[str], list[str]]:
    """Judges so many messages; returns the verdicts by what they were made as, and what went wrong."""
    arrivals, counts, wrong = Arrivals(seed), Counter[str](), []
    for number in range(messages):
        arrival = arrivals.next()
        try:
            counts[f"{arrival.made_as}: {judge(arrival)}"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
            wrong.append(f"message {number}: {type(error).__name__}: {error}; {arrival}"[:2000])
            if len(wrong) == stop_at:
                break
    return counts, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    counts, wrong = run(options.messages, options.seed)
    for outcome, number in sorted(counts.items()):
        print(f"{number:>9,}  {outcome}")
    for line in wrong:
        print(line)
    seconds = time.monotonic() - began
    print(f"seed {options.seed}: {counts.total():,} messages, {len(wrong)} faults, {seconds:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
