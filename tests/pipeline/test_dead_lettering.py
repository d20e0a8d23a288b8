"""Messages that are no good: kept byte for byte, with the reason, and nobody else waits for them."""

import json

import pytest
from pydantic_core import to_json

from contracts.envelope import JSON, STRUCTURED, Message, document
from contracts.topology import DEPARTMENTS
from tests.support.builders import NOW, department_created, department_removed
from tests.support.world import World, fault
from worker.core.messages import Outgoing
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
    "id-is-a-number": changed(id=5),
}
LEGIBLE = {MALFORMED["no-specversion"], MALFORMED["other-specversion"]}
"""These tell which event they are, and so are answered."""

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
    "long-name": changed(data={"department_id": "sales", "name": "x" * 201}),
    "other-subject": changed(subject="other"),
    "sequence-is-no-number": changed(sequence="soon"),
    "far-future": changed(time="2026-11-21T12:10:01Z", sequence=None),
}


async def lone_letter(world: World, body: bytes, reason: str) -> Outgoing:
    """What becomes of a body: dead-lettered for that reason, as it was."""
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
async def test_what_is_no_cloudevent_is_malformed(world, body):
    letter = await lone_letter(world, body, "malformed")
    if body in LEGIBLE:
        assert letter.message.headers["x-event-id"] == WHOLE["id"]
        world.answered(department_created(), "failed", times=None)
    else:
        assert not {"x-event-id", "x-department-id"} & set(letter.message.headers)
        assert world.broker.ready("test.results") == []


@pytest.mark.parametrize("body", UNSUPPORTED.values(), ids=UNSUPPORTED)
async def test_what_is_no_department_event_is_unsupported(world, body):
    letter = await lone_letter(world, body, "unsupported-type")
    assert letter.message.headers["x-event-id"] == WHOLE["id"]
    assert letter.message.headers["x-department-id"] == "sales"
    world.answered(department_created(), "failed", times=None)


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID)
async def test_what_breaks_its_contract_is_invalid(world, body):
    letter = await lone_letter(world, body, "invalid")
    assert letter.message.headers["x-event-id"] == WHOLE["id"]
    world.answered(department_created(), "failed", times=None)
    (told,) = world.results(department_created())
    assert told.data["reason"] == f"invalid: {letter.message.headers['x-dead-detail']}"
    assert told.tenant == "acme"


@pytest.mark.parametrize("content_type", [None, JSON, "application/cloudevents-batch+json", "text/plain"])
async def test_a_message_that_does_not_say_it_is_an_event_is_malformed(world, content_type):
    await world.send_raw(to_json(WHOLE), content_type)
    await world.handle()
    letter = world.dead_lettered("malformed")
    assert letter.message.content_type == content_type


async def test_the_detail_names_the_field_and_not_its_value(world):
    body = changed(data={"department_id": "sales", "name": "the secret\x07name"})
    letter = await lone_letter(world, body, "invalid")
    assert "data.name" in letter.message.headers["x-dead-detail"]
    assert "secret" not in letter.message.headers["x-dead-detail"]


async def test_a_dead_letter_tells_why_when_and_how_often(world):
    letter = await lone_letter(world, b"hello", "malformed")
    told = letter.message.headers
    assert (told["x-dead-at"], told["x-attempts"]) == (NOW.isoformat(), 1)
    assert letter.routing_key == "department.created"
    assert letter.exchange == "provisioner.dead-letters"


async def test_what_the_broker_noted_for_itself_is_not_sent_back_to_it(world):
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
    told = world.dead_lettered("malformed").message.headers
    assert {name for name in told if not name.startswith(("x-dead-", "x-attempts"))} == {"x-custom"}


async def test_properties_of_the_original_stay(world):
    message = Message(b"hello", STRUCTURED, {})
    properties = {"correlation_id": "c", "priority": 2}
    await world.broker.publish(Outgoing(DEPARTMENTS, "department.created.eu", message, properties))
    await world.handle()
    letter = world.dead_lettered("malformed")
    assert (letter.properties, letter.routing_key) == (properties, "department.created.eu")


async def test_its_neighbours_do_not_wait(world):
    async with world.working():
        for body in (*MALFORMED.values(), *UNSUPPORTED.values()):
            await world.send_raw(body)
        await world.send(department_created(id="good"))
        await world.done()
    await world.has_one_live_subaccount("Sales")
    assert len(world.dead_letters()) == len(MALFORMED) + len(UNSUPPORTED)


async def test_what_follows_in_its_department_does_not_wait_either(world):
    refused = department_created("Refused", sequence=1)
    world.witness.fail("create", fault("create", 400))
    await world.handle(refused, department_created("Sales", sequence=2))
    world.dead_lettered("rejected")
    await world.has_one_live_subaccount("Sales")


async def test_a_dead_letter_leaves_no_mark_so_its_replay_can_still_win(world):
    refused = department_created("Sales", sequence=5)
    world.witness.fail("create", fault("create", 400))
    await world.handle(refused)
    world.answered(refused, "failed")
    await world.handle(department_created("Older", sequence=1), refused)
    await world.has_one_live_subaccount("Sales")
    world.answered(refused, "failed", "renamed")


async def test_a_mended_event_succeeds_under_the_same_id(world):
    spoilt = changed(data={"department_id": "sales", "name": ""})
    await world.send_raw(spoilt)
    await world.handle()
    mended = department_created("Sales")
    await world.handle(mended)
    await world.has_one_live_subaccount("Sales")
    world.answered(mended, "failed", "created")


async def test_the_ack_comes_after_the_dead_letter_and_its_result(world):
    await world.send_raw(changed(type="invoice.created.v1"))
    await world.handle()
    assert world.witness.journal == [
        "publish results subaccount.failed",
        "publish dead-letters department.created",
        "ack",
    ]


@pytest.mark.parametrize("failing", ["publish dead-letters", "publish results"])
async def test_a_dead_letter_that_cannot_be_published_is_tried_again_before_the_ack(world, failing):
    world.witness.fail(failing, PublishFailed("no connection"))
    await world.send_raw(changed(type="invoice.created.v1"))
    await world.handle()
    assert world.witness.journal.count("ack") == 1
    assert world.witness.journal[-2:] == ["publish dead-letters department.created", "ack"]
    assert len(world.clock.naps) == 1
    world.answered(department_created(), "failed", times=None)
    assert (
        world.dead_letters()[-1].message.headers["x-attempts"] == 1
    )  # the broker's trouble counts for nobody


async def test_the_same_failure_of_a_replay_is_told_under_the_same_id(world):
    for _ in range(2):
        await world.send_raw(changed(type="invoice.created.v1"))
        await world.handle()
    world.answered(department_created(), "failed", times=2)


async def test_a_removal_whose_letter_names_no_department_is_told_without_one(world):
    body = {**document(department_removed()), "data": {"department_id": 5}}
    await world.send_raw(to_json(body))
    await world.handle()
    letter = world.dead_lettered("invalid")
    assert "x-department-id" not in letter.message.headers
    (told,) = world.broker.ready("test.results")
    assert json.loads(told.message.body)["data"].get("department_id") is None


async def test_a_tenant_that_cannot_be_one_is_told_as_the_default(world):
    await lone_letter(world, changed(tenant=["acme"]), "invalid")
    (told,) = world.results(department_created())
    assert told.tenant == "default"
