"""A ledger that is new, lost or restored: existing subaccounts are adopted, not created again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.subaccounts import ResultKind
from tests.support.builders import (
    IDEMPOTENCY_KEY,
    NOW,
    SALES,
    created,
    department_created,
    department_removed,
)
from tests.support.world import World, fault
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.provider import MemoryProvider
from worker.core.decide import Policy, Removal
from worker.core.model.departments import Department
from worker.core.model.entry import Claim, Entry, Status
from worker.core.model.removals import Removed
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
OTHER = Department("acme", "other")


def with_empty_ledger(world: World, **changed: Any) -> World:
    """A world with an empty ledger, and the clock and provider of the given one."""
    as_before = World(policy=world.policy, clock=world.clock, provider=world.provider, orphans=Orphans)
    return replace(as_before, **changed)


async def create_foreign(provider: MemoryProvider, count: int) -> None:
    for number in range(count):
        await provider.create(f"Stranger {number}", "by hand")


@pytest.fixture
def world() -> World:
    return World(Policy(Removal.DELETE), orphans=Orphans)


@pytest.mark.parametrize("creations", [1, 2, 4, 32])
async def test_a_subaccount_is_adopted_in_any_incarnation(world, creations):
    for number in range(1, creations):
        await world.handle(department_created("Sales", sequence=2 * number))
        await world.handle(department_removed(sequence=2 * number + 1))
    await world.handle(department_created("Sales", sequence=2 * creations))
    there = world.provider.subaccounts[0].auth_id

    anew = with_empty_ledger(world)
    await anew.handle(department_created("Sales", sequence=1000))

    entry = await anew.entry()
    assert [one.auth_id for one in world.provider.subaccounts] == [there]
    assert (entry.auth_id, entry.incarnation, entry.generation) == (there, creations, creations)
    await anew.has_one_live_subaccount("Sales")
    await anew.has_issued_credentials()
    await anew.handle(department_removed(sequence=1001))
    await anew.handle(department_created("Sales", sequence=1002))
    assert (await anew.entry()).incarnation == creations + 1
    await anew.has_one_live_subaccount("Sales")


async def test_the_enabled_match_of_the_newest_incarnation_is_kept(world):
    for incarnation, enabled in ((1, True), (3, False), (3, True), (2, True)):
        made = await world.provider.create(world.sent_name("Sales", incarnation=incarnation), "by hand")
        await world.provider.update(made.auth_id, "by hand", enabled=enabled)
    await world.handle(CREATED)

    assert (await world.entry()).auth_id == "SA000000000000000003"
    assert [one.auth_id for one in world.provider.subaccounts if one.enabled] == ["SA000000000000000003"]
    (result,) = world.results(CREATED)
    for duplicate in ("SA000000000000000001", "SA000000000000000002", "SA000000000000000004"):
        assert duplicate in result.data["reason"]
    assert (await world.entry()).duplicates_check_at is not None


async def test_a_new_ledger_reads_the_whole_list_before_its_first_create(world):
    await world.handle(CREATED)
    await create_foreign(world.provider, 45)

    anew = with_empty_ledger(world)
    await anew.handle(department_created("Sales", sequence=2))

    assert len(world.provider.subaccounts) == 46
    await anew.has_one_live_subaccount("Sales")


async def test_every_start_reads_the_whole_list_until_caught_up(world):
    """Otherwise existing subaccounts would be forgotten when the first worker stops."""
    await world.handle(CREATED, department_created("Other", department_id="other", id="other-1", sequence=1))
    await create_foreign(world.provider, 45)
    anew = with_empty_ledger(world)
    await anew.handle(department_created("Sales", sequence=2))
    anew.witness.journal.clear()

    await anew.handle(department_created("Other", department_id="other", id="other-2", sequence=2))

    assert len(world.provider.subaccounts) == 47
    await anew.has_one_live_subaccount("Other", OTHER)


async def test_a_ledger_that_caught_up_reads_only_the_newest_page(world):
    await create_foreign(world.provider, 45)
    await world.handle(CREATED)
    assert world.witness.journal.count("list") > 2
    world.witness.journal.clear()

    await world.handle(department_created("Other", department_id="other", id="other-1", sequence=1))

    assert world.witness.journal.count("list") == 1


async def test_a_restored_ledger_is_detected_by_the_newest_page(world):
    await world.handle(CREATED)
    await world.handle(department_removed(sequence=2), department_created("Sales", sequence=3))
    there = world.provider.subaccounts[0].auth_id
    await create_foreign(world.provider, 5)
    backup = MemoryLedger()
    await backup.note_caught_up(NOW)
    await backup.record(Entry(SALES, status=Status.REMOVED, incarnation=2, removal=Removed(NOW)))
    restored = with_empty_ledger(world, ledger=backup)

    await restored.handle(department_created("Other", department_id="other", id="other-1", sequence=1))
    assert await backup.caught_up_at() is None
    await restored.handle(department_created("Sales", sequence=4))

    assert [one.auth_id for one in restored.subaccounts(await restored.entry())] == [there]


async def test_a_ledger_that_was_used_long_ago_reads_the_whole_list(world):
    """It may be yesterday's backup: the newest page alone does not show what was adopted since."""
    await world.handle(CREATED)
    await create_foreign(world.provider, 45)
    await world.handle(department_created("Other", department_id="other", id="other-1", sequence=1))
    backup = MemoryLedger()
    other = await world.entry(OTHER)
    await backup.record(replace(other, revision=0))
    await backup.note_caught_up(NOW - timedelta(days=1))
    restored = with_empty_ledger(world, ledger=backup)

    await restored.handle(department_created("Sales", sequence=2))

    assert len(world.provider.subaccounts) == 47
    await restored.has_one_live_subaccount("Sales")


async def test_a_newest_page_that_shows_none_on_record_is_not_enough(world):
    """Others have created a page of subaccounts since, so those that are not on record stand below."""
    await world.handle(CREATED)
    await create_foreign(world.provider, 45)
    restored = with_empty_ledger(world)
    await restored.ledger.note_caught_up(NOW)

    await restored.handle(department_created("Sales", sequence=2))

    assert len(world.provider.subaccounts) == 46
    await restored.has_one_live_subaccount("Sales")


@pytest.mark.parametrize("removal", Removal)
async def test_a_removal_of_an_unknown_department_finds_its_subaccount(world, removal):
    await world.handle(CREATED)
    anew = with_empty_ledger(world, policy=Policy(removal))
    gone = department_removed(sequence=2)
    await anew.handle(gone)

    if removal is Removal.IGNORE:
        anew.answered(gone, ResultKind.UNCHANGED)
        await anew.has_one_live_subaccount("Sales")
        await anew.has_issued_credentials()
    else:
        await anew.has_no_live_subaccount()
    anew.has_nothing_to_do()


async def test_a_subaccount_deleted_after_the_scan_is_created_again(world):
    await world.provider.create(world.sent_name("Sales", incarnation=2), "before the ledger was lost")

    async def deleted() -> None:
        world.provider.subaccounts.clear()

    world.witness.before("note caught up", deleted)
    await world.handle(CREATED)

    await world.has_one_live_subaccount("Sales")
    assert "create" in world.witness.journal


async def test_creates_wait_until_the_list_can_be_read(world):
    await world.provider.create(world.sent_name("Sales"), "before the ledger was lost")
    world.witness.fail("list", fault("list", 503), times=7)
    await world.handle(CREATED)

    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")


async def test_a_subaccount_of_any_age_that_the_ledger_missed_is_found(world):
    """A scan for a claim ends two days before the claim, but the claim of a lost create does not count."""
    world.provider.today = NOW.date().replace(day=1)
    there = await world.provider.create(world.sent_name("Sales"), "long ago")
    await create_foreign(world.provider, 30)
    claim = Claim(NOW, IDEMPOTENCY_KEY, created().reference)
    await world.ledger.record(Entry(SALES, claim=claim))

    await world.handle(CREATED)

    assert (await world.entry()).auth_id == there.auth_id
