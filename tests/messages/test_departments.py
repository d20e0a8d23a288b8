"""The rules of department events, and the digest of their payloads."""

import random
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.departments import (
    Created,
    DepartmentEvent,
    Invalid,
    Kind,
    canonical_type,
    department_event,
    payload_digest,
)
from contracts.envelope import Message, read
from tests.messages.strategies import binary, replayable, structured

DATA = {
    "department_id": "ENG-042",
    "name": "Engineering",
    "attributes": {"a": 1, "b": [2, {"c": None, "d": ""}]},
}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/hr",
    "type": "department.created.v1",
    "time": "2026-11-21T08:30:00Z",
    "data": DATA,
}


def named(name: str) -> str:
    return Created(department_id="ENG-042", name=name).name


def name_of(name: str) -> str:
    event = department_event(read(structured(EVENT | {"data": DATA | {"name": name}})))
    return str(event.data.name)


def digest(message: Message) -> str:
    return payload_digest(read(message))


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ("department.created.v1", Kind.CREATED),
        ("department.created", Kind.CREATED),
        ("com.example.hr.department.renamed.v1", Kind.RENAMED),
        ("com.example.department.department.removed", Kind.REMOVED),
        ("my-hr.department.removed.v1", Kind.REMOVED),
    ],
)
def test_types(sent: str, kind: Kind) -> None:
    assert canonical_type(sent) == f"department.{kind}.v1"
    assert department_event(read(structured(EVENT | {"type": sent}))).kind is kind


def test_optional_attributes_and_members() -> None:
    event = department_event(read(structured(EVENT)))
    assert (event.tenant, event.sequence, event.subject) == ("default", None, None)


def test_unknown_members_and_attributes_are_ignored() -> None:
    event = EVENT | {"partitionkey": "x", "data": DATA | {"colour": "blue"}}
    assert department_event(read(structured(event))) == department_event(read(structured(EVENT)))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("  Engineering ", "Engineering"),
        ("Product\t\r\n \u00a0\u2003Engineering", "Product Engineering"),
        ("Line\u2028Break\u0085", "Line Break"),
        ("Quali\u0074\u0061\u0308t", "Qualität"),
        ("\u212b", "\u00c5"),
        ("x" * 256, "x" * 256),
        (" " * 5000 + "x" * 256 + " " * 5000, "x" * 256),
        ("\u03c9\u0314\u0342\u0345" * 256, "\u1fa7" * 256),
        ("👩\u200d🔬 Lab", "👩\u200d🔬 Lab"),
    ],
    ids=ascii,
)
def test_names(sent: str, kept: str) -> None:
    assert name_of(sent) == kept


@pytest.mark.parametrize(
    "sent",
    [
        "",
        " \u2003 ",
        "x" * 257,
        "\u03c9\u0314\u0342\u0345" * 257,
        "\u0958" * 129,  # two code points each in NFC
        "a\x00b",
        "a\x1fb",
        "\x1c",
        "a\x7fb",
        "a\x9fb",
        "a\ue000" * 129,
        "\ud800",
        *(
            "\u200b",
            "\u200d",
            "\u3164",
            "\u115f",
            "\ufeff",
            "\u00ad",
            "\u2800",
            "\u034f \ufe0f",
            "\U000e0020",
        ),
    ],
    ids=ascii,
)
def test_names_refused(sent: str) -> None:
    with pytest.raises(Invalid, match=r"^data\.name: "):
        name_of(sent)


def test_normalising_joins_at_most_four_code_points() -> None:
    """The limit on the length before normalising relies on this."""
    every = (chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    assert max(len(unicodedata.normalize("NFD", character)) for character in every) == 4


def test_many_combining_marks_are_refused_quickly() -> None:
    """Normalising takes quadratic time: these would take minutes."""
    with pytest.raises(Invalid):
        name_of("a" + "\u0301\u0316" * 300_000)


@replayable
@given(st.text(st.characters(codec="utf-8"), max_size=290) | st.text("Ae\u0301\u0323 \u00a0\t", max_size=290))
def test_an_accepted_name_is_in_normal_form(sent: str) -> None:
    try:
        kept = named(sent)
    except ValueError:
        return
    assert kept == unicodedata.normalize("NFC", kept)
    assert kept == " ".join(kept.split())
    assert 1 <= len(kept) <= 256
    assert named(kept) == kept
    assert named(f" {unicodedata.normalize('NFD', sent)}\n") == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (0, 0),
        (-0, 0),
        (7, 7),
        (7.0, 7),
        (1e2, 100),
        ("7", 7),
        ("007", 7),
        ("0" * 300, 0),
        ("0" * 30 + "9" * 20, 10**20 - 1),
        (2**63, 2**63),
        ("9" * 20, 10**20 - 1),
    ],
)
def test_sequences(sent: Any, kept: int) -> None:
    for message in (structured(EVENT | {"sequence": sent}), binary(EVENT | {"sequence": sent})):
        assert department_event(read(message)).sequence == kept


@pytest.mark.parametrize(
    "sent",
    [
        *(True, False, 1.5, 10**20, 1e20, -1, -1.0, "-7", "-0", "1" * 21, "1" * 1_000_000),
        *("", "7.0", " 7", "7\n", "+7", "--7", "1_000", "1e3", "0x7", "\u0667", "seven", [7], {"value": 7}),
    ],
    ids=lambda sent: repr(sent)[:20],
)
def test_sequences_refused(sent: Any) -> None:
    with pytest.raises(Invalid, match=r"^sequence: "):
        department_event(read(structured(EVENT | {"sequence": sent})))


@pytest.mark.parametrize("identifier", ["x", "x" * 128, "💡" * 128, "a  b", "a/b:c", "Ünïcode", "a\u00a0b"])
def test_identifiers_are_kept_as_they_are(identifier: str) -> None:
    sent = EVENT | {"tenant": identifier, "subject": identifier, "data": DATA | {"department_id": identifier}}
    event = department_event(read(structured(sent)))
    assert (event.tenant, event.data.department_id) == (identifier, identifier)


@pytest.mark.parametrize(
    "identifier", ["", " \t\n", "x" * 129, "a\u202eb", "a\u200bb", "a\tb", "\ufeffa", "\ud800"]
)
def test_identifiers_refused(identifier: str) -> None:
    with pytest.raises(Invalid, match=r"^data\.department_id: "):
        department_event(read(structured(EVENT | {"data": DATA | {"department_id": identifier}})))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "com.example.hr.department.created.v1"},
        {"type": "department.created"},
        {"tenant": "default"},
        {"tenant": None},
        {"id": "2", "source": "/other", "time": "2027-01-01T00:00:00Z", "sequence": 5, "subject": "ENG-042"},
        {"traceparent": "00-a-b-01", "tracestate": "a=b", "correlationid": "c", "causationid": "d"},
        {"datacontenttype": "application/json", "dataschema": "/schema", "unknown": 1},
        {"tenant": " default\n"},
        {"data": DATA | {"department_id": "\tENG-042 "}},
        {"data": DATA | {"name": " Engineering"}},
        {"data": DATA | {"parent_id": None, "cause": None}},
    ],
    ids=str,
)
def test_the_digest_does_not_change(change: dict[str, Any]) -> None:
    assert digest(structured(EVENT | change)) == digest(structured(EVENT))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "department.renamed.v1"},
        {"tenant": "emea"},
        {"data": DATA | {"name": "Engineers"}},
        {"data": DATA | {"department_id": "ENG-043"}},
        {"data": DATA | {"attributes": {"a": 1, "b": [{"c": None, "d": ""}, 2]}}},
        {"data": DATA | {"attributes": {"a": "1", "b": [2, {"c": None, "d": ""}]}}},
        {"data": DATA | {"parent_id": 5}},
        {"data": DATA | {"unknown": 1}},
        {"data": None},
    ],
    ids=str,
)
def test_the_digest_changes(change: dict[str, Any]) -> None:
    assert digest(structured(EVENT | change)) != digest(structured(EVENT))


FINITE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@replayable
@given(st.dictionaries(st.text(), FINITE, max_size=3), st.randoms(use_true_random=False))
def test_neither_mode_nor_the_order_of_keys_changes_the_digest(
    attributes: dict[str, Any], order: random.Random
) -> None:
    event = EVENT | {"data": DATA | {"attributes": attributes}}
    assert digest(structured(shuffled(event, order))) == digest(structured(event)) == digest(binary(event))


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    order.shuffle(keys)
    return {key: shuffled(value[key], order) for key in keys}


def test_the_union_selects_the_model_by_type():
    """One type for consumers that validate canonical events of all three kinds."""
    union: TypeAdapter[Any] = TypeAdapter(DepartmentEvent)
    for kind in Kind:
        assert union.validate_python(EVENT | {"type": f"department.{kind}.v1"}).kind is kind
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        union.validate_python(EVENT | {"type": "department.merged.v1"})


@pytest.mark.parametrize("number", [1, 0, -3, 10**15])
def test_how_a_whole_number_is_written_does_not_change_the_digest(number: int) -> None:
    written = [
        {"data": DATA | {"attributes": {"floors": [{"at": each}]}}} for each in (number, float(number))
    ]
    assert len({digest(structured(EVENT | one)) for one in written}) == 1


def test_another_number_changes_the_digest() -> None:
    written = [{"data": DATA | {"attributes": {"floors": each}}} for each in (1, 1.5, 2.0, True, "1")]
    assert len({digest(structured(EVENT | one)) for one in written}) == 5
