"""The conformance suite of every audit, and the append-only guarantee of the one in SQLite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from pydantic import TypeAdapter

from tests.support.builders import AUDIT_LINE, NOW
from tests.support.entries import entries_of
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.core.dead_letters import AuditLine
from worker.ports import Audit, LedgerFailed, OpenedLedger

NAMELESS = replace(
    AUDIT_LINE, event_id=None, source=None, tenant=None, department_id=None, reason="malformed"
)


@asynccontextmanager
async def in_sqlite(folder: Path) -> AsyncIterator[Audit]:
    async with sqlite_ledger(folder / "ledger.db") as ledger:
        yield SqliteAudit(ledger.store)


@pytest.fixture
def audit(opened: OpenedLedger) -> Audit:
    return opened.audit


async def test_lines_are_returned_in_order(audit):
    later = replace(AUDIT_LINE, at=NOW + timedelta(microseconds=1), outcome="answered created")
    await audit.append([AUDIT_LINE, NAMELESS])
    await audit.append([])
    await audit.append([later])
    assert await audit.lines() == [AUDIT_LINE, NAMELESS, later]


async def test_lines_are_filtered_by_time_operator_and_event(audit):
    others = [
        replace(AUDIT_LINE, at=NOW + timedelta(seconds=1)),
        replace(AUDIT_LINE, by="mo"),
        replace(AUDIT_LINE, event_id="hr-2"),
    ]
    await audit.append([AUDIT_LINE, *others])
    assert await audit.lines(since=NOW + timedelta(microseconds=1)) == others[:1]
    assert await audit.lines(since=NOW) == [AUDIT_LINE, *others]
    assert await audit.lines(by="mo") == others[1:2]
    assert await audit.lines(id_="hr-2") == others[2:]
    assert await audit.lines(by="mo", id_="hr-2") == []


async def test_lines_without_an_event_are_found_by_their_letter(audit):
    nameless = replace(NAMELESS, letter="5c0ffee")
    await audit.append([AUDIT_LINE, nameless])
    assert await audit.lines(id_="5c0ffee") == [nameless]


async def test_a_line_of_an_older_version_without_a_letter_is_read(tmp_path):
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        older = TypeAdapter(AuditLine).dump_json(AUDIT_LINE, exclude={"letter"}).decode()
        row = (AUDIT_LINE.at.isoformat(), AUDIT_LINE.by, AUDIT_LINE.event_id, older)
        insert = "INSERT INTO audit (at, by, event_id, audit) VALUES (?, ?, ?, ?)"
        await ledger.store.run(lambda db: db.execute(insert, row))
        assert await SqliteAudit(ledger.store).lines() == [AUDIT_LINE]


@pytest.fixture
async def ledger_file(tmp_path: Path) -> Path:
    async with in_sqlite(tmp_path) as audit:
        await audit.append([AUDIT_LINE])
    return tmp_path / "ledger.db"


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit",
        "UPDATE audit SET by = 'nobody'",
        "INSERT OR REPLACE INTO audit SELECT number, at, 'nobody', event_id, audit FROM audit",
    ],
)
async def test_the_file_is_append_only(ledger_file, change):
    connection = apsw.Connection(str(ledger_file))
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        connection.execute(change)
    connection.close()
    async with in_sqlite(ledger_file.parent) as audit:
        assert await audit.lines() == [AUDIT_LINE]


async def test_a_batch_is_appended_completely_or_not_at_all(ledger_file):
    async with in_sqlite(ledger_file.parent) as audit:
        with pytest.raises(LedgerFailed):
            await audit.append([replace(AUDIT_LINE, by="mo"), replace(AUDIT_LINE, by=None)])  # type: ignore[arg-type]  # refused
        assert await audit.lines() == [AUDIT_LINE]


async def test_a_ledger_opened_read_only_cannot_be_written(ledger_file):
    before = ledger_file.read_bytes()
    async with sqlite_ledger_read(ledger_file) as ledger:
        with pytest.raises(LedgerFailed, match="cannot be written"):
            await SqliteAudit(ledger.store).append([AUDIT_LINE])
        assert await SqliteAudit(ledger.store).lines() == [AUDIT_LINE]
    assert ledger_file.read_bytes() == before


async def test_a_ledger_of_an_older_version_without_an_audit_is_read(tmp_path):
    """The first writer adds the audit table."""
    path = tmp_path / "ledger.db"
    async with sqlite_ledger(path) as ledger:
        await ledger.store.run(lambda db: db.execute("DROP TABLE audit"))
        await ledger.store.run(lambda db: db.execute("DELETE FROM migrations WHERE name = '0003_audit.sql'"))
    async with sqlite_ledger_read(path) as ledger:
        assert await entries_of(ledger) == []
    async with in_sqlite(tmp_path) as audit:
        await audit.append([AUDIT_LINE])


async def test_a_missing_ledger_names_the_setting_to_change(tmp_path):
    with pytest.raises(LedgerFailed, match="set LEDGER_URL"):
        async with sqlite_ledger_read(tmp_path / "ledger.db"):
            pass
