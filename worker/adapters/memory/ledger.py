"""The ledger in memory, for tests. It passes the ledger's conformance suite."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from worker.core.model import Answer, Department, Entry, Recollection, Reference, Wish, replace
from worker.ports import (
    AuthIdTaken,
    LedgerConflict,
    LedgerForeign,
)


class MemoryLedger:
    """The `Ledger` port, without durability."""

    def __init__(self) -> None:
        self._entries: dict[Department, Entry] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._holders: dict[str, Department] = {}
        self._bound: tuple[str, str] | None = None
        self._poison_marks: Counter[str] = Counter()
        self._caught_up = False
        self._sealed_for: set[str] = set()
        self._wishes: dict[str, Wish] = {}

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """See `Ledger.recall`."""
        entry = self._entries.get(department, Entry(department))
        return Recollection(entry, self._answers.get((event.source, event.id)))

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """See `Ledger.record`."""
        return self.write(entry, answer)

    def write(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """Does `record` without waiting."""
        before = self._entries.get(entry.department, Entry(entry.department))
        if before.revision != entry.revision:
            raise LedgerConflict("the department's entry was changed by another writer meanwhile")
        if entry.auth_id and self._holders.get(entry.auth_id, entry.department) != entry.department:
            raise AuthIdTaken(entry.auth_id, self._holders[entry.auth_id])
        if answer is not None:
            self.write_answer(answer)
        if before.auth_id:
            del self._holders[before.auth_id]
        if entry.auth_id:
            self._holders[entry.auth_id] = entry.department
        self._entries[entry.department] = replace(entry, revision=entry.revision + 1)
        return self._entries[entry.department]

    async def record_answer(self, answer: Answer) -> None:
        """See `Ledger.record_answer`."""
        self.write_answer(answer)

    def write_answer(self, answer: Answer) -> None:
        """Does `record_answer` without waiting."""
        event = (answer.event.source, answer.event.id)
        if self._answers.get(event, answer).payload_digest != answer.payload_digest:
            raise LedgerConflict("another payload of this event's source and id was answered meanwhile")
        self._answers[event] = answer

    async def wish(self, wish: Wish) -> None:
        """See `Ledger.wish`."""
        self._wishes[wish.id] = wish

    async def wishes(self) -> Sequence[Wish]:
        """See `Ledger.wishes`."""
        return sorted(self._wishes.values(), key=lambda wish: wish.asked_at)

    async def close_wish(self, wish_id: str) -> None:
        """See `Ledger.close_wish`."""
        self._wishes.pop(wish_id, None)

    async def mark_poison(self, message: str) -> int:
        """See `Ledger.mark_poison`."""
        self._poison_marks[message] += 1
        return self._poison_marks[message]

    async def clear_poison(self, message: str) -> None:
        """See `Ledger.clear_poison`."""
        del self._poison_marks[message]

    async def bind(self, owner: str, provider_account: str) -> None:
        """See `Ledger.bind`."""
        self._bound = self._bound or (owner, provider_account)
        if self._bound != (owner, provider_account):
            raise LedgerForeign.of(self._bound, (owner, provider_account))

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """See `Ledger.holders`."""
        return {auth_id: self._holders[auth_id] for auth_id in auth_ids if auth_id in self._holders}

    async def caught_up(self) -> bool:
        """See `Ledger.caught_up`."""
        return self._caught_up

    async def note_caught_up(self, *, caught_up: bool) -> None:
        """See `Ledger.note_caught_up`."""
        self._caught_up = caught_up

    async def sealed_for(self) -> frozenset[str]:
        """See `Ledger.sealed_for`."""
        return frozenset(self._sealed_for)

    async def note_sealed(self, recipient: str) -> None:
        """See `Ledger.note_sealed`."""
        self._sealed_for.add(recipient)

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        """See `Ledger.due`."""
        due = [(entry.due_at, key) for key, entry in self._entries.items() if entry.due_at is not None]
        return [key for at, key in sorted(due) if at <= now][:limit]

    async def overdue(self, since: datetime) -> int:
        """See `Ledger.overdue`."""
        return sum(is_overdue(entry, since) for entry in self._entries.values())

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        """See `Ledger.entries`."""
        return [self._entries[key] for key in sorted(self._entries) if tenant in {None, key.tenant}]

    async def answers(self, department: Department) -> Sequence[Answer]:
        """See `Ledger.answers`."""
        found = [answer for answer in self._answers.values() if answer.department == department]
        return sorted(found, key=lambda answer: answer.answered_at)

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        """See `Ledger.answers_to`."""
        return [self._answers[key] for key in sorted(self._answers) if key[1] == event_id]


def is_overdue(entry: Entry, since: datetime) -> bool:
    """Whether an entry older than `since` has a debt with a retry."""
    retry_at = entry.debt.retry_at if entry.debt else None
    return retry_at is not None and entry.created_at is not None and entry.created_at < since
