"""A correction is decided again on fresh state, and done once, whatever crashes."""

import asyncio
from itertools import count

import pytest
from pydantic import SecretStr

from contracts.envelope import Message
from contracts.subaccounts import CredentialsMessage
from tests.pipeline.sweeping import a_world, answered, corrected, dies_at, leave, passing, stored
from tests.pipeline.test_sweeping import change_token, delete, disable, double, rename
from tests.support.builders import SALES, department_created, department_removed, department_renamed
from tests.support.entries import entries_of
from tests.support.world import SETTLE_WINDOW, World, fault
from worker.adapters.jose.seal import Unsealed
from worker.core.decide import Enable, Policy, Removal
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.core.wishes import VALID_FOR, reference_of
from worker.ports import LedgerConflict, LedgerFailed, Unroutable

DRIFTS = {"name": rename, "enabled": disable, "token": change_token, "double": double}
OUTCOMES = {"name": "renamed", "enabled": "restored", "token": "reissued", "double": "disabled"}
WINDOW = SETTLE_WINDOW.total_seconds()


class PlainForAll:
    """Seals for no recipient, whoever it is."""

    def seal(self, clear: CredentialsMessage, _recipient: str) -> Message:
        return Unsealed().seal(clear, ANY_RECIPIENT)


async def drifted(finding: str) -> tuple[World, str]:
    """A world with this drift, and the auth id of its subaccount."""
    world = await a_world(3, policy=Policy(recipients=frozenset({"crm", "erp"})), sealer=PlainForAll())
    await DRIFTS[finding](world)
    auth_id = (await world.entry()).auth_id
    if finding == "double":
        auth_id = world.provider.subaccounts[0].auth_id
    assert auth_id is not None
    world.provider.calls.clear()
    world.witness.journal.clear()
    return world, auth_id


async def is_as_wanted(world: World, finding: str) -> None:
    await world.has_one_live_subaccount("Sales")
    await world.has_issued_credentials()
    entry = await world.entry()
    assert entry.generation == (2 if finding == "token" else 1)
    issued = [one for one in world.credentials() if one.data["generation"] == entry.generation]
    assert len({one.id for one in issued}) == 2, "one for each recipient"
    assert entry.debt is None


def updates(world: World) -> list[str | None]:
    return [key for operation, _, key in world.provider.calls if operation == "update"]


@pytest.mark.parametrize("finding", DRIFTS)
async def test_each_kind_is_corrected(finding):
    world, auth_id = await drifted(finding)
    answer = await corrected(world, finding, auth_id)
    assert (answer.outcome, answer.auth_id, answer.confirmed) == (OUTCOMES[finding], auth_id, True)
    await is_as_wanted(world, finding)
    assert len(updates(world)) == (0 if finding == "token" else 1)
    (line,) = world.ledger.audit
    assert (line.by, line.action, line.run, line.reason, line.outcome, line.department_id) == (
        "ada",
        "correct",
        "wish",
        finding,
        OUTCOMES[finding],
        SALES.id,
    )
    calls = [one for one in await world.ledger.calls(SALES) if one.operation != "create"]
    assert [(one.operation, one.auth_id) for one in calls] == [("update", auth_id)] * len(updates(world))


async def test_a_call_without_a_response_is_on_record_too():
    world, auth_id = await drifted("name")
    world.witness.fail("update", fault("update"))
    answer = await corrected(world, "name", auth_id)
    assert answer.outcome == "renamed"
    calls = [one for one in await world.ledger.calls(SALES) if one.operation != "create"]
    assert [(one.operation, one.error is None) for one in calls] == [("update", False), ("update", True)]


async def test_credentials_after_a_changed_token_are_those_of_the_next_generation():
    world, _ = await drifted("token")
    await corrected(world, "token")
    new = [one for one in world.credentials() if one.data["generation"] == 2]
    assert {one.causationid for one in new} == {"wish"}
    assert {one.type for one in new} == {"subaccount.credentials.issued.v1"}
    assert {one.data["auth_token"] for one in new} == {"another token"}
    assert not world.events_in("test.results")[3:], "no result is published"


@pytest.mark.parametrize("finding", DRIFTS)
async def test_nothing_is_done_twice(finding):
    world, auth_id = await drifted(finding)
    await corrected(world, finding, auth_id)
    calls, credentials = updates(world), len(world.credentials())
    again = await answered(world, await leave(world, finding, auth_id, id_="again"))
    assert again.outcome == "unchanged"
    assert (updates(world), len(world.credentials())) == (calls, credentials)
    await is_as_wanted(world, finding)


@pytest.mark.parametrize("finding", ["name", "enabled"])
async def test_a_change_is_durable_as_a_check_before_it_is_sent(finding):
    world, auth_id = await drifted(finding)
    armed = []

    async def look() -> None:
        armed.append((await world.entry()).check is not None)

    world.witness.before("update", look)
    await corrected(world, finding, auth_id)
    assert armed == [True]
    assert (await world.entry()).check is None


async def test_a_removed_department_is_disabled_and_stays_removed():
    world = await a_world(3)
    await world.handle(department_removed(sequence=2))
    stored(world).enabled = True
    assert (await corrected(world, "enabled")).outcome == "disabled"
    await world.has_no_live_subaccount()
    assert (await world.entry()).status is Status.DISABLED


@pytest.mark.parametrize("finding", ["name", "enabled", "token"])
async def test_a_subaccount_that_is_gone_is_not_corrected_and_its_loss_is_noted(finding):
    world, auth_id = await drifted(finding)
    await delete(world)
    answer = await corrected(world, finding, auth_id)
    assert (answer.outcome, answer.code) == ("failed", "gone-at-provider")
    assert (await world.entry()).missing_since is not None
    assert updates(world) == []


async def test_a_double_stays_enabled_while_the_subaccount_on_record_is_missing():
    world, auth_id = await drifted("double")
    await delete(world)
    answer = await corrected(world, "double", auth_id)
    assert (answer.outcome, answer.code) == ("failed", "gone-at-provider")
    assert stored(world, auth_id).enabled


@pytest.mark.parametrize("finding", DRIFTS)
async def test_a_newer_event_of_the_department_is_respected(finding):
    """The department was removed between the sweep and the correction."""
    world, auth_id = await drifted(finding)
    wish = await leave(world, finding, auth_id)
    await world.handle(department_removed(sequence=9))
    await answered(world, wish)
    entry = await world.entry()
    assert entry.status is Status.DISABLED
    assert not stored(world, entry.auth_id).enabled
    assert len({one.data["generation"] for one in world.credentials()}) == 1


async def test_a_deletion_under_way_is_not_disturbed():
    world = await a_world(3, policy=Policy(Removal.DELETE))
    await world.crash_before("record removed", department_removed(sequence=2))
    world.provider.calls.clear()
    wish = await leave(world, "enabled", (await world.entry()).auth_id or "")
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await passing(world, running.worker.lanes.idle())
    answer = (await world.ledger.recall(SALES, reference_of(wish))).answer
    assert answer is None or answer.outcome == "failed"
    assert updates(world) == []


async def test_an_unknown_department_is_declined_and_gets_no_entry():
    world = await a_world(1)
    nobody = Department("acme", "nobody")
    answer = await answered(world, await leave(world, "name", "SA1", nobody))
    assert answer.outcome == "failed"
    assert nobody not in [entry.department for entry in await entries_of(world.ledger)]


@pytest.mark.parametrize("finding", ["missing", "untagged", "anything"])
async def test_what_cannot_be_corrected_is_declined(finding):
    world = await a_world(3)
    answer = await corrected(world, finding)
    assert (answer.outcome, answer.code) == ("failed", "not-allowed")


# Failures


@pytest.mark.parametrize("finding", ["name", "enabled", "double"])
@pytest.mark.parametrize("effect", [True, False], ids=["carried-out", "not-carried-out"])
async def test_a_lost_answer_to_the_change(finding, effect):
    world, auth_id = await drifted(finding)
    world.witness.fail("update", fault("update"), after_effect=effect)
    answer = await corrected(world, finding, auth_id)
    assert answer.outcome in {OUTCOMES[finding], "unchanged"}
    await world.has_one_live_subaccount("Sales")
    assert len(set(updates(world))) == 1, "each try has the same key"
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    await is_as_wanted(world, finding)


@pytest.mark.parametrize("finding", ["name", "enabled"])
async def test_a_change_carried_out_late_over_a_newer_one_is_found(finding):
    world, auth_id = await drifted(finding)
    world.witness.fail("update", fault("update"))
    async with world.working() as running:
        await leave(world, finding, auth_id)
        await running.worker.scheduler.file_wishes()
        await passing(world, running.worker.lanes.idle())
    await world.handle(department_renamed("Marketing", sequence=9))
    stored(world).name = world.sent_name("Sales")  # the lost one, late
    world.clock.advance(WINDOW + 1)
    await world.run_duties()
    assert stored(world).name == world.sent_name("Marketing")


@pytest.mark.parametrize("finding", ["name", "enabled", "double"])
async def test_a_refused_change_ends_the_wish_with_the_reason(finding):
    world, auth_id = await drifted(finding)
    world.witness.fail("update", fault("update", 400))
    answer = await corrected(world, finding, auth_id)
    assert (answer.outcome, answer.code) == ("failed", "rejected")
    assert "400" in (answer.reason or "")
    assert (await world.entry()).check is None


@pytest.mark.parametrize("status", [403, 503, 429])
@pytest.mark.parametrize("what", ["get", "update"])
async def test_a_failing_call_is_tried_again(status, what):
    world, auth_id = await drifted("name")
    world.witness.fail(what, fault(what, status), times=2)
    assert (await corrected(world, "name", auth_id)).outcome == "renamed"
    await world.has_one_live_subaccount("Sales")


async def test_credentials_that_cannot_be_published_stay_owed_until_they_can():
    world, auth_id = await drifted("token")
    world.witness.fail(
        "publish secrets subaccount.credentials.issued.crm", Unroutable("nobody bound"), times=3
    )
    assert (await corrected(world, "token", auth_id)).outcome == "reissued"
    await is_as_wanted(world, "token")


@pytest.mark.parametrize("finding", DRIFTS)
@pytest.mark.parametrize("error", [LedgerFailed("disk full"), LedgerConflict("another worker")], ids=str)
async def test_an_outcome_that_could_not_be_recorded_is_checked(finding, error):
    world, auth_id = await drifted(finding)
    outcome = OUTCOMES[finding]
    world.witness.fail(f"record active {outcome} confirmed", error)
    answer = await corrected(world, finding, auth_id)
    assert answer.outcome in {outcome, "unchanged"}
    await is_as_wanted(world, finding)


async def test_two_recipients_of_which_one_is_served_before_a_crash():
    world, auth_id = await drifted("token")
    wish = await leave(world, "token", auth_id)
    await crash_before(world, "publish secrets subaccount.credentials.issued.erp")
    assert (await answered(world, wish)).outcome == "reissued"
    await is_as_wanted(world, "token")


async def crash_before(world: World, call: str) -> None:
    reached = asyncio.Event()

    async def stop() -> None:
        reached.set()
        await asyncio.Event().wait()

    world.witness.before(call, stop)
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await reached.wait()


async def test_a_debt_paid_by_the_scheduler_ends_the_wish_too():
    world, auth_id = await drifted("token")
    wish = await leave(world, "token", auth_id)
    await crash_before(world, "publish secrets")
    world.clock.advance(61)
    await world.run_duties()
    assert (await world.entry()).debt is None
    published = len(world.credentials())
    assert (await answered(world, wish)).outcome == "reissued"
    assert len(world.credentials()) == published
    await is_as_wanted(world, "token")


async def test_a_department_removed_before_its_new_credentials_were_published_gets_none():
    world, auth_id = await drifted("token")
    wish = await leave(world, "token", auth_id)
    await crash_before(world, "publish secrets")
    await world.handle(department_removed(sequence=9))
    answer = await answered(world, wish)
    assert (answer.outcome, answer.code) == ("failed", "not-active")
    assert {one.data["generation"] for one in world.credentials()} == {1}


async def test_an_old_wish_is_answered_that_it_is_too_late():
    world, auth_id = await drifted("name")
    wish = await leave(world, "name", auth_id)
    world.clock.advance(VALID_FOR["correct"].total_seconds())
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()
    answer = await answered(world, wish)
    assert (answer.outcome, answer.code) == ("failed", "not-allowed")
    assert "too late" in (answer.reason or "")
    assert world.ledger.audit[-1].outcome == f"not done: {answer.reason}"
    assert world.provider.calls == await world.ledger.wishes() == []


async def test_many_corrections_keep_the_pace_of_a_sweep():
    world = await a_world(60)
    for number, entry in enumerate(await entries_of(world.ledger)):
        stored(world, entry.auth_id).name = "Renamed by hand"
        await leave(world, "name", entry.auth_id or "", entry.department, id_=str(number))
    world.provider.calls.clear()
    filed = []
    async with world.working() as running:
        while await world.ledger.wishes():
            before = len(world.provider.calls)
            await running.worker.scheduler.file_wishes()
            await passing(world, running.worker.lanes.idle())
            filed.append(len(world.provider.calls) - before)
            world.clock.advance(1)
    assert max(filed) <= 62, "half of 300 calls in 5 s, and one second of them ahead"
    assert len(filed) >= 3
    assert {one.name for one in world.provider.subaccounts}.isdisjoint({"Renamed by hand"})


@pytest.mark.parametrize("finding", DRIFTS)
@pytest.mark.parametrize("pause", [0.0, WINDOW + 1], ids=["at-once", "later"])
async def test_a_crash_anywhere_leads_to_one_correction(finding, pause):
    async def grant(running) -> None:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()

    for moment in count(1):
        world, auth_id = await drifted(finding)
        wish = await leave(world, finding, auth_id)
        died = await dies_at(world, grant, moment)
        world.clock.advance(pause)
        answer = await answered(world, wish)
        assert answer.outcome in {OUTCOMES[finding], "unchanged"}, moment
        world.clock.advance(WINDOW + 1)
        await world.run_duties()
        await is_as_wanted(world, finding)
        assert len(set(updates(world))) <= 1
        if not died:
            assert moment > 8, "recall, get, announce, update, record and close have more moments"
            return


@pytest.mark.parametrize("finding", DRIFTS)
async def test_a_newer_event_after_a_crash_anywhere_wins(finding):
    async def grant(running) -> None:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()

    for moment in count(1):
        world, auth_id = await drifted(finding)
        wish = await leave(world, finding, auth_id)
        died = await dies_at(world, grant, moment)
        await world.handle(department_renamed("Newest", sequence=9))
        await answered(world, wish)
        world.clock.advance(WINDOW + 1)
        await world.run_duties()
        held = stored(world, (await world.entry()).auth_id)
        assert held.name == world.sent_name("Newest")
        if not died:
            return


async def test_with_enabling_owed_a_changed_token_keeps_it_owed_until_its_credentials_are_published():
    world = World(Policy(enable=Enable.PUBLISHED))
    await world.handle(department_created("Sales"))
    stored(world).auth_token = SecretStr("another token")
    assert (await corrected(world, "token")).outcome == "reissued"
    await world.has_one_live_subaccount("Sales")
    assert (await world.entry()).generation == 2
