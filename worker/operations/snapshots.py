"""Applies the plan of a snapshot: publishes its events, and keeps in the ledger what was said.

Each part of a plan is recorded with its events before they are published, and settled once the broker has
confirmed them. So after a kill at any point the next command sends what is left, under the same ids, before
it does anything else; and what was recorded is never planned again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic_core import from_json, to_json

from contracts.departments import DepartmentEvent, Kind, department_event
from contracts.envelope import document, event_of, rfc3339
from worker.core.dead_letters import AuditLine
from worker.core.model.departments import Department
from worker.core.snapshots import Row, Said, Standing, event_for, source_uri
from worker.operations.emit import inbound
from worker.operations.snapshot_plan import Plan
from worker.ports import (
    Audit,
    Clock,
    Publisher,
    PublishFailed,
    SnapshotMoved,
    Snapshots,
    Unroutable,
    UserError,
)

AT_ONCE = 200
"""Events that wait for their confirm together: the broker sets the pace."""

FIRST = "missing for the first time"
SAME = "missing in one list so far: this is the same one, or one of the same moment"
NOT_ASKED = "to be removed with --missing=remove"

R = TypeVar("R")
OnSent = Callable[[int], None]
"""Gets how many more events the broker has confirmed."""


class ApplyRefused(UserError):
    """The plan does not fit the ledger, or may not be applied; nothing was sent."""


class ApplyFailed(UserError):
    """The broker did not accept every event. The rest is on record; the same command goes on."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The result. `sent` with those of an earlier command (`left_before`); `skipped`: sent before.

    `removed`: removals among them. `left`: missing departments that were left alone, and why.
    """

    sent: int
    left_before: int
    skipped: int
    removed: int
    left: Sequence[tuple[Department, str]]


@dataclass(slots=True)
class Applying:
    """One command of a person. For the audit: `by` is the operator, `run` the id of this command."""

    snapshots: Snapshots
    publisher: Publisher
    audit: Audit
    clock: Clock
    by: str
    run: str
    on_sent: OnSent = lambda _more: None
    _sent: int = 0

    async def apply(self, plan: Plan, selection: str, *, removes: bool = False) -> Applied:
        """Sends the events of the plan. `removes`: those of missing departments too, where they may go.

        Raises `ApplyRefused`, `ApplyFailed`.
        """
        last = await self.snapshots.standing(plan.source)
        self._require_fitting(plan, last)
        await self._note(plan, selection, "asked for")
        try:
            return await self._apply(plan, removes=removes)
        except SnapshotMoved:
            raise ApplyRefused(
                f"another snapshot of {plan.source} was applied meanwhile; the rest of this one is not sent"
            ) from None
        finally:
            await self._note(plan, selection, f"events sent: {self._sent}")

    def _require_fitting(self, plan: Plan, last: Standing | None) -> None:
        if plan.as_of > self.clock.now():
            raise ApplyRefused(f"the plan is of {rfc3339(plan.as_of)}, which lies in the future")
        if last is not None and last.digest == plan.digest:
            return
        if last is not None and last.as_of > plan.as_of:
            raise ApplyRefused(
                f"the plan is of {rfc3339(plan.as_of)}, and a list of {rfc3339(last.as_of)} was applied: an"
                " older one must not undo it"
            )
        if (last.revision if last else None) != plan.revision:
            raise ApplyRefused(
                f"the ledger is not the one this was planned on: another list of {plan.source} was applied"
                " since, or it is another ledger; plan the list again"
            )

    async def _apply(self, plan: Plan, *, removes: bool) -> Applied:
        left_before = await self._send_unsent(plan.source)
        revision = 1 if plan.revision is None else plan.revision + 1
        complete = not plan.refused
        standing = Standing(plan.source, plan.as_of, plan.digest, revision, finished=False, complete=complete)
        await self.snapshots.begin(standing, plan.revision)
        known = await self.snapshots.standing(plan.source)
        again = known is not None and known.finished
        skipped = await self._say(plan, Kind.CREATED, plan.created, again=again)
        skipped += await self._say(plan, Kind.RENAMED, plan.renamed, again=again)
        left = [
            (gone.row.department, SAME if gone.since else FIRST)
            for gone in plan.missing
            if gone not in plan.removable
        ]
        before = self._sent
        if removes and complete:
            left += await self._remove(plan, again=again)
        else:
            left += [(gone.row.department, NOT_ASKED) for gone in plan.removable]
        removed = self._sent - before
        missing = [gone.row.department for gone in plan.missing] if complete else []
        await self.snapshots.finish(plan.source, plan.digest, missing)
        return Applied(self._sent, left_before, skipped, removed, left)

    async def _send_unsent(self, source: str) -> int:
        """Sends what an earlier command has recorded and not sent, and returns how many events that were."""
        before = self._sent
        while unsent := await self.snapshots.unsent(source, AT_ONCE):
            await self._send(source, unsent)
        return self._sent - before

    async def _say(self, plan: Plan, kind: Kind, rows: Sequence[Row], *, again: bool) -> int:
        """Says the rows, and returns how many an earlier command has said. `again`: says those too."""
        skipped = 0
        for part in _parts(rows):
            known = {} if again else await self.snapshots.said(plan.source, [row.department for row in part])
            said = [
                Said(row.department, row.name, plan.as_of, None, _text(plan, kind, row))
                for row in part
                if (before := known.get(row.department)) is None
                or (before.name, before.as_of) != (row.name, plan.as_of)
            ]
            skipped += len(part) - len(said)
            await self.snapshots.say(plan.source, plan.digest, said)
            await self._send(plan.source, said)
        return skipped

    async def _remove(self, plan: Plan, *, again: bool) -> Sequence[tuple[Department, str]]:
        """Says that the missing departments are removed, and returns those that were left alone."""
        left: list[tuple[Department, str]] = []
        for part in _parts(plan.removable):
            departments = [gone.row.department for gone in part]
            others = await self.snapshots.others(plan.source, departments)
            known = await self.snapshots.said(plan.source, departments)
            left += [(one, f"source {others[one]} has it") for one in departments if one in others]
            said = [
                Said(
                    *(gone.row.department, gone.row.name, plan.as_of, gone.since),
                    unsent=_text(plan, Kind.REMOVED, gone.row),
                    removed=True,
                )
                for gone in part
                if gone.row.department not in others and (again or gone.row.department in known)
            ]
            await self.snapshots.say(plan.source, plan.digest, said)
            await self._send(plan.source, said)
        return left

    async def _send(self, source: str, said: Sequence[Said]) -> None:
        """Publishes the events that belong to this, and settles those that the broker has confirmed."""
        if not said:
            return
        published = (self.publisher.publish(inbound(_event(one))) for one in said)
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        confirmed = [one for one, failure in zip(said, outcomes, strict=True) if failure is None]
        await self.snapshots.settle(source, confirmed)
        self._sent += len(confirmed)
        self.on_sent(len(confirmed))
        for failure in outcomes:
            match failure:
                case Unroutable():
                    why = "no queue is bound: start `provisioner run` or `provisioner topology apply` first"
                    raise ApplyFailed(f"events sent: {self._sent:,}; {why}; then apply the plan again")
                case PublishFailed():
                    raise ApplyFailed(
                        f"events sent: {self._sent:,}; {failure}; apply the plan again to go on"
                    )
                case BaseException():
                    raise failure

    async def _note(self, plan: Plan, selection: str, outcome: str) -> None:
        line = AuditLine(
            at=self.clock.now(),
            by=self.by,
            action="snapshot",
            run=self.run,
            selection=selection,
            event_id=None,
            source=source_uri(plan.source),
            tenant=None,
            department_id=None,
            reason="",
            outcome=outcome,
        )
        await self.audit.append([line])


def _text(plan: Plan, kind: Kind, row: Row) -> str:
    return to_json(document(event_for(plan.source, kind, row, plan.as_of))).decode()


def _event(said: Said) -> DepartmentEvent:
    return department_event(event_of(from_json(said.unsent or "{}")))


def _parts(rows: Sequence[R]) -> Sequence[Sequence[R]]:
    return [rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE)]
