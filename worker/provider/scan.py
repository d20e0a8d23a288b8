"""Reads the provider's list: one scan at a time, shared by all that wait for one."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from worker.core.adoption import ListedSubaccount, far_enough, overlaps
from worker.core.judge import (
    CallFault,
    FaultKind,
    Pause,
    RetryPolicy,
    RetryState,
    Wait,
    classify,
    judge,
)
from worker.core.naming import NameTemplate
from worker.flow.waiting import sleep_unless_stopping
from worker.ports import CallFailed, Clock, ProvidedSubaccount, Provider, Register

MAX_RESTARTS = 5
MAX_PAGE_TRIES = 5
MAX_STALE_PAGES = 50
"""Pages in a row that show nothing new: creates alone do not shift a list that far while it is read."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a complete scan saw: the subaccounts that bear a tag, by tag. `begun` is before its first page."""

    begun: datetime
    seen: dict[str, list[ListedSubaccount]]


@dataclass(slots=True)
class Cursor:
    """How far one reading of the list has come. `last` ends the page before; None before the first."""

    offset: int = 0
    last: str | None = None
    _known: set[str] = field(default_factory=set)
    _stale_pages: int = 0

    def joins(self, page: Sequence[ListedSubaccount]) -> bool:
        """Whether the page goes on where the one before ended, in a list that still shows something new."""
        fresh = {one.auth_id for one in page} - self._known
        self._stale_pages = 0 if fresh else self._stale_pages + 1
        self._known |= fresh
        return overlaps(self.last, page) and self._stale_pages < MAX_STALE_PAGES

    def at_end(self, page: Sequence[ListedSubaccount]) -> bool:
        """Whether the page shows the last item once more, and nothing after it."""
        return [one.auth_id for one in page] == [self.last]

    def advance(self, page: Sequence[ListedSubaccount]) -> None:
        """The next page begins with this page's last item."""
        self.offset += len(page) - 1
        self.last = page[-1].auth_id


@dataclass
class _Batch:
    """Those that wait for the next scan: how far back it must go, and what came of it."""

    since: datetime | None
    done: "asyncio.Future[ScanResult | CallFailed]" = field(default_factory=asyncio.Future)


class Scanner:
    """Scans the list for subaccounts with a tag. Once `stopping` is set it waits for no page any more."""

    def __init__(
        self, provider: Provider, template: NameTemplate, clock: Clock, stopping: asyncio.Event
    ) -> None:
        self._provider = provider
        self._template = template
        self._clock = clock
        self._stopping = stopping
        self._next: _Batch | None = None
        self._scanning: asyncio.Task[None] | None = None

    async def scan(self, since: datetime | None) -> ScanResult:
        """A scan that begins after this call and goes back beyond `since`; raises `CallFailed`.

        Without `since`, and for a provider that does not list the newest first, it reads the whole list.
        A scan under way has begun too early: all that ask meanwhile share the one after it.
        """
        if not self._provider.capabilities.lists_newest_first:
            since = None
        if self._next is None:
            self._next = _Batch(since)
        batch = self._next
        batch.since = min(since, batch.since) if since and batch.since else None
        if self._scanning is None:
            self._scanning = asyncio.create_task(self._scan_on())
        result = await asyncio.shield(batch.done)
        if isinstance(result, CallFailed):
            raise CallFailed(result.fault)
        return result

    async def close(self) -> None:
        """Ends a scan that is under way."""
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.wait([self._scanning])

    async def _scan_on(self) -> None:
        try:
            while (batch := self._next) is not None:
                self._next = None
                try:
                    batch.done.set_result(await self._complete_scan(batch.since))
                except Exception as error:  # noqa: BLE001 - or those that wait would wait for ever
                    batch.done.set_exception(error)
        finally:
            self._scanning = None

    async def _complete_scan(self, since: datetime | None) -> ScanResult | CallFailed:
        try:
            for _ in range(MAX_RESTARTS):
                result = await self._read(since)
                if result is not None:
                    return result
        except CallFailed as failed:
            return failed
        detail = "the list of subaccounts changed whenever it was read"
        return CallFailed(CallFault("list", FaultKind.UNEXPECTED, detail))

    async def _read(self, since: datetime | None) -> ScanResult | None:
        """None where an item was deleted meanwhile: another may have been skipped.

        The same for a list that shows the same page again and again.
        """
        result, cursor = ScanResult(self._clock.now(), {}), Cursor()
        while page := await self._page(cursor.offset):
            if not cursor.joins(page):
                return None
            note(page, self._template, result.seen)
            if cursor.at_end(page) or (since and far_enough(page, since)):
                return result
            cursor.advance(page)
        return result if cursor.last is None else None

    async def _page(self, offset: int) -> list[ListedSubaccount]:
        """Tried again here: if each failure cost the whole scan, a long list could hardly be read."""
        tries = 0
        while True:
            tries += 1
            try:
                return await page_of(self._provider, offset)
            except CallFailed as failed:
                state = RetryState(tries=tries, pauses=tries - 1)
                verdict = judge(classify(failed.fault), state, RetryPolicy(), self._clock.jitter())
                enough = failed.fault.outage or tries == MAX_PAGE_TRIES or self._stopping.is_set()
                if enough or not isinstance(verdict, Wait | Pause):
                    raise
            await sleep_unless_stopping(self._clock, verdict.seconds, self._stopping)


class Orphans:
    """Tags at the provider that the ledger does not know: it is new, lost, or was restored."""

    def __init__(
        self, scanner: Scanner, provider: Provider, template: NameTemplate, register: Register
    ) -> None:
        self._scanner = scanner
        self._provider = provider
        self._template = template
        self._register = register
        self._tags: set[str] | None = None
        self._first = asyncio.Lock()

    async def tags(self) -> AbstractSet[str]:
        """The tags; the first call finds them. Raises `CallFailed`."""
        async with self._first:
            if self._tags is None:
                self._tags = await self._find()
        return self._tags

    def strike_off(self, tags: Iterable[str]) -> None:
        """They were looked for and are gone. Not before: else a failed adoption would end in a create."""
        if self._tags is not None:
            self._tags.difference_update(tags)

    async def _find(self) -> set[str]:
        """The whole list is read until it once held no orphan; after that the newest page is enough."""
        newest_first = self._provider.capabilities.lists_newest_first
        caught_up = newest_first and await self._register.caught_up()
        if caught_up and not await self._unknown(await self._newest_page()):
            return set()
        unknown = await self._unknown((await self._scanner.scan(None)).seen)
        await self._register.note_caught_up(caught_up=not unknown)
        return unknown

    async def _newest_page(self) -> Mapping[str, list[ListedSubaccount]]:
        seen: dict[str, list[ListedSubaccount]] = {}
        note(await page_of(self._provider, 0), self._template, seen)
        return seen

    async def _unknown(self, seen: Mapping[str, Sequence[ListedSubaccount]]) -> set[str]:
        ids = [one.auth_id for listed in seen.values() for one in listed]
        known = await self._register.holders(ids) if ids else {}
        return {tag for tag, ones in seen.items() if not any(one.auth_id in known for one in ones)}


async def page_of(provider: Provider, offset: int) -> list[ListedSubaccount]:
    """A page of the list, without tokens. Raises `CallFailed`."""
    async with provider.permit("list") as call:
        return [listed(one) for one in await call.page(offset)]


def note(
    page: Iterable[ListedSubaccount], template: NameTemplate, seen: dict[str, list[ListedSubaccount]]
) -> None:
    """Adds to `seen` what bears a tag, by tag: each once, however often it is listed."""
    for one in page:
        tag = template.tag_in(one.name)
        if tag is not None and one not in seen.setdefault(tag, []):
            seen[tag].append(one)


def listed(shown: ProvidedSubaccount) -> ListedSubaccount:
    """A subaccount without its token."""
    return ListedSubaccount(shown.auth_id, shown.name, shown.enabled, shown.created)
