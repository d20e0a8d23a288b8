"""A sweep of many subaccounts holds few entries at a time, and finds what differs among them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

from tests.support.builders import NOW
from tests.support.entries import EndlessLedger
from worker.core.capabilities import EVERYTHING
from worker.core.drift import Seen
from worker.core.listed import ListedSubaccount
from worker.core.naming import Names, NameTemplate
from worker.core.pages import Ids
from worker.pipeline.comparison import Comparison, Revisions, at_once
from worker.ports import Clock
from worker.provider.listing import Listing, Taker

NAMES = Names("default", NameTemplate())
MANY, PAGE = 2_000, 20
MISSING, RENAMED, DISABLED, DOUBLED = 77, 123, 1_000, 1_500
STRANGER = ListedSubaccount("SA999999999999999999", "Made by hand", enabled=True, created=date(2026, 1, 1))


class QuickClock:
    """Time stands still, and a sleep is over at once."""

    def now(self):
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await (asyncio.Event().wait() if seconds > 1 else asyncio.sleep(0))


class ManyListed:
    """The provider's list of the ledger's subaccounts, with one difference of each kind."""

    provider = SimpleNamespace(capabilities=EVERYTHING)
    pace = SimpleNamespace(turn=lambda: asyncio.sleep(0))

    def __init__(self, ledger: EndlessLedger) -> None:
        self.ledger = ledger

    def seen(self, number: int) -> Seen:
        entry = self.ledger.entry(number)
        name = "Renamed" if number == RENAMED else NAMES.on_record(entry)
        auth_id, enabled = self.ledger.auth_id(number), number != DISABLED
        return Seen(ListedSubaccount(auth_id, name, enabled, date(2026, 1, 1)), None)

    async def now(self, auth_id: str) -> Seen | None:
        number = int(auth_id.removeprefix("SA"))
        if number == MISSING:
            return None
        return self.double() if number == MANY else self.seen(number)

    def double(self) -> Seen:
        shown = self.seen(DOUBLED).subaccount
        return Seen(replace(shown, auth_id=self.ledger.auth_id(MANY)), None)

    async def read(self, taker: Taker, on_pages: Callable[[int], None]) -> Ids:
        taken = Ids()
        taker.begin()
        await taker.take([self.seen(MISSING)])
        taker.begin()  # the list is read again: what was taken before does not count
        await taker.take([Seen(STRANGER, None), self.double()])
        taken.add([STRANGER.auth_id, self.ledger.auth_id(MANY)])
        for first in range(0, MANY, PAGE):
            page = [self.seen(number) for number in range(first, first + PAGE) if number != MISSING]
            await taker.take(page)
            taken.add(one.auth_id for one in page)
            on_pages(first // PAGE)
        return taken


async def test_a_sweep_of_many_holds_few_entries_and_finds_each_difference():
    ledger = EndlessLedger(MANY)
    listing = cast(Listing, ManyListed(ledger))
    comparison = Comparison(listing, ledger, NAMES, at_once, cast(Clock, QuickClock()))
    report = await comparison.sweep()
    assert (report.subaccounts, report.departments, report.note) == (MANY + 1, MANY, None)
    found = {str(one.kind): one.auth_id for one in report.findings}
    assert found == {
        "missing": ledger.auth_id(MISSING),
        "name": ledger.auth_id(RENAMED),
        "enabled": ledger.auth_id(DISABLED),
        "double": ledger.auth_id(MANY),
        "untagged": STRANGER.auth_id,
    }
    assert len(report.findings) == len(found)
    assert ledger.most_alive < 100


def test_the_revisions_of_many_departments_are_found_in_their_order():
    before, ledger = Revisions(), EndlessLedger(10)
    entries: list[Any] = [ledger.entry(number) for number in range(10)]
    for number in (1, 3, 5):
        before.note(replace(entries[number], revision=number))
    found = [before.of(entry.department) for entry in entries]
    assert found == [None, 1, None, 3, None, 5, None, None, None, None]
    assert Revisions().of(entries[0].department) is None
