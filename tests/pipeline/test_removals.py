"""A removed department, from its event to the deletion of its subaccount."""

import asyncio
from datetime import timedelta

import pytest

from tests.support.builders import (
    SALES,
    department_created,
    department_removed,
    department_renamed,
)
from tests.support.entries import entries_of
from tests.support.world import World, fault
from worker.adapters.memory.provider import StoredResource
from worker.core.decide import Policy, Removal
from worker.core.inventory import Counts, ResourceKind
from worker.core.limits import Window
from worker.core.model.entry import Status
from worker.core.model.holds import Hold, HoldState
from worker.core.model.wishes import Approving, Rejecting, Wish
from worker.core.protected import Protected
from worker.core.removal import deletable_before
from worker.core.wishes import reference_of
from worker.ports import LedgerFailed

GRACE = timedelta(days=30)
DAY = timedelta(days=1)
ONE_PER_DAY = (Window(1, DAY, is_percentage=False),)
CREATED = department_created("Sales", sequence=1)
REMOVED = department_removed(sequence=2)
RESTORED = department_created("Sales", sequence=3)


async def pass_time(world: World, time: timedelta) -> None:
    world.clock.advance(time.total_seconds())
    await tend(world)


async def tend(world: World) -> None:
    """Lets the scheduler file all that is due, until nothing is left to do."""
    async with world.working() as running:
        for _ in range(3):
            await running.worker.scheduler.file_due()
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()


async def ask(world: World, asks: Approving | Rejecting, id_: str = "wish") -> str | None:
    """Leaves a person's wish. Returns why it was not taken; None if it was."""
    hold = await world.ledger.hold(asks.hold_id)
    wish = Wish(id_, hold.department if hold else SALES, "ada", world.clock.now(), asks)
    await world.ledger.wish(wish)
    await tend(world)
    answer = (await world.ledger.recall(wish.department, reference_of(wish))).answer
    assert answer is not None
    return answer.reason if answer.outcome == "failed" else None


async def the_hold(world: World) -> Hold:
    (hold,) = await world.ledger.holds()
    return hold


def deletions(world: World) -> list[str | None]:
    return [auth_id for operation, auth_id, _ in world.provider.calls if operation == "delete"]


def give(world: World, auth_id: str | None, *numbers: str) -> None:
    world.provider.owned = [StoredResource(ResourceKind.NUMBERS, number, auth_id) for number in numbers]


class TestGrace:
    async def test_the_subaccount_is_deleted_once_the_grace_is_over(self, world):
        await world.handle(CREATED, REMOVED)
        auth_id = (await world.entry()).auth_id
        await pass_time(world, GRACE - timedelta(seconds=1))
        assert deletions(world) == []
        await pass_time(world, timedelta(seconds=1))
        assert deletions(world) == [auth_id]
        world.answered(REMOVED, "disabled", "removed")
        assert (await world.entry()).status is Status.REMOVED

    async def test_each_try_of_a_deletion_is_among_the_calls(self, world):
        await world.handle(CREATED, REMOVED)
        world.witness.fail("delete", fault("delete"), times=3)
        await pass_time(world, GRACE)
        for _ in range(5):
            await pass_time(world, timedelta(minutes=5))
        calls = [one for one in await world.ledger.calls(SALES) if one.operation == "delete"]
        assert (await world.entry()).status is Status.REMOVED
        assert [one.error is None for one in calls] == [False, False, False, True]

    async def test_the_grace_begins_with_the_confirmed_disable(self, world):
        await world.handle(CREATED)
        world.clock.advance(DAY.total_seconds())
        await world.handle(REMOVED)
        await pass_time(world, GRACE - timedelta(hours=1))
        assert deletions(world) == []

    async def test_a_newer_event_within_the_grace_restores_the_same_subaccount(self, world):
        await world.handle(CREATED, REMOVED)
        auth_id = (await world.entry()).auth_id
        await pass_time(world, DAY)
        await world.handle(RESTORED)
        await pass_time(world, GRACE)
        entry = await world.entry()
        assert (entry.status, entry.auth_id, entry.generation) == (Status.ACTIVE, auth_id, 1)
        assert deletions(world) == []
        assert len(world.credentials()) == 1
        world.answered(RESTORED, "restored")

    async def test_after_the_deletion_the_next_incarnation_supersedes_it(self, world):
        await world.handle(CREATED, REMOVED)
        before = (await world.entry()).auth_id
        await pass_time(world, GRACE)
        await world.handle(RESTORED)
        entry = await world.entry()
        assert (entry.incarnation, entry.generation) == (2, 2)
        assert [message.data.get("supersedes") for message in world.credentials()] == [None, before]

    async def test_a_restore_that_is_refused_for_good_cancels_the_deletion(self, world):
        await world.handle(CREATED, REMOVED)
        world.witness.fail("update", fault("update", 400))
        await world.handle(RESTORED)
        world.dead_lettered("rejected")
        await pass_time(world, 2 * GRACE)
        assert deletions(world) == []
        assert (await world.entry()).status is Status.DISABLED

    @pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.IGNORE])
    async def test_another_policy_leaves_departments_that_wait_disabled(self, world, removal):
        await world.handle(CREATED, REMOVED)
        world.policy = Policy(removal)
        await pass_time(world, 2 * GRACE)
        assert deletions(world) == []

    @pytest.mark.parametrize("removal", [Removal.DISABLE, Removal.IGNORE])
    @pytest.mark.parametrize("after_effect", [False, True])
    async def test_another_policy_ends_a_deletion_in_doubt(self, world, removal, after_effect):
        await world.handle(CREATED, REMOVED)
        world.witness.fail("delete", fault("delete"), after_effect=after_effect)
        await pass_time(world, GRACE)
        assert (await world.entry()).status is Status.DELETING
        world.policy = Policy(removal)
        for _ in range(5):
            await pass_time(world, timedelta(minutes=5))
        sent = 2 if after_effect else 0  # one had its effect, and the last one meets 404
        assert len(deletions(world)) == sent
        entry = await world.entry()
        if after_effect:
            world.answered(REMOVED, "disabled", "removed")
        else:
            assert (entry.status, entry.retry) == (Status.DISABLED, None)
            world.policy = Policy(Removal.DELETE)
            await pass_time(world, timedelta(minutes=1))
            world.answered(REMOVED, "disabled", "removed")

    async def test_another_policy_disables_instead_of_a_deletion_in_doubt(self):
        world = World(Policy(Removal.DELETE))
        await world.handle(CREATED)
        await world.crash_before("delete", REMOVED)
        assert (await world.entry()).status is Status.DELETING
        world.policy = Policy(Removal.DISABLE)
        await world.handle()
        assert deletions(world) == []
        assert (await world.entry()).status is Status.DISABLED
        world.answered(REMOVED, "disabled")

    async def test_policy_delete_makes_departments_that_wait_due_at_once(self, world):
        await world.handle(CREATED, REMOVED)
        world.policy = Policy(Removal.DELETE)
        await pass_time(world, timedelta(seconds=1))
        assert len(deletions(world)) == 1

    async def test_a_deletion_that_fails_is_tried_again_with_growing_pauses(self, world):
        await world.handle(CREATED, REMOVED)
        world.clock.advance(GRACE.total_seconds())
        for _ in range(3):
            world.witness.fail("delete", fault("delete", 403))
            await pass_time(world, timedelta(hours=1))
        entry = await world.entry()
        assert entry.retry is not None
        assert (entry.status, entry.retry.tries) == (Status.DISABLED, 3)
        assert await world.ledger.overdue(world.clock.now() - timedelta(minutes=5)) == 1
        await pass_time(world, timedelta(hours=1))
        assert (await world.entry()).status is Status.REMOVED
        world.answered(REMOVED, "disabled", "removed")


class TestHolds:
    async def test_a_held_removal_leaves_the_department_active(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        assert (hold.reason, hold.state, hold.resources) == ("protected", "waiting", None)
        world.answered(REMOVED, "held")
        await world.has_one_live_subaccount("Sales")
        await world.handle(REMOVED)
        world.answered(REMOVED, "held")

    async def test_a_merge_is_held(self, world):
        merged = department_removed(sequence=2)
        merged = merged.model_copy(update={"data": merged.data.model_copy(update={"merged_into": "ops"})})
        await world.handle(CREATED, merged)
        assert (await the_hold(world)).reason == "merged"

    async def test_the_last_active_department_is_held(self):
        world = World(Policy(limit=ONE_PER_DAY))
        await world.handle(CREATED, REMOVED)
        assert (await the_hold(world)).reason == "last-active"

    async def test_removals_over_the_limit_are_held(self):
        world = World(Policy(limit=ONE_PER_DAY))
        await wiped(world, 4)
        assert [hold.reason for hold in await world.ledger.holds()] == ["limit"] * 3

    async def test_an_approval_disables_and_the_grace_follows(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        assert await ask(world, Approving(hold.id)) is None
        world.answered(REMOVED, "held", "disabled")
        assert (await world.entry()).status is Status.DISABLED
        done = await world.ledger.hold(hold.id)
        assert done is not None
        assert (done.state, done.ruling and done.ruling.by) == ("done", "ada")
        # Protected departments are looked at again before the deletion.
        await pass_time(world, GRACE)
        again = await the_hold(world)
        assert (again.reason, again.disabled, deletions(world)) == ("protected", True, [])
        await ask(world, Approving(again.id), "wish-2")
        assert len(deletions(world)) == 1
        world.answered(REMOVED, "held", "disabled", "held", "removed")

    async def test_an_approval_is_carried_out_in_the_poll_that_sees_it(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        await world.ledger.wish(Wish("w", SALES, "ada", world.clock.now(), Approving(hold.id)))
        async with world.working() as running:
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
        assert (await world.entry()).status is Status.DISABLED

    async def test_an_approval_is_not_counted_against_the_limit(self):
        world = World(Policy(limit=ONE_PER_DAY))
        await wiped(world, 4)
        for number, hold in enumerate(await world.ledger.holds()):
            assert await ask(world, Approving(hold.id), f"wish-{number}") is None
        counts = await world.ledger.tenant_counts(SALES.tenant, [world.clock.now() - DAY])
        assert (counts.active, counts.windows[0].removals) == (0, 1)

    async def test_a_rejection_answers_unchanged(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        await ask(world, Rejecting((await the_hold(world)).id))
        world.answered(REMOVED, "held", "unchanged")
        assert world.results(REMOVED)[-1].data["reason"] == "removal rejected by ada"
        await world.has_one_live_subaccount("Sales")
        assert await world.ledger.holds() == []

    async def test_a_newer_event_voids_the_hold(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        await world.handle(department_renamed("Sales", sequence=3))
        await tend(world)
        world.answered(REMOVED, "held", "superseded")
        assert world.results(REMOVED)[-1].data["superseded_by"]["id"]
        assert (await ask(world, Approving(hold.id))) == "it is void"
        await world.has_one_live_subaccount("Sales")

    async def test_a_newer_removal_is_held_anew(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        first = await the_hold(world)
        newer = department_removed(sequence=3, id="newer")
        await world.handle(newer)
        await tend(world)
        second = await the_hold(world)
        assert first.id != second.id
        world.answered(REMOVED, "held", "superseded")
        world.answered(newer, "held")

    async def test_an_approval_lapses_after_a_day(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        world.witness.fail("update", *[fault("update", 503, outage=True)] * 1)
        await ask(world, Approving(hold.id))
        assert (await the_hold(world)).state is HoldState.APPROVED
        await pass_time(world, DAY)
        lapsed = await the_hold(world)
        assert (lapsed.id, lapsed.state) == (hold.id, "waiting")
        await world.has_one_live_subaccount("Sales")

    async def test_an_approval_is_valid_from_when_the_person_asked(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        await world.ledger.wish(Wish("w", SALES, "ada", world.clock.now(), Approving(hold.id)))
        world.witness.fail("update", fault("update", 503, outage=True))
        await pass_time(world, timedelta(hours=23))
        assert (await the_hold(world)).state is HoldState.APPROVED
        await pass_time(world, timedelta(hours=1))
        assert (await the_hold(world)).state is HoldState.WAITING
        await world.has_one_live_subaccount("Sales")

    @pytest.mark.parametrize("asks", [Approving, Rejecting])
    async def test_a_ruling_that_no_worker_has_seen_for_a_day_is_too_late(self, asks):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        wish = Wish("w", SALES, "ada", world.clock.now(), asks(hold.id))
        await world.ledger.wish(wish)
        await pass_time(world, DAY)
        answer = (await world.ledger.recall(SALES, reference_of(wish))).answer
        why = "too late: no worker has done it within 24 h; ask again"
        assert answer is not None
        assert (answer.outcome, answer.code, answer.reason) == ("failed", "not-allowed", why)
        assert await world.ledger.wishes() == []
        assert (await the_hold(world)).state is HoldState.WAITING
        line = world.ledger.audit[-1]
        assert (line.by, line.action, line.outcome) == ("ada", wish.asks.kind, f"not done: {why}")

    async def test_a_worker_that_dies_before_it_can_close_a_late_wish_answers_once(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        await world.ledger.wish(Wish("w", SALES, "ada", world.clock.now(), Rejecting(hold.id)))
        world.witness.fail("close wish", LedgerFailed("the disk is full"))
        world.clock.advance(DAY.total_seconds())
        async with world.working() as running:
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
        assert len(await world.ledger.wishes()) == 1
        await tend(world)
        assert await world.ledger.wishes() == []
        assert [line.action for line in world.ledger.audit].count("reject") == 1

    async def test_a_worker_that_dies_after_an_approval_does_not_approve_again(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        hold = await the_hold(world)
        world.witness.fail("close wish", LedgerFailed("the disk is full"))
        await world.ledger.wish(Wish("w", SALES, "ada", world.clock.now(), Approving(hold.id)))
        async with world.working() as running:
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
        approved = await the_hold(world)
        world.witness.fail("update", fault("update", 403))
        await pass_time(world, timedelta(minutes=1))
        assert await world.ledger.wishes() == []
        again = await the_hold(world)
        assert (again.state, again.ruling) == ("approved", approved.ruling)

    async def test_a_withdrawn_approval_is_not_carried_out(self):
        world = World(Policy(protected=Protected(("sales",))))
        await world.handle(CREATED, REMOVED)
        wish = Wish("w", SALES, "ada", world.clock.now(), Approving((await the_hold(world)).id))
        await world.ledger.wish(wish)
        async with world.working() as running:
            await running.worker.scheduler.file_wishes()
            await world.ledger.close_wish(wish.id)
            await running.worker.lanes.idle()
        await tend(world)
        assert (await the_hold(world)).state is HoldState.WAITING


async def test_an_approval_lapses_if_the_settings_delete_nothing_any_more(world):
    await world.handle(CREATED)
    give(world, (await world.entry()).auth_id, "14155550001")
    await world.handle(REMOVED)
    await pass_time(world, GRACE)
    hold = await the_hold(world)
    world.witness.fail("get", fault("get", 503, outage=True))
    await ask(world, Approving(hold.id))
    world.policy = Policy(Removal.DISABLE)
    await pass_time(world, timedelta(minutes=1))
    lapsed = await the_hold(world)
    assert (lapsed.id, lapsed.state, deletions(world)) == (hold.id, "waiting", [])
    assert await world.ledger.due(world.clock.now(), 10, None) == []


class TestResources:
    async def held_for_resources(self, world: World, removal: Removal = Removal.DELETE) -> Hold:
        world.policy = Policy(removal)
        await world.handle(CREATED)
        give(world, (await world.entry()).auth_id, "14155550001", "14155550002")
        await world.handle(REMOVED)
        if removal is Removal.DISABLE_THEN_DELETE:
            await pass_time(world, GRACE)
        return await the_hold(world)

    @pytest.mark.parametrize("removal", [Removal.DELETE, Removal.DISABLE_THEN_DELETE])
    async def test_resources_hold_a_deletion(self, world, removal):
        hold = await self.held_for_resources(world, removal)
        assert (hold.reason, hold.resources, deletions(world)) == ("resources", Counts(2, 0, 0), [])
        before = ["disabled"] if removal is Removal.DISABLE_THEN_DELETE else []
        world.answered(REMOVED, *before, "held")

    @pytest.mark.parametrize("removal", [Removal.DELETE, Removal.DISABLE_THEN_DELETE])
    async def test_an_approval_deletes_without_cascade(self, world, removal):
        hold = await self.held_for_resources(world, removal)
        assert await ask(world, Approving(hold.id)) is None
        assert deletions(world) == [hold.auth_id]
        assert world.provider.cascaded == []
        before = ["disabled"] if removal is Removal.DISABLE_THEN_DELETE else []
        world.answered(REMOVED, *before, "held", "removed")

    async def test_only_the_right_count_destroys_them(self, world):
        hold = await self.held_for_resources(world)
        await ask(world, Approving(hold.id, 3), "wrong")
        again = await the_hold(world)
        assert (again.id, again.state, again.resources) == (hold.id, "waiting", Counts(2, 0, 0))
        assert deletions(world) == []
        world.answered(REMOVED, "held")
        await ask(world, Approving(hold.id, 2), "right")
        assert world.provider.cascaded == [hold.auth_id]
        world.answered(REMOVED, "held", "removed")

    async def test_a_count_that_has_changed_since_the_approval_holds_again(self, world):
        hold = await self.held_for_resources(world)
        world.witness.fail("get", fault("get", 503, outage=True))
        await ask(world, Approving(hold.id, 2))
        give(world, hold.auth_id, "14155550001", "14155550002", "14155550003")
        await pass_time(world, timedelta(minutes=1))
        again = await the_hold(world)
        assert (again.id, again.state, again.resources) == (hold.id, "waiting", Counts(3, 0, 0))
        assert deletions(world) == []

    async def test_a_rejection_cancels_the_deletion_and_publishes_nothing(self, world):
        hold = await self.held_for_resources(world, Removal.DISABLE_THEN_DELETE)
        await ask(world, Rejecting(hold.id))
        give(world, None, "14155550001")
        await pass_time(world, 2 * GRACE)
        assert deletions(world) == []
        world.answered(REMOVED, "disabled", "held")
        assert (await world.entry()).status is Status.DISABLED

    async def test_a_newer_event_that_voids_the_hold_cancels_the_deletion_with_it(self, world):
        """A worker that dies between the void and the restore knows already that the department exists."""
        hold = await self.held_for_resources(world, Removal.DISABLE_THEN_DELETE)
        give(world, None, "14155550001")
        reached = asyncio.Event()

        async def die_at_the_next() -> None:
            world.witness.before("record disabled", die)

        async def die() -> None:
            reached.set()
            await asyncio.Event().wait()

        world.witness.before("record disabled", die_at_the_next)
        async with world.working():
            await world.send(RESTORED)
            await reached.wait()
        void = await world.ledger.hold(hold.id)
        assert void is not None
        assert void.state is HoldState.VOID
        now = world.clock.now()
        assert await world.ledger.due(now, 10, deletable_before(world.policy, now)) == []
        await world.handle()
        world.answered(RESTORED, "restored")
        assert deletions(world) == []

    async def test_the_inventory_is_in_the_audit(self, world):
        hold = await self.held_for_resources(world)
        await ask(world, Approving(hold.id))
        details = [line.detail or "" for line in world.ledger.audit if line.action in {"hold", "delete"}]
        assert any("2 numbers: 14155550001, 14155550002" in detail for detail in details)


class TestDrift:
    async def drifted(self, world: World, *, enabled: bool = True, name: str | None = None) -> Hold:
        await world.handle(CREATED, REMOVED)
        (stored,) = world.provider.subaccounts
        stored.enabled, stored.name = enabled, name or stored.name
        await pass_time(world, GRACE)
        return await the_hold(world)

    @pytest.mark.parametrize("how", [{"enabled": True}, {"enabled": False, "name": "Somebody's"}])
    async def test_a_subaccount_that_a_person_has_changed_is_held(self, world, how):
        hold = await self.drifted(world, **how)
        assert (hold.reason, deletions(world)) == ("drift", [])
        await ask(world, Approving(hold.id))
        assert deletions(world) == [hold.auth_id]
        world.answered(REMOVED, "disabled", "held", "removed")

    async def test_a_newer_removal_takes_a_held_deletion_up_as_its_own(self, world):
        await world.handle(CREATED)
        give(world, (await world.entry()).auth_id, "14155550001")
        await world.handle(REMOVED)
        await pass_time(world, GRACE)
        first = await the_hold(world)
        newer = department_removed(sequence=3, id="newer")
        await world.handle(newer)
        await tend(world)
        second = await the_hold(world)
        assert (first.cause.reference.id, second.cause.reference.id) == ("removed-2", "newer")
        await ask(world, Approving(second.id))
        entry = await world.entry()
        assert entry.removal is not None
        assert entry.removal.cause is not None
        assert (entry.status, entry.removal.cause.reference.id) == (Status.REMOVED, "newer")
        world.answered(REMOVED, "disabled", "held")
        world.answered(newer, "disabled", "held", "removed")

    async def test_drift_is_looked_at_before_resources_and_each_is_approved(self, world):
        await world.handle(CREATED)
        give(world, (await world.entry()).auth_id, "14155550001")
        hold = await self.drifted(world)
        assert hold.reason == "drift"
        await ask(world, Approving(hold.id), "first")
        second = await the_hold(world)
        assert (second.reason, second.state) == ("resources", "waiting")
        await ask(world, Approving(second.id), "second")
        assert deletions(world) == [hold.auth_id]

    async def test_a_subaccount_that_is_gone_is_removed(self, world):
        await world.handle(CREATED, REMOVED)
        world.provider.subaccounts.clear()
        await pass_time(world, GRACE)
        world.answered(REMOVED, "disabled", "removed")


async def wiped(world: World, departments: int) -> None:
    for number in range(departments):
        id_ = f"d-{number}"
        await world.handle(department_created(f"D {number}", department_id=id_, sequence=1, id=f"c-{number}"))
    events = [
        department_removed(department_id=f"d-{number}", sequence=2, id=f"r-{number}")
        for number in range(departments)
    ]
    await world.handle_all(*events)


@pytest.mark.parametrize(("departments", "disabled"), [(40, 4), (10, 3), (3, 2)])
async def test_a_wiped_org_chart_is_held(departments, disabled):
    limit = (Window(10, DAY, is_percentage=True), Window(20, GRACE, is_percentage=False))
    world = World(Policy(limit=limit))
    await wiped(world, departments)
    entries = await entries_of(world.ledger)
    states = [entry.status for entry in entries]
    assert states.count(Status.DISABLED) == disabled
    assert len(await world.ledger.holds()) == departments - disabled
    assert deletions(world) == []


async def test_an_older_removal_does_not_take_up_what_a_waiting_event_cancelled(world):
    """The newer event has failed and is parked: it still says that the department exists."""
    await world.handle(CREATED, REMOVED)
    newer, older = department_created("Sales", sequence=5), department_removed(sequence=4, id="older")
    world.witness.fail("update", fault("update", 400))
    await world.handle(newer)
    world.dead_lettered("rejected")
    await world.handle(older)
    world.answered(older, "superseded")
    await pass_time(world, 2 * GRACE)
    assert deletions(world) == []
    newest = department_removed(sequence=6, id="newest")
    await world.handle(newest)
    await pass_time(world, timedelta(seconds=1))
    assert len(deletions(world)) == 1
