"""The departments commands on a ledger beside no worker: what they show, ask and refuse."""

import os
import pty
from datetime import timedelta

import pytest

from tests.support.builders import AUTH_ID, CLAIM, NOW, an_entry, owing
from tests.support.commands import in_process, started
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.core.model import Check, Department, Status, replace


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
