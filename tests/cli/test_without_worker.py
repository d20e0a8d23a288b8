"""The commands that only a running worker carries out, while none runs: each says so, and exits 1."""

import aiohttp
import pytest

from tests.cli.test_holds import a_hold, path_of
from tests.support.builders import AUTH_ID, an_entry
from tests.support.commands import in_process
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.core.model.holds import HoldReason
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving, Rejecting
from worker.ports import Beside
from worker.sandbox import Sandbox, running_sandbox

HELD = a_hold("HAAAAAAAAAAA", "sales", HoldReason.MERGED)


async def made_disabled(sandbox: Sandbox) -> str:
    """The auth id of a disabled subaccount with the name of the hold."""
    login = aiohttp.encode_basic_auth(sandbox.auth_id, sandbox.auth_token)
    url = f"{sandbox.url}/v1/Account/{sandbox.auth_id}/Subaccount/"
    async with (
        aiohttp.ClientSession(headers={"Authorization": login}) as session,
        session.post(url, json={"name": HELD.name, "enabled": False}) as response,
    ):
        return str((await response.json())["auth_id"])


@pytest.fixture
async def environ(tmp_path):
    """A ledger with a held removal of an active department, whose subaccount Plivo shows disabled."""
    async with running_sandbox() as sandbox, sqlite_ledger(tmp_path / "ledger.db") as ledger:
        environ = {
            "LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
        }
        held = replace(HELD, auth_id=await made_disabled(sandbox))
        entry = an_entry(auth_id=held.auth_id, keeps_name=True, kept_name=held.name, hold=held)
        sales = replace(entry, department=held.department, revision=0)
        await ledger.record(sales, beside=Beside(holds=(held,)))
        (tmp_path / "adopt.csv").write_text(f"department_id,auth_id\nsupport,{AUTH_ID}\n")
        yield environ


async def wishes(environ):
    async with sqlite_ledger(path_of(environ)) as ledger:
        return [wish.asks for wish in await ledger.wishes()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "--fix"),
        ("sweep", "--fix", "--no-wait"),
        ("sweep", "--fix", "--no-wait", "--json"),
        ("adopt", "--apply", "--from", "adopt.csv"),
        ("departments", "recreate", "sales", "--yes"),
        ("reissue", "sales"),
    ],
    ids=" ".join,
)
async def test_nothing_is_asked_for(environ, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)

    done = await in_process(environ, *arguments)

    assert done.code == 1
    assert "no worker runs on this ledger" in done.err
    assert "start `provisioner run`" in done.err
    assert await wishes(environ) == []


@pytest.mark.parametrize("ruling", ["approve", "reject"])
@pytest.mark.parametrize(("options", "code"), [((), 1), (("--no-wait",), 0)])
async def test_a_ruling_stays_for_a_day(environ, ruling, options, code):
    done = await in_process(environ, "holds", ruling, HELD.id, "--yes", *options)

    assert done.code == code
    assert ("no worker runs on this ledger" in done.err) == (code == 1)
    assert await wishes(environ) == [{"approve": Approving, "reject": Rejecting}[ruling](HELD.id)]
