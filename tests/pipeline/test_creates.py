"""Creates that are refused, and creates whose outcome is open: none comes to two, none to nothing."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.topology import WORK_QUEUE
from tests.support.builders import department_created, department_removed
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Policy, Removal
from worker.core.model import Department, Status

CREATED = department_created("Sales", sequence=1)
WINDOW = SETTLE_WINDOW.total_seconds()


async def strangers(world: World, count: int) -> None:
    for number in range(count):
        await world.provider.create(f"Stranger {number}", "by hand")


@pytest.mark.parametrize("status", [400, 405, 422])
async def test_a_create_that_is_refused_leaves_no_claim(world, status):
    world.witness.fail("create", fault("create", status))
    await world.handle(CREATED)
    letter = world.dead_lettered("rejected")
    assert letter.message.headers["x-event-id"] == CREATED.id
    assert (await world.entry()).status is Status.ABSENT
    assert (await world.entry()).claim is None
    world.answered(CREATED, "failed")


async def test_after_a_refused_create_a_mended_event_under_the_same_id_succeeds(world):
    world.witness.fail("create", fault("create", 400))
    await world.handle(department_created("Refused", sequence=1))
    await world.handle(CREATED)
    assert "list" not in world.witness.journal
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "failed", "created")


@pytest.mark.parametrize("refusal", [fault("create", sent=False), fault("create", 429), fault("create", 401)])
async def test_a_create_that_certainly_did_not_happen_is_sent_again_without_a_look(world, refusal):
    world.witness.fail("create", refusal)
    await world.handle(CREATED)
    assert "list" not in world.witness.journal
    assert world.clock.now() < (await world.entry()).created_at + timedelta(seconds=1)
    await world.has_one_live_subaccount("Sales")


# A create whose outcome is open

OPEN = [None, 408, 409, 500, 502, 503, 302]


async def test_a_create_without_credit_is_looked_for_and_never_given_up(world):
    """The contract counts 402 among the unknown; but the account's credit is no event's fault."""
    world.witness.fail("create", fault("create", 402), times=7)
    await world.handle(CREATED)
    assert world.clock.now() > (await world.entry()).created_at - timedelta(seconds=1)
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()


@pytest.mark.parametrize("status", OPEN)
async def test_a_create_that_happened_unheard_is_adopted_by_its_tag(world, status):
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


@pytest.mark.parametrize("status", OPEN)
async def test_a_second_create_is_only_sent_when_the_window_has_passed_with_nothing_found(world, status):
    begun = world.clock.now()
    world.witness.fail("create", fault("create", status))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert WINDOW / 24 < world.clock.seconds_to_next() < WINDOW / 24 + 1
        assert not world.results(CREATED)
        await world.run_until_done()
    assert world.clock.now() > begun + SETTLE_WINDOW
    looked_in_vain = ["list", "record claimed"]
    assert [step for step in world.witness.journal if step.startswith(("create", "list", "record"))][:-2] == [
        "record claimed",
        "create failed",
        *looked_in_vain * 3,
        "list",
        "record absent",
        "record claimed",
        "create",
    ]
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")


async def test_a_create_carried_out_late_is_found_before_a_second_one(world):
    world.witness.fail("create", fault("create"))
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        await world.provider.create(world.sent_name("Sales"), "the first one, late")
        await world.run_until_done()
    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


async def test_the_window_counts_from_the_last_create_and_not_from_the_first(world):
    world.witness.fail("create", fault("create"), times=2)
    begun = world.clock.now()
    await world.handle(CREATED)
    assert world.clock.now() > begun + 2 * SETTLE_WINDOW
    assert world.witness.journal.count("create failed") == 2
    assert len(world.provider.subaccounts) == 1


async def test_three_creates_of_unknown_outcome_are_given_up_with_their_evidence(world):
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    letter = world.dead_lettered("create-unknown")
    assert letter.message.headers["x-dead-detail"].startswith("3 creates ended without a clear answer")
    assert (await world.entry()).status is Status.CLAIMED
    world.answered(CREATED, "failed")


async def crash_in_a_create(world: World) -> None:
    """A worker settles what is open, and is gone before its create, which came to nothing, is answered."""
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


async def test_three_crashes_within_a_create_are_given_up_too(world):
    await world.send(CREATED)
    for attempt in (1, 2, 3):
        await crash_in_a_create(world)
        assert (await world.entry()).claim.attempt == attempt
    await world.handle()
    letter = world.dead_lettered("create-unknown")
    assert "3 creates ended without a clear answer" in letter.message.headers["x-dead-detail"]
    assert "create" not in world.witness.journal
    assert (await world.entry()).status is Status.ABSENT
    await world.handle(CREATED)
    world.answered(CREATED, "failed", "created")
    await world.has_one_live_subaccount("Sales")


async def test_what_the_third_crash_left_behind_is_adopted(world):
    await world.send(CREATED)
    for _ in range(3):
        await crash_in_a_create(world)
    await world.provider.create(world.sent_name("Sales"), "the third one, late")
    await world.handle()
    world.has_dead_lettered_nothing()
    await world.has_one_live_subaccount("Sales")


async def test_after_three_crashes_a_newer_event_counts_from_one(world):
    await world.send(CREATED)
    for _ in range(3):
        await crash_in_a_create(world)
    newer = department_created("Sales", sequence=2)
    world.broker.purge(WORK_QUEUE)
    await world.handle(newer)
    world.answered(newer, "created")
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("happened", [False, True], ids=["lost", "late"])
async def test_a_replay_of_it_settles_first_and_counts_from_zero(world, happened):
    world.witness.fail("create", fault("create"), times=3)
    await world.handle(CREATED)
    if happened:
        await world.provider.create(world.sent_name("Sales"), "the third one, late")
    world.witness.fail("create", fault("create"), times=0 if happened else 2)
    await world.handle(CREATED)
    world.answered(CREATED, "failed", "created")
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


# Doubles, and subaccounts that are not ours


async def test_of_several_the_oldest_is_kept_and_the_others_are_disabled_and_told_of(world):
    world.provider.today -= timedelta(days=1)
    oldest = await world.provider.create(world.sent_name("Sales"), "first")
    world.provider.today += timedelta(days=1)
    double = await world.provider.create(world.sent_name("Sales"), "second")
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    assert (await world.entry()).auth_id == oldest.auth_id
    assert {held.auth_id: held.enabled for held in world.provider.subaccounts} == {
        oldest.auth_id: True,
        double.auth_id: False,
    }
    (told,) = world.results(CREATED)
    assert told.data["reason"] == f"disabled doubles: {double.auth_id}"


async def test_one_on_record_for_another_department_is_never_adopted(world):
    await world.handle(CREATED)
    other = department_created("Other", department_id="other", sequence=1)
    stolen = world.provider.subaccounts[0]
    stolen.name = world.sent_name("Other", Department("acme", "other"))
    world.witness.fail("create", fault("create"))
    await world.handle(other)
    assert (await world.entry(Department("acme", "other"))).auth_id != stolen.auth_id


async def test_what_another_worker_put_on_record_stays_and_ours_is_disabled(world):
    async def another_worker_is_faster() -> None:
        theirs = await world.provider.create(world.sent_name("Sales"), "theirs")
        entry = replace(await world.entry(), status=Status.ACTIVE, claim=None, auth_id=theirs.auth_id)
        await world.ledger.record(replace(entry, generation=1, owed_to=frozenset()))

    world.witness.before("record active created", another_worker_is_faster)
    await world.handle(CREATED)
    theirs, ours = world.provider.subaccounts
    assert (await world.entry()).auth_id == theirs.auth_id
    assert (theirs.enabled, ours.enabled) == (True, False)
    world.answered(CREATED, "unchanged")


async def test_a_claim_that_is_too_old_is_not_acted_on(world):
    """The settle window counts from it, so the call must begin within two seconds of it."""

    async def dawdle() -> None:
        world.clock.advance(3)

    world.witness.before("record claimed", dawdle)
    await world.handle(CREATED)
    assert world.witness.journal[:4] == ["recall", "record claimed", "record absent", "recall"]
    await world.has_one_live_subaccount("Sales")


async def test_after_a_restart_the_window_still_counts(world):
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


async def test_only_the_tag_in_its_place_makes_it_ours(world):
    tag = world.sent_name("")[1:]
    for stranger in ("Sales", f"Sales {tag} copy", f"{tag[1:-1]} Sales", world.sent_name("Sales").lower()):
        await world.provider.create(stranger, "by hand")
    other = department_created("Sales", tenant="globex", id="other")
    await world.handle(other)
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    newest, *strangers = world.provider.subaccounts
    assert (await world.entry()).auth_id == newest.auth_id
    assert newest.name == world.sent_name("Sales")
    assert len(strangers) == 5


async def test_it_is_found_on_whatever_page_it_is(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    world.witness.before("list", lambda: strangers(world, 45))
    await world.handle(CREATED)
    assert len(world.provider.subaccounts) == 46
    await world.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("newer", [0, 1, 18, 19, 20, 37, 38, 39])
async def test_the_last_of_the_list_is_looked_at_too(world, newer):
    await world.provider.create(world.sent_name("Sales"), "unheard")
    await strangers(world, newer)
    world.witness.fail("create", fault("create"))
    await world.handle(CREATED)
    assert len(world.provider.subaccounts) == newer + 1
    await world.has_one_live_subaccount("Sales")


async def test_a_list_that_shifts_while_it_is_read_is_read_again(world):
    """Once the newest is deleted the 21st is the 20th: between pages that do not overlap it slips through."""
    await world.provider.create(world.sent_name("Sales"), "unheard")
    await strangers(world, 20)
    newest = world.provider.subaccounts[0].auth_id

    async def delete_the_newest_before_the_second_page() -> None:
        world.witness.before("list", lambda: world.provider.delete(newest, "by hand"))

    world.witness.fail("create", fault("create"))
    world.witness.before("list", delete_the_newest_before_the_second_page)
    await world.handle(CREATED)
    assert newest not in {held.auth_id for held in world.provider.subaccounts}
    assert "create" not in world.witness.journal
    assert max(world.clock.naps) < WINDOW / 12  # at once, not only with the next look
    await world.has_one_live_subaccount("Sales")


async def test_the_newest_events_name_is_what_the_adopted_one_gets(world):
    await world.crash_before("record active", CREATED)
    await world.handle(department_created("Marketing", sequence=9))
    await world.has_one_live_subaccount("Marketing")
    assert len(world.provider.subaccounts) == 1


@pytest.mark.parametrize("happened", [False, True], ids=["lost", "unheard"])
@pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.DELETE])
async def test_a_removal_during_an_open_create_ends_with_nothing_live(happened, removal):
    world = World(Policy(removal))
    await world.crash_before("record active" if happened else "create", CREATED)
    assert (await world.entry()).status is Status.CLAIMED
    await world.handle(department_removed(sequence=9))
    await world.has_no_live_subaccount()
    assert len(world.provider.subaccounts) <= 1


async def test_an_adopted_one_that_is_disabled_is_enabled(world):
    world.witness.fail("create", fault("create"), after_effect=True)

    async def disable() -> None:
        world.provider.subaccounts[0].enabled = False

    world.witness.before("list", disable)
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")


async def test_a_look_that_crashes_leaves_nobody_waiting(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    world.witness.fail("list", RuntimeError("unexpected"))
    await world.handle(CREATED)
    await world.has_one_live_subaccount("Sales")
