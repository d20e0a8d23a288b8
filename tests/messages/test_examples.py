"""The code reads and writes every example; schemas and the CloudEvents package accept it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as OtherEvent
from hypothesis import given

import contracts
from contracts.departments import DepartmentEvent, Invalid, Kind, department_event, payload_digest
from contracts.envelope import HEADER_PREFIX, JSON, STRUCTURED, CloudEvent, Malformed, Message, document, read
from contracts.reissues import REISSUE, reissue_request, request_digest
from contracts.subaccounts import (
    CredentialsMessage,
    ResultKind,
    SealedCredentialsMessage,
    SubaccountResult,
    outbound_id,
    plain_message,
)
from tests.messages.strategies import EVENTS, replayable, structured
from worker.core.messages import Outgoing, fingerprint

FOLDER = Path(contracts.__file__).parent
EXAMPLES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "examples").glob("*.json"))
}
IN_BINARY_MODE = {name: example for name, example in EXAMPLES.items() if "body" in example}
IN_STRUCTURED_MODE = {name: example for name, example in EXAMPLES.items() if "body" not in example}
INBOUND = {name: example for name, example in IN_STRUCTURED_MODE.items() if "department." in example["type"]}
REQUESTS = {name: example for name, example in IN_STRUCTURED_MODE.items() if example["type"] == REISSUE}
OUTBOUND = {
    name: example for name, example in IN_STRUCTURED_MODE.items() if name not in {*INBOUND, *REQUESTS}
}
HOLD_ID = "7d1f3c52a9e04b68"
"""The hold of the example of a `held` result, whose id is derived from it."""
RESULTS = {name: example for name, example in OUTBOUND.items() if name.startswith("result-")}


def each(examples: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", examples.values(), ids=examples)


def in_binary_mode(example: dict[str, Any]) -> Message:
    content_type = example["properties"]["content_type"]
    return Message(json.dumps(example["body"]).encode(), content_type, example["headers"])


@cache
def schema_of(type_: str) -> jsonschema_rs.Validator:
    name = type_ if type_.startswith(("department.", "subaccount.credentials.")) else "subaccount.result.v1"
    schema = json.loads((FOLDER / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def outbound(example: dict[str, Any]) -> SubaccountResult | CredentialsMessage | SealedCredentialsMessage:
    model = SubaccountResult if "outcome" in example["data"] else CredentialsMessage
    if example["datacontenttype"] == "application/jose":
        return SealedCredentialsMessage.model_validate(example)
    return model.model_validate_json(json.dumps(example))


def test_every_kind_of_message_has_an_example() -> None:
    departments = [department_event(read(structured(example))) for example in INBOUND.values()]
    assert {event.kind for event in departments} == set(Kind)
    assert {getattr(event.data, "cause", None) for event in departments} == {
        *("deleted", "merged", "deactivated"),
        None,
    }
    assert any(event.tenant != "default" and event.sequence and event.traceparent for event in departments)
    assert {read(in_binary_mode(example)).type.split(".")[1] for example in IN_BINARY_MODE.values()} == set(
        Kind
    )
    assert {example["data"]["outcome"] for example in RESULTS.values()} == set(ResultKind)
    assert {example["type"].split(".")[2] for example in OUTBOUND.values() if "cred" in example["type"]} == {
        "issued",
        "reissued",
    }
    assert {
        "supersedes" in example["data"] for example in OUTBOUND.values() if "cred" in example["type"]
    } == {True, False}
    assert "superseded_by" in EXAMPLES["result-superseded"]["data"]
    assert EXAMPLES["result-failed"]["data"]["reason"]


@each(INBOUND)
def test_an_event_round_trips_in_both_modes(example: dict[str, Any]) -> None:
    sent = read(structured(example))
    event = department_event(sent)
    for message in (Message.structured(event), Message.binary(event)):
        again = department_event(read(message))
        assert again.model_copy(update={"datacontenttype": event.datacontenttype}) == event
    assert payload_digest(read(Message.binary(sent))) == payload_digest(sent)


@each(REQUESTS)
def test_a_request_round_trips_in_both_modes(example: dict[str, Any]) -> None:
    sent = read(structured(example))
    for message in (Message.structured(sent), Message.binary(sent)):
        assert reissue_request(read(message)).data == reissue_request(sent).data
        assert request_digest(read(message)) == request_digest(sent)


@each(REQUESTS)
def test_schema_and_code_refuse_the_same_requests(example: dict[str, Any]) -> None:
    for wrong in ({"department_id": ""}, {"department_id": None}, {"recipient": ""}, {"recipient": 5}):
        sent = example | {"data": example["data"] | wrong}
        assert not schema_of(example["type"]).is_valid(sent)
        with pytest.raises((Malformed, Invalid)):
            reissue_request(read(structured(sent)))


@each(IN_BINARY_MODE)
def test_the_code_writes_the_binary_examples(example: dict[str, Any]) -> None:
    message = in_binary_mode(example)
    event = department_event(read(message))
    written = Message.binary(event)
    assert written.headers == {f"{HEADER_PREFIX}tenant": "default"} | dict(message.headers)
    assert written.content_type == message.content_type
    assert json.loads(written.body) == example["body"]
    assert department_event(read(Message.structured(event))) == event


@each(OUTBOUND)
def test_the_code_writes_the_outbound_examples(example: dict[str, Any]) -> None:
    event = outbound(example)
    written = plain_message(event) if isinstance(event, CredentialsMessage) else Message.structured(event)
    assert written.content_type == STRUCTURED
    assert json.loads(written.body) == example


@each(OUTBOUND)
def test_outbound_examples_have_the_derived_id(example: dict[str, Any]) -> None:
    data = example["data"]
    cause: tuple[str, ...] = (example.get("causationid", ""),)
    if "message" in data:
        headers = {"x-dead-at": example["time"].replace("Z", "+00:00")}
        key = data["message"]["routing_key"]
        cause = (fingerprint(Outgoing("", key, Message(b"{half an event", None, headers))),)
    elif "held" in example["type"]:
        cause = (HOLD_ID,)
    elif "outcome" in data:
        cause = (data["event"]["source"], data["event"]["id"])
    elif "reissued" not in example["type"]:
        cause = (EXAMPLES["created-minimal"]["source"], example["causationid"])
    recipient = "crm" if isinstance(data, str) else None
    assert example["id"] == outbound_id(cause, example["type"], recipient)


@each(IN_STRUCTURED_MODE)
def test_the_schema_allows_the_example(example: dict[str, Any]) -> None:
    schema_of(example["type"]).validate(example)


@each(IN_STRUCTURED_MODE)
def test_the_schema_allows_unknown_members(example: dict[str, Any]) -> None:
    data = example["data"]
    more = {"data": {**data, "unknown": [1]}} if isinstance(data, dict) else {}
    schema_of(example["type"]).validate(example | more | {"unknown": "x", "other": 5})


@each(IN_STRUCTURED_MODE)
@pytest.mark.parametrize("attribute", ["specversion", "id", "source", "type", "time", "data"])
def test_the_schema_requires_the_required_attributes(example: dict[str, Any], attribute: str) -> None:
    schema = schema_of(example["type"])
    assert not schema.is_valid({name: value for name, value in example.items() if name != attribute})
    assert not schema.is_valid(example | {attribute: [5]})


@each(INBOUND)
def test_schema_and_code_refuse_the_same_data(example: dict[str, Any]) -> None:
    schema = schema_of(example["type"])
    for wrong in (
        {"department_id": ""},
        {"department_id": "x" * 129},
        {"department_id": "a\nb"},
        {"department_id": None},
        {"name": ""},
        {"name": "x" * 257},
        {"name": "a\x00b"},
    ):
        sent = example | {"data": example["data"] | wrong}
        assert not schema.is_valid(sent)
        with pytest.raises((Malformed, Invalid)):
            department_event(read(structured(sent)))


@replayable
@given(EVENTS)
def test_the_schema_allows_every_event_that_the_code_accepts(event: dict[str, Any]) -> None:
    try:
        accepted: DepartmentEvent = department_event(read(structured(event)))
        written = Message.structured(accepted)
    except (Malformed, Invalid, UnicodeEncodeError):  # an ignored member may have a lone surrogate
        return
    schema_of(accepted.type).validate(json.loads(written.body))


@pytest.mark.parametrize("sequence", [True, 1.5, "", "1" * 21, "+1", 10**20, -1, [1]])
def test_schema_and_code_refuse_the_same_sequences(sequence: Any) -> None:
    assert not schema_of("department.created.v1").is_valid(EXAMPLES["created-full"] | {"sequence": sequence})


def test_issued_and_reissued_have_different_schemas() -> None:
    assert not schema_of("subaccount.credentials.issued.v1").is_valid(EXAMPLES["credentials-reissued"])
    assert not schema_of("subaccount.credentials.reissued.v1").is_valid(EXAMPLES["credentials-sealed"])


def attributes_of(event: CloudEvent) -> dict[str, Any]:
    return {name: value for name, value in event if name != "data" and value is not None}


@each(IN_STRUCTURED_MODE)
def test_the_cloudevents_package_reads_our_messages(example: dict[str, Any]) -> None:
    ours = read(structured(example))
    message = Message.structured(ours)
    theirs = rabbitmq.from_rabbitmq_event(
        rabbitmq.RabbitMQMessage(headers={}, content_type=message.content_type, body=message.body)
    )
    assert theirs.get_attributes() == attributes_of(ours)
    assert theirs.get_data() == example["data"]


@each(IN_STRUCTURED_MODE)
def test_we_read_the_messages_of_the_cloudevents_package(example: dict[str, Any]) -> None:
    ours = read(structured(example))
    theirs = rabbitmq.to_structured_event(OtherEvent(attributes_of(ours), ours.data))
    assert read(Message(theirs.body, theirs.content_type)) == ours


@each(INBOUND)
def test_the_cloudevents_package_reads_our_binary_mode_as_amqp_1_0_shows_it(example: dict[str, Any]) -> None:
    ours = read(structured(example))
    message = Message.binary(ours)
    theirs = amqp.from_binary_event(
        amqp.AMQPMessage(
            properties={"content-type": message.content_type},
            application_properties=dict(message.headers),
            application_data=message.body,
        )
    )
    assert theirs.get_attributes() == {"datacontenttype": JSON} | attributes_of(ours)
    assert theirs.get_data() == example["data"]


def test_the_content_type_equals_that_of_the_package() -> None:
    assert JSONFormat().get_content_type() == STRUCTURED
    assert document(read(structured(EXAMPLES["renamed"]))) == EXAMPLES["renamed"]
