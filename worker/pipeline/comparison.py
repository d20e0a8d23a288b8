"""Comparison: makes one sweep. It reads the provider's list and the ledger, and reports how they differ.

    entries    the revision of each entry, before the list is read
    list       all subaccounts, to the end of the list
    entries    again: a department that changed meanwhile is uncertain
    sort       each subaccount to its entry, to a department as a double, or to the strangers
    compare    each entry with its subaccount
    look again where the list differs: entry and subaccount are read as they are now, in the department's lane

It changes nothing. The worker makes it in the background; a command makes it where no worker runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from worker.core.drift import (
    Finding,
    FindingKind,
    Report,
    Seen,
    Sorted,
    another_account,
    compare,
    is_uncertain,
    is_under_way,
    ordered,
    tags_of,
)
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.naming import NO_EVENT, Names
from worker.flow.lanes import Lanes
from worker.ports import CallFailed, Clock, DepartmentLocks, Ledger, UserError
from worker.provider.listing import Listing, OnPages

BATCH = 100
"""Departments or subaccounts to sort or compare before other work gets its turn."""

PART = 25
"""Entries to read at a time; one takes about a tenth of a millisecond."""

PAUSE_SECONDS = 0.005
"""The pause after each part."""

LOOKS = 500
"""The most departments to look at again. More findings than that are no accident of the list's timing."""

LOOKS_AT_ONCE = 10

PATIENCE_SECONDS = 30.0
"""How long to wait for the lane of one department. One that is not read in this time is left out."""

T = TypeVar("T")


class InTurn(Protocol):
    """Runs work while no step of the department runs."""

    async def __call__(self, department: Department, work: Callable[[], Awaitable[T]], /) -> T:
        """Returns the result of the work, or raises its error."""


async def at_once(_department: Department, work: Callable[[], Awaitable[T]]) -> T:
    """Runs the work now: no worker runs, so no step does."""
    return await work()


@dataclass(frozen=True, slots=True)
class InLane:
    """Runs work in the department's lane, behind the events that wait there."""

    lanes: Lanes
    locks: DepartmentLocks

    async def __call__(self, department: Department, work: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of the work, or raises its error."""

        async def alone() -> T:
            async with self.locks.hold(department):
                return await work()

        return await self.lanes.turn(department, alone)


def ignore_pages(_pages: int) -> None:
    """Shows no progress."""


class ListContradicted(UserError):
    """The list shows none of the subaccounts on record, and yet the provider has them."""

    def __init__(self) -> None:
        super().__init__(
            "Plivo's list shows none of the subaccounts on record, but they can be read: the list is not"
            " complete now; sweep again later"
        )


@dataclass(frozen=True, slots=True)
class _Compared:
    """What the list says. `doubtful`: the departments that must be looked at again, or left out."""

    findings: Mapping[Department, tuple[Finding, ...]]
    doubtful: frozenset[Department]
    doubles: Mapping[Department, Sequence[Seen]]
    strangers: Sequence[Finding]
    note: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares the provider's list with the ledger."""

    listing: Listing
    ledger: Ledger
    names: Names
    in_turn: InTurn
    clock: Clock

    async def sweep(self, on_pages: OnPages = ignore_pages) -> Report:
        """The report of a sweep that begins now.

        Raises `CallFailed`, `LedgerFailed`, `ListContradicted`, and `Stopping` once the worker stops.
        """
        started_at = self.clock.now()
        revisions = {entry.department: entry.revision for entry in await self._entries()}
        seen = await self.listing.read(on_pages)
        entries = await self._entries()
        compared = await self._compared(entries, revisions, seen)
        if compared.note is None:
            findings = await self._looked_again(compared)
        else:
            findings = await self._all_missing(compared)
        return Report(
            started_at=started_at,
            finished_at=self.clock.now(),
            subaccounts=len(seen),
            departments=len(entries),
            findings=ordered(findings),
            note=compared.note,
        )

    async def _entries(self) -> Sequence[Entry]:
        """All entries, in parts: reading many at once would keep the events waiting."""
        found: list[Entry] = []
        while part := await self.ledger.entries_after(found[-1].department if found else None, PART):
            found += part
            await self.clock.sleep(PAUSE_SECONDS)
        return found

    async def _compared(
        self, entries: Sequence[Entry], revisions: Mapping[Department, int], seen: Mapping[str, Seen]
    ) -> _Compared:
        on_record = {entry.auth_id: entry.department for entry in entries if entry.auth_id}
        tags: dict[str, Department] = {}
        for number, entry in enumerate(entries):
            await _breathe(number)
            tags |= tags_of(entry, self.names)
        found = Sorted.empty()
        for number, one in enumerate(seen.values()):
            await _breathe(number)
            found.sort(one, on_record, tags, self.names)
        findings, doubtful = dict[Department, tuple[Finding, ...]](), set[Department]()
        for number, entry in enumerate(entries):
            await _breathe(number)
            if mine := self._differences(entry, found):
                findings[entry.department] = mine
                if is_uncertain(revisions.get(entry.department), entry):
                    doubtful.add(entry.department)
        recorded = [entry.auth_id for entry in entries if _should_be_listed(entry)]
        note = another_account(len(recorded), sum(auth_id in found.own for auth_id in recorded))
        return _Compared(findings, frozenset(doubtful), found.doubles, found.strangers, note)

    async def _looked_again(self, compared: _Compared) -> list[Finding]:
        """The findings that still hold. Beyond `LOOKS` departments, those of the list stand as they are."""
        departments = sorted(compared.findings, key=lambda one: (one not in compared.doubtful, one))
        confirmed = await self._all_confirmed(departments[:LOOKS], compared)
        unread = [compared.findings[one] for one in departments[LOOKS:] if one not in compared.doubtful]
        return [finding for findings in (*confirmed, *unread, compared.strangers) for finding in findings]

    async def _all_missing(self, compared: _Compared) -> list[Finding]:
        """The missing subaccounts alone, if the list is perhaps that of another account.

        Raises `ListContradicted` if some of them can be read all the same.
        """
        sample = sorted(compared.findings.keys() - compared.doubtful)[:LOOKS_AT_ONCE]
        for findings in await self._all_confirmed(sample, compared):
            if not any(one.kind is FindingKind.MISSING for one in findings):
                raise ListContradicted
        found = [one for findings in compared.findings.values() for one in findings]
        return [one for one in found if one.kind is FindingKind.MISSING]

    async def _all_confirmed(
        self, departments: Sequence[Department], compared: _Compared
    ) -> Sequence[tuple[Finding, ...]]:
        looks = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def confirmed(department: Department) -> tuple[Finding, ...]:
            async with looks:
                return await self._confirmed(department, compared)

        tasks = [asyncio.ensure_future(confirmed(one)) for one in departments]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _confirmed(self, department: Department, compared: _Compared) -> tuple[Finding, ...]:
        """The findings of a department as it is now.

        If it cannot be read in time, they are those of the list, or none where that proves nothing.
        """
        doubles = compared.doubles.get(department, ())
        listed = () if department in compared.doubtful else compared.findings[department]
        await self.listing.pace.turn()
        look = asyncio.ensure_future(self.in_turn(department, partial(self._look, department, doubles)))
        patience = asyncio.ensure_future(self.clock.sleep(PATIENCE_SECONDS))
        try:
            await asyncio.wait({look, patience}, return_when=asyncio.FIRST_COMPLETED)
            return look.result() if look.done() else listed
        except CallFailed as failed:
            if failed.fault.outage:
                raise
            return listed
        finally:
            look.cancel()
            patience.cancel()

    async def _look(self, department: Department, doubles: Sequence[Seen]) -> tuple[Finding, ...]:
        """Reads the entry, its subaccount and its doubles as they are now."""
        entry = (await self.ledger.recall(department, NO_EVENT)).entry
        if is_under_way(entry):
            return ()
        own = await self.listing.now(entry.auth_id) if entry.auth_id else None
        others = [await self.listing.now(double.auth_id) for double in doubles]
        tags = tags_of(entry, self.names)
        held = await self.ledger.holders([double.auth_id for double in doubles]) if doubles else {}
        still = [
            one
            for one in others
            if one and one.auth_id not in held and self.names.template.tag_in(one.subaccount.name) in tags
        ]
        return compare(entry, own, still, self.names, self.listing.provider.capabilities)

    def _differences(self, entry: Entry, found: Sorted) -> tuple[Finding, ...]:
        own = found.own.get(entry.auth_id) if entry.auth_id else None
        doubles = found.doubles.get(entry.department, ())
        return compare(entry, own, doubles, self.names, self.listing.provider.capabilities)


def _should_be_listed(entry: Entry) -> bool:
    return entry.status in {Status.ACTIVE, Status.DISABLED} and entry.gone_at is None


async def _breathe(number: int) -> None:
    """Lets other work run after each `BATCH` of items."""
    if number % BATCH == 0:
        await asyncio.sleep(0)
