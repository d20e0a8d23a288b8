"""The conformance suite of every ledger: memory, SQLite and the simulated one without faults."""

import asyncio
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.departments import Kind, Version
from contracts.subaccounts import ResultCode, ResultKind
from tests.conformance.ledgers import entry_of, fresh
from tests.support.builders import (
    AUTH_ID,
    NOW,
    SALES,
    an_answer,
    an_entry,
    created,
    owing,
    removed,
    renamed,
)
from tests.support.entries import entries_of
from worker.core.inventory import Counts
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, Reference, Trace
from worker.core.model.credentials import Debt, Fingerprint, IssuedCredentials, PartialReissue
from worker.core.model.departments import Department
from worker.core.model.entry import Begun, Check, Claim, Entry, NewerEvent, Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.core.model.wishes import Reissuing, Wish
from worker.ports import AuthIdTaken, LedgerConflict, LedgerFailed, LedgerForeign


async def test_wishes_are_listed_until_they_are_closed(ledger):
    early, late = (
        Wish(f"wish-{minute}", SALES, "anna", NOW + timedelta(minutes=minute), Reissuing("crm"))
        for minute in (1, 2)
    )
    for wish in (late, early):
        await ledger.wish(wish)
    assert await ledger.wishes() == [early, late]
    await ledger.close_wish(early.id)
    await ledger.close_wish(early.id)
    await ledger.close_wish("unknown")
    assert await ledger.wishes() == [late]
    assert [await ledger.is_open(wish.id) for wish in (early, late)] == [False, True]


async def test_several_wishes_are_left_together_or_not_at_all(ledger):
    first, second = (Wish(f"wish-{number}", SALES, "anna", NOW, Reissuing()) for number in (1, 2))
    await ledger.wish(first)
    with pytest.raises(LedgerFailed):
        await ledger.wish(second, first)
    assert await ledger.wishes() == [first]
    await ledger.wish()
    await ledger.close_wish(first.id)
    with pytest.raises(LedgerFailed):
        await ledger.wish(first)


async def test_overdue_counts_old_debts(ledger):
    long_ago, now = NOW - timedelta(hours=1), NOW
    for number, (made_at, retry_at) in enumerate(
        [(long_ago, now), (long_ago, now + timedelta(hours=9)), (long_ago, None), (now, now)]
    ):
        department = Department("acme", f"d{number}")
        await ledger.record(
            fresh(department, created_at=made_at, debt=owing("crm", retry_at=retry_at), check=Check(now))
        )
    assert await ledger.overdue(NOW - timedelta(minutes=5)) == 2
    assert await ledger.overdue(NOW - timedelta(hours=2)) == 0
    assert await ledger.overdue(NOW + timedelta(seconds=1)) == 3


async def test_owing_counts_active_departments_that_owe_credentials(ledger):
    for number, debt in enumerate(
        [owing("crm", retry_at=NOW), owing("crm", retry_at=None), owing(enable=True, retry_at=NOW), None]
    ):
        await ledger.record(
            fresh(Department("acme", f"d{number}"), created_at=NOW, debt=debt, check=Check(NOW))
        )
    assert await ledger.owing() == 1


async def test_unsettled_counts_old_creates_without_an_outcome(ledger):
    for number, age in enumerate([10, 60, 3600]):
        claim = Claim(NOW - timedelta(seconds=age), "key", created().reference)
        await ledger.record(Entry(Department("acme", f"d{number}"), status=Status.CLAIMED, claim=claim))
    await ledger.record(fresh(Department("acme", "made"), created_at=NOW - timedelta(hours=1)))
    assert await ledger.unsettled(NOW - timedelta(seconds=30)) == 2
    assert await ledger.unsettled(NOW - timedelta(seconds=3600)) == 0


async def test_an_unknown_department_is_absent_without_answers(ledger):
    assert await ledger.recall(SALES, created().reference) == Recollection(Entry(SALES))
    assert await entries_of(ledger) == []
    assert await ledger.answers(SALES) == []


async def test_a_record_returns_with_its_own_revision(ledger):
    event = created()
    recorded = await ledger.record(fresh(), an_answer(event))
    assert recorded == fresh(revision=1)
    assert await ledger.recall(SALES, event.reference) == Recollection(recorded, an_answer(event))


async def test_each_write_increments_the_revision(ledger):
    entry = fresh()
    for revision in (1, 2, 3):
        entry = await ledger.record(entry)
        assert (await entry_of(ledger)).revision == entry.revision == revision


async def test_of_two_writers_of_one_revision_one_succeeds(ledger):
    recalled = await ledger.record(fresh())
    written = await ledger.record(replace(recalled, name="First"))
    with pytest.raises(LedgerConflict):
        await ledger.record(replace(recalled, name="Second"))
    assert await entry_of(ledger) == written


async def test_of_two_first_writers_one_succeeds(ledger):
    first = await ledger.record(fresh(name="First"))
    with pytest.raises(LedgerConflict):
        await ledger.record(fresh(name="Second"))
    assert await entry_of(ledger) == first


async def test_an_unknown_revision_is_a_conflict(ledger):
    with pytest.raises(LedgerConflict):
        await ledger.record(fresh(revision=7))
    assert await entries_of(ledger) == []


async def test_the_answer_of_a_refused_entry_is_not_written(ledger):
    event = created()
    await ledger.record(fresh())
    with pytest.raises(LedgerConflict):
        await ledger.record(fresh(), an_answer(event))
    assert (await ledger.recall(SALES, event.reference)).answer is None


async def test_an_answer_is_confirmed_later(ledger):
    event = created()
    answer = an_answer(event)
    entry = await ledger.record(fresh(), answer)
    entry = await ledger.record(entry, replace(answer, confirmed=True))
    assert await ledger.recall(SALES, event.reference) == Recollection(entry, replace(answer, confirmed=True))
    assert await ledger.answers(SALES) == [replace(answer, confirmed=True)]


async def test_another_payload_of_an_answered_event_writes_nothing(ledger):
    answer = an_answer(created())
    entry = await ledger.record(fresh(), answer)
    with pytest.raises(LedgerConflict):
        await ledger.record(replace(entry, name="Other"), replace(answer, payload_digest="another"))
    assert await ledger.recall(SALES, answer.event) == Recollection(entry, answer)


async def test_an_answer_alone_makes_no_entry(ledger):
    answer = an_answer(created())
    await ledger.record_answer(answer)
    assert await ledger.recall(SALES, answer.event) == Recollection(Entry(SALES), answer)
    assert await entries_of(ledger) == []
    confirmed = replace(answer, confirmed=True)
    await ledger.record_answer(confirmed)
    assert await ledger.answers(SALES) == [confirmed]
    with pytest.raises(LedgerConflict):
        await ledger.record_answer(replace(answer, payload_digest="another"))
    assert await ledger.answers(SALES) == [confirmed]


async def test_a_confirm_writes_the_answer_whatever_is_on_record(ledger):
    answer = an_answer(created())
    confirmed = replace(answer, confirmed=True)
    await ledger.record_answer(confirmed)
    assert await ledger.answers(SALES) == [confirmed]
    await ledger.record_answer(confirmed)
    for other in (replace(confirmed, payload_digest="another"), replace(confirmed, name="Other")):
        with pytest.raises(LedgerConflict):
            await ledger.record_answer(replace(other, answered_at=answer.answered_at + timedelta(seconds=1)))
    assert await ledger.answers(SALES) == [confirmed]


async def test_source_and_id_identify_an_event(ledger):
    answer = an_answer(created(source="/hr"))
    await ledger.record(fresh(), answer)
    same = answer.event._replace(type="com.example.department.created")
    assert (await ledger.recall(SALES, same)).answer == answer
    assert (await ledger.recall(SALES, same._replace(source="/crm"))).answer is None


async def test_an_answer_is_found_for_any_department(ledger):
    """A producer that reuses an event id for another department contradicts itself."""
    answer = an_answer(created())
    await ledger.record(fresh(), answer)
    other = Department("acme", "other")
    assert await ledger.recall(other, answer.event) == Recollection(Entry(other), answer)


async def test_a_subaccount_belongs_to_one_department(ledger):
    held = await ledger.record(fresh(auth_id=AUTH_ID))
    other = Department("acme", "other")
    with pytest.raises(AuthIdTaken, match="on record for department sales") as taken:
        await ledger.record(fresh(other, auth_id=AUTH_ID))
    assert (taken.value.auth_id, taken.value.holder) == (AUTH_ID, SALES)
    await ledger.record(replace(an_entry(Status.REMOVED), revision=held.revision))
    assert (await ledger.record(fresh(other, auth_id=AUTH_ID))).auth_id == AUTH_ID


async def test_entries_are_ordered_by_tenant_and_id(ledger):
    departments = [Department("b", "1"), Department("a", "2"), Department("a", "10"), Department("B", "1")]
    for department in departments:
        await ledger.record(fresh(department))
    assert [entry.department for entry in await entries_of(ledger)] == sorted(departments)
    assert [entry.department.id for entry in await entries_of(ledger, "a")] == ["10", "2"]
    assert await entries_of(ledger, "nobody") == []


async def test_entries_can_be_read_in_parts(ledger):
    departments = [
        Department(*key) for key in (("a", "z"), ("b", "a"), ("b", "é"), ("b", "\U0001f600"), ("é", "a"))
    ]
    for department in departments[::-1]:
        await ledger.record(Entry(department))
    for tenant in (None, "a", "b", "nobody"):
        found, last = [], None
        while part := await ledger.entries_after(last, 2, tenant):
            assert len(part) <= 2
            found += part
            last = part[-1].department
        assert [entry.department for entry in found] == [
            one for one in departments if tenant in {None, one.tenant}
        ]
        assert found == await entries_of(ledger, tenant)


async def test_the_entries_with_a_create_under_way_are_found(ledger):
    for number, status in enumerate([Status.CLAIMED, Status.ACTIVE, Status.CLAIMED, Status.REMOVED]):
        await ledger.record(fresh(Department("acme", f"{9 - number}"), status))
    assert [entry.department.id for entry in await ledger.claimed()] == ["7", "9"]


async def test_answers_of_one_department_are_listed_oldest_first(ledger):
    minutes = [3, 1, 2]
    answers = [
        an_answer(renamed(sequence=minute), answered_at=NOW + timedelta(minutes=minute)) for minute in minutes
    ]
    entry = fresh()
    for answer in answers:
        entry = await ledger.record(entry, answer)
    other = Department("globex", SALES.id)
    await ledger.record(fresh(other), replace(an_answer(removed()), department=other))
    oldest_first = sorted(answers, key=lambda answer: answer.answered_at)
    assert await ledger.answers(SALES) == oldest_first


async def test_answers_are_found_by_the_event_id_of_each_source(ledger):
    entry = fresh()
    for source in ("/b", "/a", "/c"):
        for event_id in ("1", "2"):
            answer = an_answer(created(id=event_id))
            event = answer.event._replace(source=source)
            entry = await ledger.record(entry, replace(answer, event=event))
    assert [(one.event.source, one.event.id) for one in await ledger.answers_to("2")] == [
        ("/a", "2"),
        ("/b", "2"),
        ("/c", "2"),
    ]
    assert await ledger.answers_to("3") == []


async def test_answers_are_ordered_by_fractions_of_a_second(ledger):
    whole = an_answer(created(sequence=1), answered_at=NOW)
    later = an_answer(created(sequence=2), answered_at=NOW + timedelta(microseconds=1))
    await ledger.record(await ledger.record(fresh(), later), whole)
    assert await ledger.answers(SALES) == [whole, later]


async def test_a_ledger_stays_bound_to_its_first_owner_and_account(ledger):
    await ledger.bind("default", "MA1")
    await ledger.bind("default", "MA1")
    for owner, account in (("other", "MA1"), ("default", "MA2")):
        with pytest.raises(LedgerForeign, match="belongs to owner default of provider account MA1"):
            await ledger.bind(owner, account)


async def test_concurrent_writes_of_many_departments_succeed(ledger):
    departments = [Department("acme", str(number)) for number in range(200)]
    await asyncio.gather(*(ledger.record(fresh(department)) for department in departments))
    assert [entry.department for entry in await entries_of(ledger)] == sorted(departments)


async def test_of_many_writers_of_one_department_one_succeeds(ledger):
    written = await asyncio.gather(
        *(ledger.record(fresh(name=str(number))) for number in range(20)), return_exceptions=True
    )
    winners = [entry for entry in written if isinstance(entry, Entry)]
    assert winners == [await entry_of(ledger)]
    assert {type(other) for other in written} == {Entry, LedgerConflict}


# Values that the contracts accept: identifiers without control and format characters, and any text of UTF-8.
identifiers = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf"]), min_size=1, max_size=128)
texts = st.text(st.characters(codec="utf-8"), max_size=200)
instants = st.datetimes(timezones=st.just(UTC))
references = st.builds(Reference, identifiers, identifiers, identifiers)
sequences = st.none() | st.integers(0, 10**20 - 1)
counts = st.integers(0, 2**31)
traces = st.builds(Trace, *[st.none() | texts] * 3)
claims = st.builds(Claim, instants, texts, references, counts, counts, traces)
issued = st.builds(
    IssuedCredentials,
    references,
    traces,
    st.integers(1, 2**31),
    st.none() | st.builds(Fingerprint, texts, texts),
    st.none() | instants,
    st.lists(st.builds(PartialReissue, references, st.frozensets(texts)), max_size=3).map(tuple),
    st.none() | identifiers,
)
debts = st.builds(
    Debt, st.frozensets(texts, min_size=1, max_size=3), st.booleans(), st.none() | instants
) | st.builds(Debt, st.just(frozenset()), enable=st.just(value=True), retry_at=st.none() | instants)
checks = st.builds(Check, instants, st.booleans())
versions = st.builds(Version, sequences, instants, st.sampled_from(Kind), texts, texts)
causes = st.builds(Cause, references, texts, st.none() | versions, st.none() | texts, traces)
removals = st.builds(
    Removed, instants, st.none() | causes, st.none() | instants, st.none() | identifiers, st.booleans()
)
open_holds = st.builds(
    Hold,
    id=identifiers,
    department=st.builds(Department, identifiers, identifiers),
    reason=st.sampled_from(HoldReason),
    detail=texts,
    cause=causes,
    auth_id=identifiers,
    name=texts,
    held_at=instants,
    state=st.sampled_from([HoldState.WAITING, HoldState.APPROVED]),
    ruling=st.builds(Ruling, texts, instants, st.none() | counts),
    resources=st.none() | st.builds(Counts, counts, counts, counts),
    disabled=st.booleans(),
)
answers = st.builds(
    Answer,
    department=st.builds(Department, identifiers, identifiers),
    event=references,
    payload_digest=texts,
    outcome=st.sampled_from(ResultKind),
    code=st.sampled_from(ResultCode),
    answered_at=instants,
    name=st.none() | texts,
    auth_id=st.none() | identifiers,
    reason=st.none() | texts,
    superseded_by=st.none() | references,
    trace=traces,
    confirmed=st.booleans(),
    recipients=st.frozensets(texts),
    hold_id=st.none() | texts,
)
none = st.none()


@st.composite
def entries(draw):
    """Any entry that satisfies the rules of its status."""
    status = draw(st.sampled_from(Status))
    exists = status in {Status.ACTIVE, Status.DISABLED, Status.DELETING}
    claimed = status is Status.CLAIMED
    keeps_name = exists and draw(st.booleans())
    owed = draw(st.lists(answers, max_size=2).map(tuple))
    removing = st.builds(Removing, references, none | instants)
    removable = {
        Status.ACTIVE: none,
        Status.ABSENT: none,
        Status.DISABLED: removals,
        Status.REMOVED: removals,
    }
    return Entry(
        department=draw(st.builds(Department, identifiers, identifiers)),
        status=status,
        incarnation=draw(st.integers(1, 2**31)),
        name=draw(texts if exists else none | texts),
        auth_id=draw(identifiers if exists else none),
        version=draw(none | versions),
        version_type=draw(none | texts),
        wanted_by=draw(none | st.builds(NewerEvent, versions, references)),
        begun=draw(none | st.builds(Begun, versions, references, instants)),
        created_at=draw(none | instants),
        claim=draw(claims if claimed else none if exists else none | claims),
        issued=draw(issued if exists else none | issued),
        debt=draw(none | debts if exists else none),
        check=draw(none | checks if exists else none),
        duplicates_check_at=draw(none | instants),
        removal=draw(removable.get(status, none | removals)),
        repairs=draw(counts),
        api_id=draw(none | texts),
        hold=draw(none | open_holds if exists else none),
        holds_made=draw(counts),
        removing=draw(none | removing if status in {Status.ACTIVE, Status.DELETING} else none),
        deletion=draw(st.builds(Deletion, instants, st.booleans()) if status is Status.DELETING else none),
        retry=draw(none | st.builds(Retry, instants, instants, counts, texts)),
        past_removals=draw(st.lists(instants, max_size=3).map(tuple)),
        owed_results=owed,
        results_at=draw(instants) if owed else None,
        keeps_name=keeps_name,
        kept_name=draw(none | texts) if keeps_name else None,
    )


@settings(max_examples=40, deadline=None, print_blob=True)
@given(entry=entries(), answer=answers)
async def test_every_field_is_stored(opening, entry, answer):
    with TemporaryDirectory() as folder:
        async with opening(Path(folder)) as whole:
            ledger = whole.ledger
            written = await ledger.record(replace(entry, revision=0), answer)
            assert written == replace(entry, revision=1)
            assert await ledger.recall(entry.department, answer.event) == Recollection(written, answer)
            assert await entries_of(ledger, entry.department.tenant) == [written]
            assert await ledger.answers(answer.department) == [answer]


async def test_holders_gives_the_department_of_a_subaccount(ledger):
    await ledger.record(an_entry(Status.ACTIVE, revision=0, auth_id="SA1"))
    await ledger.record(replace(an_entry(Status.CLAIMED, revision=0), department=Department("acme", "hr")))
    assert await ledger.holders(["SA1", "SA2"]) == {"SA1": SALES}
    assert await ledger.holders([]) == {}


async def test_due_departments_are_listed_oldest_first(ledger):
    hours = timedelta(hours=1)
    duties: dict[str, dict[str, Any]] = {
        "later": {"check": Check(NOW + 3 * hours)},
        "first": {"check": Check(NOW + hours)},
        "second": {"duplicates_check_at": NOW + 2 * hours, "check": Check(NOW + 9 * hours)},
    }
    for name, owed in duties.items():
        entry = an_entry(revision=0, auth_id=f"SA-{name}", **owed)
        await ledger.record(replace(entry, department=Department("acme", name)))
    await ledger.record(an_entry(revision=0))
    due = await ledger.due(NOW + timedelta(hours=2), 10)
    assert [department.id for department in due] == ["first", "second"]
    assert len(await ledger.due(NOW + timedelta(hours=3), 2)) == 2


async def test_a_completed_duty_is_no_longer_due(ledger):
    entry = await ledger.record(an_entry(revision=0, check=Check(NOW)))
    await ledger.record(replace(entry, check=None))
    assert await ledger.due(NOW, 10) == []


async def test_poison_marks_are_counted_per_message_until_cleared(ledger):
    assert [await ledger.mark_poison("a"), await ledger.mark_poison("a"), await ledger.mark_poison("b")] == [
        1,
        2,
        1,
    ]
    await ledger.clear_poison("a")
    await ledger.clear_poison("never marked")
    assert [await ledger.mark_poison(message) for message in ("a", "b")] == [1, 2]


async def test_sealing_is_remembered_for_good(ledger):
    await ledger.bind("default", "MA1")
    assert await ledger.sealed_for() == frozenset()
    for recipient in ("crm", "billing", "crm"):
        await ledger.note_sealed(recipient)
    await ledger.bind("default", "MA1")
    assert await ledger.sealed_for() == {"crm", "billing"}


async def test_caught_up_is_stored_until_it_is_changed(ledger):
    await ledger.bind("default", "MA1")
    assert await ledger.caught_up_at() is None
    for moment in (NOW, NOW + timedelta(microseconds=1)):
        await ledger.note_caught_up(moment)
        await ledger.bind("default", "MA1")
        assert await ledger.caught_up_at() == moment
    await ledger.note_still_caught_up(NOW)
    assert await ledger.caught_up_at() == NOW
    await ledger.note_caught_up(None)
    await ledger.note_still_caught_up(NOW)
    assert await ledger.caught_up_at() is None
