"""A ledger whose writes reach the disk one after the other; a crash decides which of the last ones did."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from worker.core.model import Answer, Department, Entry, Recollection, Reference, Wish
from worker.ports import LedgerConflict, LedgerFailed


@dataclass
class Disk:
    """What survives a crash."""

    history: History
    entries: dict[Department, Entry] = field(default_factory=dict)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    suspects: Counter[str] = field(default_factory=Counter)
    caught_up: bool = False

    def lose(self) -> None:
        self.history.note("ledger lost")
        self.entries.clear()
        self.answers.clear()
        self.caught_up = False

    def write(self, entry: Entry, answer: Answer | None) -> Entry:
        on_disk = self.entries.get(entry.department)
        if (on_disk.revision if on_disk else 0) != entry.revision:
            raise LedgerConflict("the entry was written by somebody else")
        if answer is not None:
            event = (answer.event.source, answer.event.id)
            if self.answers.get(event, answer).payload_digest != answer.payload_digest:
                raise LedgerConflict("another payload was answered")
            self.answers[event] = answer
        self.entries[entry.department] = written = replace(entry, revision=entry.revision + 1)
        self._note(written, answer)
        return written

    def _note(self, entry: Entry, answer: Answer | None) -> None:
        self.history.note(
            "recorded",
            entry.department.id,
            status=str(entry.status),
            auth_id=entry.auth_id,
            name=entry.name,
            check_at=entry.check_at,
            recount_at=entry.recount_at,
            attempt=entry.claim and entry.claim.attempt,
            key=entry.claim and entry.claim.idempotency_key,
            enable_owed=entry.enable_owed or None,
        )
        if answer is not None:
            self.history.note(
                "answered",
                entry.department.id,
                event=answer.event.id,
                outcome=str(answer.outcome),
                auth_id=answer.auth_id,
                name=answer.name,
                reason=answer.reason,
            )


class SimulatedLedger:
    """The ledger port, as one process uses it."""

    def __init__(self, disk: Disk, loop: asyncio.AbstractEventLoop, chance: Chance, process: Process) -> None:
        self._disk = disk
        self._loop = loop
        self._chance = chance
        self._process = process
        self._free_at = 0.0
        self._queued: deque[Callable[[], None]] = deque()
        process.at_death.append(self._part_of_it_is_durable)

    async def recall(self, department: Department, event: Reference) -> Recollection:
        self._process.check()
        entry = self._disk.entries.get(department) or Entry(department)
        return Recollection(entry, self._disk.answers.get((event.source, event.id)))

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        self._process.check()
        written: asyncio.Future[Any] = self._loop.create_future()
        self._queued.append(lambda: self._write(written, entry, answer))
        self._loop.call_at(self._turn(), self._work_off)
        self._process.endanger("crash at a write", self._chance)
        result = await written
        self._process.check()
        if isinstance(result, Exception):
            raise result
        return result

    async def bind(self, _owner: str, _provider_account: str) -> None:
        self._process.check()
        if self._chance.strikes("write failed"):
            raise LedgerFailed("cannot be written")

    async def suspect(self, message: str) -> int:
        self._process.check()
        self._disk.suspects[message] += 1
        return self._disk.suspects[message]

    async def absolve(self, message: str) -> None:
        self._process.check()
        del self._disk.suspects[message]

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        self._process.check()
        return {
            entry.auth_id: entry.department
            for entry in self._disk.entries.values()
            if entry.auth_id is not None and entry.auth_id in auth_ids
        }

    async def caught_up(self) -> bool:
        self._process.check()
        return self._disk.caught_up

    async def note_caught_up(self, *, caught_up: bool) -> None:
        self._process.check()
        self._disk.caught_up = caught_up

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        self._process.check()
        due = [
            (entry.due_at, entry.department)
            for entry in self._disk.entries.values()
            if entry.due_at is not None and entry.due_at <= now
        ]
        return [department for _, department in sorted(due)[:limit]]

    async def wishes(self, _since: datetime) -> Sequence[Wish]:
        self._process.check()
        return ()

    async def overdue(self, since: datetime) -> int:
        self._process.check()
        owing = [entry for entry in self._disk.entries.values() if entry.owed_at is not None]
        return sum(entry.created_at is not None and entry.created_at < since for entry in owing)

    def _turn(self) -> float:
        """When this write's turn is: after all that were asked for before."""
        seconds = (
            self._chance.seconds(0.5, 4) if self._chance.strikes("write slow") else self._chance.latency()
        )
        self._free_at = max(self._free_at, self._loop.time()) + seconds
        return self._free_at

    def _work_off(self) -> None:
        if self._queued:
            self._queued.popleft()()

    def _write(self, written: "asyncio.Future[Any]", entry: Entry, answer: Answer | None) -> None:
        if not self._chance.strikes("write failed"):
            result = self._written(entry, answer)
        else:
            result = LedgerFailed("cannot be written")
        if not written.done():
            written.set_result(result)

    def _written(self, entry: Entry, answer: Answer | None) -> Entry | Exception:
        try:
            on_disk = self._disk.write(entry, answer)
        except LedgerConflict as conflict:
            return conflict
        failed = self._chance.strikes("written but failed")
        return LedgerFailed("no answer to the commit") if failed else on_disk

    def _part_of_it_is_durable(self) -> None:
        """Of what had not returned, some got to the disk: never a later one without those before it."""
        for _ in range(self._chance.number(0, len(self._queued))):
            self._work_off()
        self._queued.clear()
