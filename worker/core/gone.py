"""Gone: others deleted the department's subaccount at the provider.

A subaccount on record that the provider does not find is asked for again, because reads may lag. One settle
window later it counts as gone. It is not created anew unasked: until somebody asks for it, or the department
is removed, the department's events are refused. Each of them looks first, so a subaccount that is there again
ends that state.
"""

from datetime import datetime, timedelta

from worker.core.decide import Policy
from worker.core.duties import arm_check, arm_late_check, put_off_debt, suspend_debt
from worker.core.model.entry import Entry, Status
from worker.core.model.removals import Removed
from worker.core.model.replace import replace

FORGET_WINDOWS = 10
"""Looks further apart than this many settle windows, and than `FORGET_AFTER`, do not belong together: the
subaccount may have been there in between."""

FORGET_AFTER = timedelta(hours=1)


def not_found(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry once the provider did not find its subaccount: gone, if that began a settle window ago."""
    if entry.auth_id is None or entry.gone_at is not None or entry.status is Status.DELETING:
        return _without_duties(entry)
    since = entry.missing_since
    if since is None or not timedelta(0) <= now - since <= _forget_after(policy):
        return replace(entry, missing_since=now)
    if now - since < policy.settle_window:
        return entry
    return _without_duties(replace(entry, gone_at=now))


def looked_for(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """`not_found`, for a look that no message repeats: a check looks for the missing subaccount again."""
    missing = not_found(entry, policy, now)
    if missing.gone_at is not None or missing.check is not None or missing.missing_since is None:
        return missing
    return arm_check(missing, policy, now)


def found(entry: Entry, policy: Policy, now: datetime) -> Entry:
    """The entry once the provider has found its subaccount. After a loss, its duties are taken up again."""
    if entry.missing_since is None and entry.gone_at is None:
        return entry
    back = replace(entry, missing_since=None, gone_at=None)
    if entry.gone_at is None:
        return back
    return arm_late_check(put_off_debt(back, now) if back.is_live else back, policy, now)


def vacated(entry: Entry, now: datetime) -> Entry:
    """The entry of a department whose subaccount is gone, ready for the next incarnation."""
    return replace(
        entry,
        status=Status.REMOVED,
        auth_id=None,
        incarnation=entry.incarnation + 1,
        debt=None,
        check=None,
        removal=Removed(now, auth_id=entry.auth_id),
        missing_since=None,
        deletion=None,
        removing=None,
        hold=None,
        retry=None,
        keeps_name=False,
        kept_name=None,
    )


def seconds_until_gone(entry: Entry, policy: Policy, now: datetime) -> float:
    """How long the missing subaccount is asked for again."""
    since = entry.missing_since or now
    return max(0.0, (since + policy.settle_window - now).total_seconds())


def _without_duties(entry: Entry) -> Entry:
    return suspend_debt(replace(entry, check=None))


def _forget_after(policy: Policy) -> timedelta:
    return max(FORGET_WINDOWS * policy.settle_window, FORGET_AFTER)
