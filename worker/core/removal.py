"""Removal: whether a removal may be carried out now, or is held for a person, or waits for its time.

`decide` says whether a removed department's subaccount is disabled or deleted. This module says whether
that may happen. It looks at the reasons in the order of `HoldReason`; the first one that applies holds the
removal. The first four concern the removal itself, and an approval of any of them covers it. The last two are
looked at right before a deletion, on the state that the provider shows at that moment, so an approval of one
does not cover the other.

A removal ends late, without its message, if its grace is over or a person has approved it. It takes the same
line as an event does, and the same checks. `Restore` and `Reconsider` cancel the deletion before they are
sent: from then on something newer says that the department exists, whether they succeed or not. No removal
that is older deletes it then, as `Entry.wanted_by` tells.
"""

import base64
import hashlib
from datetime import datetime, timedelta

from pydantic_core import to_json

from worker.core.decide import (
    CountTenant,
    Decision,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    NothingLeft,
    Policy,
    Reconsider,
    Removal,
    Step,
    removal_step,
)
from worker.core.inventory import Inspection
from worker.core.limits import Admission
from worker.core.model.causes import Event, LateRemoval, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.core.model.recollection import Recollection

APPROVAL_VALID_FOR = timedelta(hours=24)
"""An approval that the worker could not carry out by then lapses."""

RULES = frozenset({HoldReason.PROTECTED, HoldReason.MERGED, HoldReason.LAST_ACTIVE, HoldReason.LIMIT})
"""The reasons that concern the removal itself. An approval of one covers all of them."""

PROTECTED_DETAIL = "PROVISIONER_PROTECTED names it"

NEVER_DELETES = "PROVISIONER_REMOVAL={} never deletes a subaccount"


def guard(
    decision: Decision, event: Event, known: Recollection, policy: Policy, now: datetime
) -> Decision | CountTenant:
    """The decision on an event, unless it is a removal that must be held, counted or inspected first."""
    if not isinstance(decision, Disable | Delete):
        return decision
    entry = known.entry
    if entry.deletion is not None and _is_gone_or_unseen(known):  # in doubt: it may be carried out by now
        return _checked_deletion(decision.auth_id, known, None, policy)
    if entry.newer_event(event.version):  # it waits until this one has seen the end of the deletion
        return Reconsider(decision.auth_id)
    if entry.removal is None:  # one under way is counted already, but it may be that of an older event
        if entry.removing is None and known.counts is None and policy.limit:
            return CountTenant()
        if held := _held_by_rule(event, known, policy, now):
            return held
    if isinstance(decision, Disable):
        return decision
    return _checked_deletion(decision.auth_id, known, None, policy)


def decide_late_removal(
    asked: LateRemoval, known: Recollection, policy: Policy, now: datetime
) -> Step | NothingLeft:
    """Decides a removal whose time has come, or that a person has approved, at `now`."""
    entry = known.entry
    if entry.auth_id is None or not is_removal_due(entry, policy, now):
        return NothingLeft()
    if entry.late_removal is None or entry.late_removal.reference != asked.reference:
        return NothingLeft()
    if entry.hold is not None and has_lapsed(entry.hold, now):
        return _end_of_lapsed(entry.auth_id, entry.hold, known)
    step = removal_step(entry.auth_id, policy)
    if entry.status is Status.ACTIVE and not isinstance(step, Delete):
        return step
    return _checked_deletion(entry.auth_id, known, entry.hold, policy)


def is_removal_due(entry: Entry, policy: Policy, now: datetime) -> bool:
    """Whether a late removal goes on now."""
    if entry.late_removal is None or (entry.retry is not None and entry.retry.at > now):
        return False
    if entry.status is not Status.DISABLED:
        return True
    due_at = _grace_ends_at(entry, policy)
    return due_at is not None and (entry.hold is not None or due_at <= now)


def deletion_due_at(entry: Entry, policy: Policy) -> datetime | None:
    """When the subaccount of a removed department is deleted; None if nothing will delete it.

    A deletion that failed is due at its next try. One that is held waits for a person.
    """
    if entry.late_removal is None or entry.hold is not None or entry.status is Status.ACTIVE:
        return None
    due_at = _grace_ends_at(entry, policy)
    return entry.retry.at if due_at is not None and entry.retry is not None else due_at


def deletable_before(policy: Policy, now: datetime) -> datetime | None:
    """The grace of departments that were disabled by then is over; None if none is ever deleted."""
    grace = _grace(policy)
    return None if grace is None else now - grace


def may_approve(hold: Hold, entry: Entry, policy: Policy) -> str | None:
    """Why a hold cannot be approved; None if it can."""
    if entry.hold is None or entry.hold.id != hold.id:
        return f"it is {hold.state}"
    if entry.auth_id != hold.auth_id:
        return "the department has another subaccount now"
    if entry.status is Status.DISABLED and _grace(policy) is None:
        return NEVER_DELETES.format(policy.removal)
    return None


def has_lapsed(hold: Hold, now: datetime) -> bool:
    """Whether an approval is too old to be carried out."""
    approved = hold.state is HoldState.APPROVED and hold.ruling is not None
    return approved and hold.ruling is not None and now - hold.ruling.at >= APPROVAL_VALID_FOR


def hold_id(department: Department, event: Reference, number: int) -> str:
    """The id of the department's hold of this number: short, and the same at each try."""
    digest = hashlib.sha256(to_json(["hold", *department, event.source, event.id, number])).digest()
    return f"H{base64.b32encode(digest)[:11].decode()}"


def drift_of(entry: Entry, inspection: Inspection) -> str | None:
    """How the subaccount differs from the ledger in a way that its deletion must not ignore."""
    found = inspection.found
    if found is None:
        return None
    differences = []
    if found.enabled and entry.removal is not None:
        differences.append("it is enabled at Plivo, although it was disabled when the department was removed")
    if not inspection.tagged and not entry.keeps_name:
        differences.append(f"its name at Plivo does not carry the department's tag: {found.name}")
    return "; ".join(differences) or None


def _is_gone_or_unseen(known: Recollection) -> bool:
    return known.inspection is None or known.inspection.found is None


def _held_by_rule(event: Event, known: Recollection, policy: Policy, now: datetime) -> HoldBack | None:
    if policy.protected.includes(event.department):
        return HoldBack(HoldReason.PROTECTED, PROTECTED_DETAIL)
    if event.merged_into is not None:
        return HoldBack(HoldReason.MERGED, f"it is merged into department {event.merged_into}")
    if known.counts is None or not policy.limit:
        return None
    admission = Admission(policy.limit, now)
    if admission.is_last_active(known.counts):
        return HoldBack(
            HoldReason.LAST_ACTIVE, f"it is the last active one of tenant {event.department.tenant}"
        )
    if window := admission.used_up(known.counts):
        return HoldBack(HoldReason.LIMIT, f"the removals of PROVISIONER_REMOVAL_LIMIT {window} are used up")
    return None


def _checked_deletion(
    auth_id: str, known: Recollection, approved: Hold | None, policy: Policy
) -> Inspect | HoldBack | Delete | Reconsider:
    """The deletion, once the provider has shown the subaccount. `approved`: the hold that it was for."""
    inspection = known.inspection
    if inspection is None:
        return Inspect(auth_id)
    if inspection.found is None:  # the deletion meets 404, which is success
        return Delete(auth_id, inspection=inspection)
    if known.entry.deletion is not None and _grace(policy) is None:  # the settings have changed since
        return Reconsider(auth_id)
    accepted = _accepted(approved, drift := drift_of(known.entry, inspection))
    if HoldReason.PROTECTED not in accepted and policy.protected.includes(known.entry.department):
        return HoldBack(HoldReason.PROTECTED, PROTECTED_DETAIL, inspection, accepted)
    if drift is not None and drift not in accepted:
        return HoldBack(HoldReason.DRIFT, drift, inspection, accepted)
    counts = inspection.inventory.counts
    if approved is None or approved.reason is not HoldReason.RESOURCES:
        held = HoldBack(HoldReason.RESOURCES, f"{counts} hang on it", inspection, accepted)
        return held if counts.total else Delete(auth_id, inspection=inspection)
    cascade = approved.ruling.cascade if approved.ruling else None
    if cascade is not None and cascade != counts.total:
        detail = f"{counts} hang on it, {counts.total} in all; the approval was for {cascade}"
        return HoldBack(HoldReason.RESOURCES, detail, inspection, accepted)
    return Delete(auth_id, cascade is not None and counts.total > 0, inspection)


def _end_of_lapsed(auth_id: str, hold: Hold, known: Recollection) -> Step | NothingLeft:
    """The end of a lapsed approval whose deletion is under way: the hold waits again, unless it is done."""
    inspection = known.inspection
    if known.entry.deletion is None:
        return NothingLeft()
    if inspection is None:
        return Inspect(auth_id)
    if inspection.found is None:
        return Delete(auth_id, inspection=inspection)
    return HoldBack(hold.reason, hold.detail, inspection, hold.accepted)


def _accepted(approved: Hold | None, drift: str | None) -> frozenset[str]:
    """The reasons that a person has accepted. An approval of drift accepts the state as it is found then."""
    if approved is None:
        return frozenset()
    accepted = approved.accepted | {approved.reason.value}
    if approved.reason in RULES:
        accepted |= {HoldReason.PROTECTED.value}
    return accepted | {drift} if approved.reason is HoldReason.DRIFT and drift else accepted


def _grace(policy: Policy) -> timedelta | None:
    """The time between the disable and the deletion; None if nothing is deleted."""
    match policy.removal:
        case _ if not policy.capabilities.can_delete:
            return None
        case Removal.DISABLE_THEN_DELETE:
            return policy.grace
        case Removal.DELETE:
            return timedelta(0)
        case Removal.DISABLE | Removal.IGNORE:
            return None


def _grace_ends_at(entry: Entry, policy: Policy) -> datetime | None:
    grace = _grace(policy)
    if grace is None or entry.removal is None:
        return None
    return entry.removal.removed_at + grace
