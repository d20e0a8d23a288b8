"""Every command prints the same, and leaves the same, on a ledger in a file and on one in PostgreSQL."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta

import pytest

from tests.support.builders import (
    AUDIT_LINE,
    CLAIM,
    NOW,
    an_answer,
    an_entry,
    created,
    department_removed,
    owing,
)
from tests.support.commands import CommandOutput, in_process
from tests.support.entries import entries_of
from worker.adapters.ledgers import open_ledger
from worker.core.inventory import Counts
from worker.core.model.calls import CallNote
from worker.core.model.causes import Cause, Event
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.replace import replace
from worker.ports import Beside, OpenedLedger
from worker.settings.ledger_url import SqliteUrl, parse_ledger_url

SALES, GONE, OWING, HELD = (
    Department("default", id_) for id_ in ("sales", "gone", "owing", "caf\u00e9 \U0001f600")
)
ANSWERED = created(department_id="sales", id="hr-1")
REMOVAL = Event.of(department_removed(sequence=11), "department.removed.v1", "digest")
HOLD = Hold(
    "HAAAAAAAAAAA",
    HELD,
    HoldReason.RESOURCES,
    "2 numbers hang on it",
    Cause(REMOVAL.reference, REMOVAL.payload_digest, REMOVAL.version),
    "SA" + "H" * 18,
    "Caf\u00e9",
    NOW,
    resources=Counts(2, 0, 0),
    disabled=True,
)
EVENT = {
    "specversion": "1.0",
    "id": "hr-2",
    "source": "/hr",
    "time": "2026-11-21T12:00:00Z",
    "type": "department.renamed.v1",
    "sequence": 1000,
    "data": {"department_id": "sales", "name": "Sales North"},
}

COMMANDS = [
    "departments list",
    "departments list --json",
    "departments list --json --status gone",
    "departments show sales",
    "departments show sales --json",
    "departments show nobody",
    "holds list",
    "holds list --all --json",
    "holds show HAAAAAAAAAAA",
    "dead-letters audit",
    "dead-letters audit --json",
    "plan --file event.json --json",
    "events show hr-1",
    "reissue sales --recipient crm --as ada",
    "sweep",
    "departments recreate gone --yes --as ada",
    "departments reset-version sales --yes --as ada",
    "holds approve HAAAAAAAAAAA --yes --as ada",
    "holds reject HAAAAAAAAAAA --yes --as ada",
]

VARIES = r"\b[0-9A-HJKMNP-TV-Z]{26}\b|[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\d[T ][0-9:.]+Z?"
"""Ids that a command makes, and the time of day."""


async def fill(opened: OpenedLedger) -> None:
    ledger = opened.ledger
    call = CallNote(NOW, "create_subaccount", "key", "SA" + "S" * 18, 201, "api-id")
    await ledger.record(entry(SALES), an_answer(ANSWERED), beside=Beside(calls=(call,)))
    await ledger.record(entry(GONE, auth_id="SA" + "G" * 18, gone_at=NOW, missing_since=NOW))
    await ledger.record(
        entry(
            OWING,
            auth_id="SA" + "O" * 18,
            debt=owing("crm", retry_at=NOW + timedelta(minutes=1)),
            created_at=NOW,
        )
    )
    await ledger.record(entry(HELD, auth_id=HOLD.auth_id, hold=HOLD), beside=Beside(holds=(HOLD,)))
    await ledger.record(entry(Department("acme", "claimed"), Status.CLAIMED, claim=CLAIM))
    await ledger.bind("default", "MA1")
    await opened.audit.append([AUDIT_LINE])


def entry(department: Department, status: Status = Status.ACTIVE, **fields: object) -> Entry:
    return replace(an_entry(status, **fields), department=department, revision=0)


async def contents(opened: OpenedLedger) -> list[str]:
    """All that the ports show of a ledger, but for ids and times that a command makes."""
    found = [*await entries_of(opened.ledger), *await opened.ledger.wishes(), *await opened.audit.lines()]
    return [neutral(repr(one)) for one in found]


def neutral(text: str) -> str:
    return re.sub(r"datetime\([0-9, ]+tzinfo", "datetime(tzinfo", re.sub(VARIES, "~", text))


@pytest.fixture
async def urls(tmp_path, postgres_database, monkeypatch) -> list[str]:
    """A ledger of each kind with the same contents."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    urls = [str(SqliteUrl(tmp_path / "ledger.db")), postgres_database]
    for url in urls:
        async with open_ledger(parse_ledger_url(url)) as opened:
            await fill(opened)
    return urls


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_does_the_same_on_every_ledger(urls, command):
    in_file, in_database = [await outcome(url, command) for url in urls]
    assert in_file == in_database
    assert in_file[0].out or in_file[0].err


async def outcome(url: str, command: str) -> tuple[CommandOutput, list[str]]:
    """The output of a command, and the ledger after it."""
    environ: Mapping[str, str] = {
        "LEDGER_URL": url,
        "AMQP_URL": "amqp://127.0.0.1:9/",
        "PLIVO_AUTH_ID": "MA1",
        "PLIVO_AUTH_TOKEN": "token",
        "PLIVO_API_URL": "http://127.0.0.1:9",
    }
    ended = await in_process(environ, *command.split())
    async with open_ledger(parse_ledger_url(url), must_exist=True) as opened:
        return CommandOutput(ended.code, neutral(ended.out), neutral(ended.err)), await contents(opened)
