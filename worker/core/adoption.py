"""What a look at the provider's list tells of a create whose answer got lost.

The list shows the newest first, by pages, with dates instead of times. It is read while others change it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple

from worker.core.model import Entry, Status

LOOKS = (1 / 24, 1 / 8, 3 / 8, 1.0)
"""When to look, as parts of the settle window."""

MARGIN = timedelta(milliseconds=100)
"""Looks come that much later than their moment, so that the last one begins after the window."""

ENOUGH_CLEAN_SCANS = 2
ENOUGH_UNKNOWNS = 3
RECOUNT_WINDOWS = 10
"""Windows after which a create that took two tries is looked at once more for doubles."""

MISSED_INCARNATIONS = 32
"""How many of a department a ledger that is behind may have missed, and still recognises the last one."""

SAFE_DAYS = timedelta(days=2)
"""Dates have no zone, and clocks differ: what was listed two days before a claim cannot be its create."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A subaccount seen in the list, without its token."""

    auth_id: str
    name: str
    enabled: bool
    created: date


class Match(NamedTuple):
    """A sighting that bears a tag of the department: of which incarnation."""

    incarnation: int
    sighting: Sighting


def in_question(entry: Entry) -> range:
    """The incarnations of which one may be there: a claim names it, a ledger that is behind may miss some."""
    missed = 1 if entry.status is Status.CLAIMED else MISSED_INCARNATIONS
    return range(entry.incarnation, entry.incarnation + missed)


def overlaps(last: str | None, page: Sequence[Sighting]) -> bool:
    """Whether a page joins on to the one before, which ended with `last`.

    It is asked for from that item on. A create meanwhile only shifts items down, so that some come twice; if
    the item is not there at all, something was deleted, and another may have slipped through unseen.
    """
    return last is None or any(one.auth_id == last for one in page)


def far_enough(page: Sequence[Sighting], since: datetime) -> bool:
    """Whether all that follows is too old to be the create of a claim made at `since`."""
    return bool(page) and page[-1].created < (since - SAFE_DAYS).date()


def choose(
    matches: Iterable[Match], on_record: str | None, *, claimed: bool
) -> tuple[Match, tuple[Match, ...]]:
    """The one to keep of all that bear a tag of a department, and the doubles: the same on every node.

    The one on record; else of the newest incarnation the oldest, ties by auth_id. Without a claim an enabled
    one goes before: of those a lost ledger knew, the doubles were disabled. Raises `ValueError` for none.
    """

    def rank(match: Match) -> tuple[bool, int, bool, date, str]:
        one = match.sighting
        double = not claimed and not one.enabled
        return one.auth_id != on_record, -match.incarnation, double, one.created, one.auth_id

    unique = {match.sighting.auth_id: match for match in matches}
    ordered = sorted(unique.values(), key=rank)
    if not ordered:
        raise ValueError("no match to choose from")
    return ordered[0], tuple(ordered[1:])


def is_lost(clean_scans: int, begun: datetime, started_at: datetime, window: timedelta) -> bool:
    """Whether a create came to nothing: two complete scans saw none, the last begun after the window."""
    return clean_scans >= ENOUGH_CLEAN_SCANS and begun > started_at + window


def seconds_to_next_look(now: datetime, started_at: datetime, window: timedelta) -> float:
    """Once the window is over, the last look may come at once."""
    moments = (started_at + part * window + MARGIN for part in LOOKS)
    return next((at - now for at in moments if at > now), MARGIN).total_seconds()
