"""The main job on real parts; the producer knows only the examples of the contract."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts import topology as names
from contracts.envelope import Message
from contracts.subaccounts import outbound_id
from tests.support.real import RealSystem
from worker.core.messages import Outgoing, fingerprint

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).parents[2] / "contracts" / "examples"
DEPARTMENTS = 200
EVENTS = 1_000
SOURCE = "/test/hr"
NOT_TEXT = bytearray(b"\xff\xfe")


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}: run again with SEED={seed}")  # noqa: T201 - shown for a failed test
    return random.Random(seed)


@dataclass(frozen=True)
class Sent:
    """One event as its producer sent it."""

    department: str
    sequence: int
    kind: str
    name: str | None
    document: dict[str, Any]


def examples(kind: str) -> list[dict[str, Any]]:
    documents = [json.loads(path.read_text()) for path in sorted(EXAMPLES.glob("*.json"))]
    return [document for document in documents if document.get("type") == f"department.{kind}.v1"]


def events(rng: random.Random) -> Iterator[Sent]:
    """Each department starts with a create, followed by random events."""
    for number in range(EVENTS):
        department, sequence = f"dept-{number % DEPARTMENTS}", number // DEPARTMENTS
        kind = rng.choice(("created", "renamed", "removed")) if sequence else "created"
        name = None if kind == "removed" else f"{rng.choice(('Sales', 'Legal', 'Büro', '部門'))} {number}"
        document = rng.choice(examples(kind)) | {
            "id": f"event-{number}",
            "source": SOURCE,
            "sequence": sequence,
            "subject": department,
            "tenant": "default",
        }
        document["data"] = {"department_id": department} | ({"name": name} if name else {})
        yield Sent(department, sequence, kind, name, document)


async def publish(system: RealSystem, sent: Sent, *, binary: bool) -> None:
    if not binary:
        await system.send(json.dumps(sent.document).encode(), f"department.{sent.kind}")
        return
    attributes = {name: value for name, value in sent.document.items() if name != "data"}
    content_type = attributes.pop("datacontenttype", "application/json")
    headers = {f"cloudEvents_{name}": value for name, value in attributes.items()}
    await system.send(
        json.dumps(sent.document["data"]).encode(), f"department.{sent.kind}", content_type, headers
    )


async def test_a_thousand_mixed_events_end_in_the_newest_state(system: RealSystem, rng: random.Random):
    system.environ["PROVISIONER_REMOVAL_LIMIT"] = "off"
    sent_events = list(events(rng))
    shuffled = sent_events + rng.sample(sent_events, 50)
    rng.shuffle(shuffled)
    async with system.worker() as running:
        results, secrets = await system.listen(names.RESULTS), await system.listen(names.SECRETS)
        for sent in shuffled:
            await publish(system, sent, binary=rng.random() < 0.5)
        await results.count(EVENTS)
        await running.worker.lanes.idle()
        assert len(results.messages) == EVENTS, "a duplicate was answered twice"
    newest = {sent.department: sent for sent in sorted(sent_events, key=lambda sent: sent.sequence)}
    check_answers(results.documents, sent_events)
    check_subaccounts(system, newest, results.documents)
    check_credentials(system, secrets.documents)
    assert await system.depth(names.WORK_QUEUE) == 0
    assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


def check_answers(results: list[dict[str, Any]], sent_events: list[Sent]) -> None:
    """Each event has one answer with its own id, about its department, without a token."""
    asked = {sent.document["id"]: sent for sent in sent_events}
    assert Counter(result["data"]["event"]["id"] for result in results) == dict.fromkeys(asked, 1)
    assert len({result["id"] for result in results}) == len(results)
    for result in results:
        sent = asked[result["causationid"]]
        assert result["subject"] == result["data"]["department_id"] == sent.department
        assert result["data"]["event"] == {
            "source": SOURCE,
            "id": sent.document["id"],
            "type": sent.document["type"],
        }
        assert result["type"] == f"subaccount.{result['data']['outcome']}.v1"
        assert "auth_token" not in json.dumps(result)


def check_subaccounts(system: RealSystem, newest: dict[str, Sent], results: list[dict[str, Any]]) -> None:
    """The subaccounts of the sandbox agree with the newest event of each department."""
    auth_ids = {
        result["data"]["department_id"]: result["data"]["auth_id"]
        for result in results
        if result["data"]["outcome"] == "created"
    }
    live = {subaccount.auth_id: subaccount for subaccount in system.sandbox.subaccounts()}
    assert sorted(live) == sorted(auth_ids.values()), (
        "a subaccount without a result, or two for one department"
    )
    for department, sent in newest.items():
        subaccount = live.get(auth_ids.get(department, ""))
        if sent.kind == "removed":
            assert subaccount is None or not subaccount.enabled
        else:
            assert subaccount is not None
            assert subaccount.enabled
            assert subaccount.name.startswith(f"{sent.name} [")


def check_credentials(system: RealSystem, secrets: list[dict[str, Any]]) -> None:
    """There is exactly one credentials message for each subaccount, and it is correct."""
    tokens = {subaccount.auth_id: subaccount.auth_token for subaccount in system.sandbox.subaccounts()}
    issued = {secret["data"]["auth_id"]: secret["data"]["auth_token"] for secret in secrets}
    assert issued == tokens
    assert len(secrets) == len(tokens)
    assert {secret["data"]["generation"] for secret in secrets} == {1}


async def test_malformed_messages_are_kept_unchanged_and_others_proceed(system: RealSystem):
    bad = [b"", b"\xff\xfe not text", b"[1, 2", b'{"specversion": "1.0"}', b'"just text"']
    async with system.worker():
        results, dead = await system.listen(names.RESULTS), await system.listen(names.DEAD_LETTERS)
        for number, body in enumerate(bad):
            headers = {"x-producer": "hr", "number": number, "raw": NOT_TEXT, "nested": {"raw": [NOT_TEXT]}}
            await system.send(body, headers=headers)
            await system.send(json.dumps(valid_event(number)).encode())
        await results.count(2 * len(bad))
        await dead.count(len(bad))
    by_number = {message.headers["number"]: message for message in dead.messages}
    assert [by_number[number].body for number in range(len(bad))] == bad
    assert {message.headers["x-dead-reason"] for message in dead.messages} == {"malformed"}
    assert all(message.headers["x-producer"] == "hr" for message in dead.messages)
    assert all(message.headers["raw"] == NOT_TEXT for message in dead.messages)
    assert all(message.headers["nested"] == {"raw": [NOT_TEXT]} for message in dead.messages)
    assert all(message.headers["x-dead-detail"] for message in dead.messages)
    outcomes = Counter((one["data"]["outcome"], one["data"]["event"] is None) for one in results.documents)
    assert outcomes == {("created", False): len(bad), ("failed", True): len(bad)}
    letters = [
        Outgoing("", str(one.routing_key), Message(one.body, None, one.headers)) for one in dead.messages
    ]
    ids = {outbound_id((fingerprint(letter),), "subaccount.failed.v1") for letter in letters}
    assert {one["id"] for one in results.documents if one["data"]["event"] is None} == ids
    assert await system.depth(names.DEAD_LETTER_QUEUE) == len(bad)


async def test_a_readable_dead_letter_has_a_failed_result(system: RealSystem):
    unknown = valid_event(1) | {"type": "department.merged.v1"}
    nameless = valid_event(2) | {"data": {"department_id": "dept-2", "name": "\t "}}
    async with system.worker():
        results, dead = await system.listen(names.RESULTS), await system.listen(names.DEAD_LETTERS)
        for document in (unknown, nameless):
            await system.send(json.dumps(document).encode())
        await results.count(2)
        await dead.count(2)
    reasons = {message.headers["x-event-id"]: message.headers["x-dead-reason"] for message in dead.messages}
    assert reasons == {"event-1": "unsupported-type", "event-2": "invalid"}
    outcomes = {result["data"]["event"]["id"]: result["data"]["outcome"] for result in results.documents}
    assert outcomes == {"event-1": "failed", "event-2": "failed"}


def valid_event(number: int) -> dict[str, Any]:
    return examples("created")[0] | {
        "id": f"event-{number}",
        "source": SOURCE,
        "time": "2026-11-01T08:30:00Z",
        "subject": f"dept-{number}",
        "data": {"department_id": f"dept-{number}", "name": f"Department {number}"},
    }
