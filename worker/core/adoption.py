"""Which subaccounts at the provider are a department's, and what to do with them.

A create without a response is looked for in the provider's list. So is what a new or restored ledger does not
know. The list comes in pages, with dates instead of times, and it is read while others change it: a scan is
complete only where each page joins on to the one before. A create is taken for lost after two complete scans,
the last begun after the settle window. Of several subaccounts with a department's tag every worker keeps the
same one and disables the others. All that is decided here; `provider/act.py` carries it out.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple

from worker.core.capabilities import Capabilities
from worker.core.model import Entry, Status

SCAN_TIMES = (1 / 24, 1 / 8, 3 / 8, 1.0)
"""When to scan for a lost create, as parts of the settle window."""

MARGIN = timedelta(milliseconds=100)
"""Scans come that much later than their time, so that the last one begins after the window."""

ENOUGH_CLEAN_SCANS = 2
ENOUGH_UNKNOWNS = 3
DUPLICATES_CHECK_WINDOWS = 10
"""Settle windows after which duplicates of a create that took two tries are looked for once more."""

MISSED_INCARNATIONS = 32
"""How many incarnations of a department a ledger that is behind may have missed."""

SAFE_DAYS = timedelta(days=2)
"""Dates have no time zone, and clocks differ. What was listed two days before a claim is not its create."""


@dataclass(frozen=True, slots=True)
class ListedSubaccount:
    """A subaccount as the list shows it, without its token.

    `created` is `date.max` where the list tells no date: such a subaccount is never too old, and of several
    the smallest auth_id is kept.
    """

    auth_id: str
    name: str
    enabled: bool
    created: date


class Match(NamedTuple):
    """A subaccount that bears a tag of the department, and the incarnation that the tag stands for."""

    incarnation: int
    subaccount: ListedSubaccount


def in_question(entry: Entry) -> range:
    """The incarnations to look for: a claim names one, a ledger that is behind may have missed some."""
    missed = 1 if entry.status is Status.CLAIMED else MISSED_INCARNATIONS
    return range(entry.incarnation, entry.incarnation + missed)


def overlaps(last: str | None, page: Sequence[ListedSubaccount]) -> bool:
    """Whether a page joins on to the one before, which ended with `last`.

    The page was asked for from that item on. A create meanwhile only shifts items down, so that some come
    twice. If the item is missing, something was deleted, and another item may have been skipped.
    """
    return last is None or any(one.auth_id == last for one in page)


def far_enough(page: Sequence[ListedSubaccount], since: datetime) -> bool:
    """Whether all later items of a newest-first list are too old for the create of a claim of `since`."""
    return bool(page) and page[-1].created < (since - SAFE_DAYS).date()


def choose(
    matches: Iterable[Match], on_record: str | None, *, claimed: bool
) -> tuple[Match, tuple[Match, ...]]:
    """The subaccount to keep of all with a tag of a department, and the duplicates: the same on every node.

    Kept is the one on record, or else the oldest of the newest incarnation, ties by auth_id. Without a claim
    an enabled one goes first: a lost ledger had disabled its duplicates. Raises `ValueError` for no match.
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
    """What to send in one update of a subaccount; None leaves the field as it is."""

    name: str | None = None
    enabled: bool | None = None

    def __bool__(self) -> bool:
        return self.name is not None or self.enabled is not None


@dataclass(frozen=True, slots=True)
class Adoption:
    """What to do with a department's subaccounts, in this order, and what is so afterwards.

    `disable`: the duplicates that are still enabled.
    `update`: what makes the kept one as wanted, if it is not.
    `report`: all duplicates; one that is disabled already may be so by a worker that died before its report.
    `enabled`: whether the kept one is enabled then, or counts as such.
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
    """How the kept subaccount, as the provider shows it now, becomes what the department is to have.

    `wanted_name` is None for a department that is to be removed: its subaccount is neither renamed nor
    enabled, and counts as enabled, for its credentials are not awaited. Without `enables_at_once` it is
    enabled once its credentials are published.
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
    """What sets a subaccount right that is not as the entry says; empty where it is."""
    renamed = capabilities.can_rename and found.name != wanted_name
    if not renamed and found.enabled == wanted_enabled:
        return Update()
    return Update(wanted_name if capabilities.can_rename else None, wanted_enabled)


def is_lost(clean_scans: int, begun: datetime, started_at: datetime, window: timedelta) -> bool:
    """Whether a create came to nothing: two complete scans saw none, the last one begun after the window."""
    return clean_scans >= ENOUGH_CLEAN_SCANS and begun > started_at + window


def seconds_to_next_scan(now: datetime, started_at: datetime, window: timedelta) -> float:
    """How long to wait before the next scan. Once the window is over, the last one may come at once."""
    moments = (started_at + part * window + MARGIN for part in SCAN_TIMES)
    return next((at - now for at in moments if at > now), MARGIN).total_seconds()
