"""Adoption: finds a department's subaccounts in the provider's list, and chooses the one to keep.

Plivo has no idempotency key, so a create that is sent twice makes two subaccounts. It is sent once. If there
is no clear response, the list is searched for the department's tag, at 1/24, 1/8, 3/8 and the whole of the
settle window after the claim.

- Found: the subaccount is adopted. Of several, the one on record is kept, else the oldest, ties by auth_id.
  The choice depends only on the list and the record, so every node chooses the same one. The others are
  duplicates: disabled, never deleted.
- Not found: the create is lost only after two complete scans, the last begun after the window. Then it is
  sent again under the same tag.

The list shows the newest first, by pages, with dates instead of times, and changes while it is read
(`pages.py`). A scan is complete at the end of the list, or at items dated two days before the claim, because
dates have no zone and clocks differ.

A ledger that is behind (new, lost, restored) knows less than the list. A department without a subaccount is
then looked for under the tags of its next 32 incarnations. The newest incarnation is kept. Within it an
enabled subaccount goes first (a lost ledger had disabled the duplicates), then the oldest.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple

from worker.core.capabilities import Capabilities
from worker.core.listed import ListedSubaccount
from worker.core.model.entry import Entry, Status

SCAN_TIMES = (1 / 24, 1 / 8, 3 / 8, 1.0)
"""When to scan for a lost create, as parts of the settle window."""

MARGIN = timedelta(milliseconds=100)
"""The delay of each scan after its time, so that the last one begins after the window."""

CLEAN_SCANS_WHEN_LOST = 2
MAX_UNKNOWN_CREATES = 3
DUPLICATES_CHECK_WINDOWS = 10
"""Settle windows after which duplicates of a create that took two tries are looked for once more."""

MISSED_INCARNATIONS = 32
"""How many incarnations of a department a ledger that is behind may have missed."""

SAFE_DAYS = timedelta(days=2)
"""Dates have no zone and clocks differ: an item dated this long before a claim cannot be its create."""


class Match(NamedTuple):
    """A subaccount that bears a tag of the department, and the incarnation that the tag stands for."""

    incarnation: int
    subaccount: ListedSubaccount


def in_question(entry: Entry) -> range:
    """The incarnations to look for: a claim names one, a ledger that is behind may have missed some."""
    missed = 1 if entry.status is Status.CLAIMED else MISSED_INCARNATIONS
    return range(entry.incarnation, entry.incarnation + missed)


def far_enough(page: Sequence[ListedSubaccount], since: datetime) -> bool:
    """Whether all later items of a newest-first list are too old for the create of a claim of `since`."""
    return bool(page) and page[-1].created < (since - SAFE_DAYS).date()


def choose(
    matches: Iterable[Match], on_record: str | None, *, claimed: bool
) -> tuple[Match, tuple[Match, ...]]:
    """The match to keep, and the duplicates. The choice is the same on every node.

    The subaccount on record is kept, else the oldest of the newest incarnation, ties by auth_id. Without a
    claim an enabled one goes first: a lost ledger had disabled its duplicates. Raises `ValueError` without a
    match.
    """

    def rank(match: Match) -> tuple[bool, int, bool, date, str]:
        one = match.subaccount
        duplicate = not claimed and not one.enabled
        return one.auth_id != on_record, -match.incarnation, duplicate, one.created, one.auth_id

    unique = {match.subaccount.auth_id: match for match in matches}
    ordered = sorted(unique.values(), key=rank)
    if not ordered:
        raise ValueError("no match to choose from")
    return ordered[0], tuple(ordered[1:])


@dataclass(frozen=True, slots=True)
class Update:
    """The fields to send in one update of a subaccount; None leaves a field as it is."""

    name: str | None = None
    enabled: bool | None = None

    def __bool__(self) -> bool:
        return self.name is not None or self.enabled is not None


@dataclass(frozen=True, slots=True)
class Adoption:
    """The changes to a department's subaccounts, in this order, and the state afterwards.

    `disable`: the duplicates that are still enabled.
    `update`: the change that makes the kept subaccount as wanted; empty if it is.
    `report`: all duplicates. A worker that died before its report may have disabled some already.
    `enabled`: whether the kept subaccount is enabled afterwards, or counts as enabled.
    """

    disable: tuple[str, ...]
    update: Update
    report: tuple[str, ...]
    enabled: bool


def duplicates_of(matches: Iterable[Match], kept: str | None) -> tuple[ListedSubaccount, ...]:
    """The subaccounts with a tag of the department that are not the kept one."""
    return tuple(one.subaccount for one in matches if one.subaccount.auth_id != kept)


def to_disable(duplicates: Iterable[ListedSubaccount]) -> tuple[str, ...]:
    """The auth ids of those duplicates that are still enabled."""
    return tuple(one.auth_id for one in duplicates if one.enabled)


def plan_adoption(
    found: ListedSubaccount,
    duplicates: Collection[ListedSubaccount],
    wanted_name: str | None,
    capabilities: Capabilities,
    *,
    enables_at_once: bool,
) -> Adoption:
    """Plans the changes that make the kept subaccount, as the provider shows it now, the one wanted.

    `wanted_name` is None for a department that is to be removed: its subaccount is neither renamed nor
    enabled, and counts as enabled, because no credentials are published for it. Without `enables_at_once` it
    is enabled once its credentials are published.
    """
    renames = wanted_name is not None and wanted_name != found.name and capabilities.can_rename
    enables = wanted_name is not None and enables_at_once and not found.enabled
    return Adoption(
        disable=to_disable(duplicates),
        update=Update(wanted_name if renames else None, True if enables else None),
        report=tuple(one.auth_id for one in duplicates),
        enabled=found.enabled or enables_at_once,
    )


def plan_repair(
    found: ListedSubaccount, wanted_name: str, capabilities: Capabilities, *, wanted_enabled: bool
) -> Update:
    """The update that makes a subaccount match its entry: only the fields that differ."""
    renames = capabilities.can_rename and found.name != wanted_name
    return Update(
        name=wanted_name if renames else None,
        enabled=wanted_enabled if found.enabled != wanted_enabled else None,
    )


def is_lost(clean_scans: int, begun: datetime, started_at: datetime, window: timedelta) -> bool:
    """Whether a create is lost: two complete scans found nothing, and the last began after the window."""
    return clean_scans >= CLEAN_SCANS_WHEN_LOST and begun > started_at + window


def seconds_to_next_scan(now: datetime, started_at: datetime, window: timedelta) -> float:
    """Seconds until the next scan. Once the window is over, the scan may begin almost at once."""
    moments = (started_at + part * window + MARGIN for part in SCAN_TIMES)
    return next((at - now for at in moments if at > now), MARGIN).total_seconds()
