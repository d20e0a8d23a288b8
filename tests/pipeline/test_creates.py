"""Rejected creates and creates with an unknown outcome: no department gets two subaccounts or none."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.topology import WORK_QUEUE
from tests.support.builders import ISSUED, department_created, department_removed
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Policy, Removal
from worker.core.model.departments import Department
from worker.core.model.entry import Status

CREATED = department_created("Sales", sequence=1)
WINDOW = SETTLE_WINDOW.total_seconds()


async def create_strangers(world: World, count: int) -> None:
    for number in range(count):
        await world.provider.create(f"Stranger {number}", "by hand")


@pytest.mark.parametrize("status", [400, 405, 422])
async def test_a_rejected_create_leaves_no_claim(world, status):
    world.witness.fail("create", fault("create", status))
    await world.handle(CREATED)
    letter = world.dead_lettered("rejected")
    assert letter.message.headers["x-event-id"] == CREATED.id
    assert (await world.entry()).status is Status.ABSENT
    assert (await world.entry()).claim is None
    world.answered(CREATED, "failed")


async def test_a_corrected_event_succeeds_under_the_id_of_a_rejected_one(world):
    world.witness.fail("create", fault("create", 400))
    await world.handle(department_created("Refused", sequence=1))
    await world.handle(CREATED)
    assert "list" not in world.witness.journal
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "failed", "created")


@pytest.mark.parametrize("refusal", [fault("create", sent=False), fault("create", 429), fault("create", 401)])
async def test_a_create_that_did_not_happen_is_sent_again_without_a_scan(world, refusal):
    world.witness.fail("create", refusal)
    await world.handle(CREATED)
    assert "list" not in world.witness.journal
    assert world.clock.now() < (await world.entry()).created_at + timedelta(seconds=1)
    await world.has_one_live_subaccount("Sales")


# Creates with an unknown outcome

UNKNOWN_STATUSES = [None, 408, 409, 500, 502, 503, 302]


async def test_a_create_without_credit_is_settled_and_never_given_up(world):
    """The contract treats 402 as an unknown outcome, but missing credit is not the event's fault."""
    world.witness.fail("create", fault("create", 402), times=7)
    await world.handle(CREATED)
    assert world.clock.now() > (await world.entry()).created_at - timedelta(seconds=1)
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()


@pytest.mark.parametrize("status", UNKNOWN_STATUSES)
async def test_a_create_with_a_lost_response_is_adopted_by_its_tag(world, status):
    world.witness.fail("create", fault("create", status), after_effect=True)
    await world.handle(CREATED)
    assert world.witness.journal == [
        "recall",
        "record claimed",
        "create",
        "recall",
        "list",
        "list",
        "holders",
        "get",
        "record active created",
        "publish secrets subaccount.credentials.issued",
        "publish results subaccount.created",
        "record active created confirmed",
        "ack",
    ]
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    world.answered(CREATED, "created")


@pytest.mark.parametrize("status", UNKNOWN_STATUSES)
async def test_a_second_create_is_sent_only_after_an_empty_settle_window(world, status):
    begun = world.clock.now()
    world.witness.fail("create", fault("create", status))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert WINDOW / 24 < world.clock.seconds_to_next() < WINDOW / 24 + 1
        assert not world.results(CREATED)
        await world.run_until_done()
    assert world.clock.now() > begun + SETTLE_WINDOW
    empty_scan = ["list", "record claimed"]
    assert [step for step in world.witness.journal if step.startswith(("create", "list", "record"))][:-2] == [
        "record claimed",
        "create failed",
        *empty_scan * 3,
        "list",
        "record absent",
        "record claimed",
        "create",
    ]
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")


async def test_a_late_create_is_adopted_instead_of_a_second_one(world):
    world.witness.fail("create", fault("create"))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        await world.provider.create(world.sent_name("Sales"), "the first one, late")
        await world.run_until_done()
    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


async def test_the_settle_window_starts_at_the_last_create(world):
    world.witness.fail("create", fault("create"), times=2)
    begun = world.clock.now()
    await world.handle(CREATED)
    assert world.clock.now() > begun + 2 * SETTLE_WINDOW
    assert world.witness.journal.count("create failed") == 2
    assert len(world.provider.subaccounts) == 1


async def test_an_event_is_given_up_after_three_unknown_creates(world):
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    letter = world.dead_lettered("create-unknown")
    assert letter.message.headers["x-dead-detail"].startswith("3 creates ended without a clear response")
    assert (await world.entry()).status is Status.CLAIMED
    world.answered(CREATED, "failed")


async def crash_in_a_create(world: World) -> None:
    """A worker settles the unknown create and dies before its next one reaches the provider."""
    world.clock.advance(WINDOW)
    reached = asyncio.Event()

    async def stop() -> None:
        reached.set()
        await asyncio.Event().wait()

    world.witness.before("create", stop)
    async with world.working():
        done = asyncio.create_task(world.run_until_done())
        await asyncio.wait({done, asyncio.create_task(reached.wait())}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
    assert reached.is_set()


async def test_an_event_is_given_up_after_three_crashes_in_its_create(world):
    await world.send(CREATED)
    for attempt in (1, 2, 3):
        await crash_in_a_create(world)
        assert (await world.entry()).claim.attempt == attempt
    await world.handle()
    letter = world.dead_lettered("create-unknown")
    assert "3 creates ended without a clear response" in letter.message.headers["x-dead-detail"]
    assert "create" not in world.witness.journal
    assert (await world.entry()).status is Status.ABSENT
    await world.handle(CREATED)
    world.answered(CREATED, "failed", "created")
    await world.has_one_live_subaccount("Sales")


async def test_a_create_of_the_third_crash_is_adopted(world):
    await world.send(CREATED)
    for _ in range(3):
        await crash_in_a_create(world)
    await world.provider.create(world.sent_name("Sales"), "the third one, late")
    await world.handle()
    world.has_dead_lettered_nothing()
    await world.has_one_live_subaccount("Sales")


async def test_a_newer_event_does_not_inherit_the_crashes(world):
    await world.send(CREATED)
    for _ in range(3):
        await crash_in_a_create(world)
    newer = department_created("Sales", sequence=2)
    world.broker.purge(WORK_QUEUE)
    await world.handle(newer)
    world.answered(newer, "created")
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("happened", [False, True], ids=["lost", "late"])
async def test_a_replay_settles_first_and_does_not_inherit_the_attempts(world, happened):
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    if happened:
        await world.provider.create(world.sent_name("Sales"), "the third one, late")
    world.witness.fail("create", fault("create"), times=0 if happened else 2)
    await world.handle(CREATED)
    world.answered(CREATED, "failed", "created")
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


# Duplicates, and subaccounts that are not ours


async def test_the_oldest_match_is_adopted_and_the_duplicates_are_disabled(world):
    world.provider.today -= timedelta(days=1)
    oldest = await world.provider.create(world.sent_name("Sales"), "first")
    world.provider.today += timedelta(days=1)
    duplicate = await world.provider.create(world.sent_name("Sales"), "second")
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    assert (await world.entry()).auth_id == oldest.auth_id
    assert {held.auth_id: held.enabled for held in world.provider.subaccounts} == {
        oldest.auth_id: True,
        duplicate.auth_id: False,
    }
    (result,) = world.results(CREATED)
    assert result.data["reason"] == f"disabled duplicates: {duplicate.auth_id}"


async def test_a_subaccount_recorded_for_another_department_is_not_adopted(world):
    """A person gave it the tag of another department; the rest of the account is as on record."""
    await world.handle(department_created("Third", department_id="third", sequence=1, id="third"), CREATED)
    other = department_created("Other", department_id="other", sequence=1, id="other")
    stolen = world.provider.subaccounts[0]
    stolen.name = world.sent_name("Other", Department("acme", "other"))
    world.witness.fail("create", fault("create"))
    await world.handle(other)
    assert (await world.entry(Department("acme", "other"))).auth_id != stolen.auth_id


async def test_a_subaccount_another_worker_recorded_stays_and_ours_is_disabled(world):
    async def record_for_another_worker() -> None:
        theirs = await world.provider.create(world.sent_name("Sales"), "theirs")
        entry = await world.entry()
        active = replace(entry, status=Status.ACTIVE, claim=None, auth_id=theirs.auth_id, issued=ISSUED)
        await world.ledger.record(active)

    world.witness.before("record active created", record_for_another_worker)
    await world.handle(CREATED)
    theirs, ours = world.provider.subaccounts
    assert (await world.entry()).auth_id == theirs.auth_id
    assert (theirs.enabled, ours.enabled) == (True, False)
    world.answered(CREATED, "unchanged")


async def test_no_create_is_sent_under_a_claim_that_is_too_old(world):
    """The settle window starts at the claim, so the call must start within two seconds of it."""

    async def delay_the_call() -> None:
        world.clock.advance(3)

    world.witness.before("record claimed", delay_the_call)
    await world.handle(CREATED)
    assert world.witness.journal[:4] == ["recall", "record claimed", "record absent", "recall"]
    await world.has_one_live_subaccount("Sales")


async def test_the_settle_window_survives_a_restart(world):
    world.witness.fail("create", fault("create"))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
    world.clock.advance(WINDOW - 1)
    async with world.working():
        await world.clock.asleep()
        assert 1 <= world.clock.seconds_to_next() < 2
        await world.provider.create(world.sent_name("Sales"), "the first one, late")
        await world.run_until_done()
    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")


async def test_only_an_exact_tag_at_the_end_of_the_name_is_a_match(world):
    tag = world.sent_name("")[1:]
    for stranger in ("Sales", f"Sales {tag} copy", f"{tag[1:-1]} Sales", world.sent_name("Sales").lower()):
        await world.provider.create(stranger, "by hand")
    other = department_created("Sales", tenant="globex", id="other")
    await world.handle(other)
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    newest, *others = world.provider.subaccounts
    assert (await world.entry()).auth_id == newest.auth_id
    assert newest.name == world.sent_name("Sales")
    assert len(others) == 5


async def test_a_match_is_found_on_any_page(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    world.witness.before("list", lambda: create_strangers(world, 45))
    await world.handle(CREATED)
    assert len(world.provider.subaccounts) == 46
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("newer", [0, 1, 18, 19, 20, 37, 38, 39])
async def test_the_last_subaccount_of_the_list_is_scanned(world, newer):
    await world.provider.create(world.sent_name("Sales"), "unheard")
    await create_strangers(world, newer)
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    assert len(world.provider.subaccounts) == newer + 1
    await world.has_one_live_subaccount("Sales")


async def test_a_list_that_shifts_during_the_scan_is_read_again(world):
    """A deletion moves the 21st subaccount to place 20: pages that do not overlap would miss it."""
    await world.provider.create(world.sent_name("Sales"), "unheard")
    await create_strangers(world, 20)
    newest = world.provider.subaccounts[0].auth_id

    async def delete_the_newest_before_the_second_page() -> None:
        world.witness.before("list", lambda: world.provider.delete(newest, "by hand"))

    world.witness.fail("create", fault("create"))
    world.witness.before("list", delete_the_newest_before_the_second_page)
    await world.handle(CREATED)
    assert newest not in {held.auth_id for held in world.provider.subaccounts}
    assert "create" not in world.witness.journal
    assert max(world.clock.naps) < WINDOW / 12  # read again at once, not at the next scan
    await world.has_one_live_subaccount("Sales")


async def test_an_adopted_subaccount_gets_the_name_of_the_newest_event(world):
    await world.crash_before("record active", CREATED)
    await world.handle(department_created("Marketing", sequence=9))
    await world.has_one_live_subaccount("Marketing")
    assert len(world.provider.subaccounts) == 1


@pytest.mark.parametrize("happened", [False, True], ids=["lost", "response-lost"])
@pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.DELETE])
async def test_a_removal_during_an_unknown_create_leaves_nothing_enabled(happened, removal):
    world = World(Policy(removal))
    await world.crash_before("record active" if happened else "create", CREATED)
    assert (await world.entry()).status is Status.CLAIMED
    await world.handle(department_removed(sequence=9))
    await world.has_no_live_subaccount()
    assert len(world.provider.subaccounts) <= 1


async def test_an_adopted_subaccount_is_enabled(world):
    world.witness.fail("create", fault("create"), after_effect=True)

    async def disable() -> None:
        world.provider.subaccounts[0].enabled = False

    world.witness.before("list", disable)
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")


async def test_a_scan_that_crashes_blocks_no_event(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    world.witness.fail("list", RuntimeError("unexpected"))
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")
