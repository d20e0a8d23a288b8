"""The ledger port of one of many workers: the disk of the simulation behind the database's session."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tests.simulation.chance import Chance
from tests.simulation.database import DatabaseClient, SimulatedConnection
from tests.simulation.ledger import Disk, SimulatedLedger
from worker.adapters.postgres.store import Change
from worker.core.model.answers import Answer
from worker.core.model.entry import Entry
from worker.core.model.replace import replace
from worker.ports import (
    NOTHING_BESIDE,
    Beside,
    LedgerConflict,
    LedgerFailed,
    NotAdmitted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedChange(Change):
    """A change that carries itself out at the server, and returns its result or its refusal.

    It is told whether it may have been carried out before, without an answer.
    """

    carry_out: Callable[[bool], Entry | Exception | None]


class DatabaseLedger(SimulatedLedger):
    """Writes go through the worker's own group commit, with its epochs and its second try."""

    def __init__(self, disk: Disk, client: DatabaseClient, chance: Chance) -> None:
        super().__init__(disk, client.database.loop, chance, client.process)
        self._client = client

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        self._process.check()
        answers = beside.answers if answer is None else (answer, *beside.answers)
        change = SimulatedChange(
            entry.department,
            {"auth_id": entry.auth_id},
            [{"key": (one.event.source, one.event.id)} for one in answers],
            carry_out=lambda again: self._carry_out(entry, answer, beside, again=again),
        )
        self._process.endanger("crash at a write", self._chance)
        result: Any
        if beside.admission is None:
            result = await self._client.store.write(change)
        else:  # in a transaction of its own, which is not tried again
            (result,) = await self._client.store.run(
                lambda connection: cast(SimulatedConnection, connection).commit([change.carry_out]),
                entry.department,
            )
        self._process.check()
        if isinstance(result, Exception):
            raise result
        return result

    async def record_answer(self, answer: Answer) -> None:
        self._process.check()
        change = SimulatedChange(
            answer.department,
            answers=[{"key": (answer.event.source, answer.event.id)}],
            carry_out=lambda _again: self._carry_out_answer(answer),
        )
        self._process.endanger("crash at a write", self._chance)
        result: Any = await self._client.store.write(change)
        self._process.check()
        if isinstance(result, Exception):
            raise result

    async def bind(self, owner: str, provider_account: str) -> None:
        await self._reach_session()
        await self._disk.bind(owner, provider_account)

    async def mark_poison(self, message: str) -> int:
        await self._reach_session()
        return await self._disk.mark_poison(message)

    async def clear_poison(self, message: str) -> None:
        await self._reach_session()
        await self._disk.clear_poison(message)

    async def _reach(self) -> None:
        await self._client.read()

    async def _reach_session(self) -> None:
        """A statement on the session, which connects again if it must."""
        self._process.check()
        await self._client.store.execute("SELECT 1")
        self._process.check()

    def _carry_out(
        self, entry: Entry, answer: Answer | None, beside: Beside, *, again: bool
    ) -> Entry | Exception:
        """One change at the server."""
        ours = replace(entry, revision=entry.revision + 1)
        if again and self._disk.entry(entry.department) == ours:
            return ours
        self._disk.writer = self._process.number
        try:
            return self._disk.write(entry, answer, beside)
        except (LedgerConflict, LedgerFailed, NotAdmitted) as refusal:
            return refusal

    def _carry_out_answer(self, answer: Answer) -> Exception | None:
        self._disk.writer = self._process.number
        try:
            self._disk.write_answer(answer)
        except LedgerConflict as refusal:
            return refusal
        return None
