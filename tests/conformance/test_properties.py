"""The properties of a message: decoded, passed on in the same bytes, and never too long."""

import json
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
from worker.core.messages import Outgoing, SentAs, dead_letter, failed_unattributed, parked, unparked
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
    """The bytes of a property; for the headers, the bytes of the table without its length."""
    (found,) = [encoded[start:end] for name, start, end in parts_of(encoded) if name == wanted]
    return found[4:] if wanted == "headers" else found


def decoded(encoded: bytes, key: bytes = b"department.created", body: bytes = b"not json") -> Outgoing:
    return read("departments", key, encoded, body)


def buried(original: Outgoing) -> Outgoing:
    return dead_letter(original, MALFORMED, None, 1, NOW)


@pytest.mark.parametrize("kind", ODD)
def test_headers_are_passed_on_byte_for_byte(kind):
    original = decoded(properties(ODD[kind]))
    assert part(encode(original, ID, LONGEST), "headers") == ODD[kind]
    assert part(encode(buried(original), ID, LONGEST), "headers").startswith(ODD[kind])


def test_a_message_without_an_event_is_named_by_the_id_it_came_with():
    flags = (1 << 7 | 1 << 3).to_bytes(2)
    original = decoded(flags + short("m-7") + short("hr"))
    result = failed_unattributed(buried(original), original, MALFORMED, "default", NOW)
    named = json.loads(result.message.body)["data"]["message"]
    assert (named["message_id"], named["app_id"]) == ("m-7", "hr")


@pytest.mark.parametrize("kind", ODD)
def test_headers_survive_parking_dead_letter_and_replay(kind):
    original = decoded(properties(ODD[kind]))
    waiting = read(
        "provisioner.replay",
        b"30s",
        encode(parked(original, Park(timedelta(seconds=30), 1)), ID, LONGEST),
        b"not json",
    )
    dead = decoded(encode(buried(unparked(waiting)), ID, LONGEST))
    assert part(encode(replayed(dead, "r-1", "ada"), ID, LONGEST), "headers").startswith(ODD[kind])


def test_properties_that_are_no_text_or_time_are_passed_on():
    odd = {
        "content_type": short(b"application/\xff"),
        "correlation_id": short(b"\xff\xfe"),
        "timestamp": timestamp(1700000000000000),
        "app_id": short(b"b\xfcro"),
    }
    original = decoded(
        properties(content_type=b"application/\xff", **{n: v for n, v in odd.items() if n != "content_type"})
    )
    assert original.message.content_type == "application/?"
    assert original.properties == {"correlation_id": "??", "timestamp": 1700000000000000, "app_id": "b?ro"}
    sent = encode(buried(original), ID, LONGEST)
    assert {name: part(sent, name) for name in odd} == odd


def test_a_routing_key_that_is_not_text_is_passed_on():
    original = decoded(properties(), key=b"department.created.\xff")
    assert original.routing_key == "department.created.?"
    assert routing_key(buried(original)) == b"department.created.\xff"


def test_changed_headers_and_properties_are_encoded_anew():
    original = decoded(properties(entry("a", "b", b"\1") + entry("b", "b", b"\1"), app_id=short("hr")))
    message = Message(b"{}", "text/plain", {"a": 2, "b": original.message.headers["b"]})
    changed = read("", b"", encode(replace(original, message=message, properties={}), ID, LONGEST), b"{}")
    assert (changed.message.content_type, changed.message.headers) == ("text/plain", {"a": 2, "b": 1})
    assert changed.properties == {}


@pytest.mark.parametrize("content_type", [STRUCTURED, "", None, "a" * 300, "\ud800"])
def test_our_own_messages_are_encoded_like_any_other(content_type):
    ours = Outgoing("x", "k", Message(b"", content_type))
    assert encode(ours, ID, LONGEST) == encode(replace(ours, sent_as=SentAs()), ID, LONGEST)


def test_the_library_decodes_our_properties():
    header = ContentHeader()
    sent = Outgoing("x", "y", Message(b"{}", STRUCTURED, {"a": 1, "b": "c"}), {"priority": 3, "type": "t"})
    header.unmarshal(struct.pack(">HHQ", 60, 0, 2) + encode(sent, ID, LONGEST))
    read_back = header.properties
    assert (read_back.content_type, read_back.headers, read_back.message_id) == (
        STRUCTURED,
        {"a": 1, "b": "c"},
        ID,
    )
    assert (read_back.priority, read_back.message_type, read_back.delivery_mode) == (3, "t", 2)


def tables():
    kinds = st.sampled_from("tbBsuIilLfdDSxVTAF\0?").map(str.encode)
    names = st.binary(max_size=20) | st.sampled_from(
        [b"cloudEvents_" + name for name in (b"time", b"id", b"data")]
    )
    return st.lists(st.tuples(names, kinds, st.binary(max_size=12))).map(
        lambda entries: b"".join(short(name) + kind + value for name, kind, value in entries)
    )


@given(tables(), st.binary(max_size=30), st.sampled_from([STRUCTURED, "application/json", ""]))
def test_arbitrary_headers_are_read_and_passed_on(headers, body, content_type):
    original = decoded(properties(headers, content_type=content_type), body=body)
    assert original.message.body == body
    reading_of(original)
    assert encode(buried(original), ID, LONGEST)


@given(st.binary(max_size=60), st.binary(max_size=30))
def test_arbitrary_bytes_as_properties_are_passed_on(encoded, key):
    assert encode(buried(decoded(encoded, key)), ID, LONGEST)


def text(name: str, size: int) -> bytes:
    return entry(name, "S", long(b"z" * size))


def test_headers_that_do_not_fit_are_left_out_longest_first():
    headers = (
        text("small", 100) + text("big", 70_000) + text("bigger", 60_000) + text("cloudEvents_id", 1_024)
    )
    original = decoded(properties(headers))
    for longest, left_out in ((131_120, "big"), (61_000, "big, bigger"), (4_096, "big, bigger")):
        sent = encode(buried(original), ID, longest)
        left = decoded(sent).message.headers
        assert len(sent) <= longest
        assert left["x-left-out"] == left_out
        assert left["x-dead-reason"] == "malformed"
        assert left["cloudEvents_id"] == "z" * 1_024
        assert ("bigger" in left) == ("bigger" not in left_out)
        assert left["small"] == "z" * 100


def test_the_detail_of_a_letter_names_left_out_headers():
    letter = decoded(encode(buried(decoded(properties(text("big", LONGEST)))), ID, LONGEST))
    assert letter_of(letter, None).detail == "body: not JSON; left out of its properties: big"


def test_headers_left_out_earlier_stay_named():
    waiting = decoded(encode(decoded(properties(text("big", LONGEST) + text("other", 4_000))), ID, LONGEST))
    again = decoded(encode(buried(waiting), ID, LONGEST))
    assert again.message.headers["x-left-out"] == "big"
    assert decoded(encode(again, ID, 4_096)).message.headers["x-left-out"] == "big, other"


@pytest.mark.parametrize("size", range(LONGEST - 400, LONGEST + 1, 50))
def test_headers_that_fit_are_never_left_out(size):
    original = decoded(properties(text("a", size)))
    sent = encode(original, ID, LONGEST)
    assert len(sent) <= LONGEST
    fits = 2 + len(short(STRUCTURED)) + 4 + len(text("a", size)) + 1 + len(short(ID)) <= LONGEST
    assert ("a" in decoded(sent).message.headers) == fits


@pytest.mark.parametrize("name", ["x-dead-big", "cloudEvents_big"])
def test_a_long_header_is_left_out_despite_a_reserved_name(name):
    sent = encode(buried(decoded(properties(text(name, LONGEST) + text("own", 50)))), ID, LONGEST)
    assert decoded(sent).message.headers["own"] == "z" * 50
    assert decoded(sent).message.headers["x-left-out"] == name


def test_names_of_left_out_headers_are_cut_to_fit():
    original = decoded(properties(b"".join(text(f"header-{number}", 500) for number in range(1_000))))
    for longest in (LONGEST, 4_096):
        sent = encode(buried(original), ID, longest)
        assert len(sent) <= longest
        assert decoded(sent).message.headers["x-dead-reason"] == "malformed"


def test_values_that_amqp_cannot_hold_are_left_out_and_named():
    """An import may hold them: JSON has numbers that AMQP lacks."""
    headers = {"good": 1, "bad": 2**70, "\ud800": 1}
    given = {"app_id": "a" * 300, "priority": "high", "expiration": "1", "timestamp": 17, "type": "t"}
    sent = decoded(encode(Outgoing("x", "y", Message(b"", "c" * 256, headers), given), ID, LONGEST))
    assert sent.message.headers == {
        "good": 1,
        "x-left-out": "content_type, app_id, priority, expiration, bad, ?",
    }
    assert sent.properties == {"timestamp": datetime(1970, 1, 1, 0, 0, 17, tzinfo=UTC), "type": "t"}
