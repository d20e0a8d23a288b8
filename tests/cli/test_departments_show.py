"""`provisioner departments show`: Plivo's id of the last call, for its support."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from tests.support.builders import an_entry
from worker.adapters.ledgers import open_ledger
from worker.cli.app import app
from worker.settings.ledger_url import SqliteUrl

API_ID = "5a9f8b2c-10be-11f1-9c0a-0242ac110003"


@pytest.fixture
def department(tmp_path, monkeypatch) -> str:
    """A department whose last call Plivo named."""
    url = SqliteUrl(tmp_path / "ledger.db")
    entry = an_entry(revision=0, api_id=API_ID)

    async def fill() -> None:
        async with open_ledger(url) as opened:
            await opened.ledger.record(entry)

    asyncio.run(fill())
    monkeypatch.setenv("LEDGER_URL", str(url))
    return f"{entry.department.id} --tenant {entry.department.tenant}"


def test_the_api_id_of_the_last_call_is_shown(department):
    shown = CliRunner().invoke(app, f"departments show {department}")
    assert "last api_id" in shown.output
    assert API_ID in shown.output


def test_the_api_id_has_a_json_key_of_its_own(department):
    shown = CliRunner().invoke(app, f"departments show {department} --json")
    assert json.loads(shown.output)["api_id"] == API_ID
