"""Reads the list of a snapshot by a source profile: a file in the profile's format, or pages over HTTP."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.departments import Kind
from worker.core.intake.expressions import Unevaluated
from worker.core.intake.mapping import Unmappable, map_item
from worker.core.intake.pages import PageInvalid, Paging
from worker.core.intake.profile import Profile
from worker.core.intake.received import Received
from worker.core.model.departments import Department
from worker.core.snapshots import Row, check_id
from worker.operations.snapshot_lists import Item, ListUnreadable, Refused, document_in, rows_of
from worker.ports import Clock, PageReader

LONGEST_SECONDS = 3600.0
"""For all pages of a list."""


@dataclass(frozen=True, slots=True)
class ProfileRows:
    """Makes rows of a list with the expressions of a profile. `at`: the moment of the list.

    An item that the profile ignores, or takes for removed, is not in the list.
    """

    profile: Profile
    at: datetime

    def __call__(self, item: Item) -> Row | None:
        """The row of an item; raises `ValueError`."""
        try:
            event = map_item(self.profile, item.given, Received(b"", {}, self.at))
        except Unmappable as error:
            raise ValueError(str(error)) from None
        if event is None or event.kind is Kind.REMOVED or event.data.name is None:
            return None
        if item.from_csv:
            check_id(event.data.department_id)
        parent_id = getattr(event.data, "parent_id", None)
        parent = parent_id if isinstance(parent_id, str) else None
        return Row(Department(event.tenant, event.data.department_id), event.data.name, item.line, parent)


def items_of_document(profile: Profile, body: Any, name: str) -> Iterator[Item]:
    """The items that a profile takes from one document. Raises `ListUnreadable`."""
    if profile.each is None:
        raise ListUnreadable(f"{name}: profile {profile.name} has no each")
    try:
        found = profile.each.value({"item": None, "body": body, "headers": {}})
    except Unevaluated as error:
        raise ListUnreadable(f"{name}: each: {error}") from None
    if not isinstance(found, list):
        raise ListUnreadable(f"{name}: each: must give a list")
    return (Item(number, item) for number, item in enumerate(found, start=1))


async def rows_of_pages(
    reader: PageReader, paging: Paging, make: ProfileRows, clock: Clock
) -> AsyncIterator[Sequence[Row | Refused]]:
    """The rows of each page, counted over all pages. Raises `ListUnreadable` and `PageRefused`."""
    url: str | None = paging.url
    begun, number = clock.monotonic(), 0
    while url is not None:
        if clock.monotonic() - begun > LONGEST_SECONDS:
            raise ListUnreadable(f"{paging.pages.url}: the list takes longer than an hour")
        body = document_in(await reader.read(url), f"page {paging.number + 1}")
        try:
            found = paging.rows(body)
            url = paging.next_url(body, found)
        except (PageInvalid, ValueError) as error:
            raise ListUnreadable(f"{paging.pages.url.partition('?')[0]}: {error}") from None
        items = [Item(number + place, item) for place, item in enumerate(found, start=1)]
        number += len(found)
        yield list(rows_of(items, make))
