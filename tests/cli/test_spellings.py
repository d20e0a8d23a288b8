"""One department, in whatever spelling a command is told its id."""

import asyncio
import json
import sys

import pytest

from tests.support.builders import an_answer, an_entry, created
from worker.adapters.ledgers import open_ledger
from worker.cli.app import main
from worker.cli.options import spelt
from worker.core.model.departments import Department
from worker.settings.ledger_url import SqliteUrl

CAFE = Department("emea", "Caf\u00e9 42")


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The environment of a ledger of one department."""
    url = SqliteUrl(tmp_path / "a.db")

    async def fill():
        event = created(department_id=CAFE.id, tenant=CAFE.tenant)
        async with open_ledger(url) as opened:
            await opened.ledger.record(an_entry(department=CAFE, revision=0), an_answer(event))

    asyncio.run(fill())
    monkeypatch.setenv("LEDGER_URL", str(url))


def printed(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["provisioner", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("department_id", ["Caf\u00e9 42", " Cafe\u0301 42", "Caf\u00e9 42\t\n"])
@pytest.mark.parametrize("tenant", ["emea", "\u00a0emea "])
def test_a_department_is_found_in_every_spelling_of_its_id(department_id, tenant, monkeypatch, capsys):
    shown = printed(["departments", "show", department_id, "--tenant", tenant], monkeypatch, capsys)
    listed = printed(["departments", "list", "--tenant", tenant], monkeypatch, capsys)
    assert str(CAFE.id) in json.dumps(shown, ensure_ascii=False)
    assert len(listed) == 1


@pytest.mark.parametrize("wrong", ["", " ", "a\u200bb", "a\nb", "x" * 129, "\udcff"], ids=ascii)
def test_what_can_be_no_id_is_refused(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["provisioner", "departments", "show", wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Invalid value for 'DEPARTMENT': an id must ")


def test_filters_take_every_spelling():
    assert spelt(" Cafe\u0301 42") == CAFE.id
