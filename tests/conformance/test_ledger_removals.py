"""The conformance suite of every ledger for removals: facts beside an entry, limits, holds, calls, sweeps."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from contracts.subaccounts import ResultKind
from tests.conformance.ledgers import entry_of, fresh
from tests.support.builders import AUDIT_LINE, NOW, SALES, an_answer, created, removed, renamed
from worker.core.inventory import Counts
from worker.core.limits import DEFAULT_LIMIT, Admission, TenantCounts, Window, WindowCount
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.ports import AuthIdTaken, Beside, LedgerConflict, NotAdmitted

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REMOVAL = removed(sequence=11)
TWO_A_DAY = (Window(2, DAY, is_percentage=False),)
SALES_LINE = replace(AUDIT_LINE, tenant=SALES.tenant, department_id=SALES.id)


def a_hold(number: int = 1, department: Department = SALES, **fields: Any) -> Hold:
    hold = Hold(
        id=f"H{number}",
        department=department,
        reason=HoldReason.RESOURCES,
        detail="2 numbers",
        cause=REMOVAL.bare,
        auth_id="SA1",
        name="Sales",
        held_at=NOW + number * HOUR,
        resources=Counts(numbers=2),
    )
    return replace(hold, **fields)


def a_call(number: int) -> CallNote:
    return CallNote(NOW + timedelta(seconds=number), "update", f"key-{number}", "SA1", 202, f"api-{number}")


def removing(entry: Entry, at: datetime) -> Entry:
    """The entry as it is announced: its removal is on the way, and counted."""
    return replace(entry, removing=Removing(REMOVAL.reference, at), check=Check(at + HOUR))


def disabled(entry: Entry, at: datetime, **fields: Any) -> Entry:
    given: dict[str, Any] = {"removed_at": at, "cause": REMOVAL.bare, "counted_at": at} | fields
    return replace(entry, status=Status.DISABLED, removing=None, check=None, removal=Removed(**given))


def admitted(at: datetime = NOW, limit: tuple[Window, ...] = TWO_A_DAY) -> Beside:
    return Beside(admission=Admission(limit, at))


async def departments(ledger, *ids: str, tenant: str = "acme") -> list[Entry]:
    return [await ledger.record(fresh(Department(tenant, id_))) for id_ in ids]


class TestBeside:
    async def test_all_parts_are_written(self, opened):
        ledger = opened.ledger
        older = an_answer(renamed(sequence=10), ResultKind.SUPERSEDED)
        beside = Beside((older,), (a_hold(),), (SALES_LINE,), (a_call(1),))
        entry = await ledger.record(fresh(hold=a_hold()), an_answer(REMOVAL, ResultKind.HELD), beside)
        assert await entry_of(ledger) == entry
        assert set(await ledger.answers(SALES)) == {older, an_answer(REMOVAL, ResultKind.HELD)}
        assert await ledger.hold("H1") == a_hold()
        assert await ledger.calls(SALES) == [a_call(1)]
        assert await opened.audit.lines() == [SALES_LINE]

    async def test_it_may_be_all_there_is(self, opened):
        entry = (await departments(opened.ledger, "sales"))[0]
        await opened.ledger.record(entry, beside=Beside(audit=(SALES_LINE,)))
        assert await opened.audit.lines() == [SALES_LINE]

    @pytest.mark.parametrize(
        ("change", "answers", "admission", "error"),
        [
            ({"revision": 7}, (), None, LedgerConflict),
            ({"auth_id": "SA-acme-hr"}, (), None, AuthIdTaken),
            ({}, (an_answer(created(), payload_digest="another"),), None, LedgerConflict),
            ({}, (an_answer(created(), ResultKind.UNCHANGED),), None, LedgerConflict),
            ({}, (), Admission((Window(0, DAY, is_percentage=False),), NOW), NotAdmitted),
        ],
        ids=["stale", "auth id taken", "another payload", "another outcome", "not admitted"],
    )
    async def test_nothing_is_written_if_one_part_is_refused(self, opened, change, answers, admission, error):
        ledger = opened.ledger
        await departments(ledger, "hr", "it")
        entry = await ledger.record(fresh(), an_answer(created()))
        beside = Beside(answers, (a_hold(),), (SALES_LINE,), (a_call(1),), admission)
        written = replace(removing(entry, NOW), name="Other", hold=a_hold(), **change)
        with pytest.raises(error):
            await ledger.record(written, an_answer(REMOVAL, ResultKind.HELD), beside)
        assert await entry_of(ledger) == entry
        assert await ledger.answers(SALES) == [an_answer(created())]
        assert (await ledger.hold("H1"), await ledger.holds(all_=True)) == (None, [])
        assert (await ledger.calls(SALES), await opened.audit.lines()) == ([], [])
        assert await ledger.tenant_counts("acme", [NOW - DAY]) == TenantCounts(3, (WindowCount(0, 0),))


def outcomes(*kinds: ResultKind) -> list[Answer]:
    return [an_answer(REMOVAL, kind, answered_at=NOW + HOUR) for kind in kinds]


class TestAnswers:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            *(
                (ResultKind.HELD, kind)
                for kind in (
                    ResultKind.HELD,
                    ResultKind.DISABLED,
                    ResultKind.REMOVED,
                    ResultKind.UNCHANGED,
                    ResultKind.SUPERSEDED,
                )
            ),
            (ResultKind.DISABLED, ResultKind.REMOVED),
        ],
    )
    async def test_an_answer_that_is_not_final_is_replaced(self, ledger, before, after):
        first = an_answer(REMOVAL, before, confirmed=True)
        entry = await ledger.record(fresh(), first)
        (second,) = outcomes(after)
        entry = await ledger.record(entry, second)
        assert (await ledger.recall(SALES, REMOVAL.reference)).answer == second
        await ledger.record(entry, replace(second, confirmed=True))
        assert await ledger.answers(SALES) == [replace(second, confirmed=True)]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (ResultKind.REMOVED, ResultKind.DISABLED),
            (ResultKind.DISABLED, ResultKind.UNCHANGED),
            (ResultKind.DISABLED, ResultKind.HELD),
            (ResultKind.UNCHANGED, ResultKind.HELD),
            (ResultKind.SUPERSEDED, ResultKind.REMOVED),
            (ResultKind.CREATED, ResultKind.CREATED),
        ],
    )
    async def test_a_final_answer_stays(self, ledger, before, after):
        first = an_answer(REMOVAL, before)
        entry = await ledger.record(fresh(), first)
        (second,) = outcomes(after)
        for write in (
            ledger.record(entry, second),
            ledger.record(entry, beside=Beside((second,))),
            ledger.record_answer(second),
        ):
            with pytest.raises(LedgerConflict):
                await write
        assert await ledger.recall(SALES, REMOVAL.reference) == Recollection(entry, first)

    async def test_another_payload_replaces_nothing(self, ledger):
        held = an_answer(REMOVAL, ResultKind.HELD)
        await ledger.record_answer(held)
        with pytest.raises(LedgerConflict):
            await ledger.record_answer(replace(held, outcome=ResultKind.REMOVED, payload_digest="another"))
        assert await ledger.answers(SALES) == [held]

    async def test_the_same_answer_may_be_written_again(self, ledger):
        """After a write whose commit was not confirmed, for example."""
        answer = an_answer(created(), reason='"confirmed":true', confirmed=True)
        for written in (answer, answer, replace(answer, confirmed=False), answer):
            await ledger.record_answer(written)
            assert await ledger.answers(SALES) == [written]


class TestCounts:
    async def test_without_departments_there_is_nothing_to_count(self, ledger):
        assert await ledger.tenant_counts("acme", []) == TenantCounts(0)
        assert await ledger.tenant_counts("acme", [NOW, NOW - DAY]) == TenantCounts(
            0, (WindowCount(0, 0), WindowCount(0, 0))
        )

    async def test_a_removal_counts_from_its_announcement_to_the_end_of_the_window(self, ledger):
        entry, _ = await departments(ledger, "sales", "hr")
        windows = [NOW - HOUR, NOW - timedelta(microseconds=1), NOW, NOW + HOUR]
        once, never = WindowCount(1, 1), WindowCount(0, 0)
        for change in (removing, disabled):
            entry = await ledger.record(change(entry, NOW))
            assert await ledger.tenant_counts("acme", windows) == TenantCounts(1, (once, once, never, never))

    async def test_a_disable_and_the_deletion_of_the_same_department_count_once(self, ledger):
        (entry,) = await departments(ledger, "sales")
        entry = await ledger.record(disabled(entry, NOW))
        entry = await ledger.record(replace(entry, status=Status.DELETING, deletion=Deletion(NOW + DAY)))
        assert (await ledger.tenant_counts("acme", [NOW - HOUR])).windows == (WindowCount(1, 1),)
        gone = replace(entry, status=Status.REMOVED, deletion=None, auth_id=None)
        await ledger.record(gone)
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(0, (WindowCount(1, 1),))

    async def test_a_restored_department_no_longer_counts(self, ledger):
        entry, _ = await departments(ledger, "sales", "hr")
        removed_ = await ledger.record(disabled(entry, NOW))
        restored = await ledger.record(replace(removed_, status=Status.ACTIVE, removal=None))
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(2, (WindowCount(0, 0),))
        await ledger.record(removing(restored, NOW + HOUR))
        assert await ledger.tenant_counts("acme", [NOW - HOUR, NOW + HOUR]) == TenantCounts(
            1, (WindowCount(1, 1), WindowCount(0, 0))
        )

    async def test_a_department_that_exists_again_counts_as_active_and_its_deletions_as_removals(
        self, ledger
    ):
        (entry,) = await departments(ledger, "sales")
        again = await ledger.record(replace(entry, past_removals=(NOW, NOW + HOUR)))
        assert await ledger.tenant_counts("acme", [NOW - HOUR, NOW]) == TenantCounts(
            1, (WindowCount(2, 0), WindowCount(1, 0))
        )
        await ledger.record(removing(again, NOW + 2 * HOUR))
        assert await ledger.tenant_counts("acme", [NOW - HOUR, NOW + HOUR]) == TenantCounts(
            0, (WindowCount(3, 1), WindowCount(1, 1))
        )

    async def test_a_removal_that_a_person_approved_is_no_removal_but_a_department(self, ledger):
        (entry,) = await departments(ledger, "sales")
        await ledger.record(disabled(entry, NOW, counted_at=None))
        assert await ledger.tenant_counts("acme", [NOW - HOUR, NOW]) == TenantCounts(
            0, (WindowCount(0, 1), WindowCount(0, 0))
        )

    async def test_a_cancelled_deletion_stays_counted(self, ledger):
        """The department was disabled, and still is."""
        (entry,) = await departments(ledger, "sales")
        await ledger.record(disabled(entry, NOW, cancelled=True))
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(0, (WindowCount(1, 1),))

    async def test_a_removal_that_was_refused_no_longer_counts(self, ledger):
        (entry,) = await departments(ledger, "sales")
        announced = await ledger.record(removing(entry, NOW))
        await ledger.record(replace(announced, removing=None))
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(1, (WindowCount(0, 0),))

    async def test_a_subaccount_that_is_gone_is_not_active(self, ledger):
        (entry,) = await departments(ledger, "sales")
        await ledger.record(replace(entry, gone_at=NOW))
        assert (await ledger.tenant_counts("acme", [])).active == 0

    async def test_each_tenant_has_its_own_counts(self, ledger):
        (entry,) = await departments(ledger, "sales")
        (other, _) = await departments(ledger, "sales", "hr", tenant="globex")
        await ledger.record(disabled(entry, NOW))
        assert await ledger.tenant_counts("globex", [NOW - HOUR]) == TenantCounts(2, (WindowCount(0, 0),))
        await ledger.record(disabled(other, NOW))
        assert await ledger.tenant_counts("acme", [NOW - HOUR]) == TenantCounts(0, (WindowCount(1, 1),))

    async def test_only_existing_departments_are_active(self, ledger):
        for status in set(Status) - {Status.ACTIVE}:
            await ledger.record(fresh(Department("acme", status), status))
        assert (await ledger.tenant_counts("acme", [])).active == 0


class TestAdmission:
    async def test_removals_are_admitted_up_to_the_limit(self, ledger):
        entries = await departments(ledger, "a", "b", "c", "d")
        for entry in entries[:2]:
            await ledger.record(removing(entry, NOW), beside=admitted())
        with pytest.raises(NotAdmitted) as refusal:
            await ledger.record(removing(entries[2], NOW), beside=admitted())
        assert refusal.value.counts == TenantCounts(2, (WindowCount(2, 2),))
        assert await entry_of(ledger, entries[2].department) == entries[2]
        later = NOW + DAY
        await ledger.record(removing(entries[2], later), beside=admitted(later))

    async def test_the_last_active_department_is_not_admitted(self, ledger):
        (entry,) = await departments(ledger, "a")
        await departments(ledger, "b", tenant="globex")
        with pytest.raises(NotAdmitted) as refusal:
            await ledger.record(removing(entry, NOW), beside=admitted())
        assert refusal.value.counts.active == 1

    async def test_without_a_limit_every_removal_is_admitted(self, ledger):
        entries = await departments(ledger, "a", "b")
        for entry in entries:
            await ledger.record(removing(entry, NOW), beside=admitted(limit=()))
        assert (await ledger.tenant_counts("acme", [])).active == 0

    async def test_a_stale_removal_is_a_conflict_before_it_is_counted(self, ledger):
        (entry,) = await departments(ledger, "a")
        await ledger.record(replace(entry, name="Other"))
        with pytest.raises(LedgerConflict):
            await ledger.record(removing(entry, NOW), beside=admitted())

    async def test_a_wiped_org_chart_loses_four_of_forty_departments(self, ledger):
        entries = await departments(ledger, *(str(number) for number in range(40)))
        held = 0
        for number, entry in enumerate(entries):
            at = NOW + number * timedelta(minutes=1)
            try:
                await ledger.record(removing(entry, at), beside=admitted(at, DEFAULT_LIMIT))
            except NotAdmitted:
                held += 1
        assert held == 36


class TestHolds:
    async def test_an_unknown_hold_is_none(self, ledger):
        assert await ledger.hold("H1") is None
        assert (await ledger.holds(), await ledger.waiting_holds()) == ([], {})

    async def test_holds_are_listed_oldest_first_by_state_and_department(self, ledger):
        other = Department("globex", SALES.id)
        ruling = Ruling("anna", NOW)
        waiting = a_hold(3)
        approved = a_hold(2, state=HoldState.APPROVED, ruling=ruling)
        closed = [
            a_hold(1, state=HoldState.REJECTED, ruling=ruling),
            a_hold(4, state=HoldState.VOID),
            a_hold(5, state=HoldState.DONE),
        ]
        elsewhere = a_hold(6, other, reason=HoldReason.LIMIT)
        await ledger.record(fresh(), beside=Beside(holds=(waiting, approved, *closed)))
        await ledger.record(fresh(other), beside=Beside(holds=(elsewhere,)))
        everything = sorted([waiting, approved, *closed], key=lambda hold: hold.held_at)
        assert await ledger.holds() == [approved, waiting, elsewhere]
        assert await ledger.holds(all_=True) == [*everything, elsewhere]
        assert await ledger.holds(SALES) == [approved, waiting]
        assert await ledger.holds(SALES, all_=True) == everything
        assert await ledger.holds(other) == [elsewhere]
        assert await ledger.holds(Department("acme", "unknown"), all_=True) == []
        assert await ledger.waiting_holds() == {HoldReason.RESOURCES: 1, HoldReason.LIMIT: 1}
        assert [await ledger.hold(f"H{number}") for number in (1, 6)] == [closed[0], elsewhere]

    async def test_a_hold_changes_under_its_id(self, ledger):
        entry = await ledger.record(fresh(hold=a_hold()), beside=Beside(holds=(a_hold(),)))
        more = replace(a_hold(), resources=Counts(3, 1), detail="3 numbers, 1 application")
        entry = await ledger.record(replace(entry, hold=more), beside=Beside(holds=(more,)))
        assert await ledger.holds() == [more]
        void = replace(more, state=HoldState.VOID)
        await ledger.record(replace(entry, hold=None), beside=Beside(holds=(void,)))
        assert (await ledger.hold("H1"), await ledger.holds(), await ledger.waiting_holds()) == (void, [], {})


class TestDue:
    async def test_a_deletion_is_due_once_its_grace_began_early_enough(self, ledger):
        early, late, restored = await departments(ledger, "early", "late", "restored")
        await ledger.record(disabled(early, NOW))
        await ledger.record(disabled(late, NOW + HOUR))
        entry = await ledger.record(disabled(restored, NOW))
        await ledger.record(replace(entry, status=Status.ACTIVE, removal=None))
        now = NOW + 30 * DAY
        assert await ledger.due(now, 10) == []
        assert await ledger.due(now, 10, NOW - timedelta(microseconds=1)) == []
        assert await ledger.due(now, 10, NOW) == [early.department]
        assert await ledger.due(now, 10, now) == [early.department, late.department]

    @pytest.mark.parametrize(
        "fields",
        [
            {"hold": a_hold(disabled=True)},
            {"retry": Retry(NOW, NOW + 60 * DAY, 1, "500")},
            {"removal": Removed(NOW, REMOVAL.bare, cancelled=True)},
            {"removal": Removed(NOW)},
        ],
        ids=["held", "tried again later", "cancelled", "of a person"],
    )
    async def test_a_deletion_that_waits_for_something_else_is_not_due(self, ledger, fields):
        (entry,) = await departments(ledger, "sales")
        await ledger.record(replace(disabled(entry, NOW), **fields))
        assert await ledger.due(NOW + 31 * DAY, 10, NOW + DAY) == []

    async def test_late_removals_are_due_at_their_own_times(self, ledger):
        approval = a_hold(state=HoldState.APPROVED, ruling=Ruling("anna", NOW + HOUR))
        answer = an_answer(REMOVAL, ResultKind.REMOVED)
        removal = Removed(NOW, REMOVAL.bare)
        late: dict[str, dict[str, Any]] = {
            "approved": {"hold": approval},
            "retried": {
                "status": Status.DISABLED,
                "removal": removal,
                "retry": Retry(NOW, NOW + 2 * HOUR, 1, "500"),
            },
            "deleting": {
                "status": Status.DELETING,
                "removal": removal,
                "deletion": Deletion(NOW + 3 * HOUR),
            },
            "owing": {"owed_results": (answer,), "results_at": NOW + 4 * HOUR},
        }
        for entry, fields in zip(await departments(ledger, *late), late.values(), strict=True):
            await ledger.record(replace(entry, **fields))
        due = [len(await ledger.due(NOW + hours * HOUR, 10)) for hours in range(6)]
        assert due == [0, 1, 2, 3, 4, 4]

    async def test_neither_duties_nor_deletions_starve(self, ledger):
        names = [f"{number:02}" for number in range(8)]
        duties = await departments(ledger, *names)
        deletions = await departments(ledger, *names, tenant="globex")
        for number, (duty, deletion) in enumerate(zip(duties, deletions, strict=True)):
            await ledger.record(replace(duty, check=Check(NOW + number * HOUR)))
            await ledger.record(disabled(deletion, NOW + number * HOUR))
        now = NOW + 30 * DAY
        for grace in (DAY, 29 * DAY):
            due = await ledger.due(now, 6, now - grace)
            assert [sum(one.tenant == tenant for one in due) for tenant in ("acme", "globex")] == [3, 3]
            assert [one.id for one in due if one.tenant == "acme"] == names[:3]
            assert [one.id for one in due if one.tenant == "globex"] == names[:3]
        assert await ledger.due(now, 100, now - DAY) == [
            *(entry.department for entry in duties),
            *(entry.department for entry in deletions),
        ]
        assert len(await ledger.due(now, 12, NOW)) == 9

    async def test_a_department_with_both_is_listed_once(self, ledger):
        (entry,) = await departments(ledger, "sales")
        await ledger.record(replace(disabled(entry, NOW), check=Check(NOW)))
        assert await ledger.due(NOW + DAY, 10, NOW) == [entry.department]

    async def test_late_removals_that_fail_are_overdue(self, ledger):
        (entry,) = await departments(ledger, "sales")
        await ledger.record(replace(disabled(entry, NOW), retry=Retry(NOW + HOUR, NOW + DAY, 3, "500")))
        assert await ledger.overdue(NOW + HOUR) == 0
        assert await ledger.overdue(NOW + HOUR + timedelta(microseconds=1000)) == 1


class TestCalls:
    async def test_the_last_fifty_of_each_department_are_kept(self, ledger):
        calls = [a_call(number) for number in range(53)]
        entry, other = await departments(ledger, "sales", "hr")
        entry = await ledger.record(entry, beside=Beside(calls=tuple(calls[:1])))
        await ledger.record(entry, beside=Beside(calls=tuple(calls[1:])))
        await ledger.record(other, beside=Beside(calls=(a_call(99),)))
        assert await ledger.calls(SALES) == calls[-50:]
        assert await ledger.calls(SALES, 2) == calls[-2:]
        assert await ledger.calls(SALES, 100) == calls[-50:]
        assert await ledger.calls(other.department) == [a_call(99)]

    async def test_a_call_without_a_response_is_kept_with_its_error(self, ledger):
        failed = replace(a_call(1), auth_id=None, status=None, api_id=None, error="no response")
        await ledger.record(fresh(), beside=Beside(calls=(failed,)))
        assert await ledger.calls(SALES) == [failed]


class TestSweeps:
    async def test_the_newest_ten_are_kept(self, ledger):
        assert (await ledger.last_sweep_at(), await ledger.sweep("S1")) == (None, None)
        for number in (11, *range(11)):
            await ledger.note_sweep(f"S{number}", NOW + number * HOUR, f'{{"number": {number}}}')
        kept = [number for number in range(12) if await ledger.sweep(f"S{number}")]
        assert kept == list(range(2, 12))
        assert await ledger.sweep("S11") == '{"number": 11}'
        assert await ledger.last_sweep_at() == NOW + 11 * HOUR

    async def test_a_report_may_be_noted_again(self, ledger):
        for report in ('{"findings": []}', '{"findings": [1]}'):
            await ledger.note_sweep("S1", NOW, report)
        assert await ledger.sweep("S1") == '{"findings": [1]}'


async def test_the_audit_is_listed_by_department(opened):
    other = replace(SALES_LINE, tenant="globex", by="mo")
    nameless = replace(SALES_LINE, tenant=None, department_id=None)
    await opened.ledger.record(fresh(), beside=Beside(audit=(SALES_LINE, other)))
    later = replace(SALES_LINE, at=NOW + HOUR, event_id="hr-2")
    await opened.audit.append([nameless, later])
    assert await opened.audit.lines() == [SALES_LINE, other, nameless, later]
    assert await opened.audit.lines(department=SALES) == [SALES_LINE, later]
    assert await opened.audit.lines(department=Department("globex", SALES.id)) == [other]
    assert await opened.audit.lines(since=NOW + HOUR, department=SALES) == [later]
    assert await opened.audit.lines(id_="hr-2", department=SALES) == [later]
    assert await opened.audit.lines(by="mo", department=SALES) == []


async def test_a_reference_in_a_hold_stays_a_reference(ledger):
    await ledger.record(fresh(hold=a_hold()), beside=Beside(holds=(a_hold(),)))
    found = await ledger.hold("H1")
    assert isinstance(found.cause.reference, Reference)
    assert (await entry_of(ledger)).hold == found
