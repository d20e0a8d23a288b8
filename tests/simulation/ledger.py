"""A ledger that writes in order; after a crash, some of the pending writes are durable."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.keeping import PurgeStep
from worker.core.limits import TenantCounts
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.recollection import Recollection
from worker.core.model.wishes import Wish
from worker.core.presence import WorkerSeen
from worker.core.reissue import WISHES
from worker.ports import (
    NOTHING_BESIDE,
    Beside,
    LedgerConflict,
    LedgerFailed,
    NotAdmitted,
)

T = TypeVar("T")


class Disk(MemoryLedger):
    """The state of the ledger that survives a crash."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history
        self.writer: int | None = None
        """The worker whose write is carried out."""

    def lose(self) -> None:
        self.history.note("ledger lost")
        self._entries.clear()
        self._answers.clear()
        self._holders.clear()
        self._sealed_for.clear()
        self._holds.clear()
        self._calls.clear()
        self._sweeps.clear()
        self._workers.clear()
        self._caught_up_at = None

    def write(self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE) -> Entry:
        written = super().write(entry, answer, beside)
        for hold in beside.holds:
            self._note_hold(hold)
        self._note(written, answer)
        for other in beside.answers:
            self._note_answer(other)
        return written

    def write_answer(self, answer: Answer) -> None:
        super().write_answer(answer)
        self._note_answer(answer)

    def left(self, deletable_before: datetime | None = None) -> list[str]:
        """The duties of entries and the wishes of people that are left. `deletable_before`: as in `due`."""
        duties = [
            f"duty of {entry.department.id}"
            for entry in self._entries.values()
            if entry.due_at or _is_deletable(entry, deletable_before)
        ]
        return duties + [f"wish {wish.asks.kind} for {wish.department.id}" for wish in self._wishes.values()]

    def leave_wish(self, wish: Wish) -> None:
        """Leaves a wish, as a command does."""
        self._wishes[wish.id] = wish

    def entry(self, department: Department) -> Entry | None:
        """The entry of a department, if there is one."""
        return self._entries.get(department)

    def all_holds(self) -> list[Hold]:
        """All holds, oldest first."""
        return list(self._holds.values())

    def _note_hold(self, hold: Hold) -> None:
        self.history.note(
            "hold recorded",
            hold.department.id,
            hold=hold.id,
            state=str(hold.state),
            reason=str(hold.reason),
            event=hold.cause.reference.id,
            disabled=hold.disabled,
            by=hold.ruling and hold.ruling.by,
        )

    def _note(self, entry: Entry, answer: Answer | None) -> None:
        self.history.note(
            "recorded",
            entry.department.id,
            status=str(entry.status),
            auth_id=entry.auth_id,
            name=entry.name,
            check_at=entry.check.at if entry.check else None,
            duplicates_check_at=entry.duplicates_check_at,
            attempt=entry.claim and entry.claim.attempt,
            key=entry.claim and entry.claim.idempotency_key,
            enable_owed=True if entry.debt and entry.debt.enable else None,
            removing=entry.removing and entry.removing.event.id,
            hold=entry.hold and entry.hold.id,
            wanted_by=entry.wanted_by and entry.wanted_by.reference.id,
            begun=entry.begun and (entry.begun.reference.id, entry.begun.at),
            writer=self.writer,
        )
        if answer is not None:
            self._note_answer(answer)

    def _note_answer(self, answer: Answer) -> None:
        self.history.note(
            "wish answered" if answer.event.source == WISHES else "answered",
            answer.department.id,
            event=answer.event.id,
            outcome=str(answer.outcome),
            auth_id=answer.auth_id,
            name=answer.name,
            reason=answer.reason,
            answered_at=answer.answered_at,
        )


class SimulatedLedger:
    """The ledger port for one process."""

    def __init__(self, disk: Disk, loop: asyncio.AbstractEventLoop, chance: Chance, process: Process) -> None:
        self._disk = disk
        self._loop = loop
        self._chance = chance
        self._process = process
        self._free_at = 0.0
        self._queued: deque[Callable[[], None]] = deque()
        process.at_death.append(self._write_some_at_death)

    async def recall(self, department: Department, event: Reference) -> Recollection:
        await self._reach()
        return await self._disk.recall(department, event)

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        return await self._queue(lambda: self._disk.write(entry, answer, beside))

    async def _queue(self, write: Callable[[], T]) -> T:
        """Writes in turn with the others. A crash may come before or after."""
        self._process.check()
        written: asyncio.Future[Any] = self._loop.create_future()
        self._queued.append(lambda: self._write(written, write))
        self._loop.call_at(self._write_time(), self._write_next)
        self._process.endanger("crash at a write", self._chance)
        result = await written
        self._process.check()
        if isinstance(result, Exception):
            raise result
        return cast(T, result)

    async def record_answer(self, answer: Answer) -> None:
        await self._queue(lambda: self._disk.write_answer(answer))

    async def bind(self, owner: str, provider_account: str) -> None:
        await self._reach()
        if self._chance.strikes("write failed"):
            raise LedgerFailed("cannot be written")
        await self._disk.bind(owner, provider_account)

    async def mark_poison(self, message: str) -> int:
        await self._reach()
        return await self._disk.mark_poison(message)

    async def clear_poison(self, message: str) -> None:
        await self._reach()
        await self._disk.clear_poison(message)

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        await self._reach()
        return await self._disk.holders(auth_ids)

    async def caught_up_at(self) -> datetime | None:
        await self._reach()
        return await self._disk.caught_up_at()

    async def note_caught_up(self, at: datetime | None) -> None:
        await self._reach()
        await self._disk.note_caught_up(at)

    async def note_still_caught_up(self, at: datetime) -> None:
        await self._reach()
        await self._disk.note_still_caught_up(at)

    async def sealed_for(self) -> frozenset[str]:
        await self._reach()
        return await self._disk.sealed_for()

    async def note_sealed(self, recipient: str) -> None:
        await self._reach()
        await self._disk.note_sealed(recipient)

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        await self._reach()
        return await self._disk.due(now, limit, deletable_before)

    async def overdue(self, since: datetime) -> int:
        await self._reach()
        return await self._disk.overdue(since)

    async def unsettled(self, since: datetime) -> int:
        self._process.check()
        return await self._disk.unsettled(since)

    async def owing(self) -> int:
        self._process.check()
        return await self._disk.owing()

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        await self._reach()
        return await self._disk.tenant_counts(tenant, since)

    async def hold(self, hold_id: str) -> Hold | None:
        await self._reach()
        return await self._disk.hold(hold_id)

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        await self._reach()
        return await self._disk.holds(department, all_=all_)

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        await self._reach()
        return await self._disk.waiting_holds()

    async def announce(self, worker: WorkerSeen) -> None:
        await self._reach()
        await self._disk.announce(worker)

    async def leave(self, worker_id: str) -> None:
        await self._reach()
        await self._disk.leave(worker_id)

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        await self._reach()
        return await self._disk.workers(within)

    async def count_by_status(self) -> Mapping[Status, int]:
        await self._reach()
        return await self._disk.count_by_status()

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        await self._reach()
        await self._disk.note_sweep(sweep_id, finished_at, report)

    async def sweep(self, sweep_id: str) -> str | None:
        await self._reach()
        return await self._disk.sweep(sweep_id)

    async def last_sweep_at(self) -> datetime | None:
        await self._reach()
        return await self._disk.last_sweep_at()

    async def calls(self, department: Department, limit: int = 50) -> Sequence[CallNote]:
        await self._reach()
        return await self._disk.calls(department, limit)

    async def wish(self, *wishes: Wish) -> None:
        await self._reach()
        await self._disk.wish(*wishes)

    async def wishes(self) -> Sequence[Wish]:
        await self._reach()
        return await self._disk.wishes()

    async def is_open(self, wish_id: str) -> bool:
        await self._reach()
        return await self._disk.is_open(wish_id)

    async def close_wish(self, wish_id: str) -> None:
        await self._reach()
        await self._disk.close_wish(wish_id)

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        await self._reach()
        return await self._disk.entries_after(last, limit, tenant)

    async def claimed(self) -> Sequence[Entry]:
        await self._reach()
        return await self._disk.claimed()

    async def answers(self, department: Department) -> Sequence[Answer]:
        await self._reach()
        return await self._disk.answers(department)

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        await self._reach()
        return await self._disk.answers_to(event_id)

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        await self._reach()
        return await self._disk.purge(before, after, limit)

    async def purged_at(self) -> datetime | None:
        await self._reach()
        return await self._disk.purged_at()

    async def note_purge(self, at: datetime) -> None:
        await self._reach()
        await self._disk.note_purge(at)

    async def _reach(self) -> None:
        """Called before each read or small write; raises `LedgerFailed` if the ledger cannot be reached."""
        self._process.check()

    def _write_time(self) -> float:
        """When the next write reaches the disk: after all writes requested before it."""
        seconds = (
            self._chance.seconds(0.5, 4) if self._chance.strikes("write slow") else self._chance.latency()
        )
        self._free_at = max(self._free_at, self._loop.time()) + seconds
        return self._free_at

    def _write_next(self) -> None:
        if self._queued:
            self._queued.popleft()()

    def _write(self, written: "asyncio.Future[Any]", write: Callable[[], Any]) -> None:
        if not self._chance.strikes("write failed"):
            result = self._written(write)
        else:
            result = LedgerFailed("cannot be written")
        if not written.done():
            written.set_result(result)

    def _written(self, write: Callable[[], Any]) -> Any:
        self._disk.writer = self._process.number
        try:
            on_disk = write()
        except (LedgerConflict, LedgerFailed, NotAdmitted) as refusal:
            return refusal
        failed = self._chance.strikes("written but failed")
        return LedgerFailed("no answer to the commit") if failed else on_disk

    def _write_some_at_death(self) -> None:
        """Writes some pending entries at a crash, never one without those before it."""
        for _ in range(self._chance.number(0, len(self._queued))):
            self._write_next()
        self._queued.clear()


def _is_deletable(entry: Entry, before: datetime | None) -> bool:
    return before is not None and entry.deletable_since is not None and entry.deletable_since <= before
