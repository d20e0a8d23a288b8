"""Fixtures of the suites of the ledger's ports."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.conformance.ledgers import LEDGERS, Place, in_postgres
from worker.ports import Ledger, OpenedLedger

Opening = Callable[[Path], AbstractAsyncContextManager[OpenedLedger]]
"""Opens an empty ledger, which may use this empty folder."""


@pytest.fixture(params=LEDGERS, scope="session")
def opening(request: pytest.FixtureRequest) -> Opening:
    """Each kind of ledger."""
    server = request.getfixturevalue("postgres_url") if request.param is in_postgres else ""
    return lambda folder: request.param(Place(folder, server))


@pytest.fixture
async def opened(opening: Opening, tmp_path: Path) -> AsyncIterator[OpenedLedger]:
    """Each ledger with its audit."""
    async with opening(tmp_path) as whole:
        yield whole


@pytest.fixture
def ledger(opened: OpenedLedger) -> Ledger:
    return opened.ledger
