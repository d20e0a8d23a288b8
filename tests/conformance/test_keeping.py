"""The conformance suite of every ledger that is copied, checked and purged."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.subaccounts import ResultKind
from tests.conformance.conftest import Opening
from tests.conformance.ledgers import LEDGERS, Place, entry_of, fresh, in_postgres
from tests.conformance.test_ledger_removals import REMOVAL, SALES_LINE, a_call, a_hold, disabled
from tests.support.builders import AUDIT_LINE, NOW, SALES, an_answer, created, renamed
from worker.core.keeping import RETENTION, Row, Table, Tally
from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.wishes import Reissuing, Wish
from worker.core.snapshots import Said, Standing
from worker.ports import Beside, KeptRows, LedgerFailed, LedgerForeign, LedgerNotEmpty, OpenedLedger

OLD = NOW - RETENTION - timedelta(days=1)
LIMIT = NOW - RETENTION
LAST = Department("acme", "zoo")


@pytest.fixture(params=LEDGERS, scope="session")
def other_opening(request: pytest.FixtureRequest) -> Opening:
    """Each kind of ledger, as the second one."""
    server = request.getfixturevalue("postgres_url") if request.param is in_postgres else ""
    return lambda folder: request.param(Place(folder, server))


@pytest.fixture
async def other(other_opening: Opening, tmp_path: Path) -> AsyncIterator[OpenedLedger]:
    folder = tmp_path / "other"
    folder.mkdir()
    async with other_opening(folder) as opened:
        yield opened


async def furnish(opened: OpenedLedger) -> None:
    """Writes something to every table."""
    ledger = opened.ledger
    await ledger.bind("default", "MA1")
    await ledger.note_caught_up(NOW)
    await ledger.note_sealed("crm")
    calls = tuple(a_call(number) for number in range(60))
    sales = await ledger.record(
        fresh(), an_answer(created(sequence=9)), Beside(holds=(a_hold(),), calls=calls)
    )
    await ledger.record(disabled(sales, NOW), an_answer(REMOVAL, ResultKind.DISABLED))
    await ledger.record(
        fresh(Department("Ämter", "Straße \N{SNOWMAN}"), version=None), None, Beside(audit=(SALES_LINE,))
    )
    wishes = [Wish(f"wish-{number}", SALES, "anna", NOW, Reissuing("crm")) for number in (2, 1)]
    await ledger.wish(*wishes)
    await ledger.close_wish("wish-2")
    await ledger.note_sweep("sweep-1", NOW + timedelta(microseconds=1), "{}")
    await ledger.mark_poison("digest")
    await opened.snapshots.begin(Standing("hr", NOW, "plan-1", 1, finished=False, complete=True), None)
    await opened.snapshots.say("hr", "plan-1", [Said(SALES, "Sales", NOW, NOW, "{}", removed=True)])
    await opened.audit.append([AUDIT_LINE])


async def tally_of(rows: KeptRows) -> Tally:
    tally = Tally()
    for table in Table:
        async for batch in rows.batches(table):
            tally.add(table, batch)
    return tally


async def rows_of(opened: OpenedLedger) -> dict[Table, list[Row]]:
    found: dict[Table, list[Row]] = {table: [] for table in Table}
    async with opened.keeping.reading() as rows:
        for table in Table:
            async for batch in rows.batches(table):
                found[table] += batch
    return found


async def copy(source: OpenedLedger, target: OpenedLedger) -> None:
    async with source.keeping.reading() as rows, target.keeping.filling() as filling:
        for table in Table:
            async for batch in rows.batches(table):
                await filling.add(table, batch)
        assert (await tally_of(filling)).digest == (await tally_of(rows)).digest


async def test_a_copy_has_every_row_and_the_same_digest(opened, other):
    await furnish(opened)
    await copy(opened, other)

    found = await rows_of(other)
    assert found == await rows_of(opened)
    assert all(found.values()), "something was in every table"
    async with other.keeping.reading() as rows:
        assert await rows.counts() == {table: len(found[table]) for table in Table}


async def test_a_copy_works_as_the_ledger_did(opened, other):
    await furnish(opened)
    await copy(opened, other)

    for ledger in (opened.ledger, other.ledger):
        entry = await entry_of(ledger)
        assert entry.removal is not None
        assert await ledger.holders(["SA-acme-sales"]) == {"SA-acme-sales": SALES}
        assert [hold.id for hold in await ledger.holds()] == ["H1"]
        assert [wish.id for wish in await ledger.wishes()] == ["wish-1"]
        assert await ledger.due(NOW, 10, NOW) == [SALES]
        assert await ledger.calls(SALES, 1) == [a_call(59)]
        assert await ledger.last_sweep_at() == NOW + timedelta(microseconds=1)
        assert await ledger.mark_poison("digest") == 2
        assert await ledger.caught_up_at() == NOW
        with pytest.raises(LedgerForeign):
            await ledger.bind("other", "MA1")
        await ledger.record(entry, None, Beside(calls=(a_call(60),)))
        assert await ledger.calls(SALES, 2) == [a_call(59), a_call(60)]
    assert await other.audit.lines() == await opened.audit.lines() == [SALES_LINE, AUDIT_LINE]
    await other.audit.append([AUDIT_LINE])
    assert len(await other.audit.lines()) == 3


async def test_rows_are_those_of_the_moment_at_which_the_block_begins(opened):
    await furnish(opened)
    before = await rows_of(opened)
    async with opened.keeping.reading() as rows:
        await opened.ledger.note_sealed("billing")
        await opened.ledger.record(fresh(LAST))
        tally = await tally_of(rows)
        assert await rows.counts() == {table: len(found) for table, found in before.items()}
    assert tally.total == sum(len(found) for found in before.values())
    assert (await rows_of(opened))[Table.SEALED_FOR] == [("billing",), ("crm",)]


async def test_a_ledger_with_rows_is_not_filled(opened):
    await furnish(opened)
    before = await rows_of(opened)
    with pytest.raises(LedgerNotEmpty):
        async with opened.keeping.filling():
            pass
    assert await rows_of(opened) == before


async def test_a_failed_filling_leaves_the_ledger_empty(opened, other):
    await furnish(opened)
    rows = await rows_of(opened)

    async def fail_late() -> None:
        async with other.keeping.filling() as filling:
            for table in Table:
                await filling.add(table, rows[table])
            assert sum((await filling.counts()).values()) > 10
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_late()
    assert not any((await rows_of(other)).values())
    await copy(opened, other)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (Table.DEPARTMENTS, ("acme", "sales", "{}")),
        (Table.ANSWERS, ("/hr", "1", '{"department":["acme","sales"]}')),
        (Table.HOLDS, ("H1", "not JSON")),
        (Table.WISHES, ("W1", 0, "{}")),
        (Table.CALLS, ("acme", "sales", 1, "{}")),
        (Table.AUDIT, (1, "{}")),
    ],
)
async def test_a_damaged_row_is_not_taken(opened, table, row):
    with pytest.raises(LedgerFailed, match="a row of the ledger cannot be read"):
        async with opened.keeping.filling() as filling:
            await filling.add(table, [row])
    assert not any((await rows_of(opened)).values())


async def test_a_ledger_that_is_only_bound_is_filled_with_rows_of_its_owner_alone(opened):
    await opened.ledger.bind("default", "MA1")
    with pytest.raises(LedgerForeign, match="owner default"):
        async with opened.keeping.filling() as filling:
            await filling.add(Table.LEDGER, [("other", "MA1", None)])
    async with opened.keeping.filling() as filling:
        await filling.add(Table.LEDGER, [("default", "MA1", 1)])
    assert (await rows_of(opened))[Table.LEDGER] == [("default", "MA1", 1)]


async def test_a_whole_ledger_has_no_damages(opened):
    await furnish(opened)
    assert list(await opened.keeping.damages()) == []
    schema = await opened.keeping.schema()
    assert schema.applied == schema.known


async def answered(ledger, department: Department, number: int, at: datetime, **fields: Any) -> Answer:
    """Records one more event of the department, which becomes its newest."""
    event = renamed(str(number), department_id=department.id, id=f"{department.id}-{number}", sequence=number)
    answer = replace(an_answer(event, ResultKind.RENAMED, answered_at=at, confirmed=True), **fields)
    entry = await entry_of(ledger, department)
    before = entry if entry.revision else fresh(department)
    await ledger.record(replace(before, version=event.version, name=event.name), answer)
    return answer


async def test_old_answers_go_except_the_newest_of_each_department(opened):
    ledger = opened.ledger
    departments = [Department("acme", id_) for id_ in ("a", "b", "c")]
    for department in departments:
        for number in (1, 2, 3):
            await answered(ledger, department, number, OLD)
    kept = await answered(ledger, departments[1], 4, NOW)

    first = await ledger.purge(LIMIT, None, 2)
    assert first == (5, 2, departments[1])
    assert await ledger.purge(LIMIT, first.last, 2) == (2, 1, departments[2])
    assert await ledger.purge(LIMIT, departments[2], 2) == (0, 0, None)

    assert [answer.event.id for one in departments for answer in await ledger.answers(one)] == [
        "a-3",
        "b-4",
        "c-3",
    ]
    assert await ledger.answers_to("b-4") == [kept]
    assert (await ledger.purge(LIMIT, None, 10)).removed == 0


async def test_recent_answers_stay(opened):
    ledger = opened.ledger
    await answered(ledger, SALES, 1, OLD)
    await answered(ledger, SALES, 2, NOW)
    await answered(ledger, SALES, 3, LIMIT)
    assert (await ledger.purge(LIMIT, None, 10)).removed == 1
    assert [answer.event.id for answer in await ledger.answers(SALES)] == ["sales-3", "sales-2"]


async def test_the_last_purge_is_remembered(opened):
    await opened.ledger.bind("default", "MA1")
    assert await opened.ledger.purged_at() is None
    await opened.ledger.note_purge(NOW)
    assert await opened.ledger.purged_at() == NOW
