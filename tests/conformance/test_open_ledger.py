"""Opening a ledger by URL, with its audit and locks."""

import pytest

from tests.support.builders import AUDIT_LINE, an_entry
from tests.support.entries import entries_of
from worker.adapters.ledgers import open_ledger
from worker.ports import LedgerFailed
from worker.settings.ledger_url import SqliteUrl


@pytest.fixture
def url(tmp_path):
    return SqliteUrl(tmp_path / "ledger.db")


async def test_ledger_and_audit_share_one_file(url):
    commits: list[int] = []
    async with open_ledger(url, on_commit=lambda operations, _seconds: commits.append(operations)) as opened:
        recorded = await opened.ledger.record(an_entry(revision=0))
        await opened.audit.append([AUDIT_LINE])
    async with open_ledger(url, must_exist=True) as opened:
        assert await entries_of(opened.ledger) == [recorded]
        assert await opened.audit.lines() == [AUDIT_LINE]
    assert sum(commits) == 3  # including the migration


async def test_a_ledger_opened_read_only_cannot_be_written(url):
    async with open_ledger(url) as opened:
        await opened.ledger.record(an_entry(revision=0))
    async with open_ledger(url, read_only=True) as opened:
        (entry,) = await entries_of(opened.ledger)
        with pytest.raises(LedgerFailed, match="cannot be written"):
            await opened.ledger.record(entry)


@pytest.mark.parametrize("how", [{"read_only": True}, {"must_exist": True}])
async def test_a_ledger_that_must_exist_is_not_created(url, how, tmp_path):
    with pytest.raises(LedgerFailed, match="there is no ledger at"):
        async with open_ledger(url, **how):
            pass
    assert not list(tmp_path.iterdir())
