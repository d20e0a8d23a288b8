"""A ledger that is new, lost or restored: what the provider has is adopted, not made again."""

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
from worker.core.model import Claim, Department, Entry, Removed, Status
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
OTHER = Department("acme", "other")


def begun_anew(world: World, **changed: object) -> World:
    """With an empty ledger; time and the provider are as they were."""
    as_before = {"clock": world.clock, "provider": world.provider, "policy": world.policy}
    return World(**{**as_before, "orphans": Orphans, **changed})


async def strangers(provider: MemoryProvider, count: int) -> None:
    for number in range(count):
        await provider.create(f"Stranger {number}", "by hand")


@pytest.fixture
def world() -> World:
    return World(Policy(Removal.DELETE), orphans=Orphans)


@pytest.mark.parametrize("founded", [1, 2, 4, 32])
async def test_it_is_adopted_however_often_the_department_was_founded(world, founded):
    for number in range(1, founded):
        await world.handle(department_created("Sales", sequence=2 * number))
        await world.handle(department_removed(sequence=2 * number + 1))
    await world.handle(department_created("Sales", sequence=2 * founded))
    there = world.provider.subaccounts[0].auth_id

    anew = begun_anew(world)
    await anew.handle(department_created("Sales", sequence=1000))

    entry = await anew.entry()
    assert [one.auth_id for one in world.provider.subaccounts] == [there]
    assert (entry.auth_id, entry.incarnation, entry.generation) == (there, founded, founded)
    await anew.has_one_live_subaccount("Sales")
    await anew.has_issued_credentials()
    await anew.handle(department_removed(sequence=1001))
    await anew.handle(department_created("Sales", sequence=1002))
    assert (await anew.entry()).incarnation == founded + 1
    await anew.has_one_live_subaccount("Sales")


async def test_of_several_the_enabled_one_of_the_newest_incarnation_is_kept(world):
    for incarnation, enabled in ((1, True), (3, False), (3, True), (2, True)):
        made = await world.provider.create(world.sent_name("Sales", incarnation=incarnation), "by hand")
        await world.provider.update(made.auth_id, "by hand", enabled=enabled)
    await world.handle(CREATED)

    assert (await world.entry()).auth_id == "SA000000000000000003"
    assert [one.auth_id for one in world.provider.subaccounts if one.enabled] == ["SA000000000000000003"]
    (told,) = world.results(CREATED)
    for double in ("SA000000000000000001", "SA000000000000000002", "SA000000000000000004"):
        assert double in told.data["reason"]
    assert (await world.entry()).duplicates_check_at is not None


async def test_a_new_ledger_reads_the_whole_list_before_its_first_create(world):
    await world.handle(CREATED)
    await strangers(world.provider, 45)

    anew = begun_anew(world)
    await anew.handle(department_created("Sales", sequence=2))

    assert len(world.provider.subaccounts) == 46
    await anew.has_one_live_subaccount("Sales")


async def test_it_does_so_at_each_start_until_nothing_is_unknown(world):
    """Else what was there before would be forgotten with the first worker that stops."""
    await world.handle(CREATED, department_created("Other", department_id="other", id="other-1", sequence=1))
    await strangers(world.provider, 45)
    anew = begun_anew(world)
    await anew.handle(department_created("Sales", sequence=2))
    anew.witness.journal.clear()

    await anew.handle(department_created("Other", department_id="other", id="other-2", sequence=2))

    assert len(world.provider.subaccounts) == 47
    await anew.has_one_live_subaccount("Other", OTHER)


async def test_one_that_has_caught_up_reads_the_newest_page_only(world):
    await strangers(world.provider, 45)
    await world.handle(CREATED)
    assert world.witness.journal.count("list") > 2
    world.witness.journal.clear()

    await world.handle(department_created("Other", department_id="other", id="other-1", sequence=1))

    assert world.witness.journal.count("list") == 1


async def test_a_restored_one_is_noticed_by_the_newest_page_and_catches_up(world):
    await world.handle(CREATED)
    await world.handle(department_removed(sequence=2), department_created("Sales", sequence=3))
    there = world.provider.subaccounts[0].auth_id
    await strangers(world.provider, 5)
    backup = MemoryLedger()
    await backup.note_caught_up(caught_up=True)
    await backup.record(Entry(SALES, status=Status.REMOVED, incarnation=2, removal=Removed(NOW)))
    restored = begun_anew(world, ledger=backup)

    await restored.handle(department_created("Other", department_id="other", id="other-1", sequence=1))
    assert not await backup.caught_up()
    await restored.handle(department_created("Sales", sequence=4))

    assert [one.auth_id for one in restored.subaccounts(await restored.entry())] == [there]


@pytest.mark.parametrize("removal", Removal)
async def test_a_removal_of_what_it_does_not_know_finds_it_too(world, removal):
    await world.handle(CREATED)
    anew = begun_anew(world, policy=Policy(removal))
    gone = department_removed(sequence=2)
    await anew.handle(gone)

    if removal is Removal.IGNORE:
        anew.answered(gone, ResultKind.UNCHANGED)
        await anew.has_one_live_subaccount("Sales")
        await anew.has_issued_credentials()
    else:
        await anew.has_no_live_subaccount()
    anew.has_nothing_to_do()


async def test_what_has_gone_since_the_list_was_read_is_made_again(world):
    await world.provider.create(world.sent_name("Sales", incarnation=2), "before the ledger was lost")

    async def deleted() -> None:
        world.provider.subaccounts.clear()

    world.witness.before("note caught up", deleted)
    await world.handle(CREATED)

    await world.has_one_live_subaccount("Sales")
    assert "create" in world.witness.journal


async def test_a_list_that_cannot_be_read_keeps_creates_waiting(world):
    await world.provider.create(world.sent_name("Sales"), "before the ledger was lost")
    world.witness.fail("list", fault("list", 503), times=7)
    await world.handle(CREATED)

    assert len(world.provider.subaccounts) == 1
    await world.has_one_live_subaccount("Sales")


async def test_what_a_ledger_missed_is_found_however_old_it_is(world):
    """A scan for a claim ends two days before it. That of a create taken for lost does not count here."""
    world.provider.today = NOW.date().replace(day=1)
    there = await world.provider.create(world.sent_name("Sales"), "long ago")
    await strangers(world.provider, 30)
    claim = Claim(NOW, IDEMPOTENCY_KEY, created().reference)
    await world.ledger.record(Entry(SALES, claim=claim))

    await world.handle(CREATED)

    assert (await world.entry()).auth_id == there.auth_id
