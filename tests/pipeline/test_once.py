"""A confirmed message is not published again because something else failed."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.topology import secrets_queue
from tests.pipeline.outages import pass_seconds, working_with_duties
from tests.support.builders import SALES, department_created, reissue_requested
from tests.support.secrets_keys import KeyReports, fresh_sealing_key, signing_key, write_keys
from tests.support.world import RESULTS_QUEUE, World, fault
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core.decide import Enable, Policy
from worker.core.judge import RetryPolicy
from worker.core.model.wishes import Reissuing, Wish
from worker.core.reissue import request_of
from worker.flow.gate import RELEASE_AFTER_SECONDS
from worker.ports import LedgerConflict, LedgerFailed, NotTaken, PublishFailed, Unroutable

CREATED = department_created("Sales", sequence=1)
OTHER = department_created("Other", sequence=1, department_id="other", id="other")
ASKED = reissue_requested()
NAMES = ("billing", "crm", "payroll")
"""In the order in which they are served."""

REFUSALS = [
    pytest.param(Unroutable("nobody is bound"), id="unroutable"),
    pytest.param(NotTaken("a queue is full"), id="not taken"),
    pytest.param(PublishFailed("no connection"), id="not confirmed"),
]


@pytest.fixture
def world(tmp_path):
    file = write_keys(tmp_path / "keys.json", *(fresh_sealing_key(name) for name in NAMES))
    sealer = JoseSealer(RecipientKeys(file, NAMES, KeyReports()), signing_key())
    return World(Policy(recipients=frozenset(NAMES)), RetryPolicy(timedelta(seconds=1)), sealer=sealer)


def sent(world, kind="issued"):
    """The number of messages that each recipient got."""
    queues = {name: world.broker.ready(secrets_queue(name)) for name in NAMES}
    return {name: sum(f".{kind}." in one.routing_key for one in queue) for name, queue in queues.items()}


def once_each(*names):
    return {name: int(name in names) for name in NAMES}


async def restart_during(world, event, seconds=5):
    """A worker tries for a while and is killed. Its memory is lost; the ledger is not."""
    async with world.working():
        await world.send(event)
        await pass_seconds(world, seconds)


@pytest.mark.parametrize("error", REFUSALS)
async def test_credentials_go_once_to_each_recipient_while_one_fails(world, error):
    world.witness.fail("publish secrets subaccount.credentials.issued.crm", error, times=None)
    await restart_during(world, CREATED)
    assert sent(world)["billing"] == 1
    assert "billing" not in (await world.entry()).owed_to, "that is durable"
    await restart_during(world, OTHER)  # the first is delivered again, too
    world.witness.forget()
    await world.handle()
    assert sent(world) == dict.fromkeys(NAMES, 2), "of two departments"
    world.answered(CREATED, "created")


RESULT_REFUSALS = [NotTaken("a queue is full"), PublishFailed("no connection")]


@pytest.mark.parametrize("error", RESULT_REFUSALS, ids=["not taken", "not confirmed"])
async def test_credentials_are_not_published_again_while_the_result_fails(world, error):
    world.witness.fail("publish results", error, times=None)
    await restart_during(world, CREATED, seconds=60)
    assert (await world.entry()).owed_to == frozenset(), "that is durable"
    world.witness.forget()
    await world.handle()
    assert sent(world) == once_each(*NAMES)
    world.answered(CREATED, "created")


@pytest.mark.parametrize("error", [LedgerFailed("disk full"), LedgerConflict("another writer")])
@pytest.mark.parametrize("failing", ["publish secrets subaccount.credentials.issued.crm", "publish results"])
async def test_a_confirm_that_cannot_be_recorded_is_remembered(world, failing, error):
    world.witness.fail(failing, NotTaken("a queue is full"))
    world.witness.fail("record active", LedgerFailed("once, before the answer is recorded"))
    world.witness.fail("record active", error, times=2)
    async with working_with_duties(world):
        await world.send(CREATED)
        await world.run_until_done()
    assert sent(world) == once_each(*NAMES)
    world.answered(CREATED, "created")


@pytest.mark.parametrize("status", [503, 401], ids=["the call fails", "the circuit opens"])
async def test_credentials_are_not_published_again_while_enabling_fails(world, status):
    world.policy = replace(world.policy, enable=Enable.PUBLISHED)
    world.witness.fail("update enabled", fault("update", status), times=None)
    await restart_during(world, CREATED)
    world.witness.forget()
    await world.handle()
    assert sent(world) == once_each(*NAMES)
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("error", REFUSALS)
async def test_a_request_serves_each_recipient_once(world, error):
    await world.handle(CREATED)
    world.witness.fail("publish secrets subaccount.credentials.reissued.crm", error, times=None)
    await restart_during(world, ASKED, seconds=100)
    assert sent(world, "reissued")["billing"] == 1
    world.witness.forget()
    await world.handle()
    assert sent(world, "reissued") == once_each(*NAMES)
    world.answered(ASKED, "reissued")
    assert (await world.entry()).issued.partial_reissues == ()


async def test_a_replay_of_a_request_serves_the_recipients_that_got_nothing(world):
    await world.handle(CREATED)
    world.witness.fail("publish secrets subaccount.credentials.reissued.crm", NotTaken("full"), times=None)
    await world.handle(ASKED)
    world.dead_lettered("exhausted")
    world.witness.forget()
    await world.replay_dead_letters()
    await world.handle()
    assert sent(world, "reissued") == once_each(*NAMES)
    world.answered(ASKED, "failed", "reissued")


async def test_a_wish_serves_each_recipient_once(world):
    await world.handle(CREATED)
    world.witness.fail("publish secrets subaccount.credentials.reissued.crm", NotTaken("full"), times=None)
    wish = Wish("wish-1", SALES, "anna", world.clock.now(), Reissuing())
    await world.ledger.wish(wish)
    for forgets in (False, True):
        async with working_with_duties(world):
            await pass_seconds(world, 5)
            if forgets:
                world.witness.forget()
                await pass_seconds(world, 5)
    assert sent(world, "reissued") == once_each(*NAMES)
    known = await world.ledger.recall(SALES, request_of(wish).reference)
    assert known.answer.code == "reissued"


async def test_owed_credentials_that_a_request_delivers_are_on_record(world):
    """Its own credentials fail, and those that were owed before do not go out again."""
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge("provisioner.departments")
    world.witness.fail("publish secrets subaccount.credentials.reissued", NotTaken("full"), times=None)
    await restart_during(world, ASKED)
    assert (await world.entry()).owed_to == frozenset()
    world.witness.forget()
    await world.handle()
    assert sent(world) == sent(world, "reissued") == once_each(*NAMES)


# Results


async def test_a_failed_result_is_published_once_per_dead_letter(world):
    world.witness.fail("create", fault("create", 400), times=2)
    world.witness.fail("publish dead-letters", PublishFailed("no connection"))
    await world.handle(CREATED)
    assert world.witness.journal.count("publish results subaccount.failed") == 1
    world.dead_lettered("rejected")
    world.answered(CREATED, "failed")


async def test_a_replay_that_fails_has_a_failed_result_again(world):
    world.witness.fail("create", fault("create", 400), times=2)
    async with world.working():
        await world.send(CREATED)
        await world.run_until_done()
        await world.replay_dead_letters()
        await world.run_until_done()
    world.dead_lettered("rejected")
    assert len(world.results(CREATED)) == 2


async def test_a_refused_result_blocks_the_gate_until_it_is_taken(world):
    world.witness.fail("publish results subaccount.created", NotTaken("a queue is full"), times=None)
    async with working_with_duties(world) as running:
        await world.send(CREATED, OTHER)
        await pass_seconds(world, 120)
        assert running.blocks() == ["results cannot be delivered: a queue is full"]
        assert not running.consumer.consuming
        tries = world.witness.journal.count("publish results subaccount.created failed")
        assert 6 <= tries <= 10, "one result, after 1, 2, 4, 8, 16 and then every 30 seconds"
        world.witness.forget()
        await pass_seconds(world, 31)
        assert running.blocks() == []
        await world.run_until_done()
    outcomes = Counter(one.data["event"]["id"] for one in world.events_in(RESULTS_QUEUE))
    assert outcomes == {CREATED.id: 1, OTHER.id: 1}
    assert sent(world) == dict.fromkeys(NAMES, 2)
    assert not [call for call in world.witness.journal if "publish retry" in call], "nothing is parked"
    world.has_dead_lettered_nothing()


async def test_a_refused_result_is_tried_again_after_the_messages_were_released(world):
    world.witness.fail("publish results", NotTaken("a queue is full"), times=None)
    async with working_with_duties(world) as running:
        await world.send(CREATED)
        await pass_seconds(world, RELEASE_AFTER_SECONDS + 60)
        assert running.blocks()
        world.witness.forget()
        await pass_seconds(world, 31)
        assert running.blocks() == []
        await world.run_until_done()
    world.answered(CREATED, "created")


async def test_a_refused_failed_result_keeps_its_message(world):
    """Unattributed, too: its id stays the same."""
    world.witness.fail("publish results", NotTaken("a queue is full"), times=None)
    async with working_with_duties(world) as running:
        await world.send_raw(b"hello")
        await pass_seconds(world, 60)
        assert world.dead_letters() == []
        assert running.blocks()
        world.witness.forget()
        await pass_seconds(world, 31)
        await world.run_until_done()
    world.dead_lettered("malformed")
    assert len(world.unattributed()) == 1


async def test_each_kind_of_result_has_its_own_block(world):
    """A queue may be bound for one kind alone."""
    world.witness.fail("publish results subaccount.created", NotTaken("a queue is full"), times=None)
    async with working_with_duties(world) as running:
        await world.send(CREATED)
        await world.send_raw(b"hello")
        await pass_seconds(world, 10)
        assert list(running.worker.gate.blocks) == ["results subaccount.created"]
        assert len(world.unattributed()) == 1
        world.witness.forget()
        await world.run_until_done()
