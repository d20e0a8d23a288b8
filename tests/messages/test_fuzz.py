"""Reading any message returns an event or raises one of three refusals."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from contracts.departments import DepartmentEvent, Invalid, UnsupportedType, department_event, payload_digest
from contracts.envelope import HEADER_PREFIX, STRUCTURED, CloudEvent, Malformed, Message, document, read
from tests.messages import fuzz
from tests.messages.strategies import (
    CONTENT_TYPES,
    EVENTS,
    HEADER_VALUES,
    JSON_VALUES,
    RAW_JSON,
    binary,
    replayable,
    structured,
)
from worker.core.messages import Outgoing, dead_letter

ATTRIBUTES = st.sampled_from([*CloudEvent.model_fields, "data_base64", "other"])
MEMBERS = st.sampled_from(
    ["department_id", "name", "parent_id", "attributes", "previous_name", "cause", "merged_into", "other"]
)


def taken_in(message: Message) -> DepartmentEvent | None:
    """Reads a message as the worker does; None is a refusal."""
    try:
        event = read(message)
        department = department_event(event)
    except (Malformed, UnsupportedType, Invalid) as refusal:
        note(type(refusal).__name__)
        return None
    assert len(payload_digest(event)) == 64
    assert department.version.newer_than(None)
    note("accepted")
    return department


@replayable
@given(st.binary(), CONTENT_TYPES, st.dictionaries(st.text(), HEADER_VALUES, max_size=3))
def test_arbitrary_bytes(body: bytes, content_type: str | None, headers: dict[str, Any]) -> None:
    taken_in(Message(body, content_type, headers))


@replayable
@given(JSON_VALUES)
def test_arbitrary_json(value: Any) -> None:
    taken_in(structured(value))


@replayable
@given(st.dictionaries(ATTRIBUTES, JSON_VALUES))
def test_attributes_of_any_kind(attributes: dict[str, Any]) -> None:
    taken_in(structured(attributes))


@replayable
@given(EVENTS)
def test_an_accepted_event_is_accepted_again_after_encoding(event: dict[str, Any]) -> None:
    accepted = taken_in(structured(event))
    if accepted is not None:
        assert taken_in(Message.structured(accepted)) == accepted
        assert taken_in(Message.binary(accepted)) == accepted.model_copy(
            update={"datacontenttype": accepted.datacontenttype or "application/json"}
        )


@replayable
@given(EVENTS, ATTRIBUTES, JSON_VALUES)
def test_one_attribute_wrong(event: dict[str, Any], name: str, value: Any) -> None:
    taken_in(structured(event | {name: value}))


@replayable
@given(EVENTS, MEMBERS, JSON_VALUES)
def test_one_member_of_the_data_wrong(event: dict[str, Any], name: str, value: Any) -> None:
    taken_in(structured(event | {"data": event["data"] | {name: value}}))


@replayable
@given(EVENTS, ATTRIBUTES, HEADER_VALUES, CONTENT_TYPES)
def test_one_header_wrong(event: dict[str, Any], name: str, value: Any, content_type: str | None) -> None:
    sent = binary(event)
    taken_in(Message(sent.body, content_type, {**sent.headers, HEADER_PREFIX + name: value}))
    taken_in(Message(sent.body, content_type, {**sent.headers, f"cloudEvents:{name}": value}))


@replayable
@given(EVENTS, st.data())
def test_damaged_bytes(event: dict[str, Any], data: st.DataObject) -> None:
    body = structured(event).body
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    taken_in(Message(body[:start] + data.draw(st.binary(max_size=8)) + body[end:], STRUCTURED))


@replayable
@given(EVENTS, st.sampled_from(["id", "time", "sequence", "tenant", "data", "unknown"]), RAW_JSON)
def test_raw_json_in_an_attribute(event: dict[str, Any], name: str, raw: str) -> None:
    taken_in(Message(json.dumps(event | {name: "HERE"}).replace('"HERE"', raw).encode(), STRUCTURED))


@replayable
@given(EVENTS, st.sampled_from(["department_id", "name", "attributes", "unknown"]), RAW_JSON)
def test_raw_json_in_the_data(event: dict[str, Any], name: str, raw: str) -> None:
    body = json.dumps(event | {"data": event["data"] | {name: "HERE"}})
    taken_in(Message(body.replace('"HERE"', raw).encode(), STRUCTURED))


@replayable
@given(EVENTS, st.data())
def test_a_duplicate_attribute(event: dict[str, Any], data: st.DataObject) -> None:
    again = json.dumps({data.draw(ATTRIBUTES): data.draw(JSON_VALUES)})
    taken_in(Message((json.dumps(event)[:-1] + "," + again[1:]).encode(), STRUCTURED))


@replayable
@given(EVENTS)
def test_an_accepted_event_has_a_repr(event: dict[str, Any]) -> None:
    accepted = taken_in(structured(event))
    if accepted is not None:
        json.dumps(document(accepted))


def test_a_sample_of_messages_in_every_mode_and_encoding() -> None:
    seed = random.randrange(2**32)
    counts, wrong = fuzz.run(2_000, seed)
    assert wrong == [], f"python -m tests.messages.fuzz --messages 2000 --seed {seed}"
    assert counts.total() == 2_000
    outcomes = {
        outcome for made_as in ("structured", "binary") for outcome in (made_as, f"{made_as} encoded")
    }
    for verdict in ("event", "invalid", "malformed"):
        assert counts.keys() >= {f"{made_as}: {verdict}" for made_as in outcomes}


def test_a_body_that_is_not_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def trimmed(*arguments: Any) -> Outgoing:
        buried = dead_letter(*arguments)
        return replace(buried, message=replace(buried.message, body=buried.message.body.strip()))

    monkeypatch.setattr(fuzz, "dead_letter", trimmed)
    _, wrong = fuzz.run(2_000, 1)
    assert wrong
