"""A provider that cannot rename or delete, shows a token once, and lists the oldest subaccount first.

Every scenario goes as far as this provider can, and reports what it cannot do.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.subaccounts import ResultKind
from contracts.topology import SECRETS, SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.outages import pass_seconds, working_with_duties
from tests.support.builders import (
    department_created,
    department_removed,
    department_renamed,
    reissue_requested,
)
from tests.support.world import World, fault
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.provider import PAGE, MemoryProvider
from worker.core.capabilities import Capabilities
from worker.core.decide import NAME_KEPT, Enable, Policy, Removal
from worker.core.model.entry import Status
from worker.core.reissue import CANNOT_REISSUE
from worker.ports import Confirmed, NewSubaccount, ProvidedSubaccount, PublishFailed
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
RESTORED = department_created("Marketing", id="again", sequence=4)


class SecondProvider(MemoryProvider):
    """Needs no code outside its adapter: the worker reads its capabilities."""

    capabilities = Capabilities(
        can_rename=False, can_delete=False, can_read_token=False, lists_newest_first=False
    )

    async def update(self, auth_id: str, idempotency_key: str, **changes: Any) -> Confirmed:
        assert changes.get("name") is None, "it cannot rename"
        return await super().update(auth_id, idempotency_key, **changes)

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        raise AssertionError(f"it cannot delete {auth_id} ({idempotency_key}, {cascade})")

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        return replace(await super().get(auth_id), auth_token=None)

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self.calls.append(("list", None, None))
        listed = [await MemoryProvider.get(self, one.auth_id) for one in reversed(self.subaccounts)]
        return [replace(one, auth_token=None) for one in listed[offset : offset + PAGE]]


@pytest.fixture
def world() -> World:
    return World(provider=SecondProvider())


def the_one(world: World) -> tuple[str, bool]:
    (one,) = world.provider.subaccounts
    return one.name, one.enabled


async def test_a_create_is_answered_and_its_credentials_are_published(world):
    await world.handle(CREATED)

    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    world.answered(CREATED, ResultKind.CREATED)
    assert "get" not in world.witness.journal


async def test_a_duplicate_is_answered_again_and_creates_nothing(world):
    await world.handle(CREATED, CREATED)

    await world.has_one_live_subaccount("Sales")
    world.answered(CREATED, ResultKind.CREATED, times=None)
    assert len(world.credentials()) == 1


async def test_a_rename_reports_that_the_subaccount_keeps_its_name(world):
    await world.handle(CREATED, RENAMED)

    (result,) = world.results(RENAMED)
    assert (result.data["outcome"], result.data["reason"]) == (ResultKind.UNCHANGED, NAME_KEPT)
    assert result.data["name"] == "Marketing"
    assert (await world.entry()).name == "Marketing"
    assert the_one(world) == (world.sent_name("Sales"), True)


async def test_a_rename_to_the_same_name_is_unchanged_without_a_reason(world):
    again = department_renamed("Marketing", id="again", sequence=3)
    await world.handle(CREATED, RENAMED, again)

    (result,) = world.results(again)
    assert (result.data["outcome"], result.data.get("reason")) == (ResultKind.UNCHANGED, None)


@pytest.mark.parametrize("removal", [Removal.DELETE, Removal.DISABLE, Removal.DISABLE_THEN_DELETE])
async def test_a_removal_disables_under_every_removal_setting(removal):
    world = World(provider=SecondProvider(), policy=Policy(removal))
    await world.handle(CREATED, REMOVED)

    world.answered(REMOVED, ResultKind.DISABLED)
    assert the_one(world) == (world.sent_name("Sales"), False)
    assert (await world.entry()).status is Status.DISABLED


async def test_a_restore_enables_the_subaccount_with_its_old_name(world):
    await world.handle(CREATED, REMOVED, RESTORED)

    (result,) = world.results(RESTORED)
    assert (result.data["outcome"], result.data["reason"]) == (ResultKind.RESTORED, NAME_KEPT)
    assert the_one(world) == (world.sent_name("Sales"), True)
    assert (await world.entry()).name == "Marketing"


async def test_a_restore_with_the_same_name_needs_no_reason(world):
    same = department_created("Sales", id="again", sequence=4)
    await world.handle(CREATED, REMOVED, same)

    (result,) = world.results(same)
    assert (result.data["outcome"], result.data.get("reason")) == (ResultKind.RESTORED, None)


async def test_the_check_of_a_late_change_keeps_the_name(world):
    await world.handle(CREATED, RENAMED)
    world.witness.fail("update", fault("update"))
    await world.handle(REMOVED)
    world.clock.advance(200)
    await world.run_duties()

    assert the_one(world) == (world.sent_name("Sales"), False)
    assert (await world.entry()).check is None


async def test_an_adopted_create_reports_its_lost_token_once(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    await world.handle(CREATED)

    letter = world.dead_lettered("rejected")
    assert "is lost: the provider showed it once" in letter.message.headers["x-dead-detail"]
    world.answered(CREATED, ResultKind.FAILED)
    entry = await world.entry()
    assert (entry.status, entry.debt) == (Status.ACTIVE, None)
    assert world.credentials() == []
    assert len(world.provider.subaccounts) == 1


async def test_later_events_are_handled_after_a_lost_token(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    await world.handle(CREATED)
    world.clock.advance(200)
    await world.run_duties()
    await world.handle(RENAMED, REMOVED)

    world.answered(REMOVED, ResultKind.DISABLED)
    assert len(world.dead_letters()) == 1
    assert (await world.entry()).due_at is None


async def test_a_replayed_dead_letter_of_a_lost_token_is_answered(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    await world.handle(CREATED)
    await world.replay_dead_letters()
    await world.handle()

    world.answered(CREATED, ResultKind.FAILED, ResultKind.CREATED)
    world.has_dead_lettered_nothing()


async def test_failed_credentials_are_retried_with_the_token_of_the_create(world):
    """The token is kept in memory while the credentials are owed."""
    world.witness.fail("publish secrets", PublishFailed("the broker is away"), times=5)
    await world.handle(CREATED)

    await world.has_issued_credentials()
    world.answered(CREATED, ResultKind.CREATED)
    world.has_dead_lettered_nothing()


async def test_unroutable_credentials_are_sent_with_the_token_of_the_create(world):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with working_with_duties(world):
        await world.send(CREATED)
        await pass_seconds(world, 200)
        world.broker.bind(SECRETS, SECRETS_QUEUE, "#")
        await pass_seconds(world, 120)
    await world.has_issued_credentials()
    world.has_dead_lettered_nothing()


@pytest.mark.parametrize("enable", Enable)
async def test_a_token_lost_in_a_crash_is_reported_once(enable):
    world = World(provider=SecondProvider(), policy=Policy(enable=enable))
    await world.crash_before("publish secrets", CREATED)
    await world.handle()

    world.dead_lettered("rejected")
    assert (await world.entry()).owed_to == frozenset()
    world.clock.advance(200)
    await world.run_duties()
    assert the_one(world) == (world.sent_name("Sales"), True)
    assert (await world.entry()).debt is None


async def test_a_debt_with_a_lost_token_is_written_off_by_its_duty(world):
    await world.crash_before("publish secrets", CREATED)
    world.clock.advance(200)
    await world.run_duties()

    entry = await world.entry()
    assert entry.debt is None


async def test_a_kept_token_is_dropped_once_its_credentials_are_recorded(world):
    async with world.working() as worker:
        await world.send(CREATED)
        await world.run_until_done()
        assert worker.worker.scheduler.subaccounts.kept_tokens._tokens == {}


async def test_a_duty_drops_a_kept_token_too(world):
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    world.clock.advance(200)
    async with world.working() as running:
        scheduler = running.worker.scheduler
        auth_id = (await world.entry()).auth_id
        scheduler.subaccounts.keep_token(NewSubaccount(auth_id, SecretStr("kept")))
        await scheduler.file_due()
        await running.worker.lanes.idle()
        assert (await world.entry()).debt is None
        assert [issued.data["auth_token"] for issued in world.credentials()] == ["kept"]
        assert scheduler.subaccounts.kept_tokens._tokens == {}


async def test_a_reissue_is_refused_with_its_reason(world):
    await world.handle(CREATED)
    request = reissue_requested()
    await world.handle(request)

    letter = world.dead_lettered("rejected")
    assert letter.message.headers["x-dead-detail"] == CANNOT_REISSUE
    assert len(world.credentials()) == 1


async def test_a_new_ledger_adopts_from_the_whole_list_without_renaming(world):
    for number in range(30):
        await world.provider.create(f"Stranger {number}", "by hand")
    await world.handle(CREATED)
    world.ledger, world.orphans = MemoryLedger(), Orphans
    later = department_created("Marketing", id="later", sequence=9)
    await world.handle(later)

    assert len(world.provider.subaccounts) == 31
    entry = await world.entry()
    assert (entry.status, entry.name) == (Status.ACTIVE, "Marketing")
    assert world.provider.subaccounts[0].name == world.sent_name("Sales")
    world.dead_lettered("rejected")  # its token is lost with the ledger


async def test_of_two_matches_the_older_is_kept_and_the_other_disabled(world):
    world.witness.fail("create", fault("create"), after_effect=True)
    await world.provider.create(world.sent_name("Sales"), "by hand")
    await world.handle(CREATED)

    assert sorted(one.enabled for one in world.provider.subaccounts) == [False, True]
    assert (await world.entry()).auth_id == "SA000000000000000001"
