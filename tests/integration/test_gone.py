"""A subaccount deleted at Plivo, and a sandbox begun anew, with a real broker and the sandbox over HTTP."""

import asyncio
import json
from dataclasses import replace

import pytest

from contracts import topology as names
from tests.support.commands import provisioner
from tests.support.real import EVENT, RealSystem
from worker.sandbox import running_sandbox

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

SOON = {"PROVISIONER_SETTLE_WINDOW": "1s", "PROVISIONER_API_TIMEOUT": "1s"}
RENAMED = EVENT | {
    "id": "renamed",
    "type": "department.renamed.v1",
    "time": "2026-11-21T12:05:00Z",
    "data": {"department_id": "sales", "name": "Marketing"},
}
OTHER = EVENT | {"id": "other", "data": {"department_id": "other", "name": "Other"}}


async def test_a_deleted_subaccount_is_told_and_recreated(system: RealSystem):
    system.environ |= SOON
    async with system.worker():
        results, secrets = await system.listen(names.RESULTS), await system.listen(names.SECRETS)
        await system.send(json.dumps(EVENT).encode())
        await secrets.count(1)
        (first,) = system.sandbox.subaccounts()
        system.sandbox.service.state.remove(first)
        await system.send(json.dumps(RENAMED).encode(), "department.renamed")
        await results.count(2)
        reissued = await provisioner(system.environ, "reissue", "sales", "--json")
        listed = await provisioner(system.environ, "departments", "list")
        done = await provisioner(system.environ, "departments", "recreate", "sales", "--as", "ada", "--json")
        await secrets.count(2)
        again = await provisioner(system.environ, "departments", "recreate", "sales")
    data = results.documents[1]["data"]
    assert (data["outcome"], data["code"]) == ("failed", "gone-at-provider")
    assert (reissued.code, reissued.json["code"]) == (1, "gone-at-provider")
    assert " gone " in listed.out
    (second,) = system.sandbox.subaccounts()
    assert (done.code, done.json["code"], done.json["auth_id"]) == (0, "created", second.auth_id)
    issued = secrets.documents[1]["data"]
    assert (issued["auth_id"], issued["auth_token"], issued["generation"]) == (
        second.auth_id,
        second.auth_token,
        2,
    )
    assert (again.code, "there is nothing to recreate" in again.err) == (1, True)


async def test_a_sandbox_begun_anew_stops_the_worker_before_a_second_create(system: RealSystem):
    system.environ |= SOON
    async with system.worker():
        secrets = await system.listen(names.SECRETS)
        await system.send(json.dumps(EVENT).encode())
        await secrets.count(1)
    async with running_sandbox(rate_limit="off", seed=system.sandbox.seed) as anew:
        there = replace(system, sandbox=anew, environ=system.environ | {"PLIVO_API_URL": anew.url})
        async with there.worker() as running:
            await there.send(json.dumps(OTHER).encode())
            async with asyncio.timeout(30):
                while not running.blocks():  # noqa: ASYNC110 - the worker has no event for it
                    await asyncio.sleep(0.05)
            (trouble,) = running.blocks()
            assert "on record for department sales" in trouble
            assert "is this another account, or a sandbox begun anew?" in trouble
            await anew.called("get_subaccount", 2)  # it looks whether that has changed
        assert len(anew.subaccounts()) == len(anew.calls("create_subaccount")) == 1
        assert await there.depth(names.DEAD_LETTER_QUEUE) == 0
    async with system.worker():
        await secrets.count(2)
    assert sorted(one.name.partition(" [")[0] for one in system.sandbox.subaccounts()) == ["Other", "Sales"]
