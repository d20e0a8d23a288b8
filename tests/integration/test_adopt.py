"""Existing subaccounts are planned and adopted by command, with a real broker and the sandbox over HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts import topology as names
from tests.support.builders import a_worker
from tests.support.commands import CommandOutput, in_process, provisioner
from tests.support.entries import entries_of
from tests.support.real import EVENT, RealSystem
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.core.model.departments import Department
from worker.core.naming import NO_EVENT

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]


@asynccontextmanager
async def plivo(system: RealSystem) -> AsyncIterator[aiohttp.ClientSession]:
    base = f"{system.sandbox.url}/v1/Account/{system.sandbox.auth_id}/"
    login = aiohttp.encode_basic_auth(system.sandbox.auth_id, system.sandbox.auth_token)
    async with aiohttp.ClientSession(base, headers={"Authorization": login}) as session:
        yield session


async def made(system: RealSystem, *wanted: str, enabled: bool = True) -> list[str]:
    """The auth ids of subaccounts that somebody made by hand."""
    ids = []
    async with plivo(system) as session:
        for name in wanted:
            async with session.post("Subaccount/", json={"name": name, "enabled": enabled}) as response:
                ids.append((await response.json())["auth_id"])
    return ids


def written(folder: Path, *lines: str) -> str:
    path = folder / "subaccounts.csv"
    path.write_text("\n".join(["department_id,auth_id,tenant,name", *lines]) + "\n")
    return str(path)


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def adopt(system: RealSystem, file: str, *options: str) -> CommandOutput:
    return await in_process(system.environ, "adopt", "--from", file, "--as", "ada", *options)


def states(document: dict[str, Any]) -> list[tuple[int, str]]:
    return [(line["line"], line["state"]) for line in document["lines"]]


def shown(system: RealSystem) -> dict[str, tuple[str, bool]]:
    return {one.auth_id: (one.name, one.enabled) for one in system.sandbox.subaccounts()}


async def test_a_plan_changes_nothing_and_needs_no_worker_and_no_ledger(system: RealSystem, tmp_path: Path):
    first, second = await made(system, "EU 7", "US 1")
    file = written(tmp_path, f"sales,{first}", "ghost,SA00000000000000NONE", f"support,{second},acme,Support")
    before = shown(system)

    planned = await adopt(system, file, "--json")

    assert planned.code == 1
    assert planned.json["applied"] is False
    assert planned.json["summary"] == {"adopt": 2, "adopted": 0, "already": 0, "refused": 1}
    assert planned.json["lines"][0] == {
        "line": 2,
        "tenant": "default",
        "department_id": "sales",
        "auth_id": first,
        "name": "EU 7",
        "state": "adopt",
        "reason": None,
    }
    assert "Plivo has no subaccount" in planned.json["lines"][1]["reason"]
    assert (planned.json["lines"][2]["tenant"], planned.json["lines"][2]["name"]) == ("acme", "Support")
    assert shown(system) == before
    assert files_in(tmp_path) == ["subaccounts.csv"]


async def test_without_a_worker_nothing_is_applied(system: RealSystem, tmp_path: Path):
    (auth_id,) = await made(system, "EU 7")
    file = written(tmp_path, f"sales,{auth_id}")
    async with system.worker():
        pass
    async with sqlite_ledger(system.ledger) as ledger:
        await ledger.announce(a_worker())  # it was killed, and said a moment ago that it runs
    withdrawn = await adopt(system, file, "--apply", "--json")
    refused = await adopt(system, file, "--apply")

    assert (withdrawn.code, states(withdrawn.json)) == (1, [(2, "refused")])
    assert "it is withdrawn" in withdrawn.json["lines"][0]["reason"]
    assert refused.code == 1
    assert "no worker runs on this ledger" in refused.err
    assert shown(system) == {auth_id: ("EU 7", True)}
    async with system.worker() as running:
        assert await entries_of(running.ledger) == await running.ledger.wishes() == []


async def test_the_worker_adopts_what_the_plan_allows(system: RealSystem, tmp_path: Path):
    sales, support, off = (
        *await made(system, "EU 7", "Support"),
        *await made(system, "Old", enabled=False),
    )
    file = written(tmp_path, f"sales,{sales},,Sales", f"support,{support}", f"old,{off}", f"sales,{support}")
    async with system.worker() as running:
        results, secrets = await system.listen(names.RESULTS), await system.listen(names.SECRETS)
        nothing = await adopt(system, file, "--apply", "--json")
        assert (nothing.code, nothing.json["applied"]) == (1, False)
        assert states(nothing.json) == [(2, "adopt"), (3, "adopt"), (4, "refused"), (5, "refused")]
        assert shown(system)[sales] == ("EU 7", True)

        some = await adopt(system, file, "--apply", "--skip-bad", "--issue", "--json")
        assert (some.code, some.json["applied"]) == (1, True)
        assert states(some.json) == [(2, "adopted"), (3, "adopted"), (4, "refused"), (5, "refused")]
        await secrets.count(2)

        file = written(tmp_path, f"sales,{sales}", f"old,{off}")
        rest = await adopt(system, file, "--apply", "--enable", "--keep-names", "--json")
        assert (rest.code, states(rest.json)) == (0, [(2, "already"), (3, "adopted")])
        again = await adopt(system, file, "--apply", "--json")
        assert (again.code, states(again.json)) == (0, [(2, "already"), (3, "already")])

        issued = {one["data"]["department_id"]: one for one in secrets.documents}
        assert issued["sales"]["type"] == "subaccount.credentials.issued.v1"
        assert (issued["sales"]["data"]["name"], issued["sales"]["data"]["generation"]) == ("Sales", 1)
        token = next(one.auth_token for one in system.sandbox.subaccounts() if one.auth_id == sales)
        assert issued["sales"]["data"]["auth_token"] == token
        audit = await provisioner(system.environ, "dead-letters", "audit", "--json", "--by", "ada")
        assert issued["sales"]["causationid"] in audit.out
        assert token not in audit.out + some.out + some.err

        entry = (await running.ledger.recall(Department("default", "sales"), NO_EVENT)).entry
        assert shown(system)[sales][0].startswith("Sales [")
        assert shown(system)[off] == ("Old", True)
        assert (entry.auth_id, entry.debt, entry.version) == (sales, None, None)

        await system.send(json.dumps(EVENT | {"data": {"department_id": "old", "name": "New"}}).encode())
        await results.count(1)
    (result,) = results.documents
    assert (result["data"]["outcome"], result["data"]["auth_id"]) == ("renamed", off)
    assert shown(system)[off] == ("New", True)
    assert len(system.sandbox.subaccounts()) == 3
