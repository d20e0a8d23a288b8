"""`provisioner sweep` with a real broker, the sandbox over HTTP and a ledger file."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from contracts import topology as names
from tests.support.commands import CommandOutput, in_process
from tests.support.real import EVENT, RealSystem

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

DOCUMENT = {"started_at", "finished_at", "subaccounts", "departments", "findings"}
FINDING = {"kind", "tenant", "department_id", "auth_id", "detail", "fixable", "fixed"}


@asynccontextmanager
async def plivo(system: RealSystem) -> AsyncIterator[aiohttp.ClientSession]:
    base = f"{system.sandbox.url}/v1/Account/{system.sandbox.auth_id}/"
    login = aiohttp.encode_basic_auth(system.sandbox.auth_id, system.sandbox.auth_token)
    async with aiohttp.ClientSession(base, headers={"Authorization": login}) as session:
        yield session


async def post(system: RealSystem, path: str, **fields: Any) -> dict[str, Any]:
    async with plivo(system) as session, session.post(path, json=fields) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def delete(system: RealSystem, auth_id: str) -> None:
    async with plivo(system) as session, session.delete(f"Subaccount/{auth_id}/") as response:
        assert response.status == 204


async def departments(system: RealSystem, *ids: str) -> dict[str, str]:
    """Creates departments with a worker that then stops; returns their auth ids."""
    async with system.worker():
        heard = await system.listen(names.RESULTS)
        for id_ in ids:
            event = EVENT | {"id": f"event-{id_}", "data": {"department_id": id_, "name": id_.title()}}
            await system.send(json.dumps(event).encode())
        await heard.count(len(ids))
    return {one["data"]["department_id"]: one["data"]["auth_id"] for one in heard.documents}


async def drifted(system: RealSystem) -> dict[str, str]:
    """Ten departments, and each kind of drift but one that needs a changed token."""
    ids = await departments(system, *(f"d{number}" for number in range(10)))
    shown = {one.auth_id: one.name for one in system.sandbox.subaccounts()}
    await post(system, f"Subaccount/{ids['d0']}/", name="Renamed by hand", enabled=True)
    await post(system, f"Subaccount/{ids['d1']}/", name=shown[ids["d1"]], enabled=False)
    await delete(system, ids["d2"])
    double = await post(system, "Subaccount/", name=shown[ids["d3"]], enabled=True)
    await post(system, "Subaccount/", name="By hand", enabled=True)
    await post(system, "Subaccount/", name="Theirs [0123456789]", enabled=True)
    return ids | {"double": double["auth_id"]}


async def sweep(system: RealSystem, *options: str) -> CommandOutput:
    return await in_process(system.environ, "sweep", *options)


EXPECTED = ["double", "name", "enabled", "missing", "unrecorded", "untagged"]


def kinds(output: CommandOutput) -> list[str]:
    assert set(output.json) == DOCUMENT
    assert all(set(finding) == FINDING for finding in output.json["findings"])
    return [finding["kind"] for finding in output.json["findings"]]


async def test_without_a_worker_the_command_reads_the_list_itself(system: RealSystem):
    await drifted(system)

    found = await sweep(system, "--json")

    assert (found.code, kinds(found)) == (0, EXPECTED), found.err
    assert (found.json["subaccounts"], found.json["departments"]) == (12, 10)
    assert found.json["started_at"].endswith("Z")
    assert "no worker runs" in found.err
    strangers = [one for one in found.json["findings"] if one["kind"] in {"unrecorded", "untagged"}]
    assert [(one["tenant"], one["department_id"]) for one in strangers] == [(None, None)] * 2
    assert (await sweep(system, "--check", "--json")).code == 1

    refused = await sweep(system, "--fix", "--json")
    assert (refused.code, kinds(refused)) == (1, EXPECTED)
    assert "no worker runs on this ledger" in refused.err
    assert not any(one["fixed"] for one in refused.json["findings"])


async def test_the_running_worker_sweeps_and_corrects(system: RealSystem):
    ids = await drifted(system)
    async with system.worker():
        found = await sweep(system, "--check", "--json")
        assert (found.code, kinds(found)) == (1, EXPECTED), found.err
        assert "no worker runs" not in found.err

        fixed = await sweep(system, "--fix", "--json", "--as", "ada")
        assert (fixed.code, kinds(fixed)) == (0, EXPECTED), fixed.err
        done = {one["kind"]: (one["fixable"], one["fixed"]) for one in fixed.json["findings"]}
        assert done["double"] == done["name"] == done["enabled"] == (True, True)
        assert done["missing"] == done["unrecorded"] == done["untagged"] == (False, False)

        again = await sweep(system, "--json")
        assert kinds(again) == ["double-disabled", "missing", "unrecorded", "untagged"]
        text = await sweep(system)
        assert "missing: see the detail" in text.out
        assert ids["d2"] in text.out

        shown = {one.auth_id: one for one in system.sandbox.subaccounts()}
        assert not shown[ids["double"]].enabled
        assert shown[ids["d0"]].name.startswith("D0 [")
        assert shown[ids["d1"]].enabled
    audit = await in_process(system.environ, "dead-letters", "audit", "--by", "ada", "--json")
    assert audit.code == 0


async def test_corrections_can_be_left_to_the_worker(system: RealSystem):
    ids = await drifted(system)
    async with system.worker() as running:
        left = await sweep(system, "--fix", "--no-wait", "--json")
        assert (left.code, kinds(left)) == (0, EXPECTED)
        assert "left to the worker: 3 corrections" in left.err
        while await running.ledger.wishes():
            await running.worker.lanes.idle()
            await asyncio.sleep(0.05)
    shown = {one.auth_id: one for one in system.sandbox.subaccounts()}
    assert not shown[ids["double"]].enabled


async def test_an_account_as_on_record_has_no_finding(system: RealSystem):
    await departments(system, "sales", "support")
    async with system.worker():
        found = await sweep(system, "--check")
    assert found.code == 0, found.out
    assert "no finding" in found.out
    assert "2 subaccounts compared with 2 departments" in found.out


async def test_another_account_is_refused_or_named(system: RealSystem):
    ids = await departments(system, "a", "b", "c")
    other = system.environ | {"PLIVO_AUTH_ID": "MAOTHERACCOUNT000000"}
    refused = await in_process(other, "sweep")
    assert "the ledger belongs to" in refused.err
    for auth_id in ids.values():
        await delete(system, auth_id)
    found = await sweep(system, "--json")
    assert kinds(found) == ["missing"] * 3
    assert "is this another account" in found.err


async def test_a_refused_login_fails_with_one_line(system: RealSystem):
    await departments(system, "a")
    failed = await in_process(system.environ | {"PLIVO_AUTH_TOKEN": "wrong"}, "sweep", "--json")
    assert (failed.code, failed.out) == (1, "")
    assert "Plivo's subaccounts cannot be read" in failed.err
    assert "wrong" not in failed.err


async def test_no_wait_goes_with_fix(system: RealSystem):
    misused = await sweep(system, "--no-wait")
    assert misused.code == 2
    assert "--no-wait goes with --fix" in misused.err
