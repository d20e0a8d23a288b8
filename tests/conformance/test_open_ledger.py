"""Opening a ledger by URL, with its audit and locks, and a one-line error for an unsupported URL."""

import pytest

from tests.support.builders import AUDIT_LINE, an_entry
from worker.adapters.ledgers import open_ledger
from worker.ports import LedgerFailed, LedgerUnusable


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'ledger.db'}"


async def test_ledger_and_audit_share_one_file(url):
    commits: list[int] = []
    async with open_ledger(url, on_commit=commits.append) as opened:
        recorded = await opened.ledger.record(an_entry(revision=0))
        await opened.audit.append([AUDIT_LINE])
    async with open_ledger(url, must_exist=True) as opened:
        assert await opened.ledger.entries() == [recorded]
        assert await opened.audit.lines() == [AUDIT_LINE]
    assert sum(commits) == 3  # including the migration


async def test_a_ledger_opened_read_only_cannot_be_written(url):
    async with open_ledger(url) as opened:
        await opened.ledger.record(an_entry(revision=0))
    async with open_ledger(url, read_only=True) as opened:
        (entry,) = await opened.ledger.entries()
        with pytest.raises(LedgerFailed, match="cannot be written"):
            await opened.ledger.record(entry)


@pytest.mark.parametrize("how", [{"read_only": True}, {"must_exist": True}])
async def test_a_ledger_that_must_exist_is_not_created(url, how, tmp_path):
    with pytest.raises(LedgerFailed, match="there is no ledger at"):
        async with open_ledger(url, **how):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "unknown", ["postgresql://worker:secret@db/ledger", "ledger.db", "sqlite:ledger.db", ""]
)
async def test_an_unsupported_url_is_refused_without_its_password(unknown):
    with pytest.raises(LedgerUnusable, match="set LEDGER_URL to sqlite:///") as refusal:
        async with open_ledger(unknown):
            pass
    assert refusal.value.exit_code == 2
    assert len(str(refusal.value).splitlines()) == 1
    assert "secret" not in str(refusal.value)
