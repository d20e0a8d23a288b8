"""Credentials asked for once more: by a message, and by a person through the ledger."""

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
from tests.support.secrets_keys import Told, fresh_sealing_key, signing_key, write_keys
from tests.support.world import World, fault
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core.decide import Enable, Policy
from worker.core.judge import RetryPolicy
from worker.core.keyring import public_part
from worker.core.messages import Outgoing
from worker.core.model import Status, Wish
from worker.core.reissue import REISSUE_PAUSE, WISH_GOOD_FOR, request_of
from worker.ports import NotTaken

CREATED = department_created("Sales", sequence=1)
REMOVED = department_removed(sequence=2)
ASKED = reissue_requested()
AGAIN = "subaccount.credentials.reissued.v1"
RECIPIENTS = Policy(recipients=frozenset({"crm", "billing"}))


def reissued(world):
    return [told for told in world.credentials() if told.type == AGAIN]


def reason(world, request=ASKED):
    (told,) = world.results(request)
    return told.data["reason"]


def new_token(world):
    world.provider.subaccounts[0].auth_token = SecretStr("changed-at-plivo")


async def test_the_token_of_that_moment_goes_out_once_more(world):
    await world.handle(CREATED)
    world.witness.journal.clear()
    await world.handle(ASKED)
    assert world.witness.journal == [
        "recall",
        "get",
        "publish secrets subaccount.credentials.reissued",
        "record active unchanged",
        "publish results subaccount.unchanged",
        "record active unchanged confirmed",
        "ack",
    ]
    issued, again = world.credentials()
    assert again.type == AGAIN
    assert again.data == issued.data
    assert (again.causationid, again.id != issued.id) == (ASKED.id, True)
    world.answered(ASKED, "unchanged")
    assert reason(world) == "credentials issued again"
    assert (await world.entry()).reissued_at == world.clock.now()


async def test_it_says_nothing_about_the_department(world):
    await world.handle(CREATED)
    before = await world.entry()
    await world.handle(ASKED)
    after = await world.entry()
    same = replace(after, revision=before.revision, reissued_at=None)
    assert same == before


async def test_asked_twice_under_one_id_it_is_answered_once(world):
    await world.handle(CREATED, ASKED, ASKED)
    assert len(reissued(world)) == 1
    world.answered(ASKED, "unchanged")


async def test_another_payload_under_its_id_is_refused(world):
    other = reissue_requested(department_id="support")
    await world.handle(CREATED, ASKED, other)
    world.dead_lettered("conflicting-duplicate")


async def test_an_unconfirmed_answer_is_told_again_and_nothing_else(world):
    await world.handle(CREATED)
    await world.crash_before("publish results subaccount.unchanged", ASKED)
    await world.handle()
    assert len(reissued(world)) == 1
    world.answered(ASKED, "unchanged")


async def test_for_whom_the_worker_does_not_know_it_is_a_dead_letter(world):
    request = reissue_requested("crm")
    await world.handle(CREATED, request)
    letter = world.dead_lettered("invalid")
    assert "data.recipient" in letter.message.headers["x-dead-detail"]
    world.answered(request, "failed")
    assert reissued(world) == []


@pytest.mark.parametrize("forged", [{}, {"x-original-routing-key": REISSUE_KEY}], ids=["plain", "forged"])
async def test_under_the_routing_key_of_events_nobody_may_ask(world, forged):
    """A producer's rights at the broker go by it."""
    await world.handle(CREATED)
    headers = {**forged} | ({"x-original-exchange": "departments"} if forged else {})
    async with world.working():
        await world.send_raw(Message.structured(ASKED).body, **headers)
        await world.run_until_done()
    letter = world.dead_lettered("invalid")
    assert "routing key" in letter.message.headers["x-dead-detail"]
    assert reissued(world) == []
    world.broker.purge(DEAD_LETTER_QUEUE)
    await world.broker.publish(Outgoing(REPLAY, letter.routing_key, letter.message))
    await world.handle()
    assert reissued(world) == [], "nor after a replay"


async def test_parked_it_is_still_a_request():
    world = World(patience=RetryPolicy(timedelta(seconds=0.1)))
    await world.handle(CREATED)
    world.witness.fail("get", fault("get", 403))
    await world.handle(ASKED)
    assert "publish retry 30s" in world.witness.journal
    assert len(reissued(world)) == 1


async def test_replayed_it_is_still_a_request(sealing):
    world, _ = sealing
    request = reissue_requested("crm")
    world.policy = replace(RECIPIENTS, recipients=frozenset({"billing"}))
    await world.handle(CREATED, request)
    world.dead_lettered("invalid")
    world.policy = RECIPIENTS
    await world.replay_dead_letters()
    await world.handle()
    world.has_dead_lettered_nothing()
    world.answered(request, "failed", "unchanged")


@pytest.mark.parametrize(
    "before",
    [(), (REMOVED,), (CREATED, REMOVED)],
    ids=["unknown", "never-created", "disabled"],
)
async def test_without_an_active_subaccount_nothing_is_issued(world, before):
    await world.handle(*before, ASKED)
    assert reissued(world) == []
    world.answered(ASKED, "unchanged")
    assert reason(world) == "the department has no active subaccount"


async def test_too_soon_after_the_last_one_nothing_is_issued(world):
    second, third = reissue_requested(id="second"), reissue_requested(id="third")
    await world.handle(CREATED, ASKED)
    world.clock.advance(REISSUE_PAUSE.total_seconds() - 1)
    await world.handle(second)
    assert "less than 60 s ago" in reason(world, second)
    world.clock.advance(1)
    await world.handle(third)
    assert reason(world, third) == "credentials issued again"
    assert len(reissued(world)) == 2


async def test_a_clock_set_back_keeps_nobody_waiting(world):
    await world.handle(CREATED)
    entry = await world.entry()
    await world.ledger.record(replace(entry, reissued_at=NOW + timedelta(days=1)))
    await world.handle(ASKED)
    assert len(reissued(world)) == 1


async def test_what_is_still_owed_goes_out_first(world):
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    await world.handle(ASKED)
    assert [told.type.split(".")[2] for told in world.credentials()] == ["issued", "reissued"]
    assert (await world.entry()).owed_to == frozenset()


async def test_and_what_was_to_be_enabled_by_then_is():
    world = World(Policy(enable=Enable.PUBLISHED))
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    await world.handle(ASKED)
    await world.has_one_live_subaccount("Sales")
    assert not (await world.entry()).owes


async def test_it_waits_behind_the_events_that_wait_with_it(world):
    async with world.working():
        await world.send(ASKED, CREATED, department_renamed("Marketing", sequence=2))
        await world.run_until_done()
    assert reason(world) == "credentials issued again"
    assert {told.data["name"] for told in reissued(world)} == {"Marketing"}
    world.answered(CREATED, "superseded")


async def test_where_nobody_is_bound_it_is_given_up_and_holds_up_nobody(world):
    await world.handle(CREATED)
    world.broker.unbind("provisioner.secrets", SECRETS_QUEUE, "#")
    async with world.working() as running:
        await world.send(ASKED)
        await world.clock.asleep()
        assert running.blocks() == []
        await world.run_until_done()
    world.dead_lettered("exhausted")


@pytest.mark.parametrize("failing", ["get", "publish secrets", "record active unchanged", "publish results"])
async def test_what_fails_is_tried_again(world, failing):
    await world.handle(CREATED)
    error = fault("get", 503) if failing == "get" else OSError("made up")
    world.witness.fail(failing, error, after_effect=failing != "get")
    await world.handle(ASKED)
    assert len({told.id for told in reissued(world)}) == 1
    world.answered(ASKED, "unchanged", times=None)
    world.has_dead_lettered_nothing()


# Generations


async def test_a_changed_token_is_a_new_generation_from_then_on(world):
    await world.handle(CREATED)
    new_token(world)
    await world.handle(ASKED)
    world.clock.advance(61)
    await world.handle(reissue_requested(id="second"))
    told = [(one.data["generation"], one.data["auth_token"]) for one in reissued(world)]
    assert told == [(2, "changed-at-plivo")] * 2


async def test_a_rotated_main_token_tells_nothing_and_keeps_the_generation(world):
    await world.handle(CREATED)
    world.fingerprints = KeyedFingerprints(SecretStr("another main token"))
    new_token(world)
    await world.handle(ASKED)
    assert [one.data["generation"] for one in reissued(world)] == [1]
    world.provider.subaccounts[0].auth_token = SecretStr("changed once more")
    world.clock.advance(61)
    await world.handle(reissue_requested(id="second"))
    assert [one.data["generation"] for one in reissued(world)] == [1, 2]


async def test_a_new_incarnation_counts_on_and_not_twice(world):
    await world.handle(CREATED)
    await world.ledger.record(replace(await world.entry(), status=Status.REMOVED, auth_id=None))
    world.provider.subaccounts.clear()
    await world.handle(department_created("Sales", sequence=5))
    await world.handle(ASKED)
    assert [one.data["generation"] for one in world.credentials()] == [1, 2, 2]


async def test_no_token_is_in_the_ledger(world):
    await world.handle(CREATED, ASKED)
    token = world.provider.subaccounts[0].auth_token.get_secret_value()
    entry = await world.entry()
    assert entry.fingerprint is not None
    assert token not in repr(entry)
    assert "main token" not in repr(entry)


# Recipients


@pytest.fixture
def keys():
    return {name: fresh_sealing_key(f"{name}.1") for name in ("crm", "billing")}


@pytest.fixture
def sealing(tmp_path, keys):
    worker = signing_key()
    recipients = RecipientKeys(write_keys(tmp_path / "keys.json", *keys.values()), tuple(keys), Told())
    return World(RECIPIENTS, sealer=JoseSealer(recipients, worker)), public_part(worker)


@pytest.mark.parametrize(("asked_for", "served"), [("crm", {"crm"}), (None, {"crm", "billing"})])
async def test_each_recipient_asked_for_gets_its_own_sealed(sealing, keys, asked_for, served):
    world, worker = sealing
    await world.handle(CREATED, reissue_requested(asked_for))
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


async def wished(world, recipient=None, id_="wish-1"):
    wish = Wish(id_, SALES, recipient, "anna", world.clock.now())
    await world.ledger.wish(wish)
    return wish


async def granting(world):
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()


async def came_of(world, wish):
    answer = (await world.ledger.recall(SALES, request_of(wish).reference)).answer
    return answer and (str(answer.outcome), answer.reason)


async def test_a_wish_is_granted_and_told_in_the_ledger_alone(world):
    await world.handle(CREATED)
    wish = await wished(world)
    await granting(world)
    assert await came_of(world, wish) == ("unchanged", "credentials issued again")
    (again,) = reissued(world)
    assert again.causationid == wish.id
    assert len(world.events_in("test.results")) == 1, "that of the event"
    assert await world.ledger.wishes(NOW) == []


async def test_a_wish_that_cannot_be_granted_says_why(world):
    unknown = await wished(world, "crm")
    await granting(world)
    assert await came_of(world, unknown) == (
        "failed",
        "data.recipient: not one of the worker's recipients",
    )
    absent = await wished(world, id_="wish-2")
    await granting(world)
    assert await came_of(world, absent) == ("failed", "the department has no active subaccount")
    assert await world.ledger.wishes(NOW) == []


async def test_an_old_wish_surprises_nobody(world):
    await world.handle(CREATED)
    await wished(world)
    world.clock.advance(WISH_GOOD_FOR.total_seconds() + 1)
    await granting(world)
    assert reissued(world) == []


async def test_what_fails_is_tried_at_the_next_poll(world):
    await world.handle(CREATED)
    wish = await wished(world)
    world.witness.fail("get", fault("get", 503))
    await granting(world)
    assert await came_of(world, wish) is None
    await granting(world)
    assert await came_of(world, wish) == ("unchanged", "credentials issued again")


@pytest.mark.parametrize("at", ["get", "publish secrets", "record active unchanged", "close wish"])
async def test_a_worker_that_dies_at_it_leaves_it_to_the_next(world, at):
    await world.handle(CREATED)
    wish = await wished(world)
    world.witness.fail(at, OSError("made up"))
    await granting(world)
    await granting(world)
    assert await came_of(world, wish) == ("unchanged", "credentials issued again")
    assert len({told.id for told in reissued(world)}) == 1
    assert await world.ledger.wishes(NOW) == []


async def test_a_request_for_one_whose_queue_is_full_is_tried_so_often_and_no_more(sealing):
    """The other recipients get theirs again with each try."""
    world, _ = sealing
    await world.handle(CREATED)
    world.witness.fail(
        "publish secrets subaccount.credentials.reissued.billing", NotTaken("full"), times=2000
    )
    async with world.working():
        await world.send(reissue_requested())
        await pass_seconds(world, 800)
    assert [noted for noted in world.witness.journal if noted.startswith("publish retry")]
