"""Ten incidents. Each is made on real parts, alerts, is explained by one command and mended by one.

A function plays one incident from beginning to end and asserts each step. `INCIDENTS` says what it plays,
and so does the table of `deploy/RUNBOOK.md`.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import aiohttp

from contracts import topology as names
from tests.incidents.scene import Scene, answers
from tests.soak.worker_process import worker_process
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from worker.pipeline.quarantine import MAX_CRASHES, QUARANTINE_AFTER_DELIVERIES
from worker.sandbox import Rule, app, fault

RECIPIENTS_FILE = "recipients.json"


@dataclass(frozen=True)
class Incident:
    """An incident: the alert that fires, and the commands that explain and mend it, as the runbook has them.

    `mended_by` is empty where nothing is to be done but to wait. `settings` are those of its scene.
    """

    play: Callable[[Scene], Awaitable[None]]
    alert: str
    explained_by: str
    mended_by: str
    settings: Mapping[str, str] = field(default_factory=dict)


async def expired_token(scene: Scene) -> None:
    """Plivo's token is changed while the worker has the old one."""
    token = scene.folder / "token"
    token.write_text(scene.sandbox.auth_token)
    environ = scene.system.environ
    del environ["PLIVO_AUTH_TOKEN"]
    environ["PLIVO_AUTH_TOKEN_FILE"] = str(token)
    async with scene.worker():
        await scene.is_calm("ProvisionerLoginRefused")
        results = await scene.system.listen(names.RESULTS)
        known = app.authenticate
        with patch.object(app, "authenticate", lambda state, _, header: known(state, "renewed", header)):
            await scene.send(scene.event("created", "sales", 1))
            scene.note("made", "Plivo's token is changed, and an event comes")
            await scene.alerted("ProvisionerLoginRefused")
            await scene.explained(["fail", "401", "PLIVO_AUTH_TOKEN"], "doctor")
            token.write_text("renewed")
            scene.note("repaired", "the new token is in the file of PLIVO_AUTH_TOKEN_FILE")
            await answers(results, "created", 1)
            await scene.mended("ProvisionerLoginRefused", "the event is answered")


async def provider_down(scene: Scene) -> None:
    """Plivo answers 503 to everything."""
    async with scene.worker():
        await scene.is_calm("ProvisionerCircuitOpen")
        results = await scene.system.listen(names.RESULTS)
        scene.sandbox.set_rules(Rule("*", fault("error", status=503)))
        await scene.send(*(scene.event("created", f"d-{number}", 1) for number in range(20)))
        scene.note("made", "Plivo answers 503, and 20 events come")
        await scene.alerted("ProvisionerCircuitOpen")
        await scene.explained(["fail", "503"], "doctor")
        scene.sandbox.set_rules()
        scene.note("repaired", "Plivo is back")
        await answers(results, "created", 20)
        assert await scene.system.depth(names.DEAD_LETTER_QUEUE) == 0
        await scene.mended("ProvisionerCircuitOpen", "all 20 are answered, none is a dead letter")


async def poison_event(scene: Scene) -> None:
    """An event kills each worker that takes it."""
    armed = scene.folder / "armed"
    armed.touch()
    alert = "ProvisionerDeadLetters"
    async with scene.worker():
        await scene.is_calm(alert)
    await scene.send(scene.event("created", "sales", 1))
    queue = await scene.system.channel.get_queue(names.WORK_QUEUE)
    for _ in range(QUARANTINE_AFTER_DELIVERIES):
        taken = await queue.get()
        await taken.reject(requeue=True)
    for _ in range(MAX_CRASHES):
        module = ("tests.soak.halting_worker", "received", str(armed))
        async with worker_process(scene.system.environ, module) as doomed:
            await doomed.logged("halted")
            await doomed.kill()
    async with scene.worker():
        results = await scene.system.listen(names.RESULTS)
        scene.note("made", f"{MAX_CRASHES} workers were killed while they worked on one event alone")
        await scene.alerted(alert, reason="delivery-limit")
        await scene.explained(
            [f"{MAX_CRASHES} workers ended while they worked on it alone"], "dead-letters", "show"
        )
        await scene.repair("dead-letters", "replay", "--reason", "delivery-limit", "--limit", "1")
        await answers(results, "created", 1)
        assert await scene.system.depth(names.DEAD_LETTER_QUEUE) == 0
        await scene.mended(alert, "the event is answered by a worker that can take it")


async def wrong_schema(scene: Scene) -> None:
    """A producer releases events with another field name."""
    alert = "ProvisionerDeadLettersFlood"
    async with scene.worker():
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        for number in range(30):
            event = scene.event("created", f"d-{number}", 1)
            event["data"] = {"departmentId": f"d-{number}", "name": "Sales"}
            await scene.send(event)
        scene.note("made", "a producer sends 30 events with departmentId")
        await answers(results, "failed", 30)
        await scene.alerted(alert)
        await scene.explained(["30", "did you mean department_id?"], "dead-letters", "show", "--limit", "1")
        dead = scene.folder / "dead.jsonl"
        exported = await scene.command("dead-letters", "export", "--reason", "invalid", "--output", str(dead))
        assert exported.code == 0, exported.err
        dead.write_text(dead.read_text().replace("departmentId", "department_id"))
        await scene.repair("dead-letters", "import", str(dead), "--discard-originals")
        await answers(results, "created", 30)
        assert await scene.system.depth(names.DEAD_LETTER_QUEUE) == 0
        await scene.mended(alert, "all 30 are answered")


async def wiped_org_chart(scene: Scene) -> None:
    """An export of nothing removes every department."""
    alert = "ProvisionerManyRemovalsHeld"
    departments = [f"d-{number}" for number in range(30)]
    async with scene.worker():
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        await scene.send(*(scene.event("created", one, 1) for one in departments))
        await answers(results, "created", 30)
        await scene.send(*(scene.event("removed", one, 2) for one in departments))
        scene.note("made", "all 30 departments are removed")
        await scene.alerted(alert)
        await answers(results, "held", 27)
        await scene.explained(
            ["d-29", "PROVISIONER_REMOVAL_LIMIT 10%/24h are used up"], "holds", "list", "--reason", "limit"
        )
        again = scene.written(*(scene.event("created", one, 3) for one in departments))
        await scene.repair("emit", "--file", again, "--wait")
        await answers(results, "restored", 3)
        shown = scene.sandbox.subaccounts()
        assert (len(shown), all(one.enabled for one in shown)) == (30, True)
        await scene.mended(alert, "all 30 are active, and no removal is held")


async def lost_ledger(scene: Scene) -> None:
    """The file of the ledger is deleted while the worker runs; there is a backup, older than Plivo."""
    alert = "ProvisionerLedgerUnusable"
    backup = scene.folder / "backup.db"
    async with scene.worker() as running:
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        await scene.send(scene.event("created", "sales", 1))
        await answers(results, "created", 1)
        saved = await scene.command("ledger", "backup", str(backup))
        assert saved.code == 0, saved.err
        await scene.send(scene.event("created", "since", 1))
        await answers(results, "created", 2)
        before = {one.auth_id for one in scene.sandbox.subaccounts()}
        for file in scene.folder.glob("ledger.db*"):
            file.unlink()
        scene.note("made", "the ledger's files are deleted")
        await scene.alerted(alert)
        await scene.explained(["there is no ledger at", "restore a backup"], "doctor")
        await running.drain()
    await scene.repair(
        "ledger", "copy", "--from", f"sqlite:///{backup}", "--to", scene.system.environ["LEDGER_URL"]
    )
    async with scene.worker():
        again = [sent_again(scene.event("created", one, 2)) for one in ("sales", "since")]
        await scene.send(*again)
        await answers(results, "unchanged", 1)
        await answers(results, "created", 3)
        assert {one.auth_id for one in scene.sandbox.subaccounts()} == before
        await scene.mended(alert, "both departments are answered with the subaccounts that they had")


async def leaked_key(scene: Scene) -> None:
    """The private key of a recipient is public. Tokens sealed for it are too."""
    alert = "ProvisionerRecipientKeyMissing"
    keys = scene.folder / RECIPIENTS_FILE
    other = fresh_sealing_key("hr")
    scene.system.environ["PROVISIONER_RECIPIENTS"] = str(write_keys(keys, fresh_sealing_key("crm"), other))
    async with scene.worker():
        await scene.is_calm(alert)
        results, secrets = (
            await scene.system.listen(names.RESULTS),
            await scene.system.listen(names.SECRETS),
        )
        await scene.send(scene.event("created", "sales", 1))
        await answers(results, "created", 1)
        await secrets.count(2)
        write_keys(keys, other)
        await scene.send(scene.event("created", "support", 1))
        scene.note("made", "the leaked key is withdrawn from the recipients' file")
        await scene.alerted(alert, recipient="crm")
        await scene.explained(["crm", "no key bears its name"], "keys", "check")
        write_keys(keys, fresh_sealing_key("crm.2"), other)
        accounts = scene.sandbox.service.state
        for one in scene.sandbox.subaccounts():
            accounts.put(replace(one, auth_token=f"renewed{one.auth_token[7:]}"))
        await scene.repair("sweep", "--fix")
        await answers(results, "created", 2)
        wanted = {("sales", "crm.2"), ("support", "crm.2")}
        await secrets.until(lambda heard: wanted <= {*map(sealed_for, heard.documents)})
        await scene.mended(alert, "new tokens are sealed for the new key")


async def doubled_account(scene: Scene) -> None:
    """Somebody creates a second subaccount with the tag of a department."""
    alert = "ProvisionerSweepFindings"
    async with scene.worker():
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        await scene.send(scene.event("created", "sales", 1))
        await answers(results, "created", 1)
        (kept,) = scene.sandbox.subaccounts()
        base = f"{scene.sandbox.url}/v1/Account/{scene.sandbox.auth_id}/Subaccount/"
        login = aiohttp.encode_basic_auth(scene.sandbox.auth_id, scene.sandbox.auth_token)
        async with aiohttp.ClientSession(headers={"Authorization": login}) as http:
            double = {"name": kept.name, "enabled": True}
            async with http.post(base, json=double) as response:
                assert response.status < 300
        scene.note("made", "a second subaccount has the name of a department's")
        assert (await scene.command("sweep")).code == 0, "the daily one, now"
        await scene.alerted(alert, kind="double")
        await scene.explained(["double", "sales"], "sweep", "--check")
        await scene.repair("sweep", "--fix")
        shown = {one.auth_id: one.enabled for one in scene.sandbox.subaccounts()}
        assert shown.pop(kept.auth_id) is True
        assert list(shown.values()) == [False]
        assert (await scene.command("sweep")).code == 0
        await scene.mended(alert, "the duplicate is disabled")


async def stuck_department(scene: Scene) -> None:
    """The calls of one department fail, and those of others do not."""
    alert = "ProvisionerDepartmentsStuck"
    async with scene.worker():
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        await scene.send(scene.event("created", "sales", 1))
        await answers(results, "created", 1)
        scene.sandbox.set_rules(Rule("update_subaccount", fault("error", status=500)))
        await scene.send(scene.event("renamed", "sales", 2, name="Marketing"))
        scene.note("made", "Plivo answers 500 to each change of one department")
        await scene.alerted(alert)
        await scene.send(scene.event("created", "support", 1))
        await answers(results, "created", 2)
        await scene.explained(["500"], "departments", "show", "sales")
        await answers(results, "failed", 1)
        scene.sandbox.set_rules()
        await scene.repair("dead-letters", "replay", "--reason", "exhausted")
        await answers(results, "renamed", 1)
        await scene.mended(alert, "the department is renamed")


async def nobody_bound(scene: Scene) -> None:
    """The binding of the secrets queue is gone, and the worker may not configure the broker."""
    alert = "ProvisionerCredentialsUndeliverable"
    applied = await scene.command("topology", "apply")
    assert applied.code == 0, applied.err
    async with scene.worker():
        await scene.is_calm(alert)
        results = await scene.system.listen(names.RESULTS)
        queue = await scene.system.channel.get_queue(names.SECRETS_QUEUE)
        await queue.unbind(names.SECRETS, "#")
        await scene.send(scene.event("created", "sales", 1))
        scene.note("made", "the binding of the secrets queue is removed, and an event comes")
        await scene.alerted(alert)
        await scene.explained(["no queue is bound"], "status")
        await scene.repair("topology", "apply")
        await answers(results, "created", 1)
        assert await scene.system.depth(names.SECRETS_QUEUE) == 1
        await scene.mended(alert, "the credentials are in the queue, and the event is answered")


def sealed_for(message: Mapping[str, Any]) -> tuple[str, str]:
    """The department of a sealed message, and the id of the key that opens it."""
    protected: str = message["data"].partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(protected + "=" * (-len(protected) % 4)))
    return message["subject"], header["kid"]


def sent_again(event: dict[str, object]) -> dict[str, object]:
    """The event sent again by a full sync, under an id of its own."""
    return event | {"id": f"again-{event['id']}"}


INCIDENTS: Mapping[str, Incident] = MappingProxyType(
    {
        "expired Plivo token": Incident(expired_token, "ProvisionerLoginRefused", "provisioner doctor", ""),
        "provider down": Incident(provider_down, "ProvisionerCircuitOpen", "provisioner doctor", ""),
        "poison event": Incident(
            poison_event,
            "ProvisionerDeadLetters",
            "provisioner dead-letters show",
            "provisioner dead-letters replay --reason delivery-limit --limit 1",
        ),
        "wrong schema release": Incident(
            wrong_schema,
            "ProvisionerDeadLettersFlood",
            "provisioner dead-letters show --limit 1",
            "provisioner dead-letters import dead.jsonl --discard-originals",
        ),
        "wiped org chart": Incident(
            wiped_org_chart,
            "ProvisionerManyRemovalsHeld",
            "provisioner holds list --reason limit",
            "provisioner emit --file events.jsonl --wait",
        ),
        "lost ledger": Incident(
            lost_ledger,
            "ProvisionerLedgerUnusable",
            "provisioner doctor",
            "provisioner ledger copy --from sqlite:///backup.db --to sqlite:///ledger.db",
        ),
        "leaked recipient key": Incident(
            leaked_key,
            "ProvisionerRecipientKeyMissing",
            "provisioner keys check",
            "provisioner sweep --fix",
        ),
        "doubled account": Incident(
            doubled_account,
            "ProvisionerSweepFindings",
            "provisioner sweep --check",
            "provisioner sweep --fix",
        ),
        "stuck department": Incident(
            stuck_department,
            "ProvisionerDepartmentsStuck",
            "provisioner departments show sales",
            "provisioner dead-letters replay --reason exhausted",
            {"RETRY_BUDGET": "300ms", "RETRY_DELAYS": "2s", "MAX_ATTEMPTS": "3"},
        ),
        "no one bound to secrets": Incident(
            nobody_bound,
            "ProvisionerCredentialsUndeliverable",
            "provisioner status",
            "provisioner topology apply",
            {"TOPOLOGY": "assume"},
        ),
    }
)
"""The incidents by their names."""
