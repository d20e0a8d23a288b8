"""Reads departments from the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.core.model import ANY_RECIPIENT, Answer, Department, Entry, Status
from worker.core.naming import NO_EVENT
from worker.ports import Ledger, UserError

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
    """A department's entry, and the answers to its events, oldest first."""

    entry: Entry
    answers: Sequence[Answer]


async def departments(
    ledger: Ledger,
    tenant: str | None = None,
    states: Sequence[str] = (),
    *,
    owed: bool = False,
) -> Sequence[Entry]:
    """The departments on record, by tenant and id; of one tenant, of some states, with debts, if given."""
    entries = await ledger.entries(tenant)
    return [
        entry
        for entry in entries
        if (not states or state_of(entry) in states) and (not owed or entry.debt is not None)
    ]


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
    if state_of(entry) != GONE:
        return None
    return (
        f"`provisioner departments recreate {entry.department.id}` creates a new one;"
        " a removed event of the department ends it"
    )


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
        found.append(Pending("a comparison with Plivo", next_try=entry.check.at))
    if entry.duplicates_check_at is not None:
        found.append(Pending("a look for duplicates at Plivo", next_try=entry.duplicates_check_at))
    return found


async def history(ledger: Ledger, which: Department) -> History:
    """The entry and the answers of one department; raises `UnknownDepartment`."""
    for entry in await ledger.entries(which.tenant):
        if entry.department == which:
            return History(entry, await ledger.answers(which))
    raise UnknownDepartment(which)


def credentials_state(entry: Entry) -> str | None:
    """`sent (2)` or `owed: crm, enabling (2)`, with the generation. None before the first credentials."""
    if entry.generation == 0:
        return None
    if entry.debt is None:
        return f"sent ({entry.generation})"
    owed = [recipient for recipient in sorted(entry.owed_to) if recipient != ANY_RECIPIENT]
    owed += ["enabling"] if entry.debt.enable else []
    return f"owed: {', '.join(owed)} ({entry.generation})" if owed else f"owed ({entry.generation})"
