"""Comparison: makes one sweep. It reads the provider's list and the ledger, and reports how they differ.

    entries    the revision of each entry, before the list is read
    list       page by page to its end; each subaccount on record is compared with its entry at once
    entries    again: whose subaccount was not listed, and whose tag others carry; a department that changed
               meanwhile is uncertain
    look again where the list differs: entry and subaccount are read as they are now, in the department's lane

Neither the list nor the entries are held: a million departments take 30 MB, beside what is found. It changes
nothing. The worker makes it in the background; a command makes it where no worker runs.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from worker.core.capabilities import Capabilities
from worker.core.drift import (
    Finding,
    FindingKind,
    Others,
    Report,
    Seen,
    another_account,
    compare,
    compare_presence,
    compare_state,
    is_uncertain,
    is_under_way,
    ordered,
    tags_of,
)
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.naming import NO_EVENT, Names
from worker.core.pages import Ids
from worker.flow.lanes import Lanes
from worker.ports import CallFailed, Clock, DepartmentLocks, Ledger, UserError
from worker.provider.listing import Listing, OnPages

HOLDERS_AT_ONCE = 500
"""Subaccounts to look up in the ledger at a time."""

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


class Revisions:
    """The revisions of all entries, in twelve bytes each. They are noted and asked for in the same order."""

    def __init__(self) -> None:
        self._departments = array("q")
        self._revisions = array("I")
        self._next = 0

    def note(self, entry: Entry) -> None:
        """Notes the next entry."""
        self._departments.append(hash(entry.department))
        self._revisions.append(entry.revision)

    def of(self, department: Department) -> int | None:
        """The revision that was noted for the next department; None for one that is new since then."""
        place = self._next
        if place == len(self._departments) or self._departments[place] != hash(department):
            return None
        self._next += 1
        return self._revisions[place]


@dataclass
class _Listed:
    """Takes the list: how subaccounts on record differ from their entries, and those not on record."""

    ledger: Ledger
    names: Names
    capabilities: Capabilities
    differing: dict[Department, tuple[Finding, ...]] = field(default_factory=dict)
    others: dict[str, Seen] = field(default_factory=dict)

    def begin(self) -> None:
        """See `Taker.begin`."""
        self.differing.clear()
        self.others.clear()

    async def take(self, page: Sequence[Seen]) -> None:
        """See `Taker.take`."""
        holders = await self.ledger.holders([one.auth_id for one in page])
        entries = await asyncio.gather(*map(self._entry, holders.values()))
        on_record = {entry.auth_id: entry for entry in entries}
        for one in page:
            if (entry := on_record.get(one.auth_id)) is None:
                self.others[one.auth_id] = one
                continue
            self.others.pop(one.auth_id, None)
            self.differing.pop(entry.department, None)
            if found := compare_state(entry, one, self.names, self.capabilities):
                self.differing[entry.department] = found

    async def _entry(self, department: Department) -> Entry:
        return (await self.ledger.recall(department, NO_EVENT)).entry

    async def not_on_record(self) -> Sequence[Seen]:
        """The others, without those that were recorded since they were listed."""
        ids = list(self.others)
        for first in range(0, len(ids), HOLDERS_AT_ONCE):
            for auth_id in await self.ledger.holders(ids[first : first + HOLDERS_AT_ONCE]):
                del self.others[auth_id]
        return list(self.others.values())


@dataclass(frozen=True, slots=True)
class _Compared:
    """The statements of the list. `doubtful`: the departments that must be looked at again, or left out."""

    departments: int
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
        revisions = Revisions()
        async for entry in self._entries():
            revisions.note(entry)
        listed = _Listed(self.ledger, self.names, self.listing.provider.capabilities)
        listed_ids = await self.listing.read(listed, on_pages)
        compared = await self._compared(revisions, listed, listed_ids)
        if compared.note is None:
            findings = await self._looked_again(compared)
        else:
            findings = await self._all_missing(compared)
        return Report(
            started_at=started_at,
            finished_at=self.clock.now(),
            subaccounts=len(listed_ids),
            departments=compared.departments,
            findings=ordered(findings),
            note=compared.note,
        )

    async def _entries(self) -> AsyncIterator[Entry]:
        """All entries, in parts: reading many at once would keep the events waiting."""
        last: Department | None = None
        while part := await self.ledger.entries_after(last, PART):
            for entry in part:
                yield entry
            last = part[-1].department
            await self.clock.sleep(PAUSE_SECONDS)

    async def _compared(self, revisions: Revisions, listed: _Listed, listed_ids: Ids) -> _Compared:
        others = Others(await listed.not_on_record(), self.names)
        findings, doubtful = dict[Department, tuple[Finding, ...]](), set[Department]()
        all_doubles: dict[Department, Sequence[Seen]] = {}
        departments = recorded = recorded_and_listed = 0
        async for entry in self._entries():
            department = entry.department
            before = revisions.of(department)
            is_listed = entry.auth_id is not None and entry.auth_id in listed_ids
            departments += 1
            if _should_be_listed(entry):
                recorded += 1
                recorded_and_listed += is_listed
            if doubles := others.take_doubles(entry):
                all_doubles[department] = doubles
            found = compare_presence(entry, doubles, is_listed=is_listed)
            if mine := (*found, *listed.differing.get(department, ())):
                findings[department] = mine
                if is_uncertain(before, entry):
                    doubtful.add(department)
        note = another_account(recorded, recorded_and_listed)
        return _Compared(departments, findings, frozenset(doubtful), all_doubles, others.strangers(), note)

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


def _should_be_listed(entry: Entry) -> bool:
    return entry.status in {Status.ACTIVE, Status.DISABLED} and entry.gone_at is None
