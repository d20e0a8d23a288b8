"""Reads departments from the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.core.model import ANY_RECIPIENT, Answer, Department, Entry
from worker.ports import Ledger, UserError


class UnknownDepartment(UserError):
    """The ledger has no entry for the department."""

    def __init__(self, which: Department) -> None:
        super().__init__(f"the ledger has never heard of department {which.id} of tenant {which.tenant}")


@dataclass(frozen=True, slots=True)
class History:
    """A department's entry, and the answers to its events, oldest first."""

    entry: Entry
    answers: Sequence[Answer]


async def departments(ledger: Ledger, tenant: str | None = None) -> Sequence[Entry]:
    """All departments on record, by tenant and id; with `tenant` only those of one."""
    return await ledger.entries(tenant)


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
