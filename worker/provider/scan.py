"""Reads the provider's list: one scan at a time, for all who wait for one."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from worker.core.adoption import Sighting, far_enough, overlaps
from worker.core.judge import CallFault, Patience, Pause, Stay, Wait, classify, judge
from worker.core.naming import NameTemplate
from worker.flow.waiting import pause
from worker.ports import CallFailed, Clock, Ledger, ProvidedSubaccount, Provider

PATIENCE_RESTARTS = 5
PATIENCE_TRIES = 5
PAGES_IN_VAIN = 50
"""Pages in a row that show nothing new: creates alone do not shift a list that far while it is read."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a complete scan saw: the subaccounts that bear a tag, by tag. `begun` is before its first page."""

    begun: datetime
    seen: dict[str, list[Sighting]]


@dataclass
class _Batch:
    """Those who wait for the next scan: how far back it must go, and what came of it."""

    since: datetime | None
    done: "asyncio.Future[Look | CallFailed]" = field(default_factory=asyncio.Future)


class Scanner:
    """Once `stopping` is set it waits for no page any more."""

    def __init__(
        self, provider: Provider, template: NameTemplate, clock: Clock, stopping: asyncio.Event
    ) -> None:
        self._provider = provider
        self._template = template
        self._clock = clock
        self._stopping = stopping
        self._next: _Batch | None = None
        self._scanning: asyncio.Task[None] | None = None

    async def look(self, since: datetime | None) -> Look:
        """A scan that begins after this call and goes back beyond `since`; raises `CallFailed`.

        Without `since` it reads the whole list.

        A scan under way has begun too early: who asks meanwhile shares the one after it.
        """
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
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.wait([self._scanning])

    async def _scan_on(self) -> None:
        try:
            while (batch := self._next) is not None:
                self._next = None
                try:
                    batch.done.set_result(await self._scan(batch.since))
                except Exception as error:  # noqa: BLE001 - or those who wait would wait for ever
                    batch.done.set_exception(error)
        finally:
            self._scanning = None

    async def _scan(self, since: datetime | None) -> Look | CallFailed:
        try:
            for _ in range(PATIENCE_RESTARTS):
                look = await self._read(since)
                if look is not None:
                    return look
        except CallFailed as failed:
            return failed
        return CallFailed(CallFault("list", "the list of subaccounts changed whenever it was read"))

    async def _read(self, since: datetime | None) -> Look | None:
        """None where something was deleted while the list was read: an item may have slipped through.

        Or where it shows the same again and again.
        """
        look = Look(self._clock.now(), {})
        offset, last, known, in_vain = 0, None, set[str](), 0
        while page := await self._page(offset):
            in_vain = in_vain + 1 if known.issuperset(one.auth_id for one in page) else 0
            if not overlaps(last, page) or in_vain == PAGES_IN_VAIN:
                return None
            known.update(one.auth_id for one in page)
            note(page, self._template, look.seen)
            if [one.auth_id for one in page] == [last] or (since and far_enough(page, since)):
                return look
            offset, last = offset + len(page) - 1, page[-1].auth_id
        return look if last is None else None

    async def _page(self, offset: int) -> list[Sighting]:
        """Tried again by itself: if each failure cost the whole scan, a long list could hardly be read."""
        tries = 0
        while True:
            tries += 1
            try:
                return [sighting(one) for one in await self._provider.page(offset)]
            except CallFailed as failed:
                stay = Stay(tries=tries, pauses=tries - 1)
                verdict = judge(classify(failed.fault), stay, Patience(), self._clock.jitter())
                enough = failed.fault.outage or tries == PATIENCE_TRIES or self._stopping.is_set()
                if enough or not isinstance(verdict, Wait | Pause):
                    raise
            await pause(self._clock, verdict.seconds, self._stopping)


class Strays:
    """Tags at the provider that the ledger knows nothing of: it is new, lost, or was restored."""

    def __init__(self, scanner: Scanner, provider: Provider, template: NameTemplate, ledger: Ledger) -> None:
        self._scanner = scanner
        self._provider = provider
        self._template = template
        self._ledger = ledger
        self._tags: set[str] | None = None
        self._first = asyncio.Lock()

    async def tags(self) -> AbstractSet[str]:
        """The first call finds out; raises `CallFailed`."""
        async with self._first:
            if self._tags is None:
                self._tags = await self._find()
        return self._tags

    def strike_off(self, tags: Iterable[str]) -> None:
        """They were looked for and are gone. Not before: else a failed adoption would end in a create."""
        if self._tags is not None:
            self._tags.difference_update(tags)

    async def _find(self) -> set[str]:
        """The whole list is read until it once held nothing unknown; then the newest page is enough."""
        if await self._ledger.caught_up() and not await self._unknown(await self._newest_page()):
            return set()
        unknown = await self._unknown((await self._scanner.look(None)).seen)
        await self._ledger.note_caught_up(caught_up=not unknown)
        return unknown

    async def _newest_page(self) -> Mapping[str, list[Sighting]]:
        seen: dict[str, list[Sighting]] = {}
        note([sighting(one) for one in await self._provider.page(0)], self._template, seen)
        return seen

    async def _unknown(self, seen: Mapping[str, Sequence[Sighting]]) -> set[str]:
        ids = [one.auth_id for sightings in seen.values() for one in sightings]
        known = await self._ledger.holders(ids) if ids else {}
        return {tag for tag, ones in seen.items() if not any(one.auth_id in known for one in ones)}


def note(page: Iterable[Sighting], template: NameTemplate, seen: dict[str, list[Sighting]]) -> None:
    """Adds to `seen` what bears a tag, by tag: each once, however often it is listed."""
    for one in page:
        tag = template.tag_in(one.name)
        if tag is not None and one not in seen.setdefault(tag, []):
            seen[tag].append(one)


def sighting(shown: ProvidedSubaccount) -> Sighting:
    """A subaccount without its token."""
    return Sighting(shown.auth_id, shown.name, shown.enabled, shown.created)
