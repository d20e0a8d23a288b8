"""The sets of characters agree with Unicode's, and the one spelling of ids and names."""

import re
import sys
import unicodedata
from decimal import Decimal
from typing import Any

import pytest

from contracts import text
from contracts.departments import department_event, payload_digest
from contracts.envelope import read
from tests.messages.strategies import structured

EVERY = [chr(point) for point in range(sys.maxunicode + 1)]
ASSIGNED = [character for character in EVERY if unicodedata.category(character) != "Cn"]

# Egyptian joiners are of a later version than the oldest Python's table.
LATER_THAN_PYTHON = {chr(point) for point in range(0x13439, 0x13440)}


def members(pattern: str, among: list[str]) -> set[str]:
    compiled = re.compile(pattern)
    return {character for character in among if compiled.fullmatch(character)}


def test_identifiers_exclude_control_format_and_surrogate_characters() -> None:
    excluded = {each for each in ASSIGNED if unicodedata.category(each) in {"Cc", "Cf", "Cs"}}
    assert set(ASSIGNED) - members(text.IN_IDENTIFIERS, ASSIGNED) == excluded | (
        LATER_THAN_PYTHON & set(ASSIGNED)
    )


def test_white_space_is_that_of_unicode() -> None:
    separators = {each for each in EVERY if each.isspace()} - set("\x1c\x1d\x1e\x1f")
    assert members(text.WHITE_SPACE, EVERY) == separators


def test_format_characters_are_invisible_except_signs_over_numbers_and_names() -> None:
    signs = {*"\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"}
    visible = members(text.VISIBLE, ASSIGNED)
    assert {each for each in visible if unicodedata.category(each) == "Cf"} == signs
    assert not {each for each in visible if unicodedata.category(each) in {"Cc", "Cs", "Zs", "Zl", "Zp"}}
    assert {each for each in ASSIGNED if unicodedata.category(each)[0] in "LNPS"} - visible == {
        *"\u115f\u1160\u2800\u3164\uffa0\U0001d159"
    }


def test_text_without_characters_changed_by_nfc_keeps_its_length() -> None:
    changed = re.compile(text.CHANGED_BY_NFC)
    for character in EVERY:
        if changed.fullmatch(character) or "\ud800" <= character <= "\udfff":
            continue
        assert unicodedata.normalize("NFC", character) == character
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):  # its second part joins
            assert changed.fullmatch(chr(int(parts[1], 16)))


SPELLINGS: list[tuple[Any, str]] = [
    ("sales", "sales"),
    (" sales\t\r\n\x0b\x85\u00a0\u3000", "sales"),
    ("\u00e9", "\u00e9"),
    ("e\u0301", "\u00e9"),
    (67610, "67610"),
    (9_223_372_036_854_775_807, "9223372036854775807"),
    (12.0, "12"),
    (1e2, "100"),
    (-0.0, "0"),
    (-5, "-5"),
    (Decimal("7.0"), "7"),
    ("12.0", "12.0"),
]


@pytest.mark.parametrize(("sent", "kept"), SPELLINGS, ids=ascii)
def test_the_one_spelling_of_an_id(sent: Any, kept: str) -> None:
    assert text.identifier(sent) == kept
    assert text.identifier(kept) == kept


@pytest.mark.parametrize(
    "sent", [1.5, float("nan"), float("inf"), Decimal("NaN"), True, None, [], b"a", 10**128]
)
def test_what_is_no_id(sent: Any) -> None:
    with pytest.raises(ValueError, match="must be text or an integer"):
        text.identifier(sent)


@pytest.mark.parametrize(
    ("sent", "kept"), [(7, "7"), (7.0, "7"), (1.5, "1.5"), (Decimal("1.50"), "1.50"), (" a ", " a ")]
)
def test_numbers_in_attributes_are_text(sent: Any, kept: str) -> None:
    assert text.attribute(sent) == kept


def test_spellings_of_one_department_are_one_department_and_one_payload() -> None:
    sent = [
        {"tenant": tenant, "subject": subject, "data": {"department_id": id_, "name": name}}
        for tenant, subject, id_, name in [
            ("emea", "42", "42", "Caf\u00e9 Nord"),
            (" emea", 42, 42, "Cafe\u0301\tNord "),
            ("emea\n", 42.0, "42\r\n", " Caf\u00e9\u00a0 Nord"),
        ]
    ]
    common = {"specversion": "1.0", "id": 7, "source": "/hr", "type": "department.created"}
    time = {"time": "2026-11-21T08:30:00Z"}
    read_ = [read(structured(common | time | one)) for one in sent]
    events = [department_event(one) for one in read_]
    assert {(event.tenant, event.data.department_id, event.data.name) for event in events} == {
        ("emea", "42", "Caf\u00e9 Nord")
    }
    assert len({payload_digest(one) for one in read_}) == 1


def test_white_space_in_the_middle_is_trimmed_in_linear_time() -> None:
    with pytest.raises(ValueError, match="at most 128 characters"):
        text.identifier("a" + " " * 1_000_000 + "b")
