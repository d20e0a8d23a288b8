"""Both content modes, and every class of refusal."""

import base64
import json
import traceback
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from contracts.departments import Invalid, UnsupportedType, department_event
from contracts.envelope import HEADER_PREFIX, JSON, STRUCTURED, CloudEvent, Malformed, Message, document, read
from tests.messages.strategies import binary, structured

DATA = {"department_id": "ENG-042", "name": "Engineering"}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/hr",
    "type": "department.created.v1",
    "time": "2026-11-21T08:30:00Z",
    "data": DATA,
}
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EVENT.items() if key != name}


def with_data(**members: Any) -> dict[str, Any]:
    return EVENT | {"data": DATA | members}


def refusal(message: Message) -> Exception:
    with pytest.raises((Malformed, UnsupportedType, Invalid)) as caught:
        department_event(read(message))
    return caught.value


def test_structured_and_binary_mode_carry_the_same_event() -> None:
    event = EVENT | {"sequence": 7, "tenant": "emea", "traceparent": "00-a-b-01"}
    one = department_event(read(structured(event)))
    assert department_event(read(binary(event))) == one.model_copy(update={"datacontenttype": JSON})
    assert department_event(read(binary(event, "cloudEvents:"))) == department_event(read(binary(event)))


@pytest.mark.parametrize("message_of", [Message.structured, Message.binary])
def test_an_event_of_another_type_round_trips(message_of: Any) -> None:
    event = CloudEvent(
        id="1", source="/s", type="other", time=NOON, datacontenttype=JSON, data={"null": None, "list": [1]}
    )
    assert read(message_of(event)) == event


def test_binary_mode_without_data_has_an_empty_body() -> None:
    message = Message.binary(CloudEvent(id="1", source="/s", type="other"))
    assert message.body == b""
    assert read(message).data is None


@pytest.mark.parametrize("content_type", [STRUCTURED, f"{STRUCTURED}; charset=utf-8", STRUCTURED.upper()])
def test_structured_mode_is_recognised_by_its_media_type(content_type: str) -> None:
    assert read(Message(structured(EVENT).body, content_type)).id == "1"


@pytest.mark.parametrize("content_type", [None, "", JSON, f"{JSON}; charset=utf-8", "application/hr+json"])
def test_binary_mode_accepts_every_json_media_type(content_type: str | None) -> None:
    sent = binary(EVENT)
    assert read(Message(sent.body, content_type, sent.headers)).data == DATA


def test_data_is_not_read_from_a_header() -> None:
    assert read(Message(b"", JSON, {**binary(EVENT).headers, "cloudEvents_data": DATA})).data is None


def test_base64_data_is_decoded_as_json() -> None:
    encoded = base64.b64encode(json.dumps(DATA).encode()).decode()
    assert read(structured(without("data") | {"data_base64": encoded})).data == DATA


@pytest.mark.parametrize("name", ["time", "subject", "tenant", "sequence", "traceparent", "data_base64"])
def test_null_equals_absent(name: str) -> None:
    assert read(structured(EVENT | {name: None})) == read(structured({**without(name)}))


@pytest.mark.parametrize(
    "time", [NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=5)))]
)
def test_an_amqp_timestamp_is_an_instant(time: datetime) -> None:
    sent = binary(EVENT)
    assert read(Message(sent.body, JSON, {**sent.headers, "cloudEvents_time": time})).time == NOON


def test_header_bytes_are_text() -> None:
    sent = binary(EVENT)
    headers = {**sent.headers, "cloudEvents_id": "é".encode(), "cloudEvents_tenant": bytearray(b"emea")}
    event = read(Message(sent.body, JSON, headers))
    assert (event.id, event.tenant) == ("é", "emea")


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        ("2026-11-21T12:00:00Z", NOON),
        ("2026-11-21t12:00:00z", NOON),
        ("2026-11-21T13:30:00+01:30", NOON),
        ("2026-11-21T12:00:00-00:00", NOON),
        ("2026-11-21T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(time: str, instant: datetime) -> None:
    event = department_event(read(structured(EVENT | {"time": time})))
    assert event.version.time == instant
    assert document(event)["time"].endswith("Z")


MALFORMED = {
    "empty body": Message(b"", STRUCTURED),
    "not JSON": Message(b"{", STRUCTURED),
    "not UTF-8": Message(b'{"id": "\xff"}', STRUCTURED),
    "UTF-16": Message(json.dumps(EVENT).encode("utf-16"), STRUCTURED),
    "two documents": Message(structured(EVENT).body * 2, STRUCTURED),
    "NaN": structured(with_data(attributes={"x": float("nan")})),
    "infinity": structured(with_data(attributes={"x": float("inf")})),
    "a lone surrogate in the id": structured(EVENT | {"id": "\ud800"}),
    "too deep": Message(b"[" * 100_000, STRUCTURED),
    "too long a number": Message(b'{"id": ' + b"9" * 5000 + b"}", STRUCTURED),
    "a list": structured([EVENT]),
    "null": structured(None),
    "a batch": Message(json.dumps([EVENT]).encode(), "application/cloudevents-batch+json"),
    "another format": Message(b"\x02{}", "application/cloudevents+avro"),
    "no mode": Message(structured(DATA).body, JSON),
    "headers of another kind": binary(EVENT, "X-ce-"),
    "both kinds of data": structured(EVENT | {"data_base64": "e30="}),
    "base64 of no JSON": structured(without("data") | {"data_base64": "eA=="}),
    "no base64": structured(without("data") | {"data_base64": "{}"}),
    "base64 of a wrong kind": structured(without("data") | {"data_base64": 5}),
    "binary data of no JSON": Message(b"{", JSON, binary(EVENT).headers),
    "binary data of another type": Message(b"<a/>", "text/xml", binary(EVENT).headers),
    "a header not UTF-8": Message(b"{}", JSON, {**binary(EVENT).headers, "cloudEvents_id": b"\xff"}),
    "specversion missing": structured(without("specversion")),
    "specversion 0.3": structured(EVENT | {"specversion": "0.3"}),
    "specversion a number": structured(EVENT | {"specversion": 1.0}),
    "specversion null": structured(EVENT | {"specversion": None}),
    "id missing": structured(without("id")),
    "id empty": structured(EVENT | {"id": ""}),
    "id a list": structured(EVENT | {"id": [1]}),
    "id true": structured(EVENT | {"id": True}),
    "id a number of more than 128 digits": structured(EVENT | {"id": 10**128}),
    "type a number": structured(EVENT | {"type": 5}),
    "id too long": structured(EVENT | {"id": "x" * 1025}),
    "id with a control character": structured(EVENT | {"id": "a\nb"}),
    "source missing": structured(without("source")),
    "type missing": structured(without("type")),
    "type null": structured(EVENT | {"type": None}),
    "subject empty": structured(EVENT | {"subject": ""}),
    "time a number": structured(EVENT | {"time": 1_795_000_000}),
    "time without offset": structured(EVENT | {"time": "2026-11-21T08:30:00"}),
    "time a date": structured(EVENT | {"time": "2026-11-21"}),
    "time with two blanks": structured(EVENT | {"time": "2026-11-21  08:30:00Z"}),
    "time with a comma": structured(EVENT | {"time": "2026-11-21T08:30:00,5Z"}),
    "time in other digits": structured(EVENT | {"time": "٢٠٢٦-11-21T08:30:00Z"}),
    "time of no such day": structured(EVENT | {"time": "2026-02-29T08:30:00Z"}),
    "time of second 61": structured(EVENT | {"time": "2026-12-31T23:59:61Z"}),
    "time before year 1 in UTC": structured(EVENT | {"time": "0001-01-01T00:00:00+00:01"}),
    "time after year 9999 in UTC": structured(EVENT | {"time": "9999-12-31T23:59:59-00:01"}),
}
HEADERS_OF_A_WRONG_KIND = [True, [1], {"a": 1}, NOON, b"\xff"]
UNSUPPORTED = [
    "department",
    "department.created.v2",
    "department.created.v1.v1",
    "department.closed.v1",
    "Department.Created.v1",
    "mydepartment.created.v1",
    ".department.created.v1",
    "com..department.created.v1",
    "department.created.",
    "subaccount.created.v1",
    "subaccount.credentials.reissue.v1",
]
INVALID = {
    "time missing": structured(without("time")),
    "data missing": structured(without("data")),
    "data null": structured(EVENT | {"data": None}),
    "data a list": structured(EVENT | {"data": [DATA]}),
    "data a text": structured(EVENT | {"data": json.dumps(DATA)}),
    "no department_id": structured(EVENT | {"data": {"name": "Engineering"}}),
    "department_id a fraction": structured(with_data(department_id=4.2)),
    "department_id true": structured(with_data(department_id=True)),
    "department_id of 129 digits": structured(with_data(department_id=10**128)),
    "department_id empty": structured(with_data(department_id="")),
    "department_id too long": structured(with_data(department_id="x" * 129)),
    "department_id unprintable": structured(with_data(department_id="a\u200bb")),
    "no name": structured(EVENT | {"data": {"department_id": "ENG-042"}}),
    "name null": structured(with_data(name=None)),
    "name a list": structured(with_data(name=["Engineering"])),
    "name blank": structured(with_data(name=" \u00a0\t ")),
    "name a number": structured(with_data(name=7)),
    "a lone surrogate": structured(with_data(name="\ud800")),
    "a lone surrogate in the department_id": structured(with_data(department_id="a\udfffb")),
    "cause unknown": structured(with_data(cause="sold") | {"type": "department.removed.v1"}),
    "merged_into empty": structured(with_data(merged_into="") | {"type": "department.removed.v1"}),
    "subject another": structured(EVENT | {"subject": "ENG-043"}),
    "tenant empty": structured(EVENT | {"tenant": ""}),
    "tenant a fraction": structured(EVENT | {"tenant": 5.5}),
    "tenant unprintable": structured(EVENT | {"tenant": "a\nb"}),
    "sequence true": structured(EVENT | {"sequence": True}),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_malformed(message: Message) -> None:
    assert type(refusal(message)) is Malformed


@pytest.mark.parametrize("name", ["id", "source", "type", "subject"])
@pytest.mark.parametrize("value", HEADERS_OF_A_WRONG_KIND, ids=repr)
def test_malformed_by_the_kind_of_a_header(name: str, value: Any) -> None:
    sent = binary(EVENT)
    assert type(refusal(Message(sent.body, JSON, {**sent.headers, HEADER_PREFIX + name: value}))) is Malformed


@pytest.mark.parametrize("value", [True, 1.5, Decimal("1.5"), [1], {"a": 1}, NOON], ids=repr)
@pytest.mark.parametrize("name", ["tenant", "sequence"])
def test_invalid_by_the_kind_of_a_header(name: str, value: Any) -> None:
    sent = binary(EVENT)
    assert type(refusal(Message(sent.body, JSON, {**sent.headers, HEADER_PREFIX + name: value}))) is Invalid


@pytest.mark.parametrize("type_", UNSUPPORTED)
def test_an_unsupported_type_with_any_data(type_: str) -> None:
    assert type(refusal(structured(EVENT | {"type": type_}))) is UnsupportedType
    assert type(refusal(structured({**without("data"), "type": type_}))) is UnsupportedType


@pytest.mark.parametrize("message", INVALID.values(), ids=INVALID)
def test_invalid(message: Message) -> None:
    assert type(refusal(message)) is Invalid


def test_a_refusal_names_the_field() -> None:
    assert str(refusal(INVALID["no name"])) == "data.name: missing"
    assert str(refusal(INVALID["data a list"])) == "data: not a JSON object"
    assert str(refusal(INVALID["subject another"])) == "event: subject must equal data.department_id"


def test_a_refusal_names_three_fields_and_counts_the_rest() -> None:
    text = str(refusal(structured({"specversion": "2", "id": [], "source": [], "type": 1, "time": 1})))
    assert text.count(";") == 3
    assert text.endswith("; and 2 more")


SECRET = "xyzzy-4711"
SHAPES: dict[str, Any] = {
    "text": SECRET,
    "with a control character": f"{SECRET}\x07",
    "long": SECRET * 200,
    "list": [SECRET],
    "object": {SECRET: SECRET},
    "surrogate": f"{SECRET}\ud800",
}
PLACES = ["specversion", "id", "source", "type", "time", "subject", "datacontenttype", "sequence", "tenant"]
PLACES += ["traceparent", "correlationid", "data", "data_base64"]
PLACES += [f"data.{member}" for member in ("department_id", "name", "parent_id", "attributes", "cause")]


def everything_said_of(message: Message) -> str:
    try:
        department_event(read(message))
    except (Malformed, UnsupportedType, Invalid) as error:
        return "".join(traceback.format_exception(error)) + repr(error)
    return ""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_no_refusal_repeats_a_value(place: str, shape: Any) -> None:
    attribute, _, member = place.partition(".")
    event = with_data(**{member: shape}) if member else EVENT | {attribute: shape}
    removed = event | {"type": "department.removed.v1"} if attribute != "type" else event
    for sent in (event, removed, {**event, SECRET: SECRET}):
        assert SECRET not in everything_said_of(structured(sent))
        headers = {HEADER_PREFIX + name: value for name, value in sent.items() if name != "data"}
        assert SECRET not in everything_said_of(Message(structured(sent.get("data")).body, JSON, headers))


@pytest.mark.parametrize("body", [SECRET, f'{{"{SECRET}": ', f'{{"id": {SECRET}}}', f'"{SECRET}\\x"'])
def test_no_refusal_repeats_invalid_json(body: str) -> None:
    assert SECRET not in everything_said_of(Message(body.encode(), STRUCTURED))
    assert SECRET not in everything_said_of(Message(body.encode(), SECRET))
    assert SECRET not in everything_said_of(Message(body.encode(), JSON, {"cloudEvents_id": SECRET}))


def test_repr_shows_no_body_headers_or_data() -> None:
    assert SECRET not in repr(Message(SECRET.encode(), STRUCTURED, {"cloudEvents_x": SECRET}))
    assert SECRET not in repr(read(structured(with_data(name=SECRET))))
