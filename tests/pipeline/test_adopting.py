"""Adoption when the list of the provider is incomplete or outdated, and the state afterwards."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic_core import to_json

from contracts.envelope import document
from tests.pipeline.outages import Refusing, a_fault, pass_seconds
from tests.support.builders import department_created, department_removed, department_renamed
from tests.support.world import World, fault
from worker.core.decide import Policy, Removal
from worker.core.judge import RetryPolicy
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.ports import CallFailed, Confirmed, ProvidedSubaccount, PublishFailed
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
IMPATIENT = RetryPolicy(timedelta(seconds=5), (timedelta(seconds=30),), 3)


class OutdatedList(Refusing):
    """`ghosts` are listed although they are deleted; `updates` holds each change with its idempotency key."""

    def __init__(self) -> None:
        super().__init__()
        self.ghosts: list[ProvidedSubaccount] = []
        self.updates: list[tuple[str, str, dict[str, Any]]] = []
        self.lost_responses = 0

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        there = list(await super().page(0)) + self.ghosts
        return there[offset : offset + 20]

    async def update(self, auth_id: str, idempotency_key: str, **changes: Any) -> Confirmed:
        self.updates.append((auth_id, idempotency_key, changes))
        if self.lost_responses:
            self.lost_responses -= 1
            raise CallFailed(a_fault("update"))
        return await super().update(auth_id, idempotency_key, **changes)

    async def make_ghost(self, name: str) -> None:
        await self.create(name, "by hand")
        self.ghosts = [*(await Refusing.page(self, 0))[:1]]
        del self.subaccounts[0]


async def test_a_listed_but_deleted_duplicate_is_ignored():
    provider = OutdatedList()
    world = World(provider=provider)
    await provider.make_ghost(world.sent_name("Sales"))
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        for held in world.provider.subaccounts:  # our own is the older one
            held.created = date(2026, 11, 1)
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()


async def test_a_listed_but_deleted_match_is_retried_until_the_list_is_right():
    provider = OutdatedList()
    world = World(provider=provider)
    await provider.make_ghost(world.sent_name("Sales"))
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working():
        await world.send(CREATED)
        for _ in range(5):
            await world.clock.asleep()
            world.clock.advance(world.clock.seconds_to_next())
        provider.ghosts.clear()
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_duplicate_is_disabled_with_one_key_over_all_tries(lost):
    provider = OutdatedList()
    world = World(provider=provider)
    world.witness.fail("create", fault("create"), after_effect=True)
    await world.provider.create(world.sent_name("Sales"), "by hand")
    provider.lost_responses = lost
    await world.handle(CREATED)
    disabling = [(auth_id, key) for auth_id, key, changes in provider.updates if changes["enabled"] is False]
    assert len(disabling) == lost + 1
    assert len(set(disabling)) == 1


async def test_a_repair_uses_one_key_until_it_succeeds():
    provider = OutdatedList()
    world = World(provider=provider)
    await world.handle(CREATED)
    provider.lost_responses = 1
    await world.handle(department_renamed("Marketing", sequence=2))
    provider.updates.clear()
    keys = []
    for _ in range(2):  # the late call is executed twice
        world.provider.subaccounts[0].name = "late"
        provider.lost_responses = 2
        for _ in range(3):
            world.clock.advance(200)
            await world.run_duties()
        keys.append({key for _, key, _ in provider.updates})
        provider.updates.clear()
    assert [len(each) for each in keys] == [1, 1]
    assert keys[0] != keys[1]
    await world.has_one_live_subaccount("Marketing")


async def test_repairs_of_a_provider_that_alters_names_are_limited(world):
    await world.handle(CREATED)
    world.witness.fail("update name", fault("update"), after_effect=True)
    await world.handle(department_renamed("Marketing", sequence=2))
    for _ in range(20):
        world.provider.subaccounts[0].name = "MARKETING"
        world.clock.advance(200)
        await world.run_duties()
    assert sum(operation == "update" for operation, _, _ in world.provider.calls) < 10
    assert (await world.entry()).check is None


async def test_a_removal_adopts_without_renaming_or_enabling(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        world.provider.subaccounts[0].enabled = False
        world.provider.calls.clear()
        await world.send(department_removed("Another name", sequence=2))
        await world.run_until_done()
    changed = [operation for operation, _, _ in world.provider.calls if operation == "update"]
    assert changed == ["update"]
    (one,) = world.provider.subaccounts
    assert (one.name, one.enabled) == (world.sent_name("Sales"), False)
    assert (await world.entry()).name == "Sales"


# Failures of the list


@pytest.mark.parametrize("departments", [1, *(pytest.param(n, marks=pytest.mark.no_cover) for n in (19, 30))])
async def test_a_failing_list_with_a_passing_probe_gives_up_nothing(departments):
    provider = Refusing()
    world = World(provider=provider, orphans=Orphans, retry=IMPATIENT)
    provider.refuses = {"list": a_fault("list", 503)}
    async with world.working() as running:
        events = [department_created(id=f"e{n}", department_id=f"d{n}") for n in range(departments)]
        await world.send(*events)
        await pass_seconds(world, 3600)
        assert world.provider.subaccounts == []
        provider.refuses.clear()
        await world.run_until_done()
        assert running.consumer.consuming
    for number in range(departments):
        assert len(world.subaccounts(await world.entry(Department("acme", f"d{number}")))) == 1
    world.has_dead_lettered_nothing()


async def test_creates_wait_for_a_failing_list_without_limit():
    provider = Refusing()
    world = World(provider=provider, retry=IMPATIENT)
    world.witness.fail("create", fault("create", 500), times=19, after_effect=True)
    provider.refuses = {"list": a_fault("list", 500)}
    async with world.working():
        await world.send(*(department_created(id=f"e{n}", department_id=f"d{n}") for n in range(19)))
        await pass_seconds(world, 3600)
        provider.refuses.clear()
        await world.run_until_done()
    assert len(world.provider.subaccounts) == 19
    world.has_dead_lettered_nothing()


# Published messages


async def test_credentials_carry_the_trace_of_their_event(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working():
        await world.send(department_created("Sales", sequence=1, id="a", correlationid="of-a"))
        await world.clock.asleep()
        await world.send(department_renamed("Marketing", sequence=2, id="b", correlationid="of-b"))
        await world.run_until_done()
    (issued,) = world.events_in("provisioner.secrets")
    assert (issued.causationid, issued.correlationid) == ("a", "of-a")


async def test_credentials_from_the_scheduler_carry_the_trace_of_their_event(world):
    world.witness.fail("publish secrets", PublishFailed("for a test"))
    event = department_created("Sales", sequence=1, id="a", correlationid="of-a")
    await world.crash_before("publish secrets", event)
    world.witness.forget()
    world.clock.advance(61)
    async with world.working() as running:
        await running.worker.scheduler.file_due()
        await running.worker.lanes.idle()
        await world.run_until_done()
    assert {(one.causationid, one.correlationid) for one in world.events_in("provisioner.secrets")} == {
        ("a", "of-a")
    }


async def test_superseded_names_the_newer_event_as_its_producer_wrote_it(world):
    sent = document(department_created("Sales", sequence=2, id="newer"))
    sent["type"] = "com.example.hr.department.created.v1"
    older = department_created("Old", sequence=1, id="older")
    async with world.working():
        await world.send_raw(to_json(sent))
        await world.run_until_done()
        await world.send(older)
        await world.run_until_done()
    (result,) = world.results(older)
    assert result.data["superseded_by"]["type"] == "com.example.hr.department.created.v1"


async def test_a_removal_during_an_unknown_create_leaves_no_subaccount():
    world = World(Policy(Removal.DELETE))
    world.witness.fail("create", fault("create"), after_effect=True)
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        await world.send(department_removed(sequence=2))
        await world.run_until_done()
    assert world.provider.subaccounts == []
    assert (await world.entry()).status is Status.REMOVED
