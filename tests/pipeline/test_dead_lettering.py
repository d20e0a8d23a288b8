"""Invalid messages: dead-lettered byte for byte with a reason, without delaying other messages."""

import json

import pytest
from pydantic_core import to_json

from contracts.envelope import JSON, STRUCTURED, Message, document
from contracts.subaccounts import SubaccountResult, outbound_id
from contracts.topology import DEPARTMENTS
from tests.support.builders import NOW, department_created, department_removed
from tests.support.world import World, fault
from worker.core.messages import Outgoing, fingerprint
from worker.ports import PublishFailed

WHOLE = document(department_created())


def changed(**attributes: object) -> bytes:
    return to_json({**WHOLE, **attributes})


def without(attribute: str) -> bytes:
    return to_json({name: value for name, value in WHOLE.items() if name != attribute})


MALFORMED = {
    "empty": b"",
    "text": b"hello",
    "not-utf8": b"\xff\xfe\x00",
    "list": b"[]",
    "half": to_json(WHOLE)[:40],
    "no-id": without("id"),
    "no-source": without("source"),
    "no-type": without("type"),
    "no-specversion": without("specversion"),
    "other-specversion": changed(specversion="0.3"),
    "id-is-a-list": changed(id=[5]),
}
IDENTIFIABLE = {MALFORMED["no-specversion"], MALFORMED["other-specversion"], MALFORMED["no-type"]}
"""These have an id and a source, and are therefore answered."""

UNSUPPORTED = {
    "other-type": changed(type="invoice.created.v1"),
    "other-version": changed(type="department.created.v2"),
    "other-verb": changed(type="department.merged.v1"),
}
INVALID = {
    "no-data": without("data"),
    "no-time": without("time"),
    "no-name": changed(data={"department_id": "sales"}),
    "no-department": changed(data={"name": "Sales"}),
    "empty-name": changed(data={"department_id": "sales", "name": "  "}),
    "name-is-a-number": changed(data={"department_id": "sales", "name": 5}),
    "long-name": changed(data={"department_id": "sales", "name": "x" * 257}),
    "other-subject": changed(subject="other"),
    "sequence-is-no-number": changed(sequence="soon"),
    "far-future": changed(time="2026-11-21T12:10:01Z", sequence=None),
}


async def dead_letter_of(world: World, body: bytes, reason: str) -> Outgoing:
    """Sends the body, and returns its one dead letter: unchanged, with this reason."""
    sent = await world.send_raw(body, traceparent="00-1-2-01", custom=[1, {"a": "b"}])
    await world.handle()
    letter = world.dead_lettered(reason)
    assert letter.message.body == body
    assert letter.message.content_type == STRUCTURED
    assert sent.message.headers.items() <= letter.message.headers.items()
    assert world.provider.calls == []
    world.has_nothing_to_do()
    return letter


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_message_that_is_no_cloudevent_is_malformed(world, body):
    letter = await dead_letter_of(world, body, "malformed")
    if body in IDENTIFIABLE:
        assert letter.message.headers["x-event-id"] == WHOLE["id"]
        world.answered(department_created(), "failed", times=None)
        assert world.unattributed() == []
    else:
        assert not {"x-event-id", "x-department-id"} & set(letter.message.headers)
        (failed,) = world.unattributed()
        assert failed.id == outbound_id((fingerprint(letter),), "subaccount.failed.v1")
        assert (failed.causationid, failed.tenant, failed.subject) == (None, None, None)
        assert failed.data == {
            "tenant": None,
            "department_id": None,
            "name": None,
            "outcome": "failed",
            "code": "malformed",
            "reason": f"malformed: {letter.message.headers['x-dead-detail']}",
            "event": None,
            "message": {
                "message_id": None,
                "app_id": None,
                "exchange": "departments",
                "routing_key": "department.created",
            },
        }
        (sent,) = world.broker.ready("test.results")
        assert document(SubaccountResult.model_validate_json(sent.message.body)) == json.loads(
            sent.message.body
        )


async def test_a_type_that_cannot_be_read_is_null_in_the_result(world):
    await dead_letter_of(world, MALFORMED["no-type"], "malformed")
    (failed,) = world.results(department_created())
    assert failed.data["event"] == {"source": WHOLE["source"], "id": WHOLE["id"], "type": None}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"message_id": "7", "app_id": "hr-export"}, {"message_id": "7", "app_id": "hr-export"}),
        ({"message_id": b"\xff", "app_id": None}, {"message_id": None, "app_id": None}),
    ],
    ids=["text", "anything else"],
)
async def test_an_unattributed_result_names_the_message(world, given, told):
    await world.broker.publish(Outgoing(DEPARTMENTS, "department.x", Message(b"hello", None), given))
    await world.handle()
    (failed,) = world.unattributed()
    assert failed.data["message"] == told | {"exchange": DEPARTMENTS, "routing_key": "department.x"}


async def test_equal_unattributed_messages_have_a_result_each(world):
    for _ in range(2):
        await world.send_raw(b"hello")
        await world.handle()
        world.clock.advance(1)
    assert len({failed.id for failed in world.unattributed()}) == len(world.dead_letters()) == 2


async def test_an_unattributed_result_is_the_same_after_a_failure(world):
    world.witness.fail("publish dead-letters", PublishFailed("made up"))
    await world.send_raw(b"hello")
    await world.handle()
    (letter,) = world.dead_letters()
    assert {failed.id for failed in world.unattributed()} == {
        outbound_id((fingerprint(letter),), "subaccount.failed.v1")
    }


@pytest.mark.parametrize("body", UNSUPPORTED.values(), ids=UNSUPPORTED)
async def test_an_event_of_an_unknown_type_is_unsupported(world, body):
    letter = await dead_letter_of(world, body, "unsupported-type")
    assert letter.message.headers["x-event-id"] == WHOLE["id"]
    assert letter.message.headers["x-department-id"] == "sales"
    world.answered(department_created(), "failed", times=None)


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID)
async def test_an_event_that_violates_its_contract_is_invalid(world, body):
    letter = await dead_letter_of(world, body, "invalid")
    assert letter.message.headers["x-event-id"] == WHOLE["id"]
    world.answered(department_created(), "failed", times=None)
    (result,) = world.results(department_created())
    assert result.data["reason"] == f"invalid: {letter.message.headers['x-dead-detail']}"
    assert result.tenant == "acme"


@pytest.mark.parametrize("content_type", [None, JSON, "application/octet-stream", "text/plain"])
async def test_an_event_is_read_whatever_its_content_type(world, content_type):
    await world.send_raw(to_json(WHOLE), content_type)
    await world.handle()
    world.answered(department_created(), "created")


@pytest.mark.parametrize("content_type", [None, JSON, "application/cloudevents-batch+json", "text/plain"])
async def test_a_batch_is_malformed_and_kept(world, content_type):
    await world.send_raw(to_json([WHOLE]), content_type)
    await world.handle()
    letter = world.dead_lettered("malformed")
    assert letter.message.content_type == content_type
    assert "batch" in letter.message.headers["x-dead-detail"]


async def test_the_detail_names_the_field_but_not_its_value(world):
    body = changed(data={"department_id": "sales", "name": "the secret\x07name"})
    letter = await dead_letter_of(world, body, "invalid")
    assert "data.name" in letter.message.headers["x-dead-detail"]
    assert "secret" not in letter.message.headers["x-dead-detail"]


async def test_a_dead_letter_has_time_attempts_and_routing_key(world):
    letter = await dead_letter_of(world, b"hello", "malformed")
    headers = letter.message.headers
    assert (headers["x-dead-at"], headers["x-attempts"]) == (NOW.isoformat(), 1)
    assert letter.routing_key == "department.created"
    assert letter.exchange == "provisioner.dead-letters"


async def test_headers_of_the_broker_are_removed(world):
    await world.send_raw(
        b"hello",
        **{
            "x-death": [{"queue": "provisioner.retry.30s"}],
            "x-first-death-queue": "a",
            "x-last-death-reason": "expired",
            "x-delivery-count": 3,
            "x-acquired-count": 4,
            "x-custom": "stays",
        },
    )
    await world.handle()
    headers = world.dead_lettered("malformed").message.headers
    assert {name for name in headers if not name.startswith(("x-dead-", "x-attempts"))} == {"x-custom"}


async def test_properties_of_the_original_are_kept(world):
    message = Message(b"hello", STRUCTURED, {})
    properties = {"correlation_id": "c", "priority": 2}
    await world.broker.publish(Outgoing(DEPARTMENTS, "department.created.eu", message, properties))
    await world.handle()
    letter = world.dead_lettered("malformed")
    assert (letter.properties, letter.routing_key) == (properties, "department.created.eu")


async def test_a_dead_letter_does_not_delay_other_messages(world):
    async with world.working():
        for body in (*MALFORMED.values(), *UNSUPPORTED.values()):
            await world.send_raw(body)
        await world.send(department_created(id="good"))
        await world.done()
    await world.has_one_live_subaccount("Sales")
    assert len(world.dead_letters()) == len(MALFORMED) + len(UNSUPPORTED)


async def test_a_dead_letter_does_not_delay_its_department(world):
    refused = department_created("Refused", sequence=1)
    world.witness.fail("create", fault("create", 400))
    await world.handle(refused, department_created("Sales", sequence=2))
    world.dead_lettered("rejected")
    await world.has_one_live_subaccount("Sales")


async def test_a_dead_letter_records_no_version_so_a_replay_can_succeed(world):
    refused = department_created("Sales", sequence=5)
    world.witness.fail("create", fault("create", 400))
    await world.handle(refused)
    world.answered(refused, "failed")
    await world.handle(department_created("Older", sequence=1), refused)
    await world.has_one_live_subaccount("Sales")
    world.answered(refused, "failed", "renamed")


async def test_a_corrected_event_succeeds_under_the_same_id(world):
    invalid = changed(data={"department_id": "sales", "name": ""})
    await world.send_raw(invalid)
    await world.handle()
    corrected = department_created("Sales")
    await world.handle(corrected)
    await world.has_one_live_subaccount("Sales")
    world.answered(corrected, "failed", "created")


async def test_the_ack_comes_after_the_dead_letter_and_its_result(world):
    await world.send_raw(changed(type="invoice.created.v1"))
    await world.handle()
    assert world.witness.journal == [
        "publish results subaccount.failed",
        "publish dead-letters department.created",
        "ack",
    ]


@pytest.mark.parametrize("failing", ["publish dead-letters", "publish results"])
async def test_publishing_a_dead_letter_is_retried_before_the_ack(world, failing):
    world.witness.fail(failing, PublishFailed("no connection"))
    await world.send_raw(changed(type="invoice.created.v1"))
    await world.handle()
    assert world.witness.journal.count("ack") == 1
    assert world.witness.journal[-2:] == ["publish dead-letters department.created", "ack"]
    assert len(world.clock.naps) == 1
    world.answered(department_created(), "failed", times=None)
    assert (
        world.dead_letters()[-1].message.headers["x-attempts"] == 1
    )  # a failure of the broker is not an attempt


async def test_a_replay_with_the_same_failure_has_the_same_result_id(world):
    for _ in range(2):
        await world.send_raw(changed(type="invoice.created.v1"))
        await world.handle()
    world.answered(department_created(), "failed", times=2)


async def test_a_result_for_an_invalid_department_id_names_no_department(world):
    body = {**document(department_removed()), "data": {"department_id": [5]}}
    await world.send_raw(to_json(body))
    await world.handle()
    letter = world.dead_lettered("invalid")
    assert "x-department-id" not in letter.message.headers
    (result,) = world.broker.ready("test.results")
    assert json.loads(result.message.body)["data"].get("department_id") is None


async def test_a_result_for_an_invalid_tenant_names_the_default_tenant(world):
    await dead_letter_of(world, changed(tenant=["acme"]), "invalid")
    (result,) = world.results(department_created())
    assert result.tenant == "default"
