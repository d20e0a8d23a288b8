"""`provisioner ledger`, and the refusal of a second worker on one SQLite ledger."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.commands import provisioner
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import parse_ledger_url


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "PLIVO_AUTH_ID": "MA1",
        "PLIVO_AUTH_TOKEN": "token",
        "PROVISIONER_HTTP": "127.0.0.1:0",
    }


async def test_a_second_run_ends_with_one_line_that_names_the_first(environ):
    """Also where the first has the address of the probes: that would be the second mistake."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ["PROVISIONER_HTTP"] = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_ledger(parse_ledger_url(environ["LEDGER_URL"]), alone=True):
            second = await provisioner(environ, "run")
    assert second.code == 2
    (line,) = second.err.splitlines()
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in line
    assert not second.out
