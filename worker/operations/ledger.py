"""Copies, checks and purges of a whole ledger."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.core.dead_letters import AuditLine
from worker.core.keeping import Schema, Table, Tally
from worker.core.model.departments import Department
from worker.core.naming import NO_EVENT
from worker.ports import (
    Audit,
    Clock,
    Filling,
    Keeping,
    KeptRows,
    Ledger,
    LedgerForeign,
    LedgerNotEmpty,
    OpenedLedger,
    UserError,
)

AT_ONCE = 500
"""How many departments a step of a check or a purge looks at."""

MOST_TROUBLES = 20

OnProgress = Callable[[int], None]
"""Gets how much more was done."""


class NotCopied(UserError):
    """The ledger was not copied, and the target is as it was."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy: rows by table, and the digest of both ledgers."""

    counts: Mapping[Table, int]
    digest: str


async def size(keeping: Keeping) -> int:
    """The number of rows."""
    async with keeping.reading() as rows:
        return sum((await rows.counts()).values())


async def copy(source: Keeping, target: Keeping, on_rows: OnProgress = lambda _more: None) -> Copied:
    """Copies all rows, reads them back and compares: counts and digest. The target gets all or nothing.

    `on_rows` counts each row twice: written and read back. Raises `NotCopied`.
    """
    try:
        async with source.reading() as rows, target.filling() as filling:
            wanted = await _fill(rows, filling, on_rows)
            found = await _tally(filling, on_rows)
            if (found.counts, found.digest) != (wanted.counts, wanted.digest):
                raise NotCopied(
                    f"the target does not hold what the source does: {_difference(wanted, found)}"
                )
    except LedgerNotEmpty:
        raise NotCopied(
            "the target holds rows already; copy to a new file, or to an empty database"
        ) from None
    except LedgerForeign:
        raise NotCopied("the target is bound to another owner or account than the source") from None
    return Copied(wanted.counts, wanted.digest)


async def _fill(rows: KeptRows, filling: Filling, on_rows: OnProgress) -> Tally:
    tally = Tally()
    for table in Table:
        async for batch in rows.batches(table):
            await filling.add(table, batch)
            tally.add(table, batch)
            on_rows(len(batch))
    return tally


async def _tally(rows: KeptRows, on_rows: OnProgress) -> Tally:
    tally = Tally()
    for table in Table:
        async for batch in rows.batches(table):
            tally.add(table, batch)
            on_rows(len(batch))
    return tally


def _difference(wanted: Tally, found: Tally) -> str:
    counts = [
        f"{found.counts[table]:,} of {number:,} {table}"
        for table, number in wanted.counts.items()
        if found.counts[table] != number
    ]
    return ", ".join(counts) or "its rows differ"


def trouble_of(schema: Schema) -> str | None:
    """Why a ledger of this schema cannot be read by this version; None if it can."""
    if schema.applied < schema.known:
        return f"it is of an older version ({schema.applied}); start `provisioner run` of this one on it once"
    if schema.applied > schema.known:
        return f"it is of a newer version, which knows {schema.applied}; use that one"
    return None


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check.

    `bound`: owner and provider account; None for a ledger that no worker has started on. `newest_at`: when
    the newest event of all departments was answered. `troubles`: one line for each.
    """

    schema: Schema
    bound: tuple[str, str] | None = None
    counts: Mapping[Table, int] | None = None
    newest_at: datetime | None = None
    troubles: Sequence[str] = ()


async def check(opened: OpenedLedger, on_departments: OnProgress = lambda _more: None) -> Checked:
    """Checks that the database is whole, each row readable, and the newest event of each department answered.

    A ledger of another schema is not looked at any further.
    """
    schema = await opened.keeping.schema()
    if (other := trouble_of(schema)) is not None:
        return Checked(schema, troubles=(other,))
    damages = list(await opened.keeping.damages())
    async with opened.keeping.reading() as rows:
        counts = await rows.counts()
        bound = [row async for batch in rows.batches(Table.LEDGER) for row in batch]
    newest_at, unanswered = (None, ()) if damages else await _newest(opened.ledger, on_departments)
    return Checked(
        schema,
        (str(bound[0][0]), str(bound[0][1])) if bound else None,
        counts,
        newest_at,
        [*damages, *unanswered],
    )


async def _newest(ledger: Ledger, on_departments: OnProgress) -> tuple[datetime | None, Sequence[str]]:
    """When the newest event of all was answered, and a line for each department whose own has no answer."""
    newest_at: datetime | None = None
    troubles: list[str] = []
    last: Department | None = None
    while entries := await ledger.entries_after(last, AT_ONCE):
        recalls = (ledger.recall(entry.department, entry.newest or NO_EVENT) for entry in entries)
        for entry, known in zip(entries, await asyncio.gather(*recalls), strict=True):
            if known.answer is not None:
                at = known.answer.answered_at
                newest_at = at if newest_at is None else max(newest_at, at)
            elif entry.newest is not None and known.entry.newest == entry.newest:
                tenant, id_ = entry.department
                troubles.append(f"department {id_} of tenant {tenant}: its newest event has no answer")
        last = entries[-1].department
        on_departments(len(entries))
        if len(troubles) >= MOST_TROUBLES:
            break
    return newest_at, troubles


@dataclass(frozen=True, slots=True)
class Purged:
    """The result of a purge: the answers from before `before`, in so many departments."""

    before: datetime
    answers: int
    departments: int


@dataclass(frozen=True, slots=True)
class Purging:
    """One command of a person. For the audit: `by` is the operator, `run` the id of this command."""

    ledger: Ledger
    audit: Audit
    clock: Clock
    by: str
    run: str

    async def purge(
        self, older_than: timedelta, selection: str, on_departments: OnProgress = lambda _more: None
    ) -> Purged:
        """Forgets old answers, in the same small steps as a running worker, which is not disturbed."""
        before = self.clock.now() - older_than
        answers, departments, last = 0, 0, None
        await self.audit.append([self._line(selection, "asked for")])
        try:
            while True:
                step = await self.ledger.purge(before, last, AT_ONCE)
                answers += step.removed
                if step.last is None:
                    return Purged(before, answers, departments)
                departments, last = departments + step.looked_at, step.last
                on_departments(step.looked_at)
                await self.clock.sleep(0)  # Ctrl-C is heard here
        finally:
            await self.audit.append([self._line(selection, f"{answers} answers forgotten")])

    def _line(self, selection: str, outcome: str) -> AuditLine:
        return AuditLine(
            at=self.clock.now(),
            by=self.by,
            action="purge",
            run=self.run,
            selection=selection,
            event_id=None,
            source=None,
            tenant=None,
            department_id=None,
            reason="",
            outcome=outcome,
        )
