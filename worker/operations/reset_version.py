"""Forgets the newest version of departments, so that the next event applies whatever its sequence or time is.

For a source whose sequence began anew, and for a version that a wrong clock made too new. An event that was
answered stays answered. The command writes the entries itself, beside a running worker: a write over a
revision that the worker has replaced is refused, and tried again on the new one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.departments import Version
from worker.core.dead_letters import AuditLine
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.replace import replace
from worker.core.naming import NO_EVENT
from worker.operations.departments import UnknownDepartment
from worker.pipeline.records import Records
from worker.ports import Audit, Clock, Ledger, LedgerConflict, every_entry

TIMEOUT_SECONDS = 10.0
"""How long to wait for a create or a deletion that is under way."""

POLL_SECONDS = 0.1

UNDER_WAY = "a create or a deletion is under way; try again"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A department and the version it has forgotten; None: there was none, or `left` says why it is kept."""

    department: Department
    version: Version | None
    left: str | None = None


async def of_department(ledger: Ledger, which: Department) -> Sequence[Entry]:
    """The department's entry; raises `UnknownDepartment`."""
    entry = (await ledger.recall(which, NO_EVENT)).entry
    if not entry.revision:
        raise UnknownDepartment(which)
    return [entry]


async def of_source(ledger: Ledger, source: str, tenant: str | None) -> Sequence[Entry]:
    """The entries of all departments, of one tenant if given, whose newest event came from `source`."""
    return [entry async for entry in every_entry(ledger, tenant) if _is_from(entry, source)]


@dataclass(frozen=True, slots=True)
class Resetting:
    """One command of a person. For the audit: `by` is the operator, `run` the id of this command."""

    ledger: Ledger
    audit: Audit
    clock: Clock
    by: str
    run: str
    selection: str

    async def reset(self, entries: Sequence[Entry]) -> Sequence[Forgotten]:
        """Forgets the versions that these entries have; a newer version that has come since stays."""
        asked = [entry for entry in entries if entry.version is not None]
        await self.audit.append([self._line(entry, "asked for") for entry in asked])
        results = []
        for entry in asked:
            results.append(await self._forget(entry))
            await self.audit.append([self._line(entry, _outcome(results[-1]))])
        return results

    async def _forget(self, seen: Entry) -> Forgotten:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while True:
                    entry = (await self.ledger.recall(seen.department, NO_EVENT)).entry
                    if entry.version != seen.version:
                        return Forgotten(seen.department, None, "a newer event was answered meanwhile")
                    if entry.status not in {Status.CLAIMED, Status.DELETING} and await self._written(entry):
                        return Forgotten(seen.department, seen.version)
                    await self.clock.sleep(POLL_SECONDS)
        except TimeoutError:
            return Forgotten(seen.department, None, UNDER_WAY)

    async def _written(self, entry: Entry) -> bool:
        try:
            await Records(self.ledger, self.ledger).reset(
                replace(entry, version=None, version_type=None, wanted_by=None, begun=None)
            )
        except LedgerConflict:
            return False
        return True

    def _line(self, entry: Entry, outcome: str) -> AuditLine:
        newest = entry.newest
        return AuditLine(
            at=self.clock.now(),
            by=self.by,
            action="reset-version",
            run=self.run,
            selection=self.selection,
            event_id=newest.id if newest else None,
            source=newest.source if newest else None,
            tenant=entry.department.tenant,
            department_id=entry.department.id,
            reason="",
            outcome=outcome,
        )


def described(version: Version) -> str:
    """`sequence 48213 of /hr/old`, or the event's time if it has no sequence."""
    what = f"time {version.time:%FT%TZ}" if version.sequence is None else f"sequence {version.sequence}"
    return f"{what} of {version.source}"


def _outcome(result: Forgotten) -> str:
    return f"forgot {described(result.version)}" if result.version else f"left: {result.left}"


def _is_from(entry: Entry, source: str) -> bool:
    return entry.version is not None and entry.version.source == source
