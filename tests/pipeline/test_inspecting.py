"""A subaccount is inspected before it is deleted: its state, its tag and its resources."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.outages import Refusing, a_fault
from tests.support.builders import NOW, SALES, an_entry
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.provider import PAGE, StoredResource
from worker.core.inventory import NOTHING, Inventory, ProvidedResource, ResourceKind
from worker.core.judge import FaultKind, Transient, classify
from worker.core.model.entry import Status
from worker.core.model.replace import replace
from worker.core.naming import Names, NameTemplate
from worker.core.pages import MAX_RESTARTS
from worker.ports import CallFailed
from worker.provider.foreign import ForeignIds
from worker.provider.inventories import Inventories
from worker.provider.pages import MAX_PAGE_TRIES, PageReader
from worker.provider.scan import Scanner
from worker.provider.subaccounts import Subaccounts

NUMBERS, APPLICATIONS, ENDPOINTS = ResourceKind
OTHERS = "SA999999999999999999"


class ChangingLists(Refusing):
    """`before_page` is called before each page of resources; `fails` lists the failures due, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.before_page: Callable[[ResourceKind, int], Any] = lambda _kind, _offset: None
        self.fails: list[CallFailed | None] = []

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        if self.fails and (failed := self.fails.pop(0)):
            raise failed
        self.before_page(kind, offset)
        page: Sequence[ProvidedResource] = await super().resources(kind, auth_id, offset)
        return page


class Bench:
    """A subaccount of an entry, at a provider in memory that ignores the filter of its lists."""

    def __init__(self) -> None:
        self.provider, self.clock, self.stopping = ChangingLists(), MemoryClock(NOW), asyncio.Event()
        names, ledger = Names("default", NameTemplate()), MemoryLedger()
        self.subaccounts = Subaccounts(
            provider=self.provider,
            register=ledger,
            names=names,
            scanner=Scanner(self.provider, names.template, self.clock, self.stopping),
            foreign=ForeignIds(self.provider, ledger, names, self.clock),
            inventories=Inventories(self.provider, PageReader(self.clock, self.stopping)),
            clock=self.clock,
        )
        self.entry = an_entry(Status.DISABLED, department=SALES)
        self.name = names.sent("Sales", self.entry)

    async def make(self, name: str | None = None, *, enabled: bool = False) -> str:
        made = await self.provider.create(self.name if name is None else name, "key", enabled=enabled)
        self.entry = replace(self.entry, auth_id=made.auth_id)
        return made.auth_id

    def seed(self, kind: ResourceKind, *ids: str, owner: str | None) -> None:
        self.provider.owned += [StoredResource(kind, one, owner) for one in ids]

    async def inspect(self) -> Any:
        """Inspects while time advances."""
        inspecting = asyncio.ensure_future(self.subaccounts.inspect(self.entry))
        while True:
            asleep = asyncio.ensure_future(self.clock.asleep())
            await asyncio.wait({inspecting, asleep}, return_when=asyncio.FIRST_COMPLETED)
            asleep.cancel()
            if inspecting.done():
                return inspecting.result()
            self.clock.advance(self.clock.seconds_to_next())

    async def failure(self) -> CallFailed:
        with pytest.raises(CallFailed) as failure:
            await self.inspect()
        return failure.value

    def counted(self) -> int:
        return sum(operation == "count" for operation, _, _ in self.provider.calls)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_it_shows_state_tag_and_resources(bench):
    auth_id = await bench.make()
    bench.seed(NUMBERS, "14155550000", "14155550001", owner=auth_id)
    bench.seed(NUMBERS, "14155550002", owner=None)
    bench.seed(APPLICATIONS, "app", owner=auth_id)
    bench.seed(ENDPOINTS, "e1", owner=OTHERS)
    bench.clock.advance(7)

    seen = await bench.inspect()

    assert (seen.found.auth_id, seen.found.name, seen.found.enabled) == (auth_id, bench.name, False)
    assert seen.tagged
    assert seen.inventory == Inventory(("14155550000", "14155550001"), ("app",), ())
    assert seen.begun == bench.clock.monotonic()


async def test_it_may_have_no_resources(bench):
    await bench.make()
    seen = await bench.inspect()
    assert (seen.inventory, bench.counted()) == (NOTHING, 3)


@pytest.mark.parametrize("name", ["Sales", "Sales [0123456789]", ""])
async def test_another_name_is_not_tagged(bench, name):
    await bench.make(name)
    assert not (await bench.inspect()).tagged


async def test_the_tag_of_another_incarnation_is_not_ours(bench):
    await bench.make()
    bench.entry = replace(bench.entry, incarnation=bench.entry.incarnation + 1)
    assert not (await bench.inspect()).tagged


async def test_an_enabled_subaccount_is_seen_as_such(bench):
    await bench.make(enabled=True)
    assert (await bench.inspect()).found.enabled


async def test_nothing_hangs_on_one_that_is_gone(bench):
    await bench.make()
    bench.provider.subaccounts.clear()

    seen = await bench.inspect()

    assert (seen.found, seen.tagged, seen.inventory) == (None, False, NOTHING)
    assert bench.counted() == 3


async def test_a_404_is_not_believed_while_resources_hang_on_the_subaccount(bench):
    auth_id = await bench.make()
    bench.seed(NUMBERS, "14155550000", owner=auth_id)
    bench.provider.subaccounts.clear()

    fault = (await bench.failure()).fault

    assert fault.kind is FaultKind.UNEXPECTED
    assert (
        fault.detail
        == "Plivo does not find the subaccount (404), and 1 number, 0 applications, 0 endpoints hang on it"
    )


async def test_an_entry_without_a_subaccount_cannot_be_inspected(bench):
    bench.entry = an_entry(Status.ABSENT)
    with pytest.raises(ValueError, match="no subaccount to inspect"):
        await bench.inspect()


@pytest.mark.parametrize("kind", ResourceKind)
@pytest.mark.parametrize("many", [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 5])
async def test_all_pages_are_read(bench, kind, many):
    auth_id = await bench.make()
    bench.seed(kind, *(f"other {number}" for number in range(many)), owner=OTHERS)
    bench.seed(kind, *(f"ours {number}" for number in range(many)), owner=auth_id)

    inventory = (await bench.inspect()).inventory

    assert getattr(inventory, kind) == tuple(f"ours {number}" for number in range(many))
    assert inventory.counts.total == many


@pytest.mark.parametrize("fault", [a_fault("get"), a_fault("get", 503), a_fault("get", 403)], ids=str)
async def test_a_get_that_fails_ends_it(bench, fault):
    await bench.make()
    bench.provider.refuses["get"] = fault
    assert (await bench.failure()).fault == fault
    assert bench.counted() == 0


@pytest.mark.parametrize("status", [None, 400, 403, 404, 405, 429, 500, 503])
@pytest.mark.parametrize("page", range(3))
async def test_a_list_that_fails_is_never_nothing(bench, status, page):
    """Neither on the list of any kind, nor if it says that there is no such subaccount."""
    await bench.make()
    failed = CallFailed(a_fault("count", status))
    bench.provider.fails = [*[None] * page, *[failed] * MAX_PAGE_TRIES]

    assert (await bench.failure()).fault == failed.fault
    assert bench.provider.fails == []


async def test_a_page_is_tried_again(bench):
    auth_id = await bench.make()
    bench.seed(NUMBERS, *(str(number) for number in range(PAGE + 5)), owner=auth_id)
    failed = CallFailed(a_fault("count", 503))
    bench.provider.fails = [None, *[failed] * (MAX_PAGE_TRIES - 1), None, failed]

    assert (await bench.inspect()).inventory.counts.numbers == PAGE + 5
    assert bench.provider.fails == []


@pytest.mark.parametrize("way", ["outage", "stopping"])
async def test_a_page_is_not_tried_again_in_an_outage_or_while_stopping(bench, way):
    await bench.make()
    bench.provider.fails = [CallFailed(a_fault("count", 503, outage=way == "outage"))]
    if way == "stopping":
        bench.stopping.set()

    assert (await bench.failure()).fault == a_fault("count", 503, outage=way == "outage")
    assert bench.provider.fails == []


async def test_a_list_that_always_changes_is_given_up(bench):
    auth_id = await bench.make()
    bench.seed(NUMBERS, *(str(number) for number in range(40 * PAGE)), owner=auth_id)

    def remove_the_first(_kind: ResourceKind, offset: int) -> None:
        if offset:
            del bench.provider.owned[0]

    bench.provider.before_page = remove_the_first
    failed = await bench.failure()

    assert "the list of numbers changed whenever it was read" in str(failed)
    assert isinstance(classify(failed.fault), Transient)
    assert failed.fault.kind is FaultKind.UNEXPECTED
    assert bench.counted() == 2 * MAX_RESTARTS


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    owners=st.lists(st.booleans(), max_size=60),
    changes=st.lists(st.lists(st.none() | st.integers(0, 60), max_size=3), max_size=8),
    front=st.booleans(),
)
def test_what_is_ours_throughout_is_counted_while_the_list_changes(owners, changes, front):
    """Before each page, resources are added (None) at one end, or removed from a position."""

    async def inspected() -> None:
        bench = Bench()
        auth_id = await bench.make()
        for number, ours in enumerate(owners):
            bench.seed(NUMBERS, str(number), owner=auth_id if ours else OTHERS)
        throughout = {str(number) for number, ours in enumerate(owners) if ours}
        due = iter(changes)
        added = iter(range(1000, 2000))

        def change(_kind: ResourceKind, _offset: int) -> None:
            for position in next(due, []):
                owned = bench.provider.owned
                if position is None:
                    one = StoredResource(NUMBERS, str(next(added)), auth_id)
                    owned.insert(0 if front else len(owned), one)
                elif owned:
                    throughout.discard(owned.pop(position % len(owned)).id)

        bench.provider.before_page = change
        assert set((await bench.inspect()).inventory.numbers) >= throughout

    asyncio.run(inspected())
