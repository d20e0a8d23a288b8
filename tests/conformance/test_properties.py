"""A message's properties: read as they came, sent on in the same bytes, and never too long."""

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.header import ContentHeader

from contracts.envelope import Message
from contracts.subaccounts import DeadReason
from tests.support.raw_amqp import ODD_HEADERS, STRUCTURED, entry, long, properties, short, timestamp
from worker.adapters.amqp.codec.properties import encode, parts_of, read, routing_key
from worker.core.dead_letters import letter_of, replayed
from worker.core.judge import DeadLetter, Park
from worker.core.messages import Outgoing, SentAs, dead_letter, parked, unparked
from worker.pipeline.reading import reading_of

ID = "m-1"
LONGEST = 131_052
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MALFORMED = DeadLetter(DeadReason.MALFORMED, "body: not JSON")

ODD = ODD_HEADERS | {
    "byte": entry("a", "B", b"\xff"),
    "short": entry("a", "s", b"\0\1"),
    "unsigned": entry("a", "L", b"\xff" * 8),
    "decimal": entry("a", "D", b"\2\xff\xff\xff\xff"),
    "names-alike": entry(b"\xff", "b", b"\1") + entry(b"\xfe", "b", b"\2"),
    "twice": entry("a", "b", b"\1") + entry("a", "s", b"\0\2"),
}


def part(encoded: bytes, wanted: str) -> bytes:
    """A property's bytes; of the headers those of the members."""
    (found,) = [encoded[start:end] for name, start, end in parts_of(encoded) if name == wanted]
    return found[4:] if wanted == "headers" else found


def came(encoded: bytes, key: bytes = b"department.created", body: bytes = b"not json") -> Outgoing:
    return read("departments", key, encoded, body)


def buried(original: Outgoing) -> Outgoing:
    return dead_letter(original, MALFORMED, None, 1, NOW)


@pytest.mark.parametrize("kind", ODD)
def test_headers_go_on_in_the_bytes_they_came_in(kind):
    original = came(properties(ODD[kind]))
    assert part(encode(original, ID, LONGEST), "headers") == ODD[kind]
    assert part(encode(buried(original), ID, LONGEST), "headers").startswith(ODD[kind])


@pytest.mark.parametrize("kind", ODD)
def test_so_they_do_after_being_parked_dead_lettered_and_replayed(kind):
    original = came(properties(ODD[kind]))
    waits = read(
        "provisioner.replay",
        b"30s",
        encode(parked(original, Park(timedelta(seconds=30), 1)), ID, LONGEST),
        b"not json",
    )
    dead = came(encode(buried(unparked(waits)), ID, LONGEST))
    assert part(encode(replayed(dead, "r-1", "ada"), ID, LONGEST), "headers").startswith(ODD[kind])


def test_properties_that_are_not_text_or_no_time_go_on_too():
    odd = {
        "content_type": short(b"application/\xff"),
        "correlation_id": short(b"\xff\xfe"),
        "timestamp": timestamp(1700000000000000),
        "app_id": short(b"b\xfcro"),
    }
    original = came(
        properties(content_type=b"application/\xff", **{n: v for n, v in odd.items() if n != "content_type"})
    )
    assert original.message.content_type == "application/?"
    assert original.properties == {"correlation_id": "??", "timestamp": 1700000000000000, "app_id": "b?ro"}
    sent = encode(buried(original), ID, LONGEST)
    assert {name: part(sent, name) for name in odd} == odd


def test_a_routing_key_that_is_not_text_goes_on():
    original = came(properties(), key=b"department.created.\xff")
    assert original.routing_key == "department.created.?"
    assert routing_key(buried(original)) == b"department.created.\xff"


def test_what_was_changed_on_the_way_is_written_anew():
    original = came(properties(entry("a", "b", b"\1") + entry("b", "b", b"\1"), app_id=short("hr")))
    message = Message(b"{}", "text/plain", {"a": 2, "b": original.message.headers["b"]})
    changed = read("", b"", encode(replace(original, message=message, properties={}), ID, LONGEST), b"{}")
    assert (changed.message.content_type, changed.message.headers) == ("text/plain", {"a": 2, "b": 1})
    assert changed.properties == {}


@pytest.mark.parametrize("content_type", [STRUCTURED, "", None, "a" * 300, "\ud800"])
def test_a_message_of_ours_is_written_like_any_other(content_type):
    ours = Outgoing("x", "k", Message(b"", content_type))
    assert encode(ours, ID, LONGEST) == encode(replace(ours, sent_as=SentAs()), ID, LONGEST)


def test_the_library_reads_what_is_written():
    header = ContentHeader()
    sent = Outgoing("x", "y", Message(b"{}", STRUCTURED, {"a": 1, "b": "c"}), {"priority": 3, "type": "t"})
    header.unmarshal(struct.pack(">HHQ", 60, 0, 2) + encode(sent, ID, LONGEST))
    told = header.properties
    assert (told.content_type, told.headers, told.message_id) == (STRUCTURED, {"a": 1, "b": "c"}, ID)
    assert (told.priority, told.message_type, told.delivery_mode) == (3, "t", 2)


def tables():
    kinds = st.sampled_from("tbBsuIilLfdDSxVTAF\0?").map(str.encode)
    names = st.binary(max_size=20) | st.sampled_from(
        [b"cloudEvents_" + name for name in (b"time", b"id", b"data")]
    )
    return st.lists(st.tuples(names, kinds, st.binary(max_size=12))).map(
        lambda entries: b"".join(short(name) + kind + value for name, kind, value in entries)
    )


@given(tables(), st.binary(max_size=30), st.sampled_from([STRUCTURED, "application/json", ""]))
def test_whatever_comes_is_read(headers, body, content_type):
    original = came(properties(headers, content_type=content_type), body=body)
    assert original.message.body == body
    assert reading_of(original)
    assert encode(buried(original), ID, LONGEST)


@given(st.binary(max_size=60), st.binary(max_size=30))
def test_even_what_is_no_properties_at_all(encoded, key):
    assert encode(buried(came(encoded, key)), ID, LONGEST)


def text(name: str, size: int) -> bytes:
    return entry(name, "S", long(b"z" * size))


def test_headers_that_have_no_room_are_left_out_the_longest_first_and_named():
    headers = (
        text("small", 100) + text("big", 70_000) + text("bigger", 60_000) + text("cloudEvents_id", 1_024)
    )
    original = came(properties(headers))
    for longest, left_out in ((131_120, "big"), (61_000, "big, bigger"), (4_096, "big, bigger")):
        sent = encode(buried(original), ID, longest)
        told = came(sent).message.headers
        assert len(sent) <= longest
        assert told["x-left-out"] == left_out
        assert told["x-dead-reason"] == "malformed"
        assert told["cloudEvents_id"] == "z" * 1_024
        assert ("bigger" in told) == ("bigger" not in left_out)
        assert told["small"] == "z" * 100


def test_that_it_happens_is_told_to_operators():
    letter = came(encode(buried(came(properties(text("big", LONGEST)))), ID, LONGEST))
    assert letter_of(letter, None).detail == "body: not JSON; left out of its properties: big"


def test_what_was_left_out_before_stays_told():
    waits = came(encode(came(properties(text("big", LONGEST) + text("other", 4_000))), ID, LONGEST))
    again = came(encode(buried(waits), ID, LONGEST))
    assert again.message.headers["x-left-out"] == "big"
    assert came(encode(again, ID, 4_096)).message.headers["x-left-out"] == "big, other"


@pytest.mark.parametrize("size", range(LONGEST - 400, LONGEST + 1, 50))
def test_nothing_is_left_out_that_has_room(size):
    original = came(properties(text("a", size)))
    sent = encode(original, ID, LONGEST)
    assert len(sent) <= LONGEST
    fits = 2 + len(short(STRUCTURED)) + 4 + len(text("a", size)) + 1 + len(short(ID)) <= LONGEST
    assert ("a" in came(sent).message.headers) == fits


@pytest.mark.parametrize("name", ["x-dead-big", "cloudEvents_big"])
def test_a_long_one_gets_no_room_by_its_name(name):
    sent = encode(buried(came(properties(text(name, LONGEST) + text("own", 50)))), ID, LONGEST)
    assert came(sent).message.headers["own"] == "z" * 50
    assert came(sent).message.headers["x-left-out"] == name


def test_thousands_of_names_are_told_as_far_as_there_is_room():
    original = came(properties(b"".join(text(f"header-{number}", 500) for number in range(1_000))))
    for longest in (LONGEST, 4_096):
        sent = encode(buried(original), ID, longest)
        assert len(sent) <= longest
        assert came(sent).message.headers["x-dead-reason"] == "malformed"


def test_what_cannot_be_sent_is_left_out_and_named():
    """As an import may hold it: JSON has numbers that AMQP has not."""
    headers = {"good": 1, "bad": 2**70, "\ud800": 1}
    given = {"app_id": "a" * 300, "priority": "high", "expiration": "1", "timestamp": 17, "type": "t"}
    sent = came(encode(Outgoing("x", "y", Message(b"", "c" * 256, headers), given), ID, LONGEST))
    assert sent.message.headers == {
        "good": 1,
        "x-left-out": "content_type, app_id, priority, expiration, bad, ?",
    }
    assert sent.properties == {"timestamp": datetime(1970, 1, 1, 0, 0, 17, tzinfo=UTC), "type": "t"}
