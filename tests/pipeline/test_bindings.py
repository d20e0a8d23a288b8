"""A person adopts an existing subaccount: on record before it is changed, once, whatever crashes."""

import asyncio
from collections.abc import Callable
from itertools import count

import pytest

from tests.support.builders import SALES, department_created, department_removed, department_renamed
from tests.support.entries import entries_of
from tests.support.port_tap import do_nothing
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.core.decide import Policy
from worker.core.model.answers import Answer
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.core.model.wishes import Binding, Wish
from worker.core.wishes import VALID_FOR, reference_of
from worker.ports import LedgerConflict, Unroutable
from worker.provider.scan import Orphans

WINDOW = SETTLE_WINDOW.total_seconds()
MARKETING = Department("acme", "marketing")
WITHOUT_LIMIT = Policy(limit=())
"""Else the removal of the only department is held."""


async def made(world: World, name: str = "EU 7", *, enabled: bool = True) -> str:
    """The auth id of a subaccount that somebody made by hand."""
    return (await world.provider.create(name, "by hand", enabled=enabled)).auth_id


async def leave(world: World, asked: Binding, id_: str = "wish", department: Department = SALES) -> Wish:
    wish = Wish(id_, department, "ada", world.clock.now(), asked)
    await world.ledger.wish(wish)
    return wish


async def answer_to(world: World, wish: Wish) -> Answer | None:
    return (await world.ledger.recall(wish.department, reference_of(wish))).answer


async def work_until_answered(world: World, wish: Wish) -> Answer:
    async with world.working() as running:
        for _ in range(3 * 3600):
            if not await world.ledger.is_open(wish.id):
                break
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
            world.clock.advance(1)
    answer = await answer_to(world, wish)
    assert answer is not None, world.witness.journal
    return answer


async def adopted(world: World, asked: Binding) -> Answer:
    return await work_until_answered(world, await leave(world, asked))


async def checks_done(world: World) -> None:
    """Late calls have been looked for, and debts are paid."""
    for _ in range(3):
        world.clock.advance(WINDOW + 1)
        await world.run_duties()


async def test_the_subaccount_is_on_record_and_carries_the_tag(world):
    auth_id = await made(world)
    answer = await adopted(world, Binding(auth_id))
    assert (answer.outcome, answer.code, answer.reason, answer.confirmed) == (
        "created",
        "created",
        f"adopted {auth_id}",
        True,
    )
    await world.has_one_live_subaccount("EU 7")
    entry = await world.entry()
    assert (entry.auth_id, entry.check, entry.debt, entry.version) == (auth_id, None, None, None)
    assert world.credentials() == []
    assert world.events_in("test.results") == []


async def test_it_is_on_record_with_its_check_before_it_is_changed(world):
    auth_id = await made(world)
    wish = await leave(world, Binding(auth_id))
    seen = []

    async def look() -> None:
        entry = await world.entry()
        seen.append(
            (entry.status, entry.auth_id, entry.check is not None, world.provider.subaccounts[0].name)
        )

    world.witness.before("update", look)
    await work_until_answered(world, wish)
    assert seen == [(Status.ACTIVE, auth_id, True, "EU 7")]


async def test_the_audit_has_who_and_what(world):
    auth_id = await made(world)
    await adopted(world, Binding(auth_id))
    (line,) = world.ledger.audit
    assert (line.by, line.action, line.run, line.event_id, line.department_id, line.outcome) == (
        "ada",
        "adopt",
        "wish",
        "wish",
        "sales",
        f"adopted {auth_id}",
    )


async def test_credentials_are_issued_on_demand_under_the_id_of_the_wish(world):
    auth_id = await made(world)
    await adopted(world, Binding(auth_id, issues=True))
    await world.has_issued_credentials()
    (message,) = world.credentials()
    assert (message.type, message.causationid, message.data["generation"]) == (
        "subaccount.credentials.issued.v1",
        "wish",
        1,
    )


async def test_credentials_that_cannot_be_published_stay_owed(world):
    world.witness.fail("publish secrets", Unroutable("nobody is bound"))
    answer = await adopted(world, Binding(await made(world), issues=True))
    assert answer.outcome == "created"
    assert (await world.entry()).owed_to == {ANY_RECIPIENT}
    await checks_done(world)
    await world.has_issued_credentials()


async def test_a_disabled_subaccount_is_enabled_and_renamed_in_one_call(world):
    auth_id = await made(world, enabled=False)
    await adopted(world, Binding(auth_id, enables=True))
    await world.has_one_live_subaccount("EU 7")
    assert [call for call in world.witness.journal if call.startswith("update")] == ["update name enabled"]


async def test_a_kept_name_survives_everything_but_a_rename():
    world = World(WITHOUT_LIMIT)
    auth_id = await made(world)
    await adopted(world, Binding(auth_id, name="Sales", keeps_name=True))
    assert world.provider.subaccounts[0].name == "EU 7"
    assert (await world.entry()).name == "Sales"
    unchanged = department_created("Sales", sequence=1)
    await world.handle(unchanged, department_removed(sequence=2), department_created("Sales", sequence=3))
    await checks_done(world)
    world.answered(unchanged, "unchanged")
    assert [(one.auth_id, one.name, one.enabled) for one in world.provider.subaccounts] == [
        (auth_id, "EU 7", True)
    ]
    await world.handle(department_renamed("Marketing", sequence=4))
    await checks_done(world)
    assert world.provider.subaccounts[0].name == "Marketing"


async def test_a_late_rename_of_a_kept_name_is_corrected(world):
    auth_id = await made(world)
    await adopted(world, Binding(auth_id, keeps_name=True))
    world.witness.fail("update", fault("update"))
    await world.handle(department_renamed("Older", sequence=1), department_renamed("Newer", sequence=2))
    await world.provider.update(auth_id, "carried out late", name="Older")
    await checks_done(world)
    assert world.provider.subaccounts[0].name == "Newer"


async def test_an_event_applies_after_the_adoption():
    world = World(WITHOUT_LIMIT)
    auth_id = await made(world)
    await adopted(world, Binding(auth_id, issues=True))
    await world.handle(department_renamed("Marketing", sequence=1))
    await world.has_one_live_subaccount("Marketing")
    await world.handle(department_removed(sequence=2))
    await world.has_no_live_subaccount()
    assert [one.auth_id for one in world.provider.subaccounts] == [auth_id]


async def test_a_line_applied_before_changes_nothing(world):
    auth_id = await made(world)
    await adopted(world, Binding(auth_id))
    calls = len(world.provider.calls)
    answer = await work_until_answered(world, await leave(world, Binding(auth_id, issues=True), "again"))
    assert (answer.outcome, answer.code) == ("unchanged", "unchanged")
    assert {call[0] for call in world.provider.calls[calls:]} == {"get"}
    assert world.credentials() == []


async def test_of_two_departments_one_gets_the_subaccount(world):
    auth_id = await made(world)
    first = await leave(world, Binding(auth_id))
    second = await leave(world, Binding(auth_id), "other", MARKETING)
    answers = [await work_until_answered(world, first), await work_until_answered(world, second)]
    assert {answer.outcome for answer in answers} == {"created", "failed"}
    refused = next(answer for answer in answers if answer.outcome == "failed")
    assert f"{auth_id} is on record for department" in (refused.reason or "")
    assert len([entry for entry in await entries_of(world.ledger) if entry.auth_id]) == 1


async def test_nothing_is_recorded_of_a_department_that_was_refused(world):
    answer = await adopted(world, Binding("SA000000000000009999"))
    assert (answer.outcome, answer.code) == ("failed", "not-allowed")
    assert await entries_of(world.ledger) == []


async def test_a_subaccount_of_the_department_that_the_ledger_does_not_know_goes_first(world):
    world.orphans = Orphans
    theirs = await made(world, world.sent_name("Sales"))
    answer = await adopted(world, Binding(await made(world)))
    assert "another subaccount with the department's tag" in (answer.reason or "")
    await world.handle(department_created("Sales", sequence=1))
    assert (await world.entry()).auth_id == theirs


async def test_a_subaccount_that_carries_the_tag_already_is_adopted_without_a_change(world):
    world.orphans = Orphans
    auth_id = await made(world, world.sent_name("Sales", incarnation=2))
    await adopted(world, Binding(auth_id))
    await world.has_one_live_subaccount("Sales")
    assert (await world.entry()).incarnation == 2
    assert not [call for call in world.witness.journal if call.startswith("update")]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_refused_change_undoes_the_binding(world, status):
    auth_id = await made(world)
    world.witness.fail("update", fault("update", status))
    answer = await adopted(world, Binding(auth_id, issues=True))
    assert answer.outcome == "failed"
    assert "Plivo refused to rename or enable it" in (answer.reason or "")
    entry = await world.entry()
    assert (entry.status, entry.auth_id, entry.debt, entry.check) == (Status.ABSENT, None, None, None)
    assert world.credentials() == []
    again = await work_until_answered(world, await leave(world, Binding(auth_id), "again"))
    assert again.outcome == "created"
    await world.has_one_live_subaccount("EU 7")


@pytest.mark.parametrize("after_effect", [True, False])
async def test_a_lost_response_is_settled(world, after_effect):
    auth_id = await made(world)
    world.witness.fail("update", fault("update"), after_effect=after_effect)
    assert (await adopted(world, Binding(auth_id))).outcome == "created"
    await world.has_one_live_subaccount("EU 7")
    assert (await world.entry()).check is not None
    await checks_done(world)
    assert (await world.entry()).check is None


@pytest.mark.parametrize("call", ["get", "update", "recall", "record active", "close wish"])
async def test_whatever_fails_is_tried_again(world, call):
    auth_id = await made(world)
    error = (
        LedgerConflict("made up") if call in {"recall", "record active", "close wish"} else fault(call, 503)
    )
    world.witness.fail(call, error)
    answer = await adopted(world, Binding(auth_id, issues=True))
    assert answer.outcome == "created"
    await world.has_one_live_subaccount("EU 7")
    await world.has_issued_credentials()
    assert len(world.ledger.audit) == 1


async def attended(world):
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()


async def test_an_old_wish_is_answered_that_it_is_too_late(world):
    wish = await leave(world, Binding(await made(world)))
    world.clock.advance(VALID_FOR["adopt"].total_seconds())
    await attended(world)
    answer = await answer_to(world, wish)
    assert answer is not None
    assert answer.outcome == "failed"
    assert answer.reason == "too late: no worker has done it within 1 h; ask again"
    assert await entries_of(world.ledger) == await world.ledger.wishes() == []


async def test_an_old_wish_that_has_begun_is_carried_on(world):
    wish = await leave(world, Binding(await made(world)))
    world.witness.fail("update", fault("update", 503))
    await attended(world)
    world.clock.advance(VALID_FOR["adopt"].total_seconds())
    await attended(world)
    answer = await answer_to(world, wish)
    assert answer is not None
    assert answer.outcome == "created"
    assert await world.ledger.wishes() == []


async def test_a_withdrawn_wish_is_not_carried_out(world):
    wish = await leave(world, Binding(await made(world)))
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await world.ledger.close_wish(wish.id)
        await running.worker.lanes.idle()
    assert await answer_to(world, wish) is None
    assert await entries_of(world.ledger) == []


async def dies_at(world: World, moment: int) -> bool:
    """Whether the worker reached the n-th moment around a port call, and died there."""
    moments, died = count(1), asyncio.Event()

    async def around() -> None:
        if next(moments) == moment:
            died.set()
        if died.is_set():
            await asyncio.Event().wait()

    async with world.working() as running:
        world.witness.around = around
        await running.worker.scheduler.file_wishes()
        ends = [asyncio.ensure_future(end) for end in (running.worker.lanes.idle(), died.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    world.witness.around = do_nothing
    return died.is_set()


def lose_response(world: World) -> None:
    world.witness.fail("update", fault("update"), after_effect=True)


@pytest.mark.parametrize("prepare", [lambda _world: None, lose_response], ids=["plain", "response-lost"])
@pytest.mark.parametrize("pause", [0.0, WINDOW + 1], ids=["at-once", "later"])
@pytest.mark.parametrize("keeps_name", [True, False], ids=["kept", "renamed"])
async def test_a_crash_anywhere_leads_to_one_adoption(prepare: Callable[[World], None], pause, keeps_name):
    for moment in count(1):
        world = World()
        auth_id = await made(world, enabled=False)
        wish = await leave(world, Binding(auth_id, keeps_name=keeps_name, issues=True, enables=True))
        prepare(world)
        died = await dies_at(world, moment)
        world.clock.advance(pause)
        answer = await work_until_answered(world, wish)
        assert answer.outcome == "created", moment
        await checks_done(world)
        (stored,) = world.provider.subaccounts
        assert (stored.auth_id, stored.enabled) == (auth_id, True), moment
        assert stored.name == ("EU 7" if keeps_name else world.sent_name("EU 7")), moment
        await world.has_issued_credentials()
        assert len({one.id for one in world.credentials()}) == 1
        assert [line.outcome for line in world.ledger.audit] == [f"adopted {auth_id}"]
        world.witness.forget()
        if not died:
            assert moment > 8, "recall, look, record and update have more moments"
            return


@pytest.mark.parametrize("prepare", [lambda _world: None, lose_response], ids=["plain", "response-lost"])
async def test_a_binding_whose_wish_was_withdrawn_after_a_crash_is_whole_or_nothing(
    prepare: Callable[[World], None],
):
    for moment in count(1):
        world = World()
        auth_id = await made(world)
        wish = await leave(world, Binding(auth_id, issues=True))
        prepare(world)
        died = await dies_at(world, moment)
        await world.ledger.close_wish(wish.id)
        await checks_done(world)
        entry = await world.entry()
        if entry.auth_id is None:
            assert world.provider.subaccounts[0].name == "EU 7", moment
            assert world.credentials() == []
        else:
            await world.has_one_live_subaccount("EU 7")
            await world.has_issued_credentials()
        world.witness.forget()
        if not died:
            return


NEWER = {
    "same": department_created("EU 7", sequence=9),
    "renamed": department_renamed("Newest", sequence=9),
    "removed": department_removed(sequence=9),
}


@pytest.mark.parametrize("newest", NEWER.values(), ids=NEWER)
async def test_an_event_after_a_crash_wins(newest):
    """Without a binding on record the event makes a subaccount of its own, or remembers the removal."""
    for moment in count(1):
        world = World(WITHOUT_LIMIT)
        auth_id = await made(world)
        wish = await leave(world, Binding(auth_id, issues=True))
        died = await dies_at(world, moment)
        await world.handle(newest)
        answer = await work_until_answered(world, wish)
        await checks_done(world)
        entry = await world.entry()
        assert answer.outcome in {"created", "unchanged", "failed"}
        if newest.kind == "removed":
            await world.has_no_live_subaccount()
            assert [one.enabled for one in world.provider.subaccounts] == [entry.auth_id is None], moment
        else:
            await world.has_state_of(newest)
            assert len(world.subaccounts(entry)) == 1
        assert (answer.outcome == "failed") == (entry.auth_id != auth_id), (moment, answer)
        if not died:
            return
