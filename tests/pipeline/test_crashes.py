"""A crash before or after every port call of every story: the next worker reaches the same end."""

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from contracts.reissues import ReissueRequested
from contracts.topology import WORK_QUEUE
from tests.support.builders import (
    AnyDepartmentEvent,
    AnyEvent,
    department_created,
    department_removed,
    department_renamed,
    reissue_requested,
)
from tests.support.port_tap import do_nothing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Enable, Policy, Removal
from worker.core.judge import RetryPolicy
from worker.flow import waiting
from worker.operations.emit import inbound
from worker.pipeline import (
    disappearances,
    handler,
    line,
    outbox,
    owed_results,
    quarantine,
    reconcile,
    records,
    recreations,
    reissues,
    removals,
)
from worker.pipeline.quarantine import QUARANTINE_AFTER_DELIVERIES
from worker.provider import act, circuit, inventories, pages, scan, subaccounts
from worker.provider.scan import Orphans

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
REMOVED = department_removed(sequence=3)
ASKED = reissue_requested()
AGAIN = department_created("Sales again", sequence=4)


async def nothing(_world: World) -> None:
    """Changes nothing about the state after the earlier events."""


@dataclass(frozen=True)
class Story:
    """A worker handles `before` without a failure, and another one dies while it handles `event`."""

    name: str
    before: tuple[AnyDepartmentEvent, ...]
    event: AnyEvent
    outcome: str
    removal: Removal = Removal.DISABLE
    prepare: Callable[[World], Awaitable[None]] = nothing
    retry: RetryPolicy = RetryPolicy()  # noqa: RUF009 - frozen
    enable: Enable = Enable.CREATED

    async def world(self) -> World:
        world = World(Policy(self.removal, enable=self.enable), self.retry)
        await world.handle(*self.before)
        world.witness.journal.clear()
        await self.prepare(world)
        return world


async def lose_response(world: World) -> None:
    """The next create is carried out, and its response is lost."""
    world.witness.fail("create", fault("create"), after_effect=True)


async def delete_by_hand(world: World) -> None:
    """Somebody deletes the subaccount at the provider."""
    world.provider.subaccounts.clear()


async def redeliver_often(world: World) -> None:
    """The message has been delivered so often that it is quarantined."""
    world.earlier_deliveries = QUARANTINE_AFTER_DELIVERIES


async def fail_once(world: World) -> None:
    """The next create fails, and a retry succeeds."""
    world.witness.fail("create", fault("create", 403))


async def add_duplicate(world: World) -> None:
    """The response is lost, and another subaccount of the same tag comes into being meanwhile."""
    await lose_response(world)
    other = partial(world.provider.create, world.sent_name("Sales"), "on its way before the ledger was lost")
    world.witness.before("create", other)


async def add_unknown(world: World) -> None:
    """The provider has a subaccount of the department that the ledger does not know."""
    world.orphans = Orphans
    await world.provider.create(world.sent_name("Sales"), "before the ledger was lost")


async def remove_early(world: World) -> None:
    """The department was removed before its credentials were published, so it was never enabled."""
    await world.crash_before("publish secrets", CREATED)
    world.broker.purge(WORK_QUEUE)
    await world.handle(REMOVED)


async def add_unknown_disabled(world: World) -> None:
    """The provider has a disabled subaccount of the department that the ledger does not know."""
    world.orphans = Orphans
    await world.provider.create(world.sent_name("Sales"), "before the ledger was lost", enabled=False)


PUBLISHED = [
    Story("published", (), CREATED, "created", enable=Enable.PUBLISHED),
    Story("published-response-lost", (), CREATED, "created", prepare=lose_response, enable=Enable.PUBLISHED),
    Story("published-adopted", (), CREATED, "created", prepare=add_unknown_disabled, enable=Enable.PUBLISHED),
    Story("published-removed-early", (), AGAIN, "restored", prepare=remove_early, enable=Enable.PUBLISHED),
    Story("published-restored", (CREATED, REMOVED), AGAIN, "restored", enable=Enable.PUBLISHED),
]
"""Subaccounts are created disabled and enabled after their credentials."""

STORIES = [
    *PUBLISHED,
    Story("published-duplicate", (), CREATED, "created", prepare=add_duplicate, enable=Enable.PUBLISHED),
    Story("created", (), CREATED, "created"),
    Story("created-response-lost", (), CREATED, "created", prepare=lose_response),
    Story("created-duplicate", (), CREATED, "created", prepare=add_duplicate),
    Story("adopted", (), CREATED, "created", prepare=add_unknown),
    Story("renamed", (CREATED,), RENAMED, "renamed"),
    Story("disabled", (CREATED,), REMOVED, "disabled"),
    Story("deleted", (CREATED,), REMOVED, "removed", Removal.DELETE),
    Story("restored", (CREATED, REMOVED), AGAIN, "restored"),
    Story("created-anew", (CREATED, REMOVED), AGAIN, "created", Removal.DELETE),
    Story("reissued", (CREATED,), ASKED, "reissued"),
    Story("superseded", (RENAMED,), CREATED, "superseded"),
    Story("quarantined", (), CREATED, "created", prepare=redeliver_often),
    Story("parked", (), CREATED, "created", prepare=fail_once, retry=RetryPolicy(timedelta(seconds=0.1))),
]


GONE = Story("gone-removed", (CREATED,), REMOVED, "removed", prepare=delete_by_hand)
"""A newer event could not restore what somebody else deleted."""


@dataclass
class Crash:
    """Stops the worker at the n-th moment; each port call has a moment before and one after it."""

    moment: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    moments: int = 0

    async def __call__(self) -> None:
        self.moments += 1
        if self.moments == self.moment:
            self.reached.set()
        if self.reached.is_set():
            await asyncio.Event().wait()


async def dies_at(world: World, event: AnyEvent, moment: int) -> bool:
    """Whether the worker reached that moment and died; False if it finished before."""
    crash = Crash(moment)
    world.witness.around = crash
    async with world.working():
        await world.send(event)
        done = asyncio.create_task(world.run_until_done())
        reached = asyncio.create_task(crash.reached.wait())
        await asyncio.wait({done, reached}, return_when=asyncio.FIRST_COMPLETED)
        for task in (done, reached):
            task.cancel()
    world.witness.around = do_nothing
    return crash.reached.is_set()


async def every_crash(story: Story) -> AsyncIterator[tuple[World, int]]:
    for moment in count(1):
        world = await story.world()
        if not await dies_at(world, story.event, moment):
            assert moment > 8, "every story has more than 8 moments"
            return
        yield world, moment
        world.witness.forget()


async def assert_completed(world: World, story: Story) -> None:
    changes = [event for event in (*story.before, story.event) if not isinstance(event, ReissueRequested)]
    await world.has_state_of(max(changes, key=lambda event: event.sequence or 0))
    for event in story.before:
        assert len({message.id for message in world.results(event)}) == 1
    world.answered(story.event, story.outcome, times=None)
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


@pytest.mark.parametrize("story", [*STORIES, GONE], ids=lambda story: story.name)
@pytest.mark.parametrize(
    "pause",
    [
        pytest.param(0.0, id="at-once"),
        pytest.param(SETTLE_WINDOW.total_seconds() + 1, id="later", marks=pytest.mark.no_cover),
    ],
)
async def test_the_next_worker_completes_the_event_after_a_crash_anywhere(story, pause):
    async for world, _ in every_crash(story):
        world.clock.advance(pause)
        await world.handle()
        await assert_completed(world, story)


@pytest.mark.no_cover
@pytest.mark.parametrize("story", [*STORIES, GONE], ids=lambda story: story.name)
async def test_the_event_is_completed_after_repeated_crashes(story):
    async for world, moment in every_crash(story):
        for second in (2, moment, moment + 2):
            await dies_at(world, story.event, second)
        await world.handle()
        await assert_completed(world, story)


@pytest.mark.no_cover
@pytest.mark.parametrize("story", PUBLISHED, ids=lambda story: story.name)
async def test_a_crash_leaves_no_subaccount_enabled_before_publication(story):
    async for world, _ in every_crash(story):
        published = {message.data["auth_id"] for message in world.credentials()}
        assert {held.auth_id for held in world.provider.subaccounts if held.enabled} <= published
        await world.handle()
        assert (await world.entry()).debt is None


OVERTAKING = {
    "renamed": department_renamed("Newest", sequence=9),
    "same": department_created("Sales", sequence=9),
    "removed": department_removed(sequence=9),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("newest", OVERTAKING.values(), ids=OVERTAKING)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_newer_event_can_overtake_the_event_of_a_crash(story, newest):
    async for world, _ in every_crash(story):
        overtaken = world.broker.ready(WORK_QUEUE)
        world.broker.purge(WORK_QUEUE)
        await world.send(newest)
        for outgoing in overtaken:
            await world.broker.publish(outgoing)
        await world.handle()
        # The newer event cannot see a change that was carried out but not recorded; the armed check finds it.
        world.clock.advance(SETTLE_WINDOW.total_seconds() + 1)
        await world.run_duties()
        await world.has_state_of(newest)
        assert len({message.id for message in world.results(story.event)}) == 1
        world.has_dead_lettered_nothing()
        world.has_nothing_to_do()


BEFORE = department_created("Sales", sequence=1)
OLDER = department_renamed("Older", sequence=5)
NEWEST = [
    Story("created", (), department_created("Newest", sequence=9), "created"),
    Story("renamed", (BEFORE,), department_renamed("Newest", sequence=9), "renamed"),
    Story(
        "restored",
        (BEFORE, department_removed(sequence=2)),
        department_created("Newest", sequence=9),
        "restored",
    ),
    Story("disabled", (BEFORE,), department_removed(sequence=9), "disabled"),
    Story("deleted", (BEFORE,), department_removed(sequence=9), "removed", Removal.DELETE),
]


@pytest.mark.parametrize("newest", NEWEST, ids=lambda story: story.name)
async def test_an_older_event_waits_for_one_whose_worker_died(newest):
    """It comes back first. No change of its own follows the one that may be in effect."""
    waited = 0
    async for world, _ in every_crash(newest):
        later = world.broker.ready(WORK_QUEUE)
        world.broker.purge(WORK_QUEUE)
        began = (await world.entry()).begun is not None
        world.witness.journal.clear()
        async with world.working():
            await world.send(OLDER)
            await world.waits_or_is_done()
            waited += world.clock.sleepers
            assert began is (world.clock.sleepers > 0) or world.results(newest.event)
            for outgoing in later:
                await world.broker.publish(outgoing)
            await world.run_until_done()
        updates = [call for call in world.witness.journal if call.startswith(("create", "update"))]
        await world.has_state_of(newest.event)
        if began:
            world.answered(OLDER, "superseded")
            assert len(updates) <= 1, "only the newest event's, once more"
        world.has_dead_lettered_nothing()
    assert waited


async def test_an_older_event_goes_on_after_the_settle_window():
    """The newer one does not come back: somebody has purged it, say."""
    world = World()
    await world.handle(BEFORE)
    await world.crash_before("update", department_renamed("Newest", sequence=9))
    world.broker.purge(WORK_QUEUE)
    began = world.clock.now()

    await world.handle(OLDER)

    assert world.clock.now() - began >= SETTLE_WINDOW
    world.answered(OLDER, "renamed")


async def test_reissued_credentials_have_one_id_after_a_crash():
    async for world, _ in every_crash(Story("reissued", (CREATED,), ASKED, "reissued")):
        await world.handle()
        assert len({message.id for message in world.credentials() if "reissued" in message.type}) == 1


async def test_a_create_carried_out_after_the_crash_is_adopted():
    world = World()
    await world.crash_before("create", CREATED)
    async with world.working():
        await world.clock.asleep()
        await world.provider.create(world.sent_name("Sales"), "under way during the crash")
        await world.run_until_done()
    assert len(world.provider.subaccounts) == 1
    await assert_completed(world, STORIES[0])


REFUSED = department_created("Refused", sequence=1)


async def test_a_crash_loses_no_dead_letter():
    """Its failed result is published under one id, and the corrected event succeeds."""
    story = Story("refused", (), REFUSED, "failed", prepare=reject_create)
    async for world, _ in every_crash(story):
        world.witness.forget()
        world.witness.fail("create", fault("create", 400))
        await world.handle()
        if not world.results(REFUSED):  # the create was carried out before it could be rejected
            raise AssertionError(world.witness.journal)
        assert len({message.id for message in world.results(REFUSED)}) == 1
        assert {letter.message.body for letter in world.dead_letters()} == {inbound(REFUSED).message.body}
        world.has_nothing_to_do()
        world.witness.forget()
        await world.handle(CREATED)
        await world.has_one_live_subaccount("Sales")


async def reject_create(world: World) -> None:
    world.witness.fail("create", fault("create", 400))


async def test_owed_credentials_are_published_after_a_second_crash():
    """The first worker died before they were confirmed, so the token is read again."""

    async def crash_owing(world: World) -> None:
        await world.crash_before("publish secrets", CREATED)

    async for world, _ in every_crash(Story("owed", (), RENAMED, "renamed", prepare=crash_owing)):
        await world.handle()
        await world.has_one_live_subaccount("Marketing")
        await world.has_issued_credentials()
        assert len({message.id for message in world.credentials()}) == 1
        world.has_nothing_to_do()


# Every await between delivery and ack, by function, with the port call it makes; also those of a recreation,
# whose crashes are in test_recreating.py, and of a late removal (test_removal_crashes.py). An await that
# leads to another function of this table, or that only waits, has no call. A new await must be added here,
# and the stories must make its call.
BOUNDARIES: dict[str, dict[str, str | None]] = {
    "Handler._handle": {"self._try_until_ended": None},
    "Handler._try_until_ended": {"self._try": None, "self._end": None, "self._wait_or_park": None},
    "Handler._try": {"self.quarantine.admit": None},
    "Handler._work_on": {"self.locks.hold": None, "self.line.carry": None, "self.reissues.answer": None},
    "Handler._end": {"self._dead_letter": None, "self._park": None, "work.delivery.ack": "ack"},
    "Handler._park": {"self.outbox.publish": "publish retry"},
    "Handler._dead_letter": {"self.outbox.dead_letter": None},
    "Handler._wait_or_park": {"self._end": None, "self._wait": None},
    "Handler._wait": {"self.waiting.wait": None},
    "Quarantine.admit": {
        "self.lock.shared": None,
        "self.lock.exclusive": None,
        "self._alone": None,
    },
    "Quarantine._alone": {
        "self.marks.mark_poison": "mark_poison",
        "attempt": None,
        "self.survived.clear": None,
    },
    "Survived.clear": {"self.marks.clear_poison": "clear_poison"},
    "Line.carry": {"self.removal_slots": None, "self._carry": None},
    "Line._carry": {
        "self.reconciler.arm_pending_check": None,
        "self.records.recall": None,
        "self._counts": None,
        "self._carry_out": None,
        "self._publish": None,
    },
    "Line._counts": {"self.records.tenant_counts": None},
    "Line._carry_out": {
        "self.actor.foresee": None,
        "self.actor.permit": None,
        "self._claim": None,
        "self.actor.act": None,
        "self._record": None,
    },
    "Line._claim": {"self.records.announce": None},
    "Line._record": {"self.records.conclude": None, "self.reconciler.not_recorded": None},
    "Line._publish": {
        "self._deliver_owed": None,
        "self.outbox.publish_result": None,
        "self.records.delivered": None,
        "self.records.confirm": None,
    },
    "Line._deliver_owed": {"self.outbox.deliver_owed": None, "self.disappearances.note": None},
    "Recreations.grant": {
        "self.wishes.wishes": None,
        "self.line.carry": None,
        "self._refuse": None,
        "self._end": None,
    },
    "Recreations._refuse": {"self.records.recall": None, "self.records.answered": None, "self._end": None},
    "Recreations._end": {"self.records.recall": None, "self.wishes.close_wish": None},
    "Removals.carry_out": {
        "self.records.recall": None,
        "self._lapse": None,
        "self._end_retry": None,
        "self.line.carry": None,
        "self._retry": None,
    },
    "Removals.approve": {
        "self._is_over": None,
        "self._held": None,
        "self.records.ruled": None,
        "self.wishes.close_wish": None,
        "self._not_taken": None,
    },
    "Removals.reject": {
        "self._is_over": None,
        "self._held": None,
        "self.records.ruled": None,
        "self.wishes.close_wish": None,
        "self._not_taken": None,
    },
    "Removals._held": {"self.records.recall": None, "self.holds.hold": None},
    "Removals._is_over": {
        "self.wishes.is_open": None,
        "self.records.recall": None,
        "self.wishes.close_wish": None,
    },
    "Removals._not_taken": {"self.records.answered": None, "self.wishes.close_wish": None},
    "Removals._lapse": {"self.records.ruled": None},
    "Removals._end_retry": {"self.records.retried": None},
    "Removals._retry": {"self.records.recall": None, "self.records.retried": None},
    "OwedResults.publish": {
        "self.outbox.publish_result": None,
        "self.records.published": None,
        "self._confirm": None,
    },
    "OwedResults._confirm": {"self.records.recall": None, "self.records.published": None},
    "Disappearances.note": {"self.records.recall": None, "self.records.announce": None},
    "Records.recall": {"self.entries.recall": "recall"},
    "Records.announce": {"self._record": "record claimed"},
    "Records.conclude": {
        "self._record": "record active created",
        "self.entries.record_answer": "record answer superseded",
    },
    "Records.answered": {
        "self._record": "record active reissued",
        "self.entries.record_answer": "record answer reissued confirmed",
    },
    "Records.confirm": {
        "self._record": "record active created confirmed",
        "self.entries.record_answer": "record answer renamed confirmed",
    },
    "Records.delivered": {"self._record": "record active"},
    "Records.tenant_counts": {"self.duties.tenant_counts": None},
    "Records.ruled": {"self._record": "record active"},
    "Records.retried": {"self._record": "record active"},
    "Records.published": {"self._record": "record active"},
    "Records.granted": {"self._record": "record active"},
    "Records.recheck": {"self._record": "record active"},
    "Records.reset": {"self._record": "record active"},
    "Records._record": {"self.entries.record": None},
    "Reconciler.not_recorded": {"self._yield_to_other_worker": None},
    "Reconciler.arm_pending_check": {"self.arm_late_check": None},
    "Reconciler.arm_late_check": {"self.records.recall": None, "self.records.recheck": None},
    "Reconciler._yield_to_other_worker": {
        "self.records.recall": None,
        "self.subaccounts.disable_made": None,
        "self.arm_pending_check": None,
    },
    "Reissues.answer": {
        "self.records.recall": None,
        "self._carry_out": None,
        "self.records.answered": None,
        "self.outbox.publish_result": None,
        "self._is_gone": None,
    },
    "Reissues._is_gone": {"self.disappearances.note": None},
    "Reissues._carry_out": {
        "self.outbox.deliver_owed": None,
        "self.records.delivered": None,
        "self._issue_again": None,
    },
    "Reissues._issue_again": {
        "self.subaccounts.token": None,
        "self.outbox.deliver": None,
        "self.records.delivered": None,
    },
    "Outbox.publish": {"self.publisher.publish": "publish dead-letters"},
    "Outbox.publish_result": {"self._publish_result": None},
    "Outbox._publish_result": {"self.publisher.publish": "publish results"},
    "Outbox.dead_letter": {"self.publish_result": None, "self.publish": None},
    "Outbox.deliver_owed": {
        "self._token_or_written_off": None,
        "self._issue": None,
        "self.records.delivered": None,
        "self._try_to_enable": None,
    },
    "Outbox._token_or_written_off": {"self.subaccounts.token": None, "self.records.delivered": None},
    "Outbox._try_to_enable": {
        "self.subaccounts.permit_to_update": None,
        "self.records.announce": None,
        "self.subaccounts.enable_made": None,
    },
    "Outbox._issue": {"self.deliver": None},
    "Outbox.deliver": {"self._send": None},
    "Outbox._send": {"self.plaintext_guard.check": None, "self.publisher.publish": "publish secrets"},
    "Actor.foresee": {"self.orphans.tags": None},
    "Actor.act": {"self._call": None, "self._adopt": None, "self.subaccounts.inspect": None},
    "Actor._call": {"self._create": None, "self._changed": None, "self._delete": None, "call.get": "get"},
    "Actor._create": {"call.create": "create"},
    "Actor._changed": {"call": "update"},
    "Actor._delete": {"call.delete": "delete"},
    "Actor._adopt": {
        "self.scanner.scan": None,
        "self.subaccounts.matches": None,
        "self.subaccounts.get_if_there": None,
        "self.subaccounts.disable": None,
        "self.subaccounts.update": None,
    },
    "Subaccounts.token": {"self._get": None},
    "Subaccounts.inspect": {"self.get_if_there": None, "self.inventories.of": None},
    "Subaccounts.enable_made": {"call.update": "update"},
    "Subaccounts.disable": {"self.disable_made": None},
    "Subaccounts.disable_made": {"self.update": None},
    "Subaccounts.update": {"self.provider.permit": None, "call.update": "update"},
    "Subaccounts.get_if_there": {"self._get": None},
    "Subaccounts.matches": {"self.register.holders": "holders", "self.foreign.is_another_account": None},
    "Subaccounts._get": {"self.provider.permit": None, "call.get": "get"},
    "Scanner.scan": {"asyncio.shield": None},
    "Scanner._scan_on": {"self._complete_scan": None},
    "Scanner._complete_scan": {"self._read": None},
    "Scanner._read": {"self._page": None},
    "Scanner._page": {"self._pages.read": None},
    "PageReader.read": {"read": "list", "sleep_unless_stopping": None},
    "Inventories.of": {"self._ids": None},
    "Inventories._ids": {"self._read": None},
    "Inventories._read": {"self.pages.read": None},
    "Inventories._page": {"self.provider.permit": None, "call.resources": "count"},
    "Orphans.tags": {"self._first": None, "self._find": None},
    "Orphans._find": {
        "self._has_caught_up": None,
        "self._unknown": None,
        "self._scanner.scan": None,
        "self._register.note_caught_up": "note caught up",
    },
    "Orphans._has_caught_up": {
        "self._register.caught_up_at": "caught up",
        "page_of": "list",
        "self._register.holders": "holders",
    },
    "Orphans._unknown": {"self._register.holders": "holders"},
    "Circuit.permit": {"self._prober.until_idle": None, "self._provider.permit": None},
    "Circuit.watched": {"call": None, "self._assessed": None},
    "Circuit._assessed": {"self._confirmed": None, "self._prober.outcome": None},
    "Circuit._confirmed": {"self._prober.outcome": None},
    "Circuit.probe": {"self._provider.probe": None},
    "WatchedCall.create": {"self.circuit.watched": None},
    "WatchedCall.update": {"self.circuit.watched": None},
    "WatchedCall.delete": {"self.circuit.watched": None},
    "WatchedCall.get": {"self.circuit.watched": None},
    "WatchedCall.page": {"self.circuit.watched": None},
    "WatchedCall.resources": {"self.circuit.watched": None},
    "Prober.until_idle": {"sleep_unless_stopping": None},
    "Prober.outcome": {"asyncio.shield": None},
    "Prober._probe_on": {"self.probe_twice": None},
    "Prober.probe_twice": {"self.probe": None, "self._clock.sleep": None},
    "Prober.probe": {"self._one_at_a_time": None, "self._provider.probe": None},
    "WaitingRoom.wait": {"ended": None},
}
# Not between delivery and ack: shutdown and duties.
BESIDE_THE_LINE = {
    "Handler.drain",
    "Outbox.retry_owed",
    "Outbox.retry_refused",
    "Records.attended",
    "Records.bound",
    "Reissues.grant",
    "Scanner.close",
    "Subaccounts.difference",
    "Subaccounts.repair",
    "Subaccounts.disable_duplicates",
    "Circuit.close",
    "Circuit._probe_in",
    "Circuit.ask",
    "Circuit._rested",
    "Prober.close",
}


def awaits_in(function: ast.AsyncFunctionDef) -> set[str]:
    awaited = [node.value for node in ast.walk(function) if isinstance(node, ast.Await)]
    entered = [
        item.context_expr
        for node in ast.walk(function)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
    ]
    return {ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in awaited + entered}


def boundaries_in_the_code() -> dict[str, set[str]]:
    found = {}
    for module in (
        handler,
        quarantine,
        line,
        records,
        reconcile,
        disappearances,
        outbox,
        reissues,
        recreations,
        removals,
        owed_results,
        act,
        subaccounts,
        scan,
        pages,
        inventories,
        circuit,
        waiting,
    ):
        tree = ast.parse(inspect.getsource(module))
        for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for function in (node for node in owner.body if isinstance(node, ast.AsyncFunctionDef)):
                found[f"{owner.name}.{function.name}"] = awaits_in(function)
    return {name: awaits for name, awaits in found.items() if name not in BESIDE_THE_LINE and awaits}


def test_every_await_between_delivery_and_ack_is_a_listed_boundary():
    assert {name: set(listed) for name, listed in BOUNDARIES.items()} == boundaries_in_the_code()


async def test_the_stories_make_every_port_call_of_the_table():
    made = set()
    for story in [*STORIES, GONE, Story("refused", (), REFUSED, "failed", prepare=reject_create)]:
        world = await story.world()
        await world.handle(story.event)
        made.update(world.witness.journal)
    expected = {call for listed in BOUNDARIES.values() for call in listed.values() if call}
    assert [call for call in sorted(expected) if not any(step.startswith(call) for step in made)] == []
