"""`provisioner plan`: what would happen to an event, on the ledger as it is, which stays as it is."""

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.builders import NOW, an_entry, owing
from tests.support.commands import in_process, provisioner
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.core.model.causes import Cause, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.core.model.removals import Removed
from worker.core.model.replace import replace

CAUSE = Cause(Reference("/hr", "hr-9", "department.removed.v1"), "digest")
CREATED = {
    "specversion": "1.0",
    "id": "hr-1",
    "source": "/hr",
    "time": "2026-11-21T12:00:00Z",
    "type": "department.created.v1",
    "sequence": 100,
    "data": {"department_id": "sales", "name": "Sales North"},
}
REMOVED = CREATED | {"type": "department.removed.v1", "data": {"department_id": "sales"}}


@pytest.fixture
def environ(tmp_path):
    return {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db"}


@pytest.fixture
async def filled(environ, tmp_path):
    """Ten active departments, and one that is disabled."""
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        for number in range(10):
            entry = an_entry(auth_id=f"SA{number:018}", debt=owing("crm") if number == 1 else None)
            id_ = "sales" if number == 0 else f"d-{number}"
            await ledger.record(replace(entry, department=Department("default", id_), revision=0))
        disabled = an_entry(Status.DISABLED, auth_id="SA" + "9" * 18, removal=Removed(NOW, CAUSE))
        await ledger.record(replace(disabled, department=Department("default", "old"), revision=0))
    return environ


async def planned(environ, event, tmp_path: Path, *options: str):
    file = tmp_path / "event.json"
    file.write_text(event if isinstance(event, str) else json.dumps(event))
    return await in_process(environ, "plan", "--file", str(file), *options)


async def test_a_first_event_on_a_new_ledger_is_a_create(environ, tmp_path):
    done = await planned(environ, CREATED, tmp_path, "--json")
    assert done.code == 0
    assert "there is no ledger" in done.err
    assert not (tmp_path / "ledger.db").exists()
    document = done.json
    assert (document["decision"], document["outcome"], document["calls"]) == ("create", "created", 1)
    department = document["department"]
    assert (department["department_id"], department["status"], department["answers"]) == (
        "sales",
        "absent",
        [],
    )


@pytest.mark.parametrize(
    ("event", "settings", "expected"),
    [
        (CREATED, {}, ("rename", "renamed", 1)),
        (REMOVED, {}, ("disable", "disabled", 1)),
        (REMOVED, {"PROVISIONER_REMOVAL": "delete"}, ("delete", "removed", 5)),
        (REMOVED, {"PROVISIONER_PROTECTED": "sa*"}, ("hold", "held", 0)),
        (CREATED | {"data": {"department_id": "old", "name": "Old"}}, {}, ("restore", "restored", 1)),
        (CREATED | {"sequence": 1}, {}, ("skip", "superseded", 0)),
        (CREATED | {"data": {"department_id": "sales"}}, {}, ("refuse", "failed", 0)),
        (CREATED | {"type": "department.moved.v1"}, {}, ("refuse", "failed", 0)),
    ],
)
async def test_the_decision_follows_ledger_and_settings(filled, tmp_path, event, settings, expected):
    done = await planned(filled | settings, event, tmp_path, "--json")
    document = done.json
    assert (done.code, done.err) == (0, "")
    assert (document["decision"], document["outcome"], document["calls"]) == expected
    assert document["event"] == {"source": "/hr", "id": "hr-1", "type": event["type"]}


async def test_a_hold_names_its_reason(filled, tmp_path):
    held = (
        await planned(filled | {"PROVISIONER_REMOVAL_LIMIT": "0.1%/24h"}, REMOVED, tmp_path, "--json")
    ).json
    assert held["decision"] == "disable"  # a percentage allows three
    merged = REMOVED | {"data": {"department_id": "sales", "cause": "merged", "merged_into": "d-1"}}
    held = (await planned(filled, merged, tmp_path, "--json")).json
    assert (held["decision"], held["reason"]) == ("hold", "merged")


async def test_the_department_is_as_departments_show_has_it(filled, tmp_path):
    event = REMOVED | {"data": {"department_id": "old"}}
    document = (await planned(filled, event, tmp_path, "--json")).json
    shown = (await in_process(filled, "departments", "show", "old", "--json")).json
    assert document["department"] == shown
    assert shown["deletion_due_at"] == (NOW + timedelta(days=30)).strftime("%FT%TZ")


async def test_nothing_is_written(filled, tmp_path):
    before = hashlib.sha256((tmp_path / "ledger.db").read_bytes()).hexdigest()
    for event in (CREATED, REMOVED):
        await planned(filled, event, tmp_path)
    assert hashlib.sha256((tmp_path / "ledger.db").read_bytes()).hexdigest() == before


async def test_a_person_reads_it_in_words(filled, tmp_path):
    shown = await planned(filled | {"COLUMNS": "80"}, REMOVED, tmp_path)
    for words in (
        "disable: disable the subaccount",
        "at least 1 to Plivo",
        "hr-1 of /hr",
        "nothing was changed",
    ):
        assert words in " ".join(shown.out.split())


async def test_the_output_of_emit_is_taken_and_stdin_too(filled):
    given = json.dumps([CREATED]).encode()
    done = await provisioner(filled, "plan", "--file", "-", "--json", given=given)
    assert done.json["decision"] == "rename"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "0 events"),
        (json.dumps([CREATED, REMOVED]), "2 events"),
        ("7", "not a JSON object"),
        (json.dumps({"data": {}}), "specversion"),
        (json.dumps({name: value for name, value in CREATED.items() if name != "id"}), "id"),
    ],
)
async def test_a_file_without_an_event_is_one_line(filled, tmp_path, text, words):
    done = await planned(filled, text, tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert words in done.err


async def test_a_missing_file_is_one_line(environ, tmp_path):
    done = await in_process(environ, "plan", "--file", str(tmp_path / "none.json"))
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert await asyncio.to_thread((tmp_path / "ledger.db").exists) is False
