"""Reads the provider's whole list of subaccounts, with fingerprints in place of the tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.core.drift import Seen
from worker.core.judge import CallFault, FaultKind
from worker.core.pages import MAX_RESTARTS, MAX_STALE_PAGES, Cursor, Ids, Reading
from worker.ports import CallFailed, Fingerprints, ProvidedSubaccount, Provider
from worker.provider.pace import Pace
from worker.provider.pages import PageReader
from worker.provider.scan import listed

STEP_BACK = 40
"""Items to go back by where a deletion has shifted the list."""

MAX_STEPS_BACK = 100
"""Steps back in one reading. A long list is read for minutes, while others may delete from it."""

OnPages = Callable[[int], None]
"""Gets the number of pages read so far."""


class Taker(Protocol):
    """Takes the list page by page while it is read, so that no one has to hold all of it."""

    def begin(self) -> None:
        """The list is read from its beginning, perhaps again: what was taken before does not count."""

    async def take(self, page: Sequence[Seen]) -> None:
        """Takes a page. A subaccount that was taken before may come again, as it is then."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Reads the list at the given pace. A list counts only if it was read completely."""

    provider: Provider
    pages: PageReader
    fingerprints: Fingerprints
    pace: Pace

    async def read(self, taker: Taker, on_pages: OnPages) -> Ids:
        """Has all subaccounts taken, and returns their auth ids.

        Raises `CallFailed`, `Stopping` once the worker stops, and the errors of the taker.
        """
        for _ in range(MAX_RESTARTS):
            taker.begin()
            listed_ids = await self._read(taker, on_pages)
            if listed_ids is not None:
                return listed_ids
        detail = "the list of subaccounts changed whenever it was read"
        raise CallFailed(CallFault("list", FaultKind.UNEXPECTED, detail))

    async def now(self, auth_id: str) -> Seen | None:
        """The subaccount as it is now; None if it is not there. Raises `CallFailed`."""
        try:
            async with self.provider.permit("get") as call:
                return self.seen(await call.get(auth_id))
        except CallFailed as failed:
            if failed.fault.kind is FaultKind.NOT_FOUND:
                return None
            raise

    def seen(self, shown: ProvidedSubaccount) -> Seen:
        """The subaccount without its token."""
        token = shown.auth_token
        return Seen(listed(shown), self.fingerprints.of(shown.auth_id, token) if token else None)

    async def _read(self, taker: Taker, on_pages: OnPages) -> Ids | None:
        """Reads the list once. None if it may have skipped an item.

        A deletion shifts the later items up. In a list with the newest first, a page that begins with a known
        item cannot have skipped one, for all unknown items follow the known ones: so it goes back that far.
        """
        taken = Ids()
        cursor, pages, steps_back, stale_pages = Cursor(), 0, 0, 0
        while True:
            page = await self._page(cursor.offset)
            pages += 1
            on_pages(pages)
            ids = [one.auth_id for one in page]
            stale_pages = 0 if any(id_ not in taken for id_ in ids) else stale_pages + 1
            if stale_pages >= MAX_STALE_PAGES:
                return None
            begins_known = bool(ids) and ids[0] in taken
            joins = cursor.offset == 0 or cursor.last is not None or begins_known
            reading = cursor.take(ids) if joins else Reading.BROKEN
            match reading:
                case Reading.BROKEN:
                    offset = cursor.offset - STEP_BACK
                    steps_back += 1
                    newest_first = self.provider.capabilities.lists_newest_first
                    if not newest_first or offset <= 0 or steps_back > MAX_STEPS_BACK:
                        return None
                    cursor = Cursor(offset)
                case Reading.COMPLETE:
                    return taken
                case Reading.MORE:
                    await taker.take(page)
                    taken.add(ids)

    async def _page(self, offset: int) -> list[Seen]:
        async def read() -> list[Seen]:
            await self.pace.turn()
            async with self.provider.permit("list") as call:
                return [self.seen(one) for one in await call.page(offset)]

        return await self.pages.read(read)
