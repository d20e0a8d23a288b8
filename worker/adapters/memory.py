"""Ledger, provider and clock in memory: for tests, simulation and the demo. The broker is in `memory_broker`.

They pass the same conformance suites as the real ones (tests/conformance).
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pydantic import SecretStr

from worker.core.judge import CallFault, Operation
from worker.core.model import Answer, Department, Entry, Recollection, Reference, Wish, replace
from worker.ports import (
    CallFailed,
    LedgerConflict,
    LedgerFailed,
    LedgerForeign,
    NewSubaccount,
    ProvidedSubaccount,
)

PAGE = 20


class MemoryLedger:
    def __init__(self) -> None:
        self._entries: dict[Department, Entry] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._holders: dict[str, Department] = {}
        self._bound: tuple[str, str] | None = None
        self._suspects: Counter[str] = Counter()
        self._caught_up = False
        self._wishes: dict[str, Wish] = {}

    async def recall(self, department: Department, event: Reference) -> Recollection:
        entry = self._entries.get(department, Entry(department))
        return Recollection(entry, self._answers.get((event.source, event.id)))

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        before = self._entries.get(entry.department, Entry(entry.department))
        if before.revision != entry.revision:
            raise LedgerConflict("the department's entry was written by somebody else meanwhile")
        if entry.auth_id and self._holders.get(entry.auth_id, entry.department) != entry.department:
            raise LedgerFailed("the ledger refuses a write: the auth_id is another department's")
        if answer is not None:
            event = (answer.event.source, answer.event.id)
            if self._answers.get(event, answer).payload_digest != answer.payload_digest:
                raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
            self._answers[event] = answer
        if before.auth_id:
            del self._holders[before.auth_id]
        if entry.auth_id:
            self._holders[entry.auth_id] = entry.department
        self._entries[entry.department] = replace(entry, revision=entry.revision + 1)
        return self._entries[entry.department]

    async def wish(self, wish: Wish) -> None:
        self._wishes[wish.id] = wish

    async def wishes(self, since: datetime) -> Sequence[Wish]:
        since_then = [wish for wish in self._wishes.values() if wish.asked_at >= since]
        return sorted(since_then, key=lambda wish: wish.asked_at)

    async def close_wish(self, wish_id: str) -> None:
        self._wishes.pop(wish_id, None)

    async def suspect(self, message: str) -> int:
        self._suspects[message] += 1
        return self._suspects[message]

    async def absolve(self, message: str) -> None:
        del self._suspects[message]

    async def bind(self, owner: str, provider_account: str) -> None:
        self._bound = self._bound or (owner, provider_account)
        if self._bound != (owner, provider_account):
            raise LedgerForeign(
                f"the ledger belongs to owner {self._bound[0]} of provider account {self._bound[1]}"
            )

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        return {auth_id: self._holders[auth_id] for auth_id in auth_ids if auth_id in self._holders}

    async def caught_up(self) -> bool:
        return self._caught_up

    async def note_caught_up(self, *, caught_up: bool) -> None:
        self._caught_up = caught_up

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        due = [(entry.due_at, key) for key, entry in self._entries.items() if entry.due_at is not None]
        return [key for at, key in sorted(due) if at <= now][:limit]

    async def overdue(self, since: datetime) -> int:
        return sum(1 for entry in self._entries.values() if entry.owed_at and _is_before(entry, since))

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        return [self._entries[key] for key in sorted(self._entries) if tenant in {None, key.tenant}]

    async def answers(self, department: Department) -> Sequence[Answer]:
        found = [answer for answer in self._answers.values() if answer.department == department]
        return sorted(found, key=lambda answer: answer.answered_at)


def _is_before(entry: Entry, since: datetime) -> bool:
    return entry.created_at is not None and entry.created_at < since


@dataclass
class Held:
    """A subaccount of the memory provider."""

    auth_id: str
    auth_token: SecretStr
    name: str
    enabled: bool
    created: date


class MemoryProvider:
    """Subaccounts in a list, newest first. `calls`: operation, auth_id and idempotency key, in order."""

    def __init__(self) -> None:
        self.subaccounts: list[Held] = []
        self.calls: list[tuple[Operation, str | None, str | None]] = []
        self.today = date(2026, 11, 21)
        self._made = 0

    @asynccontextmanager
    async def permit(self, _operation: Operation) -> AsyncIterator[None]:
        yield

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        self.calls.append(("create", None, idempotency_key))
        self._made += 1
        token = SecretStr(f"memory-token-{self._made}")
        made = Held(f"SA{self._made:018d}", token, name, enabled=enabled, created=self.today)
        self.subaccounts.insert(0, made)
        return NewSubaccount(made.auth_id, made.auth_token)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        self.calls.append(("update", auth_id, idempotency_key))
        held = self._held(auth_id, "update")
        held.name = held.name if name is None else name
        held.enabled = held.enabled if enabled is None else enabled

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        self.calls.append(("delete", auth_id, idempotency_key))
        self.subaccounts.remove(self._held(auth_id, "delete"))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        self.calls.append(("get", auth_id, None))
        return _shown(self._held(auth_id, "get"))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self.calls.append(("list", None, None))
        return [
            dataclasses.replace(_shown(held), auth_token=None)
            for held in self.subaccounts[offset : offset + PAGE]
        ]

    async def probe(self) -> None:
        """It is always there."""

    def _held(self, auth_id: str, operation: Operation) -> Held:
        for held in self.subaccounts:
            if held.auth_id == auth_id:
                return held
        raise CallFailed(CallFault(operation, f"the provider answered 404 to {operation}", status=404))


def _shown(held: Held) -> ProvidedSubaccount:
    return ProvidedSubaccount(held.auth_id, held.name, held.enabled, held.created, held.auth_token)


class MemoryClock:
    """Time that passes only when told."""

    def __init__(self, start: datetime, jitter: float = 0.5) -> None:
        self.next_jitter = jitter
        self.naps: list[float] = []
        self._now = start
        self._asleep: dict[asyncio.Future[None], datetime] = {}
        self._fell_asleep = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def jitter(self) -> float:
        return self.next_jitter

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        waking = asyncio.get_running_loop().create_future()
        self._asleep[waking] = self._now + timedelta(seconds=seconds)
        self._fell_asleep.set()
        try:
            self.advance(0)
            await waking
        finally:
            self._asleep.pop(waking, None)

    def advance(self, seconds: float) -> None:
        """Moves time on and wakes who is due by then, the earliest first."""
        self._now += timedelta(seconds=seconds)
        for waking, due in sorted(self._asleep.items(), key=lambda sleeper: sleeper[1]):
            if due <= self._now and not waking.done():
                del self._asleep[waking]
                waking.set_result(None)

    def seconds_to_next(self) -> float:
        """Until the first sleeper is due; raises `ValueError` where nobody sleeps."""
        return (min(self._asleep.values()) - self._now).total_seconds()

    async def asleep(self, sleepers: int = 1) -> None:
        """Returns once so many sleep."""
        while len(self._asleep) < sleepers:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()
