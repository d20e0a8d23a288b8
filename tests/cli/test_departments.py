"""The departments commands on a ledger beside no worker: what they show, ask and refuse."""

import dataclasses
import os
import pty
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic_core import to_json

from contracts.subaccounts import ResultCode, ResultKind
from tests.support.builders import AUDIT_LINE, AUTH_ID, CLAIM, NOW, an_answer, an_entry, created, owing
from tests.support.commands import in_process, started
from tests.support.entries import EndlessLedger
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.cli import departments, open_ports
from worker.core.model.calls import CallNote
from worker.core.model.causes import Cause, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.removals import Removed, Retry
from worker.core.model.replace import replace
from worker.ports import Beside


def of(id_: str, status: Status = Status.ACTIVE, **fields):
    return replace(
        an_entry(status, **fields),
        department=Department("default", id_),
        revision=0,
    )


ENTRIES = [
    of("gone", gone_at=NOW, missing_since=NOW),
    of("claimed", Status.CLAIMED, claim=CLAIM),
    of(
        "owing",
        auth_id="SA" + "O" * 18,
        debt=owing("crm", retry_at=NOW + timedelta(minutes=1)),
        created_at=NOW,
    ),
    of("checked", auth_id="SA" + "C" * 18, check=Check(NOW)),
]


@pytest.fixture
async def environ(tmp_path):
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        for entry in ENTRIES:
            await ledger.record(entry)
    return {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db"}


async def test_the_list_shows_gone_and_its_json_when(environ):
    listed = await in_process(environ, "departments", "list")
    (row,) = (line.split() for line in listed.out.splitlines() if AUTH_ID in line)
    assert row[3] == "gone"
    documents = (await in_process(environ, "departments", "list", "--json")).json
    by_id = {document["department_id"]: document for document in documents}
    assert (by_id["gone"]["status"], by_id["gone"]["gone_at"]) == ("active", "2026-11-21T12:00:00Z")
    assert by_id["checked"]["gone_at"] is None


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--status", "gone"), ["gone"]),
        (("--status", "gone", "--status", "claimed"), ["claimed", "gone"]),
        (("--status", "active"), ["checked", "owing"]),
        (("--owed",), ["owing"]),
        (("--limit", "1"), ["checked"]),
    ],
)
async def test_the_list_is_filtered(environ, options, ids):
    documents = (await in_process(environ, "departments", "list", "--json", *options)).json
    assert [document["department_id"] for document in documents] == ids


async def test_a_cut_list_says_how_many_are_left(environ):
    listed = await in_process(environ, "departments", "list", "--limit", "3")
    assert listed.out.splitlines()[-1] == "and 1 more; --limit shows more"


async def test_an_unknown_status_is_one_line(environ):
    refused = await in_process(environ, "departments", "list", "--status", "lost")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'lost' is none of absent, claimed, active, disabled, deleting, removed, gone" in refused.err


@pytest.mark.parametrize(
    ("id_", "words"),
    [
        ("gone", ["gone: its subaccount is not at Plivo any more", "departments recreate gone"]),
        ("claimed", ["claimed: a create is under way", "whether its create was carried out"]),
        ("owing", ["delivery of its credentials to crm", "2026-11-21 12:00:00Z", "2026-11-21 12:01:00Z"]),
        ("checked", ["a comparison with Plivo"]),
    ],
)
async def test_show_says_what_a_department_waits_for(environ, id_, words):
    shown = (await in_process(environ, "departments", "show", id_)).out
    for word in words:
        assert word in shown
    for internal in ("issued trace", "late call", "mends", "recount at", "incarnation", "revision"):
        assert internal not in shown


KEYS = {
    "tenant",
    "department_id",
    "name",
    "status",
    "auth_id",
    "incarnation",
    "generation",
    "owed_to",
    "enable_owed",
    "deletion_due_at",
}


async def test_the_json_has_the_promised_keys_and_no_internal_ones(environ):
    documents = (await in_process(environ, "departments", "list", "--json")).json
    for document in documents:
        assert document.keys() >= KEYS
        assert not document.keys() & {"revision", "mends", "recount_at", "issued_trace", "check_at", "claim"}
    owing_one = next(document for document in documents if document["department_id"] == "owing")
    assert (owing_one["owed_to"], owing_one["enable_owed"], owing_one["generation"]) == (["crm"], False, 1)


CAUSE = Cause(Reference("/hr", "hr-11", "department.removed.v1"), "digest")
OPEN = Hold(
    "HAAAAAAAAAAA",
    Department("default", "held"),
    HoldReason.LIMIT,
    "the removals of PROVISIONER_REMOVAL_LIMIT 10%/24h are used up",
    CAUSE,
    "SA" + "H" * 18,
    "Held",
    NOW,
)
FAILING = Retry(NOW, NOW + timedelta(hours=1), 3, "Plivo answered 503 to delete")


@pytest.fixture
async def removals(tmp_path):
    """A department whose removal is held, and removed ones: waiting, failing, cancelled."""
    removed = Removed(NOW, CAUSE)
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        held = of("held", auth_id=OPEN.auth_id, hold=OPEN)
        line = dataclasses.replace(
            AUDIT_LINE, tenant="default", department_id="held", action="hold", outcome="held"
        )
        call = CallNote(NOW, "update", "7b1d7a3e-key", OPEN.auth_id, 202, "api-1")
        lost = CallNote(NOW, "delete", "7b1d7a3e-lost", OPEN.auth_id, None, None, "no response within 20 s")
        event = Reference("/hr", "hr-11", "department.removed.v1")
        answer = replace(
            an_answer(created()),
            department=held.department,
            event=event,
            outcome=ResultKind.HELD,
            code=ResultCode.LIMIT,
            reason=OPEN.detail,
            hold_id=OPEN.id,
        )
        await ledger.record(held, answer, Beside(holds=(OPEN,), audit=(line,), calls=(call, lost)))
        removals: dict[str, dict[str, Any]] = {
            "waiting": {"removal": removed},
            "failing": {"removal": removed, "retry": FAILING},
            "cancelled": {"removal": replace(removed, cancelled=True)},
        }
        for number, (id_, fields) in enumerate(removals.items()):
            await ledger.record(of(id_, Status.DISABLED, auth_id=f"SA{number:018}", **fields))
    return {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db"}


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({}, {"waiting": "2026-12-21T12:00:00Z", "failing": "2026-11-21T13:00:00Z"}),
        (
            {"PROVISIONER_REMOVAL_GRACE": "1h"},
            {"waiting": "2026-11-21T13:00:00Z", "failing": "2026-11-21T13:00:00Z"},
        ),
        (
            {"PROVISIONER_REMOVAL": "delete"},
            {"waiting": "2026-11-21T12:00:00Z", "failing": "2026-11-21T13:00:00Z"},
        ),
        ({"PROVISIONER_REMOVAL": "disable"}, {}),
        ({"PROVISIONER_REMOVAL": "ignore"}, {}),
    ],
)
async def test_the_deletion_is_due_as_the_settings_say_now(removals, settings, due):
    documents = (await in_process(removals | settings, "departments", "list", "--json")).json
    found = {document["department_id"]: document["deletion_due_at"] for document in documents}
    assert {id_: at for id_, at in found.items() if at} == due


async def test_the_story_of_a_department_as_json(removals):
    story = (await in_process(removals, "departments", "show", "held", "--json")).json
    assert story.keys() >= KEYS | {"answers", "holds", "calls", "audit"}
    (answer,) = story["answers"]
    assert answer["event"] == {"source": "/hr", "id": "hr-11", "type": "department.removed.v1"}
    assert (answer["outcome"], answer["code"], answer["confirmed"]) == ("held", "limit", False)
    assert answer["version"]["sequence"] == 1
    assert answer["answered_at"].endswith("Z")
    assert [hold["id"] for hold in story["holds"]] == [OPEN.id] == [story["hold_id"]]
    assert [(call["operation"], call["status"], call["api_id"]) for call in story["calls"]] == [
        ("update", 202, "api-1"),
        ("delete", None, None),
    ]
    assert [line["action"] for line in story["audit"]] == ["hold"]


@pytest.mark.parametrize(
    ("id_", "words"),
    [
        (
            "held",
            [
                "its removal is held (limit)",
                f"provisioner holds show {OPEN.id}",
                "7b1d7a3e-lost",
                "no response",
                "api-1",
                "hr-11",
            ],
        ),
        ("waiting", ["to be deleted at 2026-12-21 12:00:00Z, unless a newer event restores it"]),
        (
            "failing",
            ["its removal to succeed, after 3 tries: Plivo answered 503 to delete", "2026-11-21 13:00:00Z"],
        ),
        ("cancelled", ["it stays disabled: a person has rejected its deletion"]),
    ],
)
async def test_show_says_what_becomes_of_a_removed_department(removals, id_, words):
    shown = (await in_process(removals, "departments", "show", id_)).out
    assert [word for word in words if word not in shown] == []


async def test_show_says_where_nothing_is_deleted(removals):
    settings = {"PROVISIONER_REMOVAL": "disable"}
    shown = (await in_process(removals | settings, "departments", "show", "waiting")).out
    assert "it stays disabled: PROVISIONER_REMOVAL is disable" in shown


async def test_the_list_points_at_the_waiting_holds(removals):
    listed = await in_process(removals, "departments", "list")
    assert listed.out.splitlines()[-1] == "1 removal waits for a person: `provisioner holds list`"


async def test_recreate_of_an_unknown_department_is_one_line(environ):
    refused = await in_process(environ, "departments", "recreate", "nobody")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


async def test_recreate_without_a_lost_subaccount_is_one_line(environ):
    refused = await in_process(environ, "departments", "recreate", "claimed", "--yes")
    assert (refused.code, refused.err) == (
        1,
        "department claimed has no subaccount that is gone: a create is under way\n",
    )


async def versions(environ):
    documents = (await in_process(environ, "departments", "list", "--json")).json
    return {document["department_id"]: document["version"] for document in documents}


async def test_reset_version_of_one_department_is_audited(environ):
    done = await in_process(environ, "departments", "reset-version", "gone", "--as", "ada", "--json")
    ((reset,), left) = (done.json["reset"], done.json["left"])
    assert (reset["department_id"], reset["version"]["sequence"], left) == ("gone", 10, [])
    assert (await versions(environ))["gone"] is None
    assert (await versions(environ))["owing"] is not None
    lines = (await in_process(environ, "dead-letters", "audit", "--json")).json
    assert [(line["by"], line["action"], line["outcome"]) for line in lines] == [
        ("ada", "reset-version", "asked for"),
        ("ada", "reset-version", "forgot sequence 10 of /hr"),
    ]
    again = await in_process(environ, "departments", "reset-version", "gone")
    assert (again.code, again.out) == (0, "nothing to forget\n")


@pytest.mark.parametrize("options", [(), ("--all",)])
async def test_reset_version_of_a_source(environ, options):
    done = await in_process(environ, "departments", "reset-version", "--source", "/hr", *options)
    assert done.code == 0
    assert set((await versions(environ)).values()) == {None}
    none = await in_process(environ, "departments", "reset-version", "--source", "/hr", *options, "--json")
    assert none.json == {"reset": [], "left": []}


@pytest.mark.parametrize("arguments", [(), ("gone", "--source", "/hr"), ("gone", "--all"), ("--all",)])
async def test_reset_version_wants_a_department_or_a_source(environ, arguments):
    refused = await in_process(environ, "departments", "reset-version", *arguments)
    assert (refused.code, refused.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("command", [("recreate", "gone"), ("reset-version", "gone")])
async def test_a_no_at_a_terminal_changes_nothing_and_exits_1(environ, command):
    person, terminal = pty.openpty()
    process = await started(environ, "departments", *command, stdin=terminal)
    os.write(person, b"n\n")
    _, err = await process.communicate()
    os.close(person)
    os.close(terminal)
    assert (process.returncode, "nothing was done" in err.decode()) == (1, True)
    assert (await versions(environ))["gone"] is not None
    assert (await in_process(environ, "dead-letters", "audit", "--json")).json == []


async def test_a_filter_that_matches_nothing_does_not_say_that_there_are_no_departments(environ):
    assert (
        "no department matches" in (await in_process(environ, "departments", "list", "--tenant", "other")).out
    )


async def test_a_list_longer_than_one_table_is_several_with_all_departments(environ, monkeypatch):
    whole = (await in_process(environ, "departments", "list")).out
    monkeypatch.setattr(departments, "ROWS_AT_ONCE", 3)
    listed = (await in_process(environ, "departments", "list")).out
    assert (whole.count("newest event"), listed.count("newest event")) == (1, 2)
    assert [line.split()[1] for line in listed.splitlines() if line.startswith("default")] == sorted(
        entry.department.id for entry in ENTRIES
    )
    limited = (await in_process(environ, "departments", "list", "--limit", "3")).out
    assert limited.count("newest event") == 1
    assert "and 1 more; --limit shows more" in limited


async def test_the_json_of_a_list_is_an_array_whatever_its_length(environ):
    listed = await in_process(environ, "departments", "list", "--json")
    assert listed.out == to_json(listed.json, indent=2).decode() + "\n"
    assert (await in_process(environ, "departments", "list", "--json", "--tenant", "other")).out == "[]\n"
    (first,) = (await in_process(environ, "departments", "list", "--json", "--limit", "1")).json
    assert first == listed.json[0]


@pytest.mark.parametrize("options", [(), ("--json",), ("--status", "gone"), ("--limit", "5")])
async def test_a_list_holds_few_of_many_departments_at_a_time(environ, monkeypatch, options):
    ledger = EndlessLedger(3_000)

    @asynccontextmanager
    async def ledger_to_read(_settings):
        yield ledger, None

    monkeypatch.setattr(open_ports, "ledger_to_read", ledger_to_read)
    listed = await in_process(environ, "departments", "list", *options)
    assert listed.code == 0
    if not options:
        assert listed.out.count("d-0000") == 3_000
    assert ledger.made == (3_000 if "--json" not in options or len(options) == 1 else 5)
    assert ledger.most_alive <= 500
