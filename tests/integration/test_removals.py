"""Removal as its neighbours see it: `provisioner run` as a process, a broker, the sandbox, and the commands.

One worker serves many departments at once, each tenant with a case of its own, so that the waits for a grace
run beside one another.
"""

import asyncio
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.subaccounts import outbound_id
from tests.support.estate import Estate
from tests.support.real import RealSystem
from tests.support.secrets_keys import fresh_sealing_key
from worker.adapters.jose.key_files import read_signing_key
from worker.adapters.jose.open import open_message
from worker.core.keyring import public_part, public_set

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

GRACE = timedelta(seconds=3)
SHORT = {"REMOVAL_GRACE": "3s", "SETTLE_WINDOW": "2s", "API_TIMEOUT": "2s", "SWEEP": "off"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

LISTED = {
    "tenant", "department_id", "name", "status", "auth_id", "incarnation", "generation", "owed_to",
    "enable_owed", "deletion_due_at",
}  # fmt: skip
HELD = {
    "id", "tenant", "department_id", "name", "auth_id", "reason", "detail", "state", "event", "held_at",
    "resources",
}  # fmt: skip


def moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


async def test_grace_restore_and_the_next_incarnation(system: RealSystem):
    estate = Estate(system)
    async with estate.worker(**SHORT):
        restored, deleted, quiet, _ = await estate.create("t", "restored", "deleted", "quiet", "other")
        removals = [await estate.say("removed", one, "t") for one in ("restored", "deleted", "quiet")]
        for event in removals:
            assert await estate.outcome(event) == ("disabled", "disabled")
        assert [estate.at_plivo(one).enabled for one in (restored, deleted, quiet)] == [False] * 3  # type: ignore[union-attr]
        shown = await estate.shown("deleted", "t")
        answered_at = moment(shown["answers"][-1]["answered_at"])
        assert moment(shown["deletion_due_at"]) - answered_at == GRACE
        back = await estate.say("created", "restored", "t", name="Restored Again")
        assert await estate.outcome(back) == ("restored", "restored")
        assert (await estate.shown("restored", "t"))["deletion_due_at"] is None
        for event in removals[1:]:
            result = await estate.answer(event, "removed")
            assert (result["causationid"], result["type"]) == (event, "subaccount.removed.v1")
        gone_at = moment(called(await estate.shown("deleted", "t"), "delete")["at"])
        assert gone_at - answered_at >= GRACE
        again = await estate.say("renamed", "deleted", "t", name="Deleted Again")
        assert await estate.outcome(again) == ("created", "created")
        await estate.secrets.count(5)
        listed = {
            one["department_id"]: one for one in (await estate.command("departments", "list", "--json")).json
        }
        shown = await estate.shown("deleted", "t")
    assert estate.at_plivo(deleted) is estate.at_plivo(quiet) is None
    kept = estate.at_plivo(restored)
    assert kept is not None
    assert (kept.enabled, kept.name.partition(" [")[0]) == (True, "Restored Again")
    assert estate.outcomes(removals[0]) == ["disabled"]
    assert estate.outcomes(removals[1]) == ["disabled", "removed"]
    assert len(estate.credentials("restored")) == 1
    first, second = estate.credentials("deleted")
    assert first["data"].get("supersedes") is None
    assert second["data"]["supersedes"] == deleted
    assert (first["data"]["generation"], second["data"]["generation"]) == (1, 2)
    for auth_id in (deleted, quiet):
        (sent,) = estate.deletions(auth_id)
        assert (sent.query, sent.body) == ("", {})
    check_departments(listed, shown)


def check_departments(listed: dict[str, Any], shown: dict[str, Any]) -> None:
    """The JSON of `departments list` and `show` has the keys that scripts read."""
    assert all(one.keys() >= LISTED for one in listed.values())
    assert {name: one["status"] for name, one in listed.items()} == {
        "restored": "active",
        "deleted": "active",
        "quiet": "removed",
        "other": "active",
    }
    assert listed["deleted"]["incarnation"] == 2
    assert shown.keys() >= LISTED | {"answers", "holds", "calls", "audit"}
    for answer in shown["answers"]:
        assert answer.keys() >= {"event", "outcome", "reason", "answered_at", "confirmed"}
        assert answer["event"].keys() == {"source", "id", "type"}
        assert answer["confirmed"] is True
    assert {one["operation"] for one in shown["calls"]} >= {"create", "update", "delete"}
    for call in shown["calls"]:
        assert call["idempotency_key"]
        assert call["status"] in {201, 202, 204}


async def test_the_grace_survives_sigkill_and_a_changed_policy_applies_to_those_who_wait(
    system: RealSystem, tmp_path: Path
):
    """With sealed credentials, whose content names the subaccount before as well."""
    key, recipients = fresh_sealing_key("crm.1"), tmp_path / "recipients.json"
    recipients.write_text(json.dumps(public_set([key])))
    estate = Estate(system)
    async with estate.worker(**SHORT, RECIPIENTS=str(recipients)) as worker:
        killed, waits, _, _ = await estate.create("t", "killed", "waits", "a", "b")
        removal = await estate.say("removed", "killed", "t")
        await estate.answer(removal, "disabled")
        await worker.kill()
    due_at = moment((await estate.shown("killed", "t"))["deletion_due_at"])
    async with estate.worker() as worker:
        await estate.answer(removal, "removed")
        assert moment(called(await estate.shown("killed", "t"), "delete")["at"]) >= due_at
        again = await estate.say("created", "killed", "t")
        await estate.answer(again, "created")
        await estate.secrets.count(5)
        assert await worker.stop() == 0
    signing_key = system.settings.signing_key_path
    assert signing_key is not None
    signer = public_part(read_signing_key(signing_key))
    sealed = [one.body for one in estate.secrets.messages if json.loads(one.body)["subject"] == "killed"]
    contents = [open_message(body, [key], [signer]).content for body in sealed]
    assert [content.supersedes for content in contents] == [None, killed]
    async with estate.worker(REMOVAL="disable") as worker:
        removal = await estate.say("removed", "waits", "t")
        await estate.answer(removal, "disabled")
        assert (await estate.shown("waits", "t"))["deletion_due_at"] is None
        assert await worker.stop() == 0
    assert not estate.deletions(waits)
    async with estate.worker(REMOVAL="delete"):
        result = await estate.answer(removal, "removed")
    assert result["causationid"] == removal
    assert estate.at_plivo(waits) is estate.at_plivo(killed) is None
    for auth_id in (killed, waits):
        (sent,) = estate.deletions(auth_id)
        assert (sent.query, sent.body) == ("", {})


def called(shown: dict[str, Any], operation: str) -> dict[str, Any]:
    """The first call of this operation that `departments show` tells of."""
    return next(call for call in shown["calls"] if call["operation"] == operation)


async def test_each_reason_holds_a_removal_and_a_person_decides(system: RealSystem):
    estate = Estate(system)
    settings = SHORT | {"REMOVAL_GRACE": "1h", "PROTECTED": "board,safe/vault*"}
    async with estate.worker(**settings) as worker:
        await estate.create("p", "board", "p2", "p3")
        await estate.create("safe", "vault-1", "safe-2")
        await estate.create("m", "merged", "m2")
        await estate.create("l", "last")
        wiped = [f"w{number}" for number in range(6)]
        await estate.create("w", *wiped)
        await check_plans(estate)
        sent = {
            "board": await estate.say("removed", "board", "p"),
            "vault-1": await estate.say("removed", "vault-1", "safe"),
            "merged": await estate.say("removed", "merged", "m", merged_into="m2", cause="merged"),
            "last": await estate.say("removed", "last", "l"),
        }
        reasons = {"board": "protected", "vault-1": "protected", "merged": "merged", "last": "last-active"}
        for department, reason in reasons.items():
            result = await estate.answer(sent[department])
            assert (result["data"]["outcome"], result["data"]["code"]) == ("held", reason)
        sent |= {one: await estate.say("removed", one, "w") for one in wiped}
        codes = [(await estate.outcome(sent[one]))[1] for one in wiped]
        assert sorted(codes) == ["disabled"] * 3 + ["limit"] * 3
        renamed = await estate.say("renamed", "p2", "p", name="Flows")
        assert await estate.outcome(renamed) == ("renamed", "renamed")
        holds = await estate.holds()
        check_holds(estate, holds, sent)
        await check_what_the_lists_show(estate, holds)
        await check_rulings(estate, holds, sent)
        await check_a_newer_event(estate, holds, sent)
        assert await worker.stop() == 0
    await check_without_a_worker(estate)


async def check_plans(estate: Estate) -> None:
    """A plan of events that nobody has sent changes nothing."""
    before = len(estate.system.sandbox.requests), (await estate.command("departments", "list", "--json")).out
    expected = {
        ("removed", "board", "p"): ("hold", "held", "protected"),
        ("removed", "last", "l"): ("hold", "held", "last-active"),
        ("removed", "w0", "w"): ("disable", "disabled", None),
        ("created", "new", "w"): ("create", "created", None),
        ("renamed", "w0", "w"): ("skip", "unchanged", None),
    }
    for (kind, department, tenant), (decision, outcome, reason) in expected.items():
        file = estate.system.ledger.with_name("event.json")
        file.write_text(json.dumps(estate.event(kind, department, tenant)))
        plan = await estate.command("plan", "--file", str(file), "--json")
        assert plan.code == 0, plan.err
        document = plan.json
        assert document.keys() >= {"decision", "outcome", "reason", "calls", "department"}
        assert (document["decision"], document["outcome"]) == (decision, outcome), document
        assert reason is None or document["reason"] == reason, document
        assert document["department"]["department_id"] == department
        assert isinstance(document["calls"], int)
    file.write_text("no event")
    assert (await estate.command("plan", "--file", str(file), "--json")).code == 1
    after = len(estate.system.sandbox.requests), (await estate.command("departments", "list", "--json")).out
    assert after == before


def check_holds(estate: Estate, holds: dict[str, Any], sent: dict[str, str]) -> None:
    assert len(holds) == 7
    for department, hold in holds.items():
        assert hold.keys() >= HELD
        assert (hold["state"], hold["resources"]) == ("waiting", None)
        assert (hold["event"]["id"], hold["event"]["type"]) == (sent[department], "department.removed.v1")
        moment(hold["held_at"])
        (result,) = estate.answers(sent[department])
        assert result["type"] == "subaccount.held.v1"
        assert result["data"]["reason"]
        assert result["id"] == str(outbound_id((hold["id"],), "subaccount.held.v1"))
        account = estate.at_plivo(hold["auth_id"])
        assert account is not None
        assert account.enabled


async def check_what_the_lists_show(estate: Estate, holds: dict[str, Any]) -> None:
    only = await estate.holds("--reason", "limit")
    assert {one["reason"] for one in only.values()} == {"limit"}
    assert (await estate.holds("--department", "last")).keys() == {"last"}
    shown = (await estate.command("holds", "show", holds["last"]["id"], "--json")).json
    assert shown.items() >= {**holds["last"]}.items()
    unknown = await estate.command("holds", "show", "HNOSUCHHOLD0")
    assert (unknown.code, "HNOSUCHHOLD0" in unknown.err) == (1, True)
    table = await estate.command("holds", "list")
    assert all(one["id"] in table.out for one in holds.values())


async def check_rulings(estate: Estate, holds: dict[str, Any], sent: dict[str, str]) -> None:
    """Many ids at once, one of them unknown, and a rejection."""
    held = [one for one in holds if holds[one]["reason"] == "limit"]
    ids = [holds[one]["id"] for one in (*held, "board", "last")]
    done = await estate.command("holds", "approve", *ids, "HNOSUCHHOLD0", "--as", "ada", "--yes")
    assert done.code == 1
    assert "HNOSUCHHOLD0" in done.err
    assert not any(one in done.err for one in ids)
    for department in (*held, "board", "last"):
        await estate.answer(sent[department], "disabled")
        account = estate.at_plivo(holds[department]["auth_id"])
        assert account is not None
        assert not account.enabled
    after = await estate.holds("--all")
    assert {after[one]["state"] for one in (*held, "board", "last")} == {"done"}
    rejected = await estate.command("holds", "reject", holds["merged"]["id"], "--as", "ada", "--yes")
    assert rejected.code == 0, rejected.err
    result = await estate.answer(sent["merged"], "unchanged")
    assert result["data"]["reason"] == "removal rejected by ada"
    assert (await estate.shown("merged", "m"))["status"] == "active"
    again = await estate.command("holds", "approve", holds["merged"]["id"], "--yes")
    assert (again.code, holds["merged"]["id"] in again.err) == (1, True)
    audit = (await estate.shown("board", "p"))["audit"]
    assert any(line["by"] == "ada" and line["action"] == "approve" for line in audit)


async def check_a_newer_event(estate: Estate, holds: dict[str, Any], sent: dict[str, str]) -> None:
    """It voids the hold; the removal is superseded, and its duplicate gets that answer again."""
    newer = await estate.say("renamed", "vault-1", "safe", name="Vault Kept")
    assert await estate.outcome(newer) == ("renamed", "renamed")
    result = await estate.answer(sent["vault-1"], "superseded")
    assert result["data"]["superseded_by"]["id"] == newer
    assert (await estate.holds("--all"))["vault-1"]["state"] == "void"
    void = await estate.command("holds", "approve", holds["vault-1"]["id"], "--yes")
    assert void.code == 1
    once_more = await estate.say("removed", "vault-1", "safe")
    assert await estate.outcome(once_more) == ("held", "protected")
    assert (await estate.holds())["vault-1"]["id"] != holds["vault-1"]["id"]


async def check_without_a_worker(estate: Estate) -> None:
    await asyncio.sleep(5.1)  # a worker counts as running until then
    (hold,) = (await estate.holds()).values()
    left = await estate.command("holds", "approve", hold["id"], "--yes", "--as", "ada")
    assert left.code == 1
    assert "no worker runs" in left.err
    assert (await estate.holds("--all"))["vault-1"]["state"] == "approved"
    quiet = await estate.command("holds", "approve", hold["id"], "--yes", "--no-wait")
    assert quiet.code == 0, quiet.err
    async with estate.worker():
        await estate.answer(hold["event"]["id"], "disabled")
    assert (await estate.holds("--all"))["vault-1"]["state"] == "done"


async def test_resources_and_drift_hold_a_deletion(system: RealSystem):
    estate = Estate(system)
    async with estate.worker(**SHORT | {"REMOVAL_LIMIT": "off", "REMOVAL_GRACE": "1s"}):
        ids = dict(
            zip(
                ("moves", "cascades", "wrong", "on", "untagged", "kept", "free"),
                await estate.create("t", "moves", "cascades", "wrong", "on", "untagged", "kept", "free"),
                strict=True,
            )
        )
        sandbox = system.sandbox
        moved = sandbox.seed_resources(ids["moves"], numbers=1, endpoints=2)
        for name in ("cascades", "wrong", "kept"):
            sandbox.seed_resources(ids[name], numbers=2, applications=25)
        sent = {one: await estate.say("removed", one, "t") for one in ids}
        for event in sent.values():
            await estate.answer(event, "disabled")
        change(estate, ids["on"], enabled=True)
        change(estate, ids["untagged"], name="Renamed by hand")
        await estate.answer(sent["free"], "removed")
        held = {}
        for name, reason in {
            "moves": "resources",
            "cascades": "resources",
            "wrong": "resources",
            "kept": "resources",
            "on": "drift",
            "untagged": "drift",
        }.items():
            held[name] = await estate.until_held(name, reason)
            assert (await estate.answer(sent[name], "held"))["data"]["code"] == reason
        assert held["moves"]["resources"] == {"numbers": 1, "applications": 0, "endpoints": 2}
        assert held["cascades"]["resources"] == {"numbers": 2, "applications": 25, "endpoints": 0}
        assert "enabled" in held["on"]["detail"]
        assert "Renamed by hand" in held["untagged"]["detail"]

        done = await estate.command(
            "holds", "approve", *(held[one]["id"] for one in ("moves", "cascades", "on", "untagged")),
            "--cascade", f"{held['cascades']['id']}=27", "--yes",
        )  # fmt: skip
        assert done.code == 0, done.err
        sandbox.seed_resources(ids["wrong"], applications=1)
        wrong = held["wrong"]["id"]
        refused = await estate.command("holds", "approve", wrong, "--cascade", f"{wrong}=27", "--yes")
        assert refused.code == 1
        again = (await estate.holds())["wrong"]
        assert (again["id"], again["state"]) == (wrong, "waiting")
        assert again["resources"] == {"numbers": 2, "applications": 26, "endpoints": 0}
        assert not estate.deletions(ids["wrong"])
        usage = await estate.command("holds", "approve", wrong, "--cascade", "HOTHER=1", "--yes")
        assert usage.code == 2
        kept = await estate.command("holds", "reject", held["kept"]["id"], "--yes", "--as", "ada")
        assert kept.code == 0, kept.err
        for name in ("moves", "cascades", "on", "untagged"):
            await estate.answer(sent[name], "removed")
        shown = await estate.shown("kept", "t")
        assert (shown["status"], shown["deletion_due_at"]) == ("disabled", None)
        back = await estate.say("created", "kept", "t")
        assert await estate.outcome(back) == ("restored", "restored")
    assert estate.outcomes(sent["kept"]) == ["disabled", "held"]
    assert estate.outcomes(sent["moves"]) == ["disabled", "held", "removed"]
    assert set(moved.numbers) <= set(system.sandbox.resources(None).numbers)
    assert not system.sandbox.resources(ids["cascades"]).numbers
    assert not system.sandbox.resources(None).applications
    check_cascade(estate, ids)


def change(estate: Estate, auth_id: str, **changes: Any) -> None:
    """Somebody changes a subaccount in Plivo's console."""
    found = estate.at_plivo(auth_id)
    assert found is not None
    estate.system.sandbox.service.state.put(replace(found, **changes))


def check_cascade(estate: Estate, ids: dict[str, str]) -> None:
    """It is sent in query and body for the one approval that asks for it, and else left out."""
    for name in ("moves", "on", "untagged", "free"):
        (call,) = estate.deletions(ids[name])
        assert (call.query, call.body) == ("", {}), name
    (call,) = estate.deletions(ids["cascades"])
    assert call.query == "cascade=true"
    assert call.body == {"cascade": True}
