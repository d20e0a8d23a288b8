"""CloudEvents over HTTP: modes, attributes in headers, and what a broken batch says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.intake import MAX_BATCH, MAX_MISTAKES
from worker.core.intake.cloudevents import (
    Broken,
    Mode,
    NotJson,
    Posted,
    TooMany,
    header_text,
    mode_of,
    read_events,
)

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
DATA = {"department_id": "d-1", "name": "Büro"}
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "event-1",
    "source": "/test/hr",
    "type": "department.created.v1",
    "time": "2026-11-01T08:30:00Z",
}
HEADERS = [(f"ce-{name}", value) for name, value in ATTRIBUTES.items()]


def event(**more: Any) -> dict[str, Any]:
    return ATTRIBUTES | {"data": DATA} | more


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def mistakes(*arguments: Any) -> list[tuple[int, str]]:
    """The index and the field of each mistake."""
    with pytest.raises(Broken) as caught:
        read_events(*arguments)
    return [(index, mistake.field) for index, mistake in caught.value.mistakes]


def binary(headers: list[tuple[str, str]], content_type: str | None = None, data: Any = DATA) -> Posted:
    (posted,) = read_events(Mode.BINARY, content_type, headers, body(data))
    return posted


@pytest.mark.parametrize(
    ("content_type", "headers", "mode"),
    [
        (STRUCTURED, [], Mode.STRUCTURED),
        ("Application/CloudEvents+JSON ; charset=utf-8", [], Mode.STRUCTURED),
        ("application/cloudevents", [], Mode.STRUCTURED),
        ("application/cloudevents+avro", [], None),
        (BATCH, [], Mode.BATCH),
        ("application/cloudevents-batch", [], Mode.BATCH),
        ("application/cloudevents-batch+xml", [], None),
        ("application/json", HEADERS, Mode.BINARY),
        ("application/vnd.acme+json", HEADERS, Mode.BINARY),
        ("text/json", [("CE-Id", "1")], Mode.BINARY),
        (None, HEADERS, Mode.BINARY),
        ("", HEADERS, Mode.BINARY),
        ("application/octet-stream", HEADERS, Mode.BINARY),
        ("application/json", [], Mode.PLAIN),
        (None, [], None),
        ("application/octet-stream", [], None),
        ("text/plain", HEADERS, None),
        ("application/xml", [], None),
    ],
)
def test_the_headers_tell_the_mode(content_type, headers, mode):
    assert mode_of(content_type, headers) is mode


@pytest.mark.parametrize("mode", [Mode.STRUCTURED, Mode.PLAIN])
def test_a_structured_event_is_published_as_it_was_written(mode):
    written = json.dumps(event(), indent=3).encode()
    (posted,) = read_events(mode, STRUCTURED, [], b"\xef\xbb\xbf" + written)
    assert posted.document == written
    assert posted.event.data.name == "Büro"


def test_a_binary_event_is_published_in_structured_mode():
    posted = binary([*HEADERS, ("CE-Traceparent", "00-abc-def-01"), ("X-Other", "1")])
    assert json.loads(posted.document) == event(
        traceparent="00-abc-def-01", datacontenttype="application/json"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "application/json"),
        ("application/octet-stream", "application/json"),
        ("text/json", "text/json"),
    ],
)
def test_binary_data_is_json_unless_the_sender_says_which(given, told):
    assert json.loads(binary(HEADERS, given).document)["datacontenttype"] == told


@pytest.mark.parametrize("name", ["data", "data_base64", "datacontenttype"])
def test_a_header_does_not_replace_the_body(name):
    posted = binary([*HEADERS, (f"ce-{name}", "forged")])
    assert "forged" not in posted.document.decode()


def test_binary_without_a_body_has_no_data():
    assert mistakes(Mode.BINARY, None, HEADERS, b"") == [(0, "data")]


def test_an_attribute_given_twice_must_be_the_same():
    assert binary([*HEADERS, HEADERS[1]]).event.id == "event-1"
    assert mistakes(Mode.BINARY, None, [*HEADERS, ("Ce-Id", "other")], body(DATA)) == [(0, "ce-id")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (" \tplain ", "plain"),
        ("B%C3%BCro%20%F0%9F%8F%A5", "Büro 🏥"),
        ("100%", "100%"),
        ("%2525", "%25"),
        (r'"a \"b\" \\ c"', r'a "b" \ c'),
        ('"', '"'),
        ("%FF", None),
        ("\udcff", None),
    ],
)
def test_the_value_of_a_header(value, text):
    assert header_text(value) == text


@given(st.text(st.characters(codec="utf-8")).filter(lambda text: text == text.strip(" \t")))
def test_a_percent_encoded_text_comes_back(text):
    encoded = "".join(f"%{byte:02X}" for byte in text.encode())
    assert header_text(encoded) == text


def test_a_header_that_is_no_utf8_is_a_mistake():
    assert mistakes(Mode.BINARY, None, [*HEADERS, ("ce-subject", "%FF")], body(DATA)) == [(0, "ce-subject")]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{} {}"])
def test_a_body_must_be_json(content):
    with pytest.raises(NotJson) as caught:
        read_events(Mode.STRUCTURED, STRUCTURED, [], content)
    assert "\\xff" not in str(caught.value)


@pytest.mark.parametrize("value", [1, "text", None, [event()]])
def test_a_structured_body_is_an_object(value):
    assert mistakes(Mode.STRUCTURED, STRUCTURED, [], body(value)) == [(0, "body")]


def test_a_batch_is_an_array():
    assert mistakes(Mode.BATCH, BATCH, [], body(event())) == [(0, "body")]
    assert read_events(Mode.BATCH, BATCH, [], b"[]") == ()


def test_a_batch_has_a_longest():
    events = [event(id=f"e{number}") for number in range(MAX_BATCH)]
    assert len(read_events(Mode.BATCH, BATCH, [], body(events))) == MAX_BATCH
    with pytest.raises(TooMany):
        read_events(Mode.BATCH, BATCH, [], body([*events, event()]))


def test_every_broken_event_of_a_batch_is_named():
    broken = [event(), event(id=""), [], event(data={"department_id": "d"})]
    found = mistakes(Mode.BATCH, BATCH, [], body(broken))
    assert {index for index, _ in found} == {1, 2, 3}
    assert (1, "id") in found


def test_the_mistakes_of_one_request_are_bounded():
    assert len(mistakes(Mode.BATCH, BATCH, [], body([{}] * MAX_BATCH))) == MAX_MISTAKES


@pytest.mark.parametrize(
    ("odd", "told"), [('"\\ud800"', "\ud800"), ("1e999", None), ('[1e999, "\\ud800"]', [None, "\ud800"])]
)
def test_a_member_that_is_not_read_may_hold_odd_json(odd, told):
    text = body([event(data=DATA | {"more": "ODD"})]).decode().replace('"ODD"', odd)
    (posted,) = read_events(Mode.BATCH, BATCH, [], text.encode())
    assert json.loads(posted.document)["data"]["more"] == told


def test_an_event_is_not_shown():
    (posted,) = read_events(Mode.STRUCTURED, STRUCTURED, [], body(event()))
    assert "Büro" not in repr(posted)
