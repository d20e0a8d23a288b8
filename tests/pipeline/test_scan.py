"""A scan retries a single page of the list that cannot be read, up to a limit."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.builders import NOW
from tests.support.world import fault
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.provider import MemoryProvider
from worker.core.naming import NameTemplate
from worker.ports import CallFailed, ProvidedSubaccount
from worker.provider.pages import MAX_PAGE_TRIES
from worker.provider.scan import Scanner, ScanResult

TAG = "0123456789"


class FailingPages(MemoryProvider):
    """Raises the failures due for an offset before it returns the page; `asked` lists the offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.due: dict[int, list[CallFailed]] = {}
        self.asked: list[int] = []

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self.asked.append(offset)
        if due := self.due.get(offset):
            raise due.pop(0)
        return await super().page(offset)


class Bench:
    def __init__(self) -> None:
        self.provider, self.clock = FailingPages(), MemoryClock(NOW)
        self.stopping = asyncio.Event()
        self.scanner = Scanner(self.provider, NameTemplate(), self.clock, self.stopping)

    async def scan(self) -> ScanResult:
        """Scans while time advances."""
        scanning = asyncio.ensure_future(self.scanner.scan(None))
        while True:
            asleep = asyncio.ensure_future(self.clock.asleep())
            await asyncio.wait({scanning, asleep}, return_when=asyncio.FIRST_COMPLETED)
            asleep.cancel()
            if scanning.done():
                await self.scanner.close()
                return scanning.result()
            self.clock.advance(self.clock.seconds_to_next())


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    for number in range(30):
        await bench.provider.create(f"Department {number} [{TAG}]", "by hand")
    return bench


@pytest.mark.parametrize(
    "refusal", [fault("list"), fault("list", 503), fault("list", 429), fault("list", sent=False)]
)
async def test_a_failed_page_does_not_fail_the_scan(bench, refusal):
    bench.provider.due = {0: [refusal], 19: [refusal] * (MAX_PAGE_TRIES - 1)}

    result = await bench.scan()

    assert len(result.seen[TAG]) == 30
    assert bench.provider.asked == [0, 0, *[19] * MAX_PAGE_TRIES, 29]


async def test_five_failures_of_one_page_fail_the_scan(bench):
    bench.provider.due = {19: [fault("list", 503)] * MAX_PAGE_TRIES}

    with pytest.raises(CallFailed, match="503"):
        await bench.scan()

    assert bench.provider.asked == [0, *[19] * MAX_PAGE_TRIES]
    assert len((await bench.scan()).seen[TAG]) == 30


async def test_waits_between_tries_grow_and_obey_retry_after(bench):
    bench.provider.due = {0: [fault("list", 503), fault("list", 429, retry_after_seconds=7.0), fault("list")]}

    await bench.scan()

    first, second, third = bench.clock.naps
    assert second == 7.0
    assert 0 < first < third < 7


async def test_shutdown_ends_the_wait_of_a_scan(bench):
    bench.provider.due = {0: [fault("list", 429, retry_after_seconds=60.0)] * 2}
    scanning = asyncio.ensure_future(bench.scanner.scan(None))
    await bench.clock.asleep()
    bench.stopping.set()

    with pytest.raises(CallFailed, match="429"):
        await scanning

    assert bench.clock.naps == [60.0]


class RepeatsFirstPage(FailingPages):
    """Returns the first page for every offset."""

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        await super().page(offset)
        return await super().page(0)


async def test_a_list_that_repeats_one_page_forever_is_given_up(bench):
    bench.provider.__class__ = RepeatsFirstPage

    with pytest.raises(CallFailed, match="changed whenever it was read"):
        await bench.scan()
