"""The conclusions of a rename, a restore, a disable and a look: carried out, failed, or nothing found."""

import dataclasses
from datetime import datetime

from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from worker.core import gone
from worker.core.conclusions.conclusion import Conclusion, answered, is_removal
from worker.core.conclusions.removal import deleted
from worker.core.debts import debt_kept
from worker.core.decide import NAME_KEPT, Disable, Policy, Rename, Restore, gone_detail
from worker.core.duties import arm_late_check, clear_check, put_off_debt
from worker.core.judge import Failure, Missing, Permanent, Unknown
from worker.core.model.causes import Cause, Recreation
from worker.core.model.entry import Entry, Status
from worker.core.model.removals import Removed
from worker.core.model.replace import replace


def changed(
    entry: Entry, cause: Cause | None, step: Rename | Restore | Disable, policy: Policy, now: datetime
) -> Conclusion:
    """The provider has confirmed the change."""
    match step:
        case Rename(_, name):
            return answered(replace(entry, name=name, kept_name=None), cause, ResultKind.RENAMED, now)
        case Restore(_, name):
            kept = NAME_KEPT if name and not policy.capabilities.can_rename else None
            return answered(_restored(entry, name, now), cause, ResultKind.RESTORED, now, kept)
        case Disable():
            return answered(_disabled(entry, cause, now), cause, ResultKind.DISABLED, now)


def seen(entry: Entry, cause: Cause | None) -> Conclusion:
    """The event is decided again. A recreation has nothing to do."""
    if not isinstance(cause, Recreation):
        return Conclusion(entry)
    why = f"its subaccount {entry.auth_id} is at Plivo: there is nothing to recreate"
    return Conclusion(entry, failure=Permanent(DeadReason.INVALID, why, ResultCode.NOT_ALLOWED))


def not_found(entry: Entry, cause: Cause, missing: Missing, policy: Policy, now: datetime) -> Conclusion:
    """The provider does not find the subaccount on record: it is asked again, until it counts as gone."""
    without = gone.not_found(clear_check(entry), policy, now)
    if without.gone_at is None:
        left = gone.seconds_until_gone(without, policy, now)
        return Conclusion(without, failure=dataclasses.replace(missing, gone_in_seconds=left))
    if isinstance(cause, Recreation):
        return Conclusion(gone.vacated(without, now))  # decided again: a new one is created
    if is_removal(cause):
        removed, code = deleted(without, cause, now), ResultCode.GONE_AT_PROVIDER
        return answered(removed, cause, ResultKind.REMOVED, now, auth_id=entry.auth_id, code=code)
    code, api_id = ResultCode.GONE_AT_PROVIDER, missing.api_id
    refused = Permanent(DeadReason.REJECTED, gone_detail(without), code, api_id=api_id)
    return Conclusion(without, failure=refused)


def not_changed(entry: Entry, failure: Failure, policy: Policy, now: datetime) -> Entry:
    """A change without a clear response may be carried out late, over a newer one.

    A deletion is sent again, and an adoption is checked once it succeeds.
    """
    if entry.status is Status.DELETING or entry.auth_id is None:
        return entry
    if isinstance(failure, Unknown):
        return arm_late_check(entry, policy, now)
    cleared = clear_check(entry)
    # A removal that certainly did not happen does not count. One in doubt does, until its check.
    return cleared if cleared.check is not None else replace(cleared, removing=None)


def _restored(entry: Entry, name: str | None, now: datetime) -> Entry:
    active = replace(
        entry,
        status=Status.ACTIVE,
        name=name or entry.name,
        kept_name=None if name else entry.kept_name,
        removal=None,
        debt=debt_kept(entry),
    )
    return put_off_debt(active, now)


def _disabled(entry: Entry, cause: Cause | None, now: datetime) -> Entry:
    counted_at = entry.removing.counted_at if entry.removing else None
    removal = Removed(now, cause.bare if cause else None, counted_at)
    return replace(
        entry, status=Status.DISABLED, removal=removal, removing=None, debt=debt_kept(entry), retry=None
    )
