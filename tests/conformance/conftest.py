"""Fixtures of the suites of the ledger's ports."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.ledgers import LEDGERS
from worker.ports import Ledger, OpenedLedger


@pytest.fixture(params=LEDGERS)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenedLedger]:
    """Each ledger with its audit."""
    async with request.param(tmp_path) as whole:
        yield whole


@pytest.fixture
def ledger(opened: OpenedLedger) -> Ledger:
    return opened.ledger
