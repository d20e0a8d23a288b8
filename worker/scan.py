"""Reads the provider's list: one scan at a time, for all who wait for one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from worker.core.adoption import Sighting, far_enough, overlaps
from worker.core.judge import CallFault, Patience, Pause, Stay, Wait, classify, judge
from worker.core.naming import NameTemplate
from worker.ports import CallFailed, Clock, Ledger, ProvidedSubaccount, Provider

PATIENCE_RESTARTS = 5
PATIENCE_TRIES = 5


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
    def __init__(self, provider: Provider, template: NameTemplate, clock: Clock) -> None:
        self._provider = provider
        self._template = template
        self._clock = clock
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
        """None where something was deleted while the list was read: an item may have slipped through."""
        look = Look(self._clock.now(), {})
        offset, last = 0, None
        while page := await self._page(offset):
            if not overlaps(last, page):
                return None
            self._note(look, page)
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
                stay = Stay(tries=tries)
                verdict = judge(classify(failed.fault), stay, Patience(), self._clock.jitter())
                if failed.fault.outage or tries == PATIENCE_TRIES or not isinstance(verdict, Wait | Pause):
                    raise
            await self._clock.sleep(verdict.seconds)

    def _note(self, look: Look, page: list[Sighting]) -> None:
        for one in page:
            tag = self._template.tag_in(one.name)
            if tag is not None and one not in look.seen.setdefault(tag, []):
                look.seen[tag].append(one)


class Strays:
    """Tags at the provider that the ledger knows nothing of: it is new, lost, or was restored."""

    def __init__(self, scanner: Scanner, provider: Provider, template: NameTemplate, ledger: Ledger) -> None:
        self._scanner = scanner
        self._provider = provider
        self._template = template
        self._ledger = ledger
        self._tags: set[str] | None = None
        self._first = asyncio.Lock()

    async def take(self, tag: str) -> bool:
        """Whether there is one of this tag. The first call finds out; raises `CallFailed`."""
        async with self._first:
            if self._tags is None:
                self._tags = await self._find()
        return tag in self._tags

    def strike_off(self, tag: str) -> None:
        """It was looked for and is gone. Not before: else a failed adoption would end in a create."""
        if self._tags is not None:
            self._tags.discard(tag)

    async def _find(self) -> set[str]:
        """The newest page tells whether the ledger is behind at all; only then the whole list is read."""
        newest = [sighting(one) for one in await self._provider.page(0)]
        tagged = {one.auth_id for one in newest if self._template.tag_in(one.name)}
        if not tagged - (await self._ledger.holders(sorted(tagged))).keys():
            return set()
        look = await self._scanner.look(None)
        return {tag for tag, seen in look.seen.items() if not await self._known(seen)}

    async def _known(self, seen: Sequence[Sighting]) -> bool:
        return bool(await self._ledger.holders([one.auth_id for one in seen]))


def sighting(shown: ProvidedSubaccount) -> Sighting:
    """A subaccount without its token."""
    return Sighting(shown.auth_id, shown.name, shown.enabled, shown.created)
