"""Reissued credentials: requested by a message, or by a person through a wish in the ledger."""

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from contracts.envelope import Message
from contracts.reissues import REISSUE_KEY
from contracts.topology import DEAD_LETTER_QUEUE, REPLAY, SECRETS_QUEUE, WORK_QUEUE, secrets_queue
from tests.pipeline.outages import pass_seconds
from tests.support.builders import (
    NOW,
    SALES,
    department_created,
    department_removed,
    department_renamed,
    reissue_requested,
)
from tests.support.entries import entries_of
from tests.support.secrets_keys import KeyReports, fresh_sealing_key, signing_key, write_keys
from tests.support.world import World, fault
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core.decide import Enable, Policy
from worker.core.judge import RetryPolicy
from worker.core.keyring import public_part
from worker.core.messages import Outgoing
from worker.core.model.entry import Status
from worker.core.model.removals import Removed
from worker.core.model.wishes import Reissuing, Wish
from worker.core.reissue import REISSUE_PAUSE, request_of
from worker.core.wishes import VALID_FOR
from worker.ports import NotTaken

CREATED = department_created("Sales", sequence=1)
REMOVED = department_removed(sequence=2)
ASKED = reissue_requested()
AGAIN = "subaccount.credentials.reissued.v1"
RECIPIENTS = Policy(recipients=frozenset({"crm", "billing"}))


def reissued(world):
    return [message for message in world.credentials() if message.type == AGAIN]


def reason(world, request=ASKED):
    (result,) = world.results(request)
    return result.data["reason"]


def code_of(world, request=ASKED):
    (result,) = world.results(request)
    return result.data["code"]


def new_token(world):
    world.provider.subaccounts[0].auth_token = SecretStr("changed-at-plivo")


async def test_a_request_publishes_the_current_token_again(world):
    await world.handle(CREATED)
    world.witness.journal.clear()
    await world.handle(ASKED)
    assert world.witness.journal == [
        "recall",
        "get",
        "publish secrets subaccount.credentials.reissued",
        "record active reissued",
        "publish results subaccount.reissued",
        "record answer reissued confirmed",
        "ack",
    ]
    issued, again = world.credentials()
    assert again.type == AGAIN
    assert again.data == issued.data
    assert (again.causationid, again.id != issued.id) == (ASKED.id, True)
    world.answered(ASKED, "reissued")
    assert (code_of(world), reason(world)) == ("reissued", "credentials issued again")
    assert (await world.entry()).issued.reissued_at == world.clock.now()


async def test_a_request_does_not_change_the_department(world):
    await world.handle(CREATED)
    before = await world.entry()
    await world.handle(ASKED)
    after = await world.entry()
    same = replace(after, revision=before.revision, issued=replace(after.issued, reissued_at=None))
    assert same == before


async def test_a_request_for_a_missing_subaccount_fails(world):
    await world.handle(CREATED)
    world.provider.subaccounts.clear()
    await world.handle(ASKED)
    world.answered(ASKED, "failed")
    world.has_dead_lettered_nothing()
    assert code_of(world) == "gone-at-provider"


async def test_a_duplicate_request_is_answered_once(world):
    await world.handle(CREATED, ASKED, ASKED)
    assert len(reissued(world)) == 1
    world.answered(ASKED, "reissued")


async def test_another_payload_under_the_id_of_a_request_is_dead_lettered(world):
    other = reissue_requested(department_id="support")
    await world.handle(CREATED, ASKED, other)
    world.dead_lettered("conflicting-duplicate")


async def test_only_the_unconfirmed_answer_is_published_again(world):
    await world.handle(CREATED)
    await world.crash_before("publish results subaccount.reissued", ASKED)
    await world.handle()
    assert len(reissued(world)) == 1
    world.answered(ASKED, "reissued")


async def test_a_request_for_an_unknown_recipient_is_dead_lettered(world):
    request = reissue_requested("crm")
    await world.handle(CREATED, request)
    letter = world.dead_lettered("invalid")
    assert "data.recipient" in letter.message.headers["x-dead-detail"]
    world.answered(request, "failed")
    assert code_of(world, request) == "unknown-recipient"
    assert reissued(world) == []


@pytest.mark.parametrize("forged", [{}, {"x-original-routing-key": REISSUE_KEY}], ids=["plain", "forged"])
async def test_a_request_under_an_event_routing_key_is_dead_lettered(world, forged):
    """The broker's permissions of a producer depend on the routing key."""
    await world.handle(CREATED)
    headers = {**forged} | ({"x-original-exchange": "departments"} if forged else {})
    async with world.working():
        await world.send_raw(Message.structured(ASKED).body, **headers)
        await world.run_until_done()
    letter = world.dead_lettered("invalid")
    assert "routing key" in letter.message.headers["x-dead-detail"]
    assert (code_of(world), reissued(world)) == ("not-allowed", [])
    world.broker.purge(DEAD_LETTER_QUEUE)
    await world.broker.publish(Outgoing(REPLAY, letter.routing_key, letter.message))
    await world.handle()
    assert reissued(world) == [], "a replay must not change that"


async def test_a_parked_request_is_carried_out():
    world = World(retry=RetryPolicy(timedelta(seconds=0.1)))
    await world.handle(CREATED)
    world.witness.fail("get", fault("get", 403))
    await world.handle(ASKED)
    assert "publish retry 30s" in world.witness.journal
    assert len(reissued(world)) == 1


async def test_a_replayed_request_is_carried_out(sealing):
    world, _ = sealing
    request = reissue_requested("crm")
    world.policy = replace(RECIPIENTS, recipients=frozenset({"billing"}))
    await world.handle(CREATED, request)
    world.dead_lettered("invalid")
    world.policy = RECIPIENTS
    await world.replay_dead_letters()
    await world.handle()
    world.has_dead_lettered_nothing()
    world.answered(request, "failed", "reissued")


@pytest.mark.parametrize(
    ("before", "code", "why"),
    [
        ((), "unknown-department", "no event of the department was answered yet"),
        ((REMOVED,), "not-active", "the department has no active subaccount"),
        ((CREATED, REMOVED), "not-active", "the department has no active subaccount"),
    ],
    ids=["unknown", "never-created", "disabled"],
)
async def test_nothing_is_issued_without_an_active_subaccount(world, before, code, why):
    await world.handle(*before, ASKED, ASKED)
    assert reissued(world) == []
    world.answered(ASKED, "failed")
    assert (code_of(world), reason(world)) == (code, why)
    world.has_dead_lettered_nothing()


async def test_a_request_for_an_unknown_department_leaves_no_entry(world):
    await world.handle(ASKED)
    assert await entries_of(world.ledger) == []
    await world.handle(CREATED, reissue_requested(id="second"))
    world.answered(CREATED, "created")
    assert len(reissued(world)) == 1


async def test_the_answer_to_a_declined_request_is_published_once_more_after_a_crash(world):
    await world.crash_before("publish results subaccount.failed", ASKED)
    await world.handle(CREATED)
    world.answered(ASKED, "failed")
    assert (code_of(world), reissued(world)) == ("unknown-department", [])


async def test_nothing_is_issued_within_the_pause_after_a_reissue(world):
    second, third = reissue_requested(id="second"), reissue_requested(id="third")
    await world.handle(CREATED, ASKED)
    world.clock.advance(REISSUE_PAUSE.total_seconds() - 1)
    await world.handle(second)
    world.answered(second, "failed")
    assert code_of(world, second) == "too-soon"
    assert "less than 60 s ago" in reason(world, second)
    world.clock.advance(1)
    await world.handle(third)
    assert reason(world, third) == "credentials issued again"
    assert len(reissued(world)) == 2


async def test_a_clock_set_back_does_not_delay_a_request(world):
    await world.handle(CREATED)
    entry = await world.entry()
    await world.ledger.record(
        replace(entry, issued=replace(entry.issued, reissued_at=NOW + timedelta(days=1)))
    )
    await world.handle(ASKED)
    assert len(reissued(world)) == 1


async def test_owed_credentials_are_published_before_the_reissued_ones(world):
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    await world.handle(ASKED)
    assert [message.type.split(".")[2] for message in world.credentials()] == ["issued", "reissued"]
    assert (await world.entry()).owed_to == frozenset()


async def test_a_request_also_enables_an_owed_subaccount():
    world = World(Policy(enable=Enable.PUBLISHED))
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    await world.handle(ASKED)
    await world.has_one_live_subaccount("Sales")
    assert (await world.entry()).debt is None


async def test_a_request_waits_for_the_waiting_events_of_its_department(world):
    async with world.working():
        await world.send(ASKED, CREATED, department_renamed("Marketing", sequence=2))
        await world.run_until_done()
    assert reason(world) == "credentials issued again"
    assert {message.data["name"] for message in reissued(world)} == {"Marketing"}
    world.answered(CREATED, "superseded")


async def test_an_unroutable_reissue_is_given_up_and_does_not_block(world):
    await world.handle(CREATED)
    world.broker.unbind("provisioner.secrets", SECRETS_QUEUE, "#")
    async with world.working() as running:
        await world.send(ASKED)
        await world.clock.asleep()
        assert running.blocks() == []
        await world.run_until_done()
    world.dead_lettered("exhausted")


@pytest.mark.parametrize("failing", ["get", "publish secrets", "record active reissued", "publish results"])
async def test_a_request_is_retried_after_a_failure(world, failing):
    await world.handle(CREATED)
    error = fault("get", 503) if failing == "get" else OSError("made up")
    world.witness.fail(failing, error, after_effect=failing != "get")
    await world.handle(ASKED)
    assert len({message.id for message in reissued(world)}) == 1
    world.answered(ASKED, "reissued", times=None)
    world.has_dead_lettered_nothing()


# Generations


async def test_a_changed_token_starts_a_new_generation(world):
    await world.handle(CREATED)
    new_token(world)
    await world.handle(ASKED)
    world.clock.advance(61)
    await world.handle(reissue_requested(id="second"))
    issued = [(one.data["generation"], one.data["auth_token"]) for one in reissued(world)]
    assert issued == [(2, "changed-at-plivo")] * 2


async def test_a_rotated_main_token_keeps_the_generation(world):
    await world.handle(CREATED)
    world.fingerprints = KeyedFingerprints(SecretStr("another main token"))
    new_token(world)
    await world.handle(ASKED)
    assert [one.data["generation"] for one in reissued(world)] == [1]
    world.provider.subaccounts[0].auth_token = SecretStr("changed once more")
    world.clock.advance(61)
    await world.handle(reissue_requested(id="second"))
    assert [one.data["generation"] for one in reissued(world)] == [1, 2]


async def test_a_new_incarnation_increments_the_generation_once(world):
    await world.handle(CREATED)
    gone = {"status": Status.REMOVED, "auth_id": None, "removal": Removed(NOW)}
    await world.ledger.record(replace(await world.entry(), **gone))
    world.provider.subaccounts.clear()
    await world.handle(department_created("Sales", sequence=5))
    await world.handle(ASKED)
    assert [one.data["generation"] for one in world.credentials()] == [1, 2, 2]


async def test_the_ledger_contains_no_token(world):
    await world.handle(CREATED, ASKED)
    token = world.provider.subaccounts[0].auth_token.get_secret_value()
    entry = await world.entry()
    assert entry.issued.fingerprint is not None
    assert token not in repr(entry)
    assert "main token" not in repr(entry)


# Recipients


@pytest.fixture
def keys():
    return {name: fresh_sealing_key(f"{name}.1") for name in ("crm", "billing")}


@pytest.fixture
def sealing(tmp_path, keys):
    worker = signing_key()
    recipients = RecipientKeys(write_keys(tmp_path / "keys.json", *keys.values()), tuple(keys), KeyReports())
    return World(RECIPIENTS, sealer=JoseSealer(recipients, worker)), public_part(worker)


@pytest.mark.parametrize(("requested", "served"), [("crm", {"crm"}), (None, {"crm", "billing"})])
async def test_each_requested_recipient_gets_its_own_sealed_message(sealing, keys, requested, served):
    world, worker = sealing
    await world.handle(CREATED, reissue_requested(requested))
    for name, key in keys.items():
        first, *again = world.broker.ready(secrets_queue(name))
        assert first.routing_key == f"subaccount.credentials.issued.{name}"
        assert [one.routing_key for one in again] == (
            [f"subaccount.credentials.reissued.{name}"] if name in served else []
        )
        for one in again:
            opened = open_message(one.message.body, [key], [worker])
            assert opened.content.auth_token == world.provider.subaccounts[0].auth_token
    assert reason(world, reissue_requested()) == f"credentials issued again to {', '.join(sorted(served))}"


# Wishes


async def add_wish(world, recipient=None, id_="wish-1"):
    wish = Wish(id_, SALES, "anna", world.clock.now(), Reissuing(recipient))
    await world.ledger.wish(wish)
    return wish


async def grant_wishes(world):
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()


async def answer_to(world, wish):
    answer = (await world.ledger.recall(SALES, request_of(wish).reference)).answer
    return answer and (str(answer.code), answer.reason)


async def test_a_granted_wish_is_answered_only_in_the_ledger(world):
    await world.handle(CREATED)
    wish = await add_wish(world)
    await grant_wishes(world)
    assert await answer_to(world, wish) == ("reissued", "credentials issued again")
    (again,) = reissued(world)
    assert again.causationid == wish.id
    assert len(world.events_in("test.results")) == 1, "the result of the event"
    assert await world.ledger.wishes() == []


async def test_a_rejected_wish_is_answered_with_its_reason(world):
    unknown = await add_wish(world, "crm")
    await grant_wishes(world)
    why = "data.recipient: not one of the worker's recipients"
    assert await answer_to(world, unknown) == ("unknown-recipient", why)
    absent = await add_wish(world, id_="wish-2")
    await grant_wishes(world)
    why = "no event of the department was answered yet"
    assert await answer_to(world, absent) == ("unknown-department", why)
    assert await world.ledger.wishes() == []


async def test_an_old_wish_is_answered_that_it_is_too_late(world):
    await world.handle(CREATED)
    wish = await add_wish(world)
    world.clock.advance(VALID_FOR["reissue"].total_seconds())
    await grant_wishes(world)
    why = "too late: no worker has done it within 60 s; ask again"
    assert await answer_to(world, wish) == ("not-allowed", why)
    assert reissued(world) == await world.ledger.wishes() == []


async def test_a_failed_wish_is_retried_at_the_next_poll(world):
    await world.handle(CREATED)
    wish = await add_wish(world)
    world.witness.fail("get", fault("get", 503))
    await grant_wishes(world)
    assert await answer_to(world, wish) is None
    await grant_wishes(world)
    assert await answer_to(world, wish) == ("reissued", "credentials issued again")


@pytest.mark.parametrize("at", ["get", "publish secrets", "record active reissued", "close wish"])
async def test_a_wish_survives_a_failure_at_any_call(world, at):
    await world.handle(CREATED)
    wish = await add_wish(world)
    world.witness.fail(at, OSError("made up"))
    await grant_wishes(world)
    await grant_wishes(world)
    assert await answer_to(world, wish) == ("reissued", "credentials issued again")
    assert len({message.id for message in reissued(world)}) == 1
    assert await world.ledger.wishes() == []


async def test_a_reissue_to_a_full_queue_is_parked_after_its_retries(sealing):
    """Each retry sends the other recipients their credentials again."""
    world, _ = sealing
    await world.handle(CREATED)
    world.witness.fail(
        "publish secrets subaccount.credentials.reissued.billing", NotTaken("full"), times=None
    )
    async with world.working():
        await world.send(reissue_requested())
        await pass_seconds(world, 800)
    assert [call for call in world.witness.journal if call.startswith("publish retry")]
