"""Tables keep each id and each word whole at any width; only a tenant that says nothing is left out."""

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from worker.cli import terminal

AT = datetime(2026, 11, 28, 10, 14, 30, tzinfo=UTC)
UUIDS = ["32aca478-953c-4b79-bce4-6208c99da072", "3ee81960-b1c5-41b9-8050-7948c403ee19"]
AUTH_IDS = ["SAZIRLXQI854BQK9M0XA", "SAIDNBC2F0MP3EZU7UVL"]
DETAIL = "data.departmentId: did you mean department_id? data.name: must have 1 to 256 characters"

TABLES: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "departments": (
        ("tenant", "department", "name", "status", "auth id", "credentials", "newest event"),
        [
            ("default", "ENG-042", "Engineering", "active", AUTH_IDS[0], "sent (1)", f"created {AT:%F %T}Z"),
            ("default", "営業", "営業部 é", "disabled", AUTH_IDS[1], "owed: crm (2)", f"removed {AT:%F %T}Z"),
        ],
    ),
    "long names": (
        ("tenant", "department", "name", "status"),
        [
            ("acme", "d" * 128, "the name of a department that is very long indeed " * 4, "active"),
            ("default", "field ops north", "Field Ops", "active"),
        ],
    ),
    "answers": (
        ("answered at", "event", "type", "outcome", "confirmed", "reason"),
        [
            (AT, UUIDS[0], "department.created.v1", "created", True, None),
            (AT, UUIDS[1], "com.example.hr.department.renamed.v1", "superseded", False, DETAIL),
        ],
    ),
    "dead letters": (
        ("dead since", "reason", "type", "department", "event or letter", "detail"),
        [
            (AT, "conflicting-duplicate", "created", "ENG-042", UUIDS[0], DETAIL),
            (
                "?",
                "unsupported-type",
                "com.example.department.moved.v1",
                None,
                "5c0a2b1f9d3e4f6a",
                "type: no",
            ),
        ],
    ),
    "holds": (
        ("id", "tenant", "department", "name", "reason", "state", "held at", "detail"),
        [
            ("HQ3ZJ5W7XKA2", "default", "ENG-042", "Engineering", "limit", "waiting", AT, DETAIL),
            ("HB7MN2P4RST6", "acme", "d" * 70, "Field Ops", "last-active", "approved", AT, DETAIL),
        ],
    ),
    "calls": (
        ("called at", "operation", "status", "api_id", "idempotency key", "error"),
        [
            (AT, "update", 202, UUIDS[0], UUIDS[1], None),
            (AT, "delete", "no response", None, UUIDS[0], "Plivo has not answered within 20 s"),
        ],
    ),
    "plan": (
        ("event or letter", "department", "was", "a replay now", "calls", ""),
        [(UUIDS[0], "ENG-042", "create-unknown", "create", 2, DETAIL)],
    ),
    "audit": (
        ("at", "by", "action", "filter", "event or letter", "department", "reason", "outcome"),
        [
            (
                AT,
                "ada",
                "replay",
                "--reason invalid --since 2026-11-01T08:30:00Z",
                UUIDS[1],
                "d",
                "invalid",
                "sent",
            )
        ],
    ),
    "topology": (
        ("", "name", "state", "detail"),
        [("queue", "provisioner.secrets.crm", "differs", DETAIL), ("exchange", "departments", "ok", "")],
    ),
    "keys": (
        ("for", "kid", "type", "state", "detail"),
        [("crm", "crm.2026-11-28T10:14:30.937058Z", "x25519", "unusable", DETAIL)],
    ),
}
WIDTHS = [120, 100, 80, 60, 40]


@pytest.fixture
def printed(monkeypatch):
    def at(width, columns, rows):
        file = io.StringIO()
        console = Console(
            file=file, width=width or terminal.WIDE, force_terminal=bool(width), color_system=None
        )
        monkeypatch.setattr(terminal, "OUT", console)
        terminal.print_table(columns, rows, "")
        return file.getvalue().splitlines()

    return at


def texts(rows):
    return [terminal._cell(value).plain for row in rows for value in row]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_every_word_is_whole_and_lines_fit_unless_a_word_does_not(printed, name, width):
    columns, rows = TABLES[name]
    lines = printed(width, columns, rows)
    words = [word for line in lines for word in line.split()]
    wanted = [word for text in texts(rows) for word in text.split() if word != "default"]
    assert [word for word in wanted if word not in words] == []
    too_long = [line for line in lines if cell_len(line) > width]
    assert [line for line in too_long if cell_len(max(line.split(), key=cell_len)) < width - 30] == []
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_an_id_is_on_one_line_whatever_it_contains(printed, name, width):
    columns, rows = TABLES[name]
    text = "\n".join(printed(width, columns, rows))
    at = [
        number for number, title in enumerate(columns) if title in {"department", "auth id", "event", "kid"}
    ]
    assert [row[number] for row in rows for number in at if row[number] and row[number] not in text] == []


@pytest.mark.parametrize("name", TABLES)
def test_without_a_terminal_each_row_is_one_line_without_padding(printed, name):
    columns, rows = TABLES[name]
    blank, header, rule, *body, last = printed(None, columns, rows)
    assert (blank, last) == ("", "")
    assert set(rule) == {"─"}
    assert len(body) == len(rows)
    assert [line for line in (header, *body) if line != line.rstrip()] == []
    for row, line in zip(rows, body, strict=True):
        assert [text for text in texts([row]) if text not in line] == []
    assert header.split() == " ".join(columns).split()


def test_what_does_not_fit_stands_under_its_row(printed):
    columns, rows = TABLES["dead letters"]
    assert printed(80, columns, rows) == [
        "",
        "reason                 department  event or letter",
        "───────────────────────────────────────────────────────────────────────",
        f"conflicting-duplicate  ENG-042     {UUIDS[0]}",
        "  dead since: 2026-11-28 10:14:30Z  type: created",
        "  data.departmentId: did you mean department_id? data.name: must have 1 to 256",
        "  characters",
        "unsupported-type                   5c0a2b1f9d3e4f6a",
        "  dead since: ?  type: com.example.department.moved.v1",
        "  type: no",
        "",
    ]


def test_a_tenant_is_left_out_only_if_it_says_nothing_and_does_not_fit(printed):
    columns, rows = TABLES["departments"]
    assert "tenant" in " ".join(printed(120, columns, rows))
    assert "tenant" not in " ".join(printed(80, columns, rows))
    assert "default" not in " ".join(printed(80, columns, rows))
    others = [("acme", *row[1:]) for row in rows]
    assert " ".join(printed(80, columns, others)).count("acme") == 2


@pytest.mark.parametrize("width", [None, 120])
def test_wide_and_combining_characters_keep_columns_aligned(printed, width):
    rows = [("営業部", "x"), ("e\u0301quipe", "x"), ("🚀", "x"), ("plain", "x")]
    lines = printed(width, ("name", "status"), rows)[3:-1]
    assert {cell_len(line[: line.index("x")]) for line in lines} == {8}


def test_facts_are_wrapped_beside_their_names_and_leave_out_what_is_empty(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(terminal, "OUT", Console(file=file, width=40, force_terminal=True, color_system=None))
    facts = {
        "auth id": AUTH_IDS[0],
        "claim": None,
        "name": "",
        "late call": False,
        "detail": "word " * 8 + "end",
    }
    terminal.print_facts("sales", facts)
    assert file.getvalue().splitlines() == [
        "",
        "sales",
        f"auth id    {AUTH_IDS[0]}",
        "late call  no",
        "detail     word word word word word word",
        "           word word end",
        "",
    ]


def test_an_id_longer_than_the_terminal_is_one_line(printed):
    columns, rows = TABLES["long names"]
    assert [line for line in printed(60, columns, rows) if re.fullmatch(r"d{128}", line)]
