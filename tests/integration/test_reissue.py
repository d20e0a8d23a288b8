"""Reissued credentials with a real broker, requested by a message and by the command."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from contracts import topology as names
from tests.support.real import EVENT, Listener, RealSystem
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

ASKED = EVENT | {
    "id": "request-1",
    "source": "/test/crm",
    "type": "subaccount.credentials.reissue.requested.v1",
    "data": {"department_id": "sales"},
}
AGAIN = "subaccount.credentials.reissued.v1"


async def reissue(system: RealSystem, *arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of the command."""
    environ = {"LEDGER_URL": system.environ["LEDGER_URL"], "PATH": os.environ["PATH"]}
    command = (sys.executable, "-m", "worker", "reissue", *arguments)
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), " ".join(errors.decode().split())


async def with_credentials_issued(system: RealSystem) -> tuple[Listener, Listener]:
    """Listeners on secrets and results, once a department has its subaccount."""
    secrets, results = await system.listen(names.SECRETS), await system.listen(names.RESULTS)
    await system.send(json.dumps(EVENT).encode())
    await secrets.count(1)
    await results.count(1)
    return secrets, results


def tokens(secrets: Listener) -> list[tuple[str, Any]]:
    return [(one["type"], one["data"]["auth_token"]) for one in secrets.documents]


async def test_a_reissue_message_publishes_credentials_again(system: RealSystem):
    async with system.worker():
        secrets, results = await with_credentials_issued(system)
        await system.send(json.dumps(ASKED).encode(), "subaccount.credentials.reissue.requested")
        await secrets.count(2)
        await results.count(2)
    (held,) = system.sandbox.subaccounts()
    assert tokens(secrets)[1:] == [(AGAIN, held.auth_token)]
    assert secrets.messages[1].routing_key == "subaccount.credentials.reissued"
    assert results.documents[1]["type"] == "subaccount.reissued.v1"
    assert results.documents[1]["data"]["code"] == "reissued"
    assert await system.depth(names.WORK_QUEUE) == await system.depth(names.DEAD_LETTER_QUEUE) == 0


async def test_the_reissue_command_publishes_credentials_again(system: RealSystem):
    async with system.worker():
        secrets, results = await with_credentials_issued(system)
        code, output, _ = await reissue(system, "sales", "--as", "anna", "--json")
        await secrets.count(2)
        soon = await reissue(system, "sales")
        soon_again = await reissue(system, "sales", "--json")
        unknown = await reissue(system, "unknown", "--json")
    document = json.loads(output)
    assert (code, document["issued"], document["code"]) == (0, True, "reissued")
    where = (document["exchange"], document["queues"], document["recipients"])
    assert where == ("provisioner.secrets", ["provisioner.secrets"], [])
    assert tokens(secrets)[1] == (AGAIN, system.sandbox.subaccounts()[0].auth_token)
    assert secrets.documents[1]["causationid"] == document["id"]
    assert system.sandbox.subaccounts()[0].auth_token not in output
    assert len(results.messages) == 1
    assert (soon[0], "less than 60 s ago" in soon[2]) == (1, True)
    for (code, output, _), why in ((soon_again, "too-soon"), (unknown, "unknown-department")):
        document = json.loads(output)
        assert (code, document["issued"], document["code"], document["queues"]) == (1, False, why, [])


async def test_the_reissue_command_reports_a_missing_worker(system: RealSystem):
    async with system.worker():
        await with_credentials_issued(system)
    code, _, errors = await reissue(system, "sales", "--as", "anna", "--recipient", "crm")
    assert code == 1
    async with sqlite_ledger(system.ledger) as ledger:
        noted = await SqliteAudit(ledger.store).lines(by="anna")
        assert await ledger.wishes() == []
    # The worker counts as running for five seconds after its end.
    lines = [(line.action, line.selection, line.department_id, line.outcome) for line in noted]
    asked = ("reissue", "--recipient crm", "sales", "asked for")
    assert lines in ([], [asked, (*asked[:3], "withdrawn, no worker has done it")])
    assert "no worker runs on this ledger" in errors
    code, _, errors = await reissue(system, "marketing")
    assert (code, errors) == (
        1,
        "the ledger has never heard of department marketing of tenant default",
    )
