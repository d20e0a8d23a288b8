"""Scans the provider's list: one scan at a time, shared by all that wait for it."""

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from worker.core.adoption import far_enough
from worker.core.judge import CallFault, FaultKind
from worker.core.keeping import may_be_behind
from worker.core.listed import ListedSubaccount
from worker.core.naming import NameTemplate
from worker.core.pages import MAX_RESTARTS, Cursor, Reading
from worker.ports import CallFailed, Clock, ProvidedSubaccount, Provider, Register
from worker.provider.pages import PageReader

HOLDERS_AT_ONCE = 500
"""Subaccounts to look up in the ledger at a time."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The result of a complete scan: tagged subaccounts, by tag. `begun` is before its first page."""

    begun: datetime
    seen: dict[str, list[ListedSubaccount]]


@dataclass
class _Batch:
    """The callers that wait for the next scan: how far back it must go, and its result."""

    since: datetime | None
    done: "asyncio.Future[ScanResult | CallFailed]" = field(default_factory=asyncio.Future)


class Scanner:
    """Scans the list for tagged subaccounts. Once `stopping` is set, it does not retry a page any more."""

    def __init__(
        self, provider: Provider, template: NameTemplate, clock: Clock, stopping: asyncio.Event
    ) -> None:
        self._provider = provider
        self._template = template
        self._clock = clock
        self._pages = PageReader(clock, stopping)
        self._next: _Batch | None = None
        self._scanning: asyncio.Task[None] | None = None

    async def scan(self, since: datetime | None) -> ScanResult:
        """Makes a scan that begins after this call and goes back beyond `since`; raises `CallFailed`.

        Without `since`, or if the provider does not list the newest first, it reads the whole list. A scan
        under way began too early, so all callers meanwhile share the next one.
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
        """Cancels a scan that is under way."""
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.wait([self._scanning])

    async def _scan_on(self) -> None:
        try:
            while (batch := self._next) is not None:
                self._next = None
                try:
                    batch.done.set_result(await self._complete_scan(batch.since))
                except Exception as error:  # noqa: BLE001 - else the callers would wait for ever
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
        """Reads the list once. None if an item was deleted: another may have been skipped.

        None also for a list that repeats the same pages.
        """
        result, cursor = ScanResult(self._clock.now(), {}), Cursor()
        while True:
            page = await self._page(cursor.offset)
            reading = cursor.take([one.auth_id for one in page])
            if reading is Reading.BROKEN:
                return None
            note(page, self._template, result.seen)
            if reading is Reading.COMPLETE or (since and far_enough(page, since)):
                return result

    async def _page(self, offset: int) -> list[ListedSubaccount]:
        return await self._pages.read(lambda: page_of(self._provider, offset))


class Orphans:
    """Tags of subaccounts that the ledger does not know because it is new, lost, or restored."""

    def __init__(
        self,
        scanner: Scanner,
        provider: Provider,
        template: NameTemplate,
        register: Register,
        clock: Clock,
    ) -> None:
        self._scanner = scanner
        self._provider = provider
        self._template = template
        self._register = register
        self._clock = clock
        self._tags: set[str] | None = None
        self._first = asyncio.Lock()

    async def tags(self) -> AbstractSet[str]:
        """The tags of orphans. The first call finds them; raises `CallFailed`."""
        async with self._first:
            if self._tags is None:
                self._tags = await self._find()
        return self._tags

    def strike_off(self, tags: Iterable[str]) -> None:
        """Removes tags that a scan did not find. Any earlier, a failed adoption would become a create."""
        if self._tags is not None:
            self._tags.difference_update(tags)

    async def _find(self) -> set[str]:
        """Reads the whole list, unless the newest page shows that the ledger has caught up with it."""
        if await self._has_caught_up():
            return set()
        begun = self._clock.now()
        unknown = await self._unknown((await self._scanner.scan(None)).seen)
        await self._register.note_caught_up(None if unknown else begun)
        return unknown

    async def _has_caught_up(self) -> bool:
        """Whether nothing can be unknown: the ledger knew all a short while ago, and the newest page since.

        What was created since then stands above all that is on record. So the page must show one on record.
        """
        if not self._provider.capabilities.lists_newest_first:
            return False
        if may_be_behind(await self._register.caught_up_at(), self._clock.now()):
            return False
        page = await page_of(self._provider, 0)
        on_record = await self._register.holders([one.auth_id for one in page]) if page else {}
        return (bool(on_record) or not page) and not self._unknown_among(self._tagged(page), on_record)

    def _tagged(self, page: Sequence[ListedSubaccount]) -> Mapping[str, Sequence[ListedSubaccount]]:
        seen: dict[str, list[ListedSubaccount]] = {}
        note(page, self._template, seen)
        return seen

    async def _unknown(self, seen: Mapping[str, Sequence[ListedSubaccount]]) -> set[str]:
        ids = [one.auth_id for listed in seen.values() for one in listed]
        on_record = set[str]()
        for first in range(0, len(ids), HOLDERS_AT_ONCE):
            on_record.update(await self._register.holders(ids[first : first + HOLDERS_AT_ONCE]))
        return self._unknown_among(seen, on_record)

    @staticmethod
    def _unknown_among(seen: Mapping[str, Sequence[ListedSubaccount]], on_record: Container[str]) -> set[str]:
        return {tag for tag, ones in seen.items() if not any(one.auth_id in on_record for one in ones)}


async def page_of(provider: Provider, offset: int) -> list[ListedSubaccount]:
    """A page of the list, without tokens. Raises `CallFailed`."""
    async with provider.permit("list") as call:
        return [listed(one) for one in await call.page(offset)]


def note(
    page: Iterable[ListedSubaccount], template: NameTemplate, seen: dict[str, list[ListedSubaccount]]
) -> None:
    """Adds the tagged subaccounts of a page to `seen`, by tag, each once."""
    for one in page:
        tag = template.tag_in(one.name)
        if tag is not None and one not in seen.setdefault(tag, []):
            seen[tag].append(one)


def listed(shown: ProvidedSubaccount) -> ListedSubaccount:
    """A subaccount without its token."""
    return ListedSubaccount(shown.auth_id, shown.name, shown.enabled, shown.created)
