"""Calls that fail: retries, events that are given up, and messages without a bound queue."""

import asyncio
import json
from dataclasses import replace

import pytest

from contracts.topology import SECRETS, SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.outages import pass_seconds
from tests.support.builders import SALES, department_created, department_removed, department_renamed, owing
from tests.support.settling_loop import settled
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.adapters.rows import entry_json, entry_of
from worker.core.decide import Policy, Removal
from worker.core.model.entry import Status
from worker.ports import LedgerConflict, LedgerFailed, NotTaken, PublishFailed
from worker.telemetry.logs import configure_logging

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
OTHER = department_created("Other", department_id="other", id="other")


def is_unfinished(world: World) -> bool:
    """Nothing is acked, and CREATED is not answered."""
    return world.witness.journal.count("ack") == 0 and not world.results(CREATED)


# Transient failures


async def test_a_transient_failure_waits_in_its_lane_and_others_proceed(world):
    other_is_done = asyncio.Event()

    async def signal() -> None:
        other_is_done.set()

    world.witness.fail("create", fault("create", 429))
    world.witness.before("ack", signal)
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        await world.send(RENAMED, OTHER)
        await other_is_done.wait()
        await world.has_one_live_subaccount("Other", SALES._replace(id="other"))
        assert not world.results(CREATED)
        assert not world.results(RENAMED)
        await world.run_until_done()
    await world.has_one_live_subaccount("Marketing")
    world.answered(RENAMED, "created")
    world.answered(CREATED, "superseded")
    world.has_dead_lettered_nothing()


async def test_waits_grow_up_to_the_budget_and_then_the_message_is_parked(world):
    world.clock.next_jitter = 1.0
    world.witness.fail("create", fault("create", 403), times=9)
    await world.handle(CREATED)
    assert world.clock.naps == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 0.5, 1])
    await world.has_one_live_subaccount("Sales")
    world.has_dead_lettered_nothing()


async def test_the_log_names_the_event_that_waits_and_is_parked(world, capsys):
    world.clock.next_jitter = 1.0
    world.witness.fail("create", fault("create", 403), times=9)
    configure_logging("json", "info")
    await world.handle(CREATED)
    configure_logging("json", "error")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logged = [line for line in lines if line["event"] in {"step_waiting", "message_parked"}]
    assert {line["event"] for line in logged} == {"step_waiting", "message_parked"}
    subjects = {(line["event_id"], line["tenant"], line["department_id"]) for line in logged}
    assert subjects == {(CREATED.id, *SALES)}


async def test_an_outage_is_logged_as_a_warning_once_a_minute(world, capsys):
    world.witness.fail("create", fault("create", 429), times=30)
    configure_logging("json", "warning")
    begun = world.clock.now()
    await world.handle_all(CREATED, OTHER)
    configure_logging("json", "error")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logged = [line for line in lines if line["event"] == "step_waiting"]
    minutes = (world.clock.now() - begun).total_seconds() / 60
    assert 2 <= len(logged) <= minutes + 1
    assert {line["failure"] for line in logged} == {"unavailable"}


async def test_the_jitter_is_full_but_never_zero(world):
    world.clock.next_jitter = 0.0
    world.witness.fail("create", fault("create", 403), times=3)
    await world.handle(CREATED)
    assert world.clock.naps == pytest.approx([0.05, 0.1, 0.2])


async def test_retry_after_is_respected(world):
    world.witness.fail("create", fault("create", 429, retry_after_seconds=4.0))
    await world.handle(CREATED)
    assert world.clock.naps == [4.0]


async def test_a_long_retry_after_stops_consuming_until_it_has_run_out(world):
    world.witness.fail("create", fault("create", 429, retry_after_seconds=600.0))
    async with world.working() as running:
        await world.send(CREATED)
        await pass_seconds(world, 599)
        assert "wants no call before" in running.blocks()[0]
        assert not running.consumer.consuming
        assert world.witness.journal.count("create failed") == 1
        assert "create" not in world.witness.journal
        await pass_seconds(world, 2)
        assert running.blocks() == []
        await world.run_until_done()
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("recall", LedgerFailed("the ledger cannot be read")),
        ("record claimed", LedgerFailed("the ledger cannot be written")),
        ("record claimed", LedgerConflict("another worker")),
        ("create", fault("create")),
        ("record active created", LedgerFailed("the ledger cannot be written")),
        ("publish secrets", PublishFailed("no connection")),
        ("publish results", PublishFailed("no connection")),
        ("record active created confirmed", LedgerFailed("the ledger cannot be written")),
        ("ack", PublishFailed("whatever")),
        ("recall", RuntimeError("unexpected")),
        ("create", RuntimeError("unexpected")),
        ("publish results", KeyError("unexpected")),
        ("ack", ValueError("unexpected")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
async def test_an_event_survives_one_failure_of_any_call(world, what, error, after_effect):
    world.witness.fail(what, error, after_effect=after_effect)
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    assert world.provider.subaccounts[0].enabled
    assert len(world.provider.subaccounts) == 1
    world.answered(CREATED, "created", times=None)
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


@pytest.mark.parametrize("what", ["recall", "record", "create", "publish"])
async def test_an_unexpected_error_acks_nothing_and_affects_no_other_event(world, what):
    world.witness.fail(what, RuntimeError("unexpected"))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert is_unfinished(world)
        await world.send(OTHER)
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    await world.has_one_live_subaccount("Other", SALES._replace(id="other"))


@pytest.mark.parametrize("event", [RENAMED, REMOVED], ids=lambda event: event.kind)
@pytest.mark.parametrize("status", [None, 401, 402, 403, 404, 408, 409, 429, 500, 503])
@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
async def test_a_transiently_failed_change_is_sent_again(world, event, status, after_effect):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", status), after_effect=after_effect)
    await world.handle(event)
    world.answered(event, "renamed" if event is RENAMED else "disabled")
    assert len(world.provider.calls) == (3 if after_effect else 2)
    keys = {key for operation, _, key in world.provider.calls if operation == "update"}
    assert len(keys) == 1
    world.has_dead_lettered_nothing()


async def test_a_missing_subaccount_is_given_up_after_the_settle_window(world):
    await world.handle(CREATED)
    begun = world.clock.now()
    world.witness.fail("update", fault("update", 404), times=None)
    await world.handle(RENAMED)
    world.dead_lettered("rejected")
    waited = (world.clock.now() - begun).total_seconds()
    assert 0 <= waited - SETTLE_WINDOW.total_seconds() <= 1
    assert world.witness.journal.count("create") == 1


@pytest.mark.parametrize("status", [400, 405, 422])
async def test_a_rejected_change_is_given_up_and_a_replay_can_succeed(world, status):
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", status))
    await world.handle(RENAMED)
    letter = world.dead_lettered("rejected")
    assert f"answered {status} to update" in letter.message.headers["x-dead-detail"]
    await world.has_one_live_subaccount("Sales")
    world.answered(RENAMED, "failed")
    await world.handle(RENAMED)
    await world.has_one_live_subaccount("Marketing")


async def test_plivos_id_of_a_refused_call_is_in_dead_letter_result_and_ledger(world):
    api_id = "5a9f8b2c-10be-11f1-9c0a-0242ac110003"
    await world.handle(CREATED)
    world.witness.fail("update", fault("update", 400, api_id=api_id))
    await world.handle(RENAMED)
    letter = world.dead_lettered("rejected")
    assert letter.message.headers["x-dead-detail"].endswith(f" (Plivo api_id {api_id})")
    assert (await world.entry()).api_id == api_id
    assert entry_of(entry_json(await world.entry())).api_id == api_id


async def test_deleting_a_missing_subaccount_counts_as_deleted():
    world = World(Policy(Removal.DELETE))
    await world.handle(CREATED)
    auth_id = (await world.entry()).auth_id
    assert auth_id is not None
    await world.provider.delete(auth_id, "by hand")
    await world.handle(REMOVED)
    world.answered(REMOVED, "removed")
    assert (await world.entry()).status is Status.REMOVED


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
async def test_a_deletion_is_completed_before_a_newer_event(after_effect):
    world = World(Policy(Removal.DELETE))
    await world.handle(CREATED)
    world.witness.fail("delete", fault("delete"), after_effect=after_effect)
    async with world.working():
        await world.send(department_removed(sequence=2))
        await world.clock.asleep()
        assert (await world.entry()).status is Status.DELETING
    again = department_created("Again", sequence=3)  # overtakes the redelivered removal
    world.witness.fail("recall", LedgerFailed("once"))
    await world.handle(again)
    await world.has_one_live_subaccount("Again")
    assert (await world.entry()).incarnation == 2


# Unroutable messages


async def test_an_unroutable_result_counts_as_answered(world):
    world.broker.unbind("provisioner.results", "test.results", "#")
    await world.handle(CREATED)
    world.has_nothing_to_do()
    assert world.clock.naps == []
    (answer,) = await world.ledger.answers(SALES)
    assert answer.confirmed


async def test_unroutable_credentials_wait_and_nothing_is_acked(world):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with world.working():
        await world.send(CREATED)
        for _ in range(5):
            await world.clock.asleep(2)  # the retry, and the gate's release after ten minutes
            assert is_unfinished(world)
            assert (await world.entry()).owed_to == world.policy.recipients
            world.clock.advance(world.clock.seconds_to_next())
        world.broker.bind(SECRETS, SECRETS_QUEUE, "#")
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()
    assert world.witness.journal.count("create") == 1


async def test_undeliverable_credentials_stop_further_creates(world):
    world.witness.fail("publish secrets", NotTaken("a queue is full"), times=2)
    async with world.working() as running:
        await world.send(CREATED)
        await world.clock.asleep(2)  # the retry and the release, as above
        await world.send(OTHER)
        for _ in range(2):
            await world.clock.asleep(2)
            assert running.blocks() == ["credentials cannot be delivered: a queue is full"]
            assert world.witness.journal.count("create") == 1
            world.clock.advance(world.clock.seconds_to_next())
        await world.run_until_done()
        assert running.blocks() == []
    world.answered(CREATED, "created")
    world.answered(OTHER, "created")
    world.has_dead_lettered_nothing()


async def test_credentials_that_another_worker_delivers_unblock_this_one(world):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with world.working() as blocked:
        await world.send(CREATED)
        await world.clock.asleep(2)  # the retry and the release, as above
        scheduler = blocked.worker.scheduler
        await scheduler.look_at_undelivered()
        assert blocked.blocks(), "they are still owed"
        entry = await world.entry()
        await world.ledger.record(replace(entry, debt=None))  # as the other worker does
        await scheduler.look_at_undelivered()
        assert blocked.blocks() == []


async def test_what_was_confirmed_but_not_recorded_is_not_published_again(world):
    world.witness.fail("record active created confirmed", LedgerFailed("once"))
    await world.handle(CREATED)
    assert len(world.credentials()) == 1
    world.answered(CREATED, "created")


async def test_a_failed_read_of_the_token_is_retried(world):
    await world.handle(CREATED)
    await world.ledger.record(replace(await world.entry(), debt=owing(*world.policy.recipients)))
    world.witness.fail("get", fault("get", 500))
    await world.handle(RENAMED)
    await world.has_issued_credentials()
    world.answered(RENAMED, "renamed")
    assert world.witness.journal.count("update name") == 1
    assert world.broker.ready(WORK_QUEUE) == []


async def test_a_message_that_cannot_wait_or_be_parked_does_not_busy_loop(world, monkeypatch):
    monkeypatch.setattr("tests.support.world.PREFETCH", 2)
    world.witness.fail("create", fault("create"), times=2)
    world.witness.fail("publish retry", PublishFailed("no connection"), times=None)
    async with world.working():
        await world.send(CREATED, OTHER)
        await settled()
        assert world.witness.journal.count("publish retry 30s failed") == 1
        world.witness.forget()
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    await world.has_one_live_subaccount("Other", SALES._replace(id="other"))
    world.has_dead_lettered_nothing()
