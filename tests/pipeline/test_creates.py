"""Creates that are refused, and creates whose outcome is open: none comes to two, none to nothing."""

from datetime import timedelta

import pytest
from builders import department_created, department_removed
from world import SETTLE_WINDOW, World, fault

from worker.core.decide import Policy, Removal
from worker.core.model import Status

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

OPEN = [None, 402, 408, 409, 500, 502, 503, 302]


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
        assert WINDOW < world.clock.seconds_to_next() < WINDOW + 1
        assert not world.results(CREATED)
        await world.done_in_time()
    assert world.clock.now() > begun + SETTLE_WINDOW
    assert [
        step for step in world.witness.journal if step.startswith(("create", "list", "record claimed"))
    ] == [
        "record claimed",
        "create failed",
        "list",
        "list",
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
        await world.done_in_time()
    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


async def test_the_window_counts_from_the_last_create_and_not_from_the_first(world):
    world.witness.fail("create", fault("create"), times=3)
    begun = world.clock.now()
    await world.handle(CREATED)
    assert world.clock.now() > begun + 3 * SETTLE_WINDOW
    assert world.witness.journal.count("create failed") == 3
    assert len(world.provider.subaccounts) == 1


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
        await world.done_in_time()
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
    assert max(world.clock.naps) < 1  # at once, not only when the window has passed
    await world.has_one_live_subaccount("Sales")


async def test_the_newest_events_name_is_what_the_adopted_one_gets(world):
    await world.cut_off("record active", CREATED)
    await world.handle(department_created("Marketing", sequence=9))
    await world.has_one_live_subaccount("Marketing")
    assert len(world.provider.subaccounts) == 1


@pytest.mark.parametrize("happened", [False, True], ids=["lost", "unheard"])
@pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.DELETE])
async def test_a_removal_during_an_open_create_ends_with_nothing_live(happened, removal):
    world = World(Policy(removal))
    await world.cut_off("record active" if happened else "create", CREATED)
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
