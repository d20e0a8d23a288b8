"""The suite of ledgers that several workers share. Each has connections of its own, as a process has."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.conformance.ledgers import entry_of, fresh, fresh_schema
from tests.conformance.test_ledger_removals import a_hold, disabled, removing
from tests.support.builders import NOW, SALES, an_answer, created
from tests.support.entries import entries_of
from worker.adapters.ledgers import open_ledger
from worker.core.limits import DEFAULT_LIMIT, Admission, RemovalLimit, TenantCounts, Window, WindowCount
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.wishes import Reissuing, Wish
from worker.ports import Beside, Ledger, LedgerConflict, LedgerFailed, LedgerForeign, NotAdmitted
from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Workers = Callable[[int], AbstractAsyncContextManager[Sequence[Ledger]]]
"""The ledgers of so many workers in one new place."""


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def workers(request: pytest.FixtureRequest) -> Workers:
    server = request.getfixturevalue("postgres_url") if request.param == "postgres" else None

    @asynccontextmanager
    async def opened(count: int) -> AsyncIterator[Sequence[Ledger]]:
        with new_place(server) as url:
            async with AsyncExitStack() as stack:
                yield [(await stack.enter_async_context(open_ledger(url))).ledger for _ in range(count)]

    return opened


@contextmanager
def new_place(server: str | None) -> Iterator[LedgerUrl]:
    with ExitStack() as stack:
        if server is None:
            folder = stack.enter_context(TemporaryDirectory())
            yield SqliteUrl(Path(folder) / "ledger.db")
        else:
            yield PostgresUrl(SecretStr(stack.enter_context(fresh_schema(server))))


def department(number: int) -> Department:
    return Department("acme", str(number))


async def remove(ledger: Ledger, which: Department, at: datetime, limit: RemovalLimit) -> bool:
    """Whether a worker whose clock shows `at` was admitted to remove an active department."""
    entry = await entry_of(ledger, which)
    while entry.is_counted_active:
        try:
            await ledger.record(removing(entry, at), beside=Beside(admission=Admission(limit, at)))
        except NotAdmitted:
            return False
        except LedgerConflict:
            entry = await entry_of(ledger, which)
        else:
            return True
    return False


async def removals_of(ledger: Ledger) -> list[datetime]:
    return sorted(at for entry in await entries_of(ledger) for at in entry.counted_removals)


async def test_of_two_workers_that_write_over_one_revision_one_succeeds(workers):
    async with workers(2) as (one, other):
        recalled = await one.record(fresh())
        assert await entry_of(other) == recalled
        written = await other.record(replace(recalled, name="Other"))
        with pytest.raises(LedgerConflict):
            await one.record(replace(recalled, name="One"), an_answer(created()))
        assert await entry_of(one) == written
        assert await one.answers(SALES) == []


async def test_of_many_workers_at_once_one_writes_each_revision(workers):
    async with workers(3) as ledgers:
        for revision in range(5):
            asked = [
                ledger.record(fresh(revision=revision, name=f"{worker}"))
                for worker, ledger in enumerate(ledgers)
            ]
            written = await asyncio.gather(*asked, return_exceptions=True)
            (winner,) = [entry for entry in written if isinstance(entry, Entry)]
            assert {type(other) for other in written} == {Entry, LedgerConflict}
            assert await entry_of(ledgers[revision % 3]) == winner


async def test_two_workers_that_answer_one_event_write_one_answer(workers):
    answer = an_answer(created())
    async with workers(2) as (one, other):
        await asyncio.gather(one.record_answer(answer), other.record_answer(answer))
        for ledger, seen in ((one, other), (other, one)):
            with pytest.raises(LedgerConflict):
                await ledger.record_answer(replace(answer, payload_digest="another"))
            assert await seen.answers(SALES) == [answer]


async def test_an_auth_id_is_recorded_by_one_of_two_workers(workers):
    async with workers(2) as (one, other):
        written = await asyncio.gather(
            one.record(fresh(department(1), auth_id="SA1")),
            other.record(fresh(department(2), auth_id="SA1")),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in written) == ["AuthIdTaken", "Entry"]
        assert len(await entries_of(one)) == 1


async def test_wishes_and_holds_of_one_worker_are_seen_by_the_other(workers):
    wish = Wish("wish-1", SALES, "anna", NOW, Reissuing())
    async with workers(2) as (one, other):
        await one.wish(wish)
        await one.record(fresh(hold=a_hold()), beside=Beside(holds=(a_hold(),)))
        assert await other.wishes() == [wish]
        assert await other.holds() == [a_hold()]
        await other.close_wish(wish.id)
        assert not await one.is_open(wish.id)
        with pytest.raises(LedgerFailed, match="refuses a write"):
            await one.wish(wish)


async def test_poison_marks_are_counted_over_all_workers(workers):
    async with workers(2) as (one, other):
        assert [await ledger.mark_poison("a") for ledger in (one, other, one)] == [1, 2, 3]
        await other.clear_poison("a")
        assert await one.mark_poison("a") == 1


async def test_of_two_owners_at_once_one_gets_the_ledger(workers):
    async with workers(2) as ledgers:
        bound = await asyncio.gather(
            *(ledger.bind(owner, "MA1") for ledger, owner in zip(ledgers, "ab", strict=True)),
            return_exceptions=True,
        )
        assert [type(one) for one in bound if one] == [LedgerForeign]


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_all_workers_share_one_limit(workers, count):
    async with workers(count) as ledgers:
        for number in range(40):
            await ledgers[0].record(fresh(department(number)))
        admitted = await asyncio.gather(
            *(remove(ledgers[number % count], department(number), NOW, DEFAULT_LIMIT) for number in range(40))
        )
        assert sum(admitted) == len(await removals_of(ledgers[0])) == 4
        counts = await ledgers[-1].tenant_counts("acme", [NOW - DAY])
        assert counts == TenantCounts(36, (WindowCount(4, 4),))


async def test_of_two_workers_that_remove_the_last_that_a_limit_allows_one_succeeds(workers):
    limit = (Window(1, DAY, is_percentage=False),)
    async with workers(2) as ledgers:
        for number in range(20):
            tenant = f"tenant {number}"
            both = [Department(tenant, id_) for id_ in ("a", "b")]
            for which in (*both, Department(tenant, "c")):
                await ledgers[0].record(fresh(which))
            asked = (remove(ledger, which, NOW, limit) for ledger, which in zip(ledgers, both, strict=True))
            assert sorted(await asyncio.gather(*asked)) == [False, True]


limits = st.lists(
    st.builds(
        lambda most, hours, is_percentage: Window(most, timedelta(hours=hours), is_percentage),
        st.integers(1, 40),
        st.integers(1, 48),
        st.booleans(),
    ),
    min_size=1,
    max_size=2,
).map(tuple)
requests = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 72), st.booleans()), max_size=30
)
"""Which department, by which worker, at how many hours, and whether all that was asked before ends first."""


@settings(max_examples=30, deadline=None, print_blob=True)
@given(limit=limits, departments=st.integers(1, 10), count=st.integers(1, 4), asked=requests)
async def test_no_order_timing_or_number_of_workers_exceeds_a_limit(
    workers, limit, departments, count, asked
):
    async with workers(count) as ledgers, asyncio.TaskGroup() as group:
        for number in range(departments):
            await ledgers[0].record(fresh(department(number)))
        begun: list[asyncio.Task[bool]] = []
        for number, worker, hours, waits in asked:
            ledger = ledgers[worker % count]
            which = department(number % departments)
            begun.append(group.create_task(remove(ledger, which, NOW + hours * HOUR, limit)))
            if waits:
                await asyncio.wait(begun)
        if begun:
            await asyncio.wait(begun)
        removals = await removals_of(ledgers[0])
        assert len(removals) == sum(task.result() for task in begun) < departments
        for window in limit:
            for end in removals:
                within = [at for at in removals if end - window.length < at <= end]
                assert len(within) <= window.allowed(departments)


async def test_counts_are_those_of_the_entries_after_any_writes(workers):
    """The columns that the counts come from follow every change of an entry."""
    since = [NOW - DAY, NOW, NOW + HOUR]
    async with workers(1) as (ledger,):
        for number in range(4):
            entry = await ledger.record(fresh(department(number)))
            for change in (
                lambda entry: removing(entry, NOW),
                lambda entry: disabled(entry, NOW + HOUR),
                lambda entry: replace(entry, status=Status.ACTIVE, removal=None),
                lambda entry: replace(entry, past_removals=(NOW, NOW + 2 * HOUR)),
                lambda entry: replace(entry, gone_at=NOW),
                lambda entry: replace(entry, gone_at=None),
            )[: number + 2]:
                entry = await ledger.record(change(entry))
                entries = await entries_of(ledger)
                expected = [
                    WindowCount(
                        sum(at > begin for entry in entries for at in entry.counted_removals),
                        sum(
                            not entry.is_counted_active
                            and entry.latest_removal is not None
                            and entry.latest_removal > begin
                            for entry in entries
                        ),
                    )
                    for begin in since
                ]
                active = sum(entry.is_counted_active for entry in entries)
                assert await ledger.tenant_counts("acme", since) == TenantCounts(active, tuple(expected))
