"""`PROVISIONER_ENABLE=published`: subaccounts are created disabled and enabled after the credentials."""

from dataclasses import replace

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE
from tests.support.builders import an_entry, department_created, department_removed, department_renamed, owing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Enable, Policy
from worker.core.duties import OVERDUE, suspend_debt
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.entry import Check, Status
from worker.operations.departments import credentials_state
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=2)
AGAIN = department_created("Sales", sequence=3)
WINDOW = SETTLE_WINDOW.total_seconds()
MINUTE = 61


@pytest.fixture
def world() -> World:
    return World(Policy(enable=Enable.PUBLISHED))


def enabled(world: World) -> list[bool]:
    return [held.enabled for held in world.provider.subaccounts]


async def crash_owing(world: World, at: str = "publish secrets") -> None:
    """A worker dies before this call and the event is lost, so only the scheduler can pay the debts."""
    await world.crash_before(at, CREATED)
    world.broker.purge(WORK_QUEUE)


async def run_duties_later(world: World, seconds: float = MINUTE) -> None:
    world.clock.advance(seconds)
    await world.run_duties()


async def test_a_subaccount_is_enabled_between_credentials_and_answer(world):
    await world.handle(CREATED)
    assert world.witness.journal[-9:] == [
        "record claimed",
        "create",
        "record active created",
        "publish secrets subaccount.credentials.issued",
        "record active",
        "update enabled",
        "publish results subaccount.created",
        "record active created confirmed",
        "ack",
    ]
    entry = await world.entry()
    assert (entry.debt, entry.check) == (None, None)
    await world.has_one_live_subaccount("Sales")


async def test_enabling_at_create_needs_no_extra_call():
    world = World()
    await world.handle(CREATED)
    assert world.witness.journal[-7:] == [
        "record claimed",
        "create",
        "record active created",
        "publish secrets subaccount.credentials.issued",
        "publish results subaccount.created",
        "record active created confirmed",
        "ack",
    ]
    assert (await world.entry()).debt is None


async def test_a_subaccount_is_disabled_until_its_credentials_are_confirmed(world):
    world.broker.unbind("provisioner.secrets", SECRETS_QUEUE, "#")
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert enabled(world) == [False]
        world.broker.bind("provisioner.secrets", SECRETS_QUEUE, "#")
        await world.run_until_done()
    assert enabled(world) == [True]


@pytest.mark.parametrize("after_effect", [False, True], ids=["not-sent", "no-answer"])
async def test_a_failed_enabling_is_retried_under_the_same_key(world, after_effect):
    world.witness.fail("update", fault("update", sent=after_effect), after_effect=after_effect)
    await world.handle(CREATED)
    assert enabled(world) == [True]
    keys = {key for operation, _, key in world.provider.calls if operation == "update"}
    assert len(keys) == 1
    assert len(world.credentials()) == 1, "they are recorded as confirmed before the enabling"


async def test_an_enabling_without_a_response_is_checked_after_the_window(world):
    world.witness.fail("update", fault("update"))
    await world.handle(CREATED)
    assert (await world.entry()).check is not None
    world.provider.subaccounts[0].enabled = False  # by a late change
    await run_duties_later(world, WINDOW + 1)
    assert enabled(world) == [True]


@pytest.mark.parametrize("at", ["publish secrets", "update", "publish results"])
async def test_the_scheduler_pays_the_debts_of_a_lost_event(world, at):
    await crash_owing(world, at)
    await run_duties_later(world)
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    entry = await world.entry()
    assert entry.debt is None


async def test_the_scheduler_retries_enabling_without_publishing_twice(world):
    await crash_owing(world)
    world.witness.fail("update", fault("update", 503))
    await run_duties_later(world)
    entry = await world.entry()
    assert entry.debt == owing(enable=True, retry_at=entry.debt.retry_at)
    assert entry.debt.retry_at > world.clock.now()
    await run_duties_later(world)
    assert enabled(world) == [True]
    assert len(world.credentials()) == 1


async def test_the_departments_next_event_enables_the_subaccount(world):
    await crash_owing(world, "update")
    await world.handle(RENAMED)
    await world.has_one_live_subaccount("Marketing")
    assert (await world.entry()).debt is None


@pytest.mark.parametrize("found", [True, False], ids=["enabled", "disabled"])
async def test_an_adopted_subaccount_is_not_enabled_before_its_credentials(world, found):
    world.orphans = Orphans
    await world.provider.create(world.sent_name("Other"), "before the ledger was lost", enabled=found)
    await crash_owing(world)
    assert enabled(world) == [found]
    assert world.provider.subaccounts[0].name == world.sent_name("Sales")
    assert (await world.entry()).debt.enable is not found
    await run_duties_later(world)
    assert enabled(world) == [True]


async def test_the_check_disables_it_while_its_credentials_are_owed(world):
    await crash_owing(world)
    entry = await world.entry()
    await world.ledger.record(suspend_debt(replace(entry, check=Check(world.clock.now()))))
    world.provider.subaccounts[0].enabled = True
    await run_duties_later(world)
    assert enabled(world) == [False]


async def test_a_restore_before_publication_still_waits_for_publication(world):
    await crash_owing(world)
    await world.handle(REMOVED)
    assert (await world.entry()).debt.retry_at is None
    await world.crash_before("publish secrets", AGAIN)
    assert (await world.entry()).status is Status.ACTIVE
    assert enabled(world) == [False]
    await world.handle()
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()


async def test_a_removal_cancels_the_debts(world):
    await crash_owing(world, "update")
    await world.handle(REMOVED)
    entry = await world.entry()
    assert entry.debt is None
    await world.handle(AGAIN)
    assert enabled(world) == [True]


async def test_overdue_debts_are_counted_in_a_metric(world):
    await crash_owing(world)
    world.clock.advance(OVERDUE.total_seconds() + 1)
    async with world.working() as running:
        await running.worker.scheduler.measure()
        assert _overdue(running) == 1
    await world.run_duties()
    async with world.working() as running:
        await running.worker.scheduler.measure()
        assert _overdue(running) == 0


def _overdue(running):
    return running.telemetry.registry.get_sample_value("provisioner_debts_overdue")


def test_the_listing_shows_the_debts_by_recipient():
    texts = {
        "sent (1)": None,
        "owed (1)": owing(ANY_RECIPIENT),
        "owed: billing, crm (1)": owing("crm", "billing"),
        "owed: crm, enabling (1)": owing("crm", enable=True),
        "owed: enabling (1)": owing(enable=True),
    }
    assert [credentials_state(an_entry(debt=debt)) for debt in texts.values()] == list(texts)
    assert credentials_state(an_entry(Status.ABSENT)) is None
