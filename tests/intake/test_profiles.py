"""`/in/PROFILE`: proof, mapping, what is kept, handshakes."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from contracts import topology as names
from tests.intake.conftest import Intake, running_intake, write

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
ACME_KEY = "the-secret-of-acme"
ACME = """
auth: {kind: hmac, header: X-Acme-Signature, prefix: "sha256=", secret_file: acme.secret}
handshake: okta
each: body.changes
ignore: item.kind != 'department'
removed_when: item.action == 'deleted'
id: item.department.id
name: item.department.name
time: item.changed_at
sequence: item.revision
event_id: join('/', [to_string(item.department.id), to_string(item.revision)])
samples:
  - body:
      changes:
        - {kind: department, action: updated, changed_at: "2026-11-01T08:30:00Z", revision: 7,
           department: {id: 42, name: Sales}}
    events: [{type: department.created.v1, department_id: "42", name: Sales, sequence: 7, id: "42/7"}]
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, text in (
        ("acme.yaml", ACME),
        ("strict.yaml", ACME + "on_unmappable: reject\nanswer: 204\n"),
        ("acme.secret", "the-secret-of-acme\n"),
        ("standard-webhooks.secret", f"{SECRET}\n"),
    ):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
async def intake(tokens: Path, sources: Path) -> AsyncIterator[Intake]:
    async with running_intake(tokens, sources=sources) as running:
        yield running


def change(revision: int, kind: str = "department", name: str | None = "Sales") -> dict[str, object]:
    return {
        "kind": kind,
        "action": "updated",
        "changed_at": "2026-11-01T08:30:00Z",
        "revision": revision,
        "department": {"id": 42, "name": name},
    }


def signed(body: bytes, key: str = ACME_KEY) -> dict[str, str]:
    return {"X-Acme-Signature": f"sha256={hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}"}


async def send(intake: Intake, body: bytes, profile: str = "acme", **headers: str) -> tuple[int, object]:
    status, told, _ = await intake.post(body, {**signed(body), **headers}, f"/in/{profile}", token=None)
    return status, told


async def test_a_payload_becomes_events(intake: Intake):
    body = json.dumps({"changes": [change(7), change(8, kind="role")]}).encode()
    told = {"id": "42/7", "type": "department.created.v1", "department_id": "42"}
    assert await send(intake, body) == (202, {"accepted": [told], "ignored": 1, "unmapped": 0})
    (document,) = intake.broker.documents
    assert (document["source"], document["id"], document["sequence"]) == ("/in/acme", "42/7", 7)
    assert intake.counted("intake_events_total", sender="/in/acme", outcome="ignored") == 1


@pytest.mark.parametrize("body", [b'{"changes": [{"kind": "department"}]}', b"\xff not json", b""])
async def test_what_cannot_be_mapped_is_kept_byte_for_byte(intake: Intake, body: bytes):
    before = datetime.now(UTC)
    assert await send(intake, body) == (202, {"accepted": [], "ignored": 0, "unmapped": 1})
    (sent,) = intake.broker.taken
    headers = dict(sent.message.headers)
    at = datetime.fromisoformat(headers.pop("x-received-at"))
    assert (sent.exchange, sent.message.body) == (names.UNMAPPED, body)
    assert headers.pop("x-unmapped-reason")
    assert (headers, before <= at <= datetime.now(UTC)) == ({"x-profile": "acme"}, True)


async def test_a_profile_may_refuse_what_cannot_be_mapped(intake: Intake):
    good, bad = change(1), change(2, name=None)
    status, told = await send(intake, json.dumps({"changes": [good, bad]}).encode(), "strict")
    assert (status, intake.broker.taken) == (422, [])
    assert isinstance(told, dict)
    assert told.keys() == {"errors"}
    assert await send(intake, json.dumps({"changes": [good]}).encode(), "strict") == (204, None)


async def test_only_the_sender_is_believed(intake: Intake, sources: Path):
    body = json.dumps({"changes": [change(7)]}).encode()
    status, told, _ = await intake.post(body, {}, "/in/acme")  # the token of /v1/events proves nothing here
    other, *_ = await intake.post(body, signed(body, "another"), "/in/acme")
    encoded, *_ = await intake.post(body, {**signed(body), "Content-Encoding": "br"}, "/in/acme")
    assert (status, told, other, encoded) == (401, {"error": "not authorized"}, 401, 415)
    assert intake.broker.taken == []

    write(sources / "acme.secret", "the-secret-of-acme\nthe-next-one\n")
    assert [
        (await intake.post(body, signed(body, each), "/in/acme"))[0] for each in ("the-next-one", "no")
    ] == [
        202,
        401,
    ]
    assert intake.counted("intake_secret_used_total", sender="/in/acme", place="2") == 1
    (sources / "acme.secret").unlink()
    assert (await send(intake, body))[0] == 503


async def test_a_handshake_is_answered_only_where_it_is_declared(intake: Intake):
    challenge = {"x-okta-verification-challenge": "a-challenge"}

    async def asked(profile: str) -> tuple[int, str, str | None]:
        async with intake.session.get(f"{intake.url}/in/{profile}", headers=challenge) as response:
            return response.status, await response.text(), response.headers.get("Allow")

    assert await asked("acme") == (200, '{"verification":"a-challenge"}', None)
    status, text, allow = await asked("standard-webhooks")
    assert (status, allow, "a-challenge" in text) == (405, "POST", False)
    async with intake.session.put(f"{intake.url}/in/acme") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST, GET")


@pytest.mark.parametrize(("late_by", "status"), [(0, 202), (600, 401)])
async def test_a_sender_with_the_library_of_standard_webhooks(intake: Intake, late_by: int, status: int):
    body = json.dumps(
        {
            "type": "department.updated",
            "timestamp": "2026-11-01T08:30:00Z",
            "data": {"id": "dep_42", "name": "Sales"},
        }
    )
    at = datetime.fromtimestamp(int(time.time()) - late_by, UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": f"v1,unknown {Webhook(SECRET).sign('msg_1', at, body)}",
    }
    found, *_ = await intake.post(body.encode(), headers, "/in/standard-webhooks", token=None)
    assert found == status
    assert [one["id"] for one in intake.broker.documents] == ["msg_1"] * (status == 202)
