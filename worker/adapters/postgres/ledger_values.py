"""Entries, answers and holds as rows of PostgreSQL, by the names of the columns."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from worker.adapters.postgres.store import Values
from worker.adapters.rows import answer_json, counted_removals, entry_json, hold_json, microseconds, unix
from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold
from worker.ports import LedgerConflict


def entry_values(entry: Entry) -> Values:
    """The row of an entry."""
    latest = entry.latest_removal
    return {
        **named(entry.department),
        "revision": entry.revision,
        "status": entry.status.value,
        "auth_id": entry.auth_id,
        "active": entry.is_counted_active,
        "due_at": unix(entry.due_at),
        "overdue_since": unix(overdue_since(entry)),
        "deletable_since": unix(entry.deletable_since),
        "last_removal_at": microseconds(latest) if latest else None,
        "removals": counted_removals(entry),
        "entry": entry_json(entry),
    }


def overdue_since(entry: Entry) -> datetime | None:
    """The age of its oldest debt that is tried again, or of its late removal that fails; None without any."""
    if entry.due_at is None:
        return None
    since = (
        entry.created_at if entry.debt is not None and entry.debt.retry_at is not None else None,
        entry.retry.failing_since if entry.retry is not None else None,
    )
    return min((at for at in since if at is not None), default=None)


def answer_values(answers: Sequence[Answer]) -> Sequence[Values]:
    """The answers as rows, the last one of each event; raises `LedgerConflict` if two contradict."""
    last: dict[str, Answer] = {}
    for answer in answers:
        key = key_of(answer.event.source, answer.event.id)
        if not last.get(key, answer).may_become(answer):
            raise LedgerConflict(ANSWERED)
        last[key] = answer
    return [
        {
            "key": key,
            "source": answer.event.source,
            "event_id": answer.event.id,
            **named(answer.department),
            "answered_at": microseconds(answer.answered_at),
            "confirmed": answer.confirmed,
            "answer": answer_json(answer),
        }
        for key, answer in last.items()
    ]


ANSWERED = "another payload, or another outcome, of this event was answered meanwhile"


def hold_values(hold: Hold) -> Values:
    """The row of a hold."""
    return {
        "id": hold.id,
        **named(hold.department),
        "held_at": hold.held_at.timestamp(),
        "reason": hold.reason.value,
        "state": hold.state.value,
        "hold": hold_json(hold),
    }


def named(department: Department) -> Values:
    """The columns that identify a department."""
    return {"tenant": department.tenant, "department_id": department.id}


def key_of(source: str, event_id: str) -> str:
    """Identifies an event, as a UUID without hyphens: a source and an id may be too long for an index."""
    return hashlib.sha256(f"{source}\0{event_id}".encode()).hexdigest()[:32]
