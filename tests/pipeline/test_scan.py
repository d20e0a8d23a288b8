"""A page of the list that cannot be read is asked for again by itself, within reason."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.builders import NOW
from tests.support.world import fault
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.provider import MemoryProvider
from worker.core.naming import NameTemplate
from worker.ports import CallFailed, ProvidedSubaccount
from worker.provider.scan import MAX_PAGE_TRIES, Scanner, ScanResult

TAG = "0123456789"


class Moody(MemoryProvider):
    """Answers what is due for an offset before it shows the page; `asked`: the offsets, in order."""

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
        self.provider, self.clock = Moody(), MemoryClock(NOW)
        self.stopping = asyncio.Event()
        self.scanner = Scanner(self.provider, NameTemplate(), self.clock, self.stopping)

    async def scan(self) -> ScanResult:
        """As time passes."""
        looking = asyncio.ensure_future(self.scanner.scan(None))
        while True:
            asleep = asyncio.ensure_future(self.clock.asleep())
            await asyncio.wait({looking, asleep}, return_when=asyncio.FIRST_COMPLETED)
            asleep.cancel()
            if looking.done():
                await self.scanner.close()
                return looking.result()
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
async def test_a_page_that_fails_does_not_cost_the_scan(bench, refusal):
    bench.provider.due = {0: [refusal], 19: [refusal] * (MAX_PAGE_TRIES - 1)}

    look = await bench.scan()

    assert len(look.seen[TAG]) == 30
    assert bench.provider.asked == [0, 0, *[19] * MAX_PAGE_TRIES, 29]


async def test_after_five_tries_of_one_page_those_who_wait_are_told(bench):
    bench.provider.due = {19: [fault("list", 503)] * MAX_PAGE_TRIES}

    with pytest.raises(CallFailed, match="503"):
        await bench.scan()

    assert bench.provider.asked == [0, *[19] * MAX_PAGE_TRIES]
    assert len((await bench.scan()).seen[TAG]) == 30


async def test_the_waits_between_grow_and_heed_retry_after(bench):
    bench.provider.due = {0: [fault("list", 503), fault("list", 429, retry_after_seconds=7.0), fault("list")]}

    await bench.scan()

    first, second, third = bench.clock.naps
    assert second == 7.0
    assert 0 < first < third < 7


async def test_told_to_stop_it_waits_no_more(bench):
    bench.provider.due = {0: [fault("list", 429, retry_after_seconds=60.0)] * 2}
    looking = asyncio.ensure_future(bench.scanner.scan(None))
    await bench.clock.asleep()
    bench.stopping.set()

    with pytest.raises(CallFailed, match="429"):
        await looking

    assert bench.clock.naps == [60.0]


class Stubborn(Moody):
    """Shows the same page whatever it is asked for."""

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        await super().page(offset)
        return await super().page(0)


async def test_a_list_that_shows_the_same_page_for_ever_is_given_up(bench):
    bench.provider.__class__ = Stubborn

    with pytest.raises(CallFailed, match="changed whenever it was read"):
        await bench.scan()
