"""Duties: the work that an entry schedules for later, and the entry after each result.

Events drive the steps now; the entry drives the duties later. The scheduler asks here which duty is
due, carries it out, and records the entry that one of these functions makes of the result. So a new kind of
duty is a sub-value of the entry, a member of `Duty`, and the functions for its results.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum, auto

from worker.core.adoption import DUPLICATES_CHECK_WINDOWS
from worker.core.decide import Policy
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.replace import replace

DEBT_PAUSE = timedelta(minutes=1)
"""The time between two tries of the scheduler to pay a debt. The line itself tries at once."""

OVERDUE = timedelta(minutes=5)
"""Older debts count as overdue."""

UNSETTLED = timedelta(seconds=30)
"""A create without an outcome that began longer ago is not just under way: no call takes as long."""

MAX_REPAIRS = 5
"""Each multiple of this number of repairs ends the checks of an entry. Late calls are rarer, but a provider
may, for example, always show another name than the one it was sent."""


class Duty(Enum):
    """The kinds of work that the scheduler does for a department."""

    CHECK = auto()
    """Compare the subaccount with the entry, and correct it."""
    CHECK_DUPLICATES = auto()
    """Look for other subaccounts with a tag of the department, and disable them."""
    PAY_DEBT = auto()
    """Deliver the credentials owed, and enable the subaccount."""
    SUSPEND_DEBT = auto()
    """Stop trying: the department is not active any more."""


def due_duty(entry: Entry, now: datetime) -> Duty | None:
    """The next duty that is due, in the order of `Duty`. While a create is open, none is due.

    Late removals and owed results are no duties: they take the line, and the way of results.
    """
    if entry.status is Status.CLAIMED:
        return None
    if _is_due(entry.check_due_at, now):
        return Duty.CHECK
    if _is_due(entry.duplicates_check_at, now):
        return Duty.CHECK_DUPLICATES
    if entry.debt and _is_due(entry.debt.retry_at, now):
        return Duty.PAY_DEBT if entry.status is Status.ACTIVE else Duty.SUSPEND_DEBT
    return None


def arm_check(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry that must be durable before a change is sent: with a check one settle window ahead."""
    # A check that is still set belongs to a change whose outcome was never recorded; it may arrive late.
    return replace(entry, check=Check(now + policy.settle_window, late_call=entry.check is not None))


def arm_late_check(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry if a call may still be carried out and undo the state on record."""
    return replace(entry, check=Check(now + policy.settle_window, late_call=True))


def clear_check(entry: Entry) -> Entry:
    """The entry once the outcome of its change is known; a check for a late call stays."""
    return entry if entry.check and entry.check.late_call else replace(entry, check=None, begun=None)


def check_done(entry: Entry) -> Entry:
    """The entry once a check found the subaccount to match it, or found it missing.

    A removal in doubt is not in effect then.
    """
    without = replace(entry, check=None, begun=None)
    return replace(without, removing=None) if entry.status is Status.ACTIVE else without


def check_repaired(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry once a check corrected the subaccount: it is compared again, up to a limit."""
    repaired = replace(entry, repairs=entry.repairs + 1)
    if repaired.repairs % MAX_REPAIRS == 0:
        return check_done(repaired)
    return arm_late_check(repaired, policy, now)


def duplicates_check_time(policy: Policy, now: datetime) -> datetime:
    """The time of the next duplicate check, after a create that may still be carried out."""
    return now + DUPLICATES_CHECK_WINDOWS * policy.settle_window


def duplicates_checked(entry: Entry) -> Entry:
    """The entry once duplicates were looked for and disabled."""
    return replace(entry, duplicates_check_at=None)


def put_off_debt(entry: Entry, now: datetime) -> Entry:
    """The entry with its debt put off by `DEBT_PAUSE`."""
    return _retry_debt_at(entry, now + DEBT_PAUSE)


def suspend_debt(entry: Entry) -> Entry:
    """The entry with its debt suspended until the department is active again."""
    return _retry_debt_at(entry, None)


def put_off_due(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry with every duty that is due at `now` put off, because one of them failed."""
    later = now + policy.settle_window
    if entry.check and _is_due(entry.check_due_at, now):
        entry = replace(entry, check=replace(entry.check, at=later))
    if _is_due(entry.duplicates_check_at, now):
        entry = replace(entry, duplicates_check_at=later)
    if entry.debt and _is_due(entry.debt.retry_at, now):
        entry = put_off_debt(entry, now)
    return entry


def longest_due(
    due: Sequence[tuple[datetime, Department]],
    deletable: Sequence[tuple[datetime, Department]],
    limit: int,
    grace: timedelta,
) -> Sequence[Department]:
    """At most `limit` departments, the longest due first; each kind has half of the places if it needs them.

    `due`, `deletable`: earliest first, with the time of the duty, or that at which the grace began.
    """
    ended = [(since + grace, department) for since, department in deletable]
    deletions = min(len(ended), max(limit // 2, limit - len(due)))
    chosen = sorted([*due[: limit - deletions], *ended[:deletions]])
    return list(dict.fromkeys(department for _, department in chosen))


def _retry_debt_at(entry: Entry, at: datetime | None) -> Entry:
    return replace(entry, debt=replace(entry.debt, retry_at=at)) if entry.debt else entry


def _is_due(at: datetime | None, now: datetime) -> bool:
    return at is not None and at <= now
