"""Modes, prefixes and encodings: what clients send by default is read, and the rest is named."""

import bz2
import gzip
import json
import zlib
from datetime import datetime
from typing import Any

import pytest
from pydantic_core import from_json

from contracts.departments import Invalid, UnsupportedType, department_event
from contracts.encoding import MAX_DECODED_BYTES, MAX_DEPTH
from contracts.envelope import (
    HEADER_PREFIX,
    JSON,
    STRUCTURED,
    Malformed,
    Message,
    attributes_in,
    event_of,
    read,
)
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
BODY = json.dumps(EVENT).encode()
DEFAULTS = [STRUCTURED, JSON, f"{JSON}; charset=utf-8", "text/plain", "application/octet-stream", "", None]
BOM = b"\xef\xbb\xbf"


def name_in(message: Message) -> str:
    return str(department_event(read(message)).data.name)


def refusal(message: Message) -> str:
    with pytest.raises(Malformed) as caught:
        read(message)
    return str(caught.value)


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("content_type", [*DEFAULTS, "application/data", "application/cloudevents+avro"])
def test_structured_mode_is_recognised_by_the_body(content_type: str | None) -> None:
    assert name_in(Message(BODY, content_type)) == "Engineering"
    assert name_in(Message(BODY, content_type, {"ce-environment": "test", "x": 1})) == "Engineering"


@pytest.mark.parametrize(
    "prefix", ["cloudEvents_", "cloudEvents:", "ce-", "ce_", "CE-", "CLOUDEVENTS:", "cloudevents_", "Ce_"]
)
@pytest.mark.parametrize("case", [str, str.upper, str.title])
def test_prefixes_of_binary_mode_in_any_case(prefix: str, case: Any) -> None:
    headers = {prefix + case(name): value for name, value in EVENT.items() if name != "data"}
    assert name_in(Message(json.dumps(DATA).encode(), JSON, headers)) == "Engineering"


@pytest.mark.parametrize("content_type", [*DEFAULTS[1:], "application/data", "application/hr+json"])
def test_binary_data_is_read_whatever_its_content_type(content_type: str | None) -> None:
    assert name_in(Message(json.dumps(DATA).encode(), content_type, binary(EVENT).headers)) == "Engineering"


def test_a_specversion_in_the_headers_decides_for_binary_mode_unless_the_content_type_is_structured() -> None:
    other = binary(EVENT | {"id": "2"}).headers
    assert read(Message(BODY, STRUCTURED, other)).id == "1"
    assert read(Message(BODY, JSON, other)).id == "2"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cloudEvents_id": "2"}, "cloudEvents_id"),
        ({"ce-id": "2"}, "ce-id"),
        ({"CLOUDEVENTS_ID": "2"}, "case"),
    ],
)
def test_two_prefixes_with_different_values_are_malformed(one: dict[str, str], other: str) -> None:
    sent = binary(EVENT, "cloudEvents:" if other != "case" else HEADER_PREFIX)
    message = Message(sent.body, JSON, {**sent.headers, **one})
    assert refusal(message) == "headers: two prefixes give different values for id"


@pytest.mark.parametrize(
    "again", [{"ce_id": "1"}, {"ce_id": 1}, {"ce_id": b"1"}, {"ce_id": None}, {"CE-ID": "1"}]
)
def test_two_prefixes_with_the_same_value_are_one(again: dict[str, Any]) -> None:
    sent = binary(EVENT)
    assert read(Message(sent.body, JSON, {**sent.headers, **again})).id == "1"


@pytest.mark.parametrize("extra", [{"ce-other": 1}, {"ce-dataschema": "b"}, {"ce-other": b"\xff"}])
def test_headers_that_are_not_read_do_not_matter(extra: dict[str, Any]) -> None:
    sent = binary(EVENT | {"other": 2, "dataschema": "a"})
    assert read(Message(sent.body, JSON, {**sent.headers, **extra})).id == "1"


def test_milliseconds_are_a_time_in_binary_mode_only() -> None:
    sent = binary(EVENT | {"time": 1_795_262_400_000})
    assert read(sent).time == datetime.fromisoformat("2026-11-21T12:00:00+00:00")
    assert "time: " in refusal(structured(EVENT | {"time": 1_795_262_400_000}))
    assert "seconds" in refusal(binary(EVENT | {"time": 1_795_262_400}))


def members(body: bytes) -> bytes:
    """One gzip stream of two members."""
    return gzip.compress(body[:9]) + gzip.compress(body[9:])


def twice(body: bytes) -> bytes:
    return gzip.compress(zlib.compress(body))


@pytest.mark.parametrize("body", [BODY, BOM + BODY, b"\n " + BODY + b"\r\n"], ids=["bare", "mark", "space"])
@pytest.mark.parametrize(
    ("pack", "encoding"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, "GZIP"),
        (gzip.compress, "x-gzip"),
        (zlib.compress, "deflate"),
        (deflated, "deflate"),
        (members, "gzip"),
        (twice, "deflate, gzip"),
        *(
            (bytes, encoding)
            for encoding in (None, "", "identity", "utf-8", "UTF8", "binary", "8bit", "gzip", "deflate")
        ),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),
)
def test_encodings_that_are_read(body: bytes, pack: Any, encoding: str | None) -> None:
    assert name_in(Message(pack(body), STRUCTURED, {}, encoding)) == "Engineering"
    data = Message(pack(json.dumps(DATA).encode()), JSON, binary(EVENT).headers, encoding)
    assert name_in(data) == "Engineering"


@pytest.mark.parametrize("value", ["application/x-gzip", "gzip", "zlib"])
def test_the_compression_of_kombu_is_read(value: str) -> None:
    message = Message(zlib.compress(BODY), JSON, {"compression": value}, "utf-8")
    assert name_in(message) == "Engineering"


@pytest.mark.parametrize("value", [None, True, 5, "none", "", "application/x-gzip", "lz4"])
def test_a_compression_that_names_none_does_no_harm(value: Any) -> None:
    assert name_in(Message(BODY, JSON, {"compression": value})) == "Engineering"


NAMED = {
    "br": Message(b"\x0b\x02\x80{}\x03", STRUCTURED, {}, "br"),
    "zstd": Message(BODY, STRUCTURED, {}, "gzip, zstd"),
    "compression application/x-bz2": Message(
        bz2.compress(BODY), JSON, {"compression": "application/x-bz2"}, "utf-8"
    ),
    "content-encoding": Message(BODY, STRUCTURED, {}, "no\x07encoding"),
    "content-encoding gzip: the body cannot be decoded": Message(gzip.compress(BODY)[:-9], JSON, {}, "gzip"),
    "content-encoding deflate: the body cannot be decoded": Message(b"\xff" * 9, JSON, {}, "deflate"),
    "content-encoding does not say gzip": Message(gzip.compress(BODY), JSON),
    "more than 1,048,576 bytes": Message(gzip.compress(b" " * (MAX_DECODED_BYTES + 1)), JSON, {}, "gzip"),
    "UTF-16": Message(json.dumps(EVENT).encode("utf-16"), "application/json; charset=utf-16"),
    "UTF-16, ": Message(json.dumps(EVENT).encode("utf-16-be"), JSON, {}, "utf-16"),
    "UTF-32": Message(json.dumps(EVENT).encode("utf-32"), JSON),
    "not UTF-8": Message(json.dumps(EVENT | {"id": "\u00e9"}, ensure_ascii=False).encode("latin-1"), JSON),
    "batch": Message(json.dumps([EVENT]).encode(), "application/cloudevents-batch+json"),
    "a batch": Message(json.dumps([EVENT, EVENT]).encode(), JSON),
    "batch;": Message(b"[]", "Application/CloudEvents-Batch+JSON; charset=utf-8"),
    "AMQP 1.0": Message(b"\x00Sw\xb1" + len(BODY).to_bytes(4) + BODY, STRUCTURED),
    "AMQP 1.0 ": Message(b"\xa1\x7f" + b"{".ljust(127), STRUCTURED),
    "an AMQP 1.0": Message(b"\xb0" + len(BODY).to_bytes(4) + BODY, None),
    "empty": Message(b"", STRUCTURED),
    "body: empty": Message(BOM + b" \n", None),
    "a number has more than 4,300 digits": Message(b'{"specversion": ' + b"9" * 4301 + b"}", JSON),
    "not JSON": Message(b'{"specversion": NaN}', JSON),
    "not a JSON object": Message(b'"text"', JSON),
    "no specversion": Message(json.dumps(DATA).encode(), JSON),
    "did you mean specversion?": Message(b'{"specVersion": "1.0", "id": "1"}', JSON),
    "data must be JSON, not text/xml": Message(b"<a/>", "text/xml", binary(EVENT).headers),
}


@pytest.mark.parametrize("what", NAMED)
def test_what_cannot_be_read_is_named(what: str) -> None:
    assert what.rstrip(" ;,").strip() in refusal(NAMED[what])


def test_a_compressed_bomb_is_not_decoded() -> None:
    """80 MiB of blanks in 80 kB, and a mebibyte of empty gzip members."""
    packed = gzip.compress(b" " * (80 << 20))
    assert "bytes once decoded" in refusal(Message(packed, STRUCTURED, {}, "gzip"))
    members = gzip.compress(b"") * 50_000
    assert "cannot be decoded" in refusal(Message(members, STRUCTURED, {}, "gzip"))


def test_a_mebibyte_is_decoded() -> None:
    body = BODY.ljust(MAX_DECODED_BYTES)
    assert name_in(Message(gzip.compress(body), STRUCTURED, {}, "gzip")) == "Engineering"


@pytest.mark.parametrize("surrogate", [b"", b', "b": "\\ud800"'], ids=["plain", "with a lone surrogate"])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_of_a_body_is_limited(opened: bytes, closed: bytes, surrogate: bytes) -> None:
    def nested(depth: int) -> Message:
        inner = opened * (depth - 2) + b"{}" + closed * (depth - 2)
        return Message(BODY[:-1] + b', "a": ' + inner + surrogate + b"}", STRUCTURED)

    assert name_in(nested(MAX_DEPTH)) == "Engineering"
    assert refusal(nested(MAX_DEPTH + 1)) == f"body: nested deeper than {MAX_DEPTH} levels"
    assert "nested deeper" in refusal(nested(100_000)) or surrogate


def test_the_limit_of_the_parser_is_ours() -> None:
    from_json(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="recursion"):
        from_json(b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1))


def test_of_a_key_that_occurs_twice_the_last_counts() -> None:
    assert name_in(Message(BODY[:-1] + b', "data": {"department_id": "a", "name": "B"}}', STRUCTURED)) == "B"


@pytest.mark.parametrize("value", [r'"\ud800"', '{"\\udc00": [1e999, -1e999]}', "1" * 4300, "[[[]]]"])
def test_hard_values_that_are_not_read_do_not_matter(value: str) -> None:
    for place in (', "unknown": ', ', "traceparent": ', ', "datacontenttype": '):
        assert name_in(Message(BODY[:-1] + f"{place}{value}}}".encode(), STRUCTURED)) == "Engineering"
    data = f'{{"department_id": "a", "name": "B", "attributes": {value}, "parent_id": {value}}}'
    assert name_in(Message(data.encode(), JSON, binary(EVENT).headers)) == "B"


@pytest.mark.parametrize("value", [[], {}, 5, True, "text", [{"a": None}], None])
def test_unread_members_may_be_anything(value: Any) -> None:
    unread = {"parent_id": value, "attributes": value, "previous_name": value, "colour": value}
    carried = {"traceparent": value, "tracestate": value, "correlationid": value, "dataschema": value}
    for kind in ("created", "renamed", "removed"):
        type_ = f"department.{kind}.v1"
        event = department_event(read(structured(EVENT | carried | {"type": type_, "data": DATA | unread})))
        assert event.traceparent == (value if isinstance(value, str) else None)


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ("department.updated.v1", "department.renamed.v1"),
        ("department.deleted", "department.removed.v1"),
        ("com.my_hr.department.deleted.v1", "department.removed.v1"),
    ],
)
def test_synonyms_of_types(sent: str, canonical: str) -> None:
    assert department_event(read(structured(EVENT | {"type": sent}))).type == canonical


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("Department.Created.v1", "created"),
        ("DepartmentCreated", "created"),
        ("department_created", "created"),
        ("departments.created", "created"),
        ("department.create", "created"),
        ("com.example.hr.Department.Rename.V1", "renamed"),
        ("department-updated", "renamed"),
        ("department.delete.v1", "removed"),
        ("dept.removed", "removed"),
        ("department.created.v1 ", "created"),
        ("created", "created"),
        ("department.created.v2", None),
        ("department.merged.v1", None),
        ("invoice.created.v1", None),
        ("department", None),
        ("...", None),
    ],
)
def test_near_misses_of_types(sent: str, meant: str | None) -> None:
    with pytest.raises(UnsupportedType) as caught:
        department_event(read(structured(EVENT | {"type": sent})))
    hint = f"; did you mean department.{meant}.v1?" if meant else ""
    assert str(caught.value) == f"type: not department.created.v1, .renamed.v1 or .removed.v1{hint}"


def renamed_key(event: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in event.items()}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        *(
            ("department_id", wrong)
            for wrong in ("departmentId", "DepartmentID", "department-id", "Department_Id")
        ),
        *(("department_id", wrong) for wrong in ("departmnet_id", "deptId", "id", "departmentid")),
        *(("name", wrong) for wrong in ("Name", "NAME", "nmae", "department_name", "departmentName")),
    ],
)
def test_near_misses_of_members(right: str, wrong: str) -> None:
    with pytest.raises(Invalid) as caught:
        department_event(read(structured(EVENT | {"data": renamed_key(DATA, right, wrong)})))
    assert str(caught.value) == f"data.{wrong}: did you mean {right}?"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("id", "Id"),
        ("id", "eventId"),
        ("source", "Source"),
        ("type", "eventType"),
        ("specversion", "specVersion"),
    ],
)
def test_near_misses_of_attributes(right: str, wrong: str) -> None:
    assert refusal(structured(renamed_key(EVENT, right, wrong))) == f"{wrong}: did you mean {right}?"


@pytest.mark.parametrize(("right", "wrong"), [("time", "timestamp"), ("time", "Time"), ("data", "Data")])
def test_a_missing_time_or_data_under_another_name(right: str, wrong: str) -> None:
    given = attributes_in(structured(renamed_key(EVENT, right, wrong)))
    with pytest.raises(Invalid) as caught:
        department_event(event_of(given), given)
    assert str(caught.value) == f"{wrong}: did you mean {right}?"


def test_a_member_of_another_name_is_only_named_if_one_is_missing() -> None:
    assert name_in(structured(EVENT | {"data": DATA | {"departmentId": "x", "Name": "y"}})) == "Engineering"


@pytest.mark.parametrize(
    ("cause", "meant"),
    [("Deleted", "deleted"), ("MERGED", "merged"), ("deactivate", "deactivated"), ("sold", None)],
)
def test_near_misses_of_a_cause(cause: str, meant: str | None) -> None:
    with pytest.raises(Invalid) as caught:
        department_event(
            read(structured(EVENT | {"type": "department.removed", "data": DATA | {"cause": cause}}))
        )
    hint = f"; did you mean {meant}?" if meant else ""
    assert str(caught.value) == f"data.cause: must be deleted, merged or deactivated{hint}"
