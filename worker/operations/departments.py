"""Reads departments from the ledger."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.core.dead_letters import AuditLine
from worker.core.decide import Policy, Removal
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldState
from worker.core.naming import NO_EVENT
from worker.core.reissue import WISHES
from worker.core.removal import deletion_due_at
from worker.core.wishes import with_approvals
from worker.ports import Audit, Ledger, UserError, every_entry

GONE = "gone"
"""The state of a department whose subaccount others have deleted. The entry keeps its status beside it."""

MEANINGS: Mapping[str, str] = {
    Status.ABSENT: "it has no subaccount",
    Status.CLAIMED: "a create is under way",
    Status.ACTIVE: "it has a subaccount",
    Status.DISABLED: "it was removed; its subaccount is disabled",
    Status.DELETING: "a deletion is under way",
    Status.REMOVED: "it was removed, and its subaccount is deleted",
    GONE: "its subaccount is not at Plivo any more",
}
STATES = tuple(map(str, MEANINGS))


class UnknownDepartment(UserError):
    """The ledger has no entry for the department."""

    def __init__(self, which: Department) -> None:
        super().__init__(f"the ledger has never heard of department {which.id} of tenant {which.tenant}")


class NothingGone(UserError):
    """The department has no subaccount that could be gone."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Something that a department waits for: since when, and when it is tried next, as far as is known."""

    what: str
    since: datetime | None = None
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A department's whole story: its entry, and the rest oldest first.

    `answers`: to its events. `holds`: all that were made. `calls`: the last ones. `lines`: of the audit.
    """

    entry: Entry
    answers: Sequence[Answer]
    holds: Sequence[Hold] = ()
    calls: Sequence[CallNote] = ()
    lines: Sequence[AuditLine] = ()


async def departments(
    ledger: Ledger,
    tenant: str | None = None,
    states: Sequence[str] = (),
    *,
    owed: bool = False,
) -> AsyncGenerator[Entry, None]:
    """The departments on record, by tenant and id; of one tenant, of some states, with debts, if given.

    They are read in parts while they are used.
    """
    async for entry in every_entry(ledger, tenant):
        if (not states or state_of(entry) in states) and (not owed or entry.debt is not None):
            yield entry


async def recreatable(ledger: Ledger, which: Department) -> Entry:
    """The entry of a department whose subaccount may be gone.

    Raises `UnknownDepartment` or `NothingGone`. Only the worker can tell whether an active one is.
    """
    entry = (await ledger.recall(which, NO_EVENT)).entry
    if not entry.revision:
        raise UnknownDepartment(which)
    if entry.gone_at is None and entry.status not in {Status.ACTIVE, Status.DISABLED}:
        meaning = MEANINGS[entry.status]
        raise NothingGone(f"department {which.id} has no subaccount that is gone: {meaning}")
    return entry


def state_of(entry: Entry) -> str:
    """The state for people: the status, or `gone`."""
    return GONE if entry.gone_at is not None and entry.status is not Status.CLAIMED else entry.status


def advice(entry: Entry) -> str | None:
    """Advice to a person about the department; None if nothing is wrong."""
    if state_of(entry) == GONE:
        return (
            f"`provisioner departments recreate {entry.department.id}` creates a new one;"
            " a removed event of the department ends it"
        )
    if entry.hold is not None and entry.hold.state is HoldState.WAITING:
        return f"`provisioner holds show {entry.hold.id}`, then approve or reject it"
    return None


def pending(entry: Entry) -> Sequence[Pending]:
    """The outstanding work of the department in the ledger. Waiting messages are not in the ledger."""
    found = []
    if entry.status is Status.CLAIMED and entry.claim is not None:
        found.append(Pending("whether its create was carried out", entry.claim.started_at))
    if entry.missing_since is not None and entry.gone_at is None:
        found.append(Pending("Plivo to show its subaccount again", entry.missing_since))
    if entry.debt is not None and entry.gone_at is None:
        owed = [one or "any recipient" for one in sorted(entry.owed_to)]
        what = f"delivery of its credentials to {', '.join(owed)}" if owed else "its subaccount to be enabled"
        found.append(Pending(what, entry.created_at, entry.debt.retry_at))
    if entry.check is not None:
        found.append(Pending("a comparison with Plivo", next_try=entry.check_due_at))
    if entry.duplicates_check_at is not None:
        found.append(Pending("a look for duplicates at Plivo", next_try=entry.duplicates_check_at))
    if entry.owed_results:
        ids = ", ".join(answer.event.id for answer in entry.owed_results)
        found.append(Pending(f"delivery of its results ({ids})", next_try=entry.results_at))
    if entry.retry is not None:
        tries = f"{entry.retry.tries:,} {'try' if entry.retry.tries == 1 else 'tries'}"
        what = f"its removal to succeed, after {tries}: {entry.retry.detail}"
        found.append(Pending(what, entry.retry.failing_since, entry.retry.at))
    return found


async def history(ledger: Ledger, audit: Audit, which: Department, now: datetime) -> History:
    """The whole story of one department; raises `UnknownDepartment`."""
    found = await history_so_far(ledger, audit, which, now)
    if not found.entry.revision:
        raise UnknownDepartment(which)
    return found


async def history_so_far(ledger: Ledger, audit: Audit, which: Department, now: datetime) -> History:
    """The same; of an unknown department, an absent entry without a story."""
    entry = (await ledger.recall(which, NO_EVENT)).entry
    return History(
        entry,
        [answer for answer in await ledger.answers(which) if answer.event.source != WISHES],
        with_approvals(await ledger.holds(which, all_=True), await ledger.wishes(), now),
        await ledger.calls(which),
        await audit.lines(department=which),
    )


def fate(entry: Entry, policy: Policy) -> str | None:
    """The fate of a removed department's subaccount, in words; None if nothing is to be said."""
    if entry.hold is not None:
        state = "is held" if entry.hold.state is HoldState.WAITING else "is approved, and under way"
        return f"its removal {state} ({entry.hold.reason})"
    if entry.status is not Status.DISABLED:
        return None
    due_at = deletion_due_at(entry, policy)
    if due_at is not None:
        return f"to be deleted at {due_at:%F %T}Z, unless a newer event restores it"
    if entry.removal is not None and entry.removal.cancelled:
        return "it stays disabled: a person has rejected its deletion"
    if policy.removal in {Removal.DISABLE, Removal.IGNORE}:
        return f"it stays disabled: PROVISIONER_REMOVAL is {policy.removal}"
    return "it stays disabled"


def credentials_state(entry: Entry) -> str | None:
    """`sent (2)` or `owed: crm, enabling (2)`, with the generation. None before the first credentials."""
    if entry.generation == 0:
        return None
    if entry.debt is None:
        return f"sent ({entry.generation})"
    owed = [recipient for recipient in sorted(entry.owed_to) if recipient != ANY_RECIPIENT]
    owed += ["enabling"] if entry.debt.enable else []
    return f"owed: {', '.join(owed)} ({entry.generation})" if owed else f"owed ({entry.generation})"
