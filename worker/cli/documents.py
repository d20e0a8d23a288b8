"""The JSON of departments and holds, as several commands print it. It does not mirror the ledger."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from worker.core.dead_letters import AuditLine
from worker.core.inventory import Counts
from worker.core.model import Answer, CallNote, Hold, Reference

Document = dict[str, Any]


def time_or_none(at: datetime | None) -> datetime | None:
    """The time in UTC, which JSON shows with `Z`."""
    return at.astimezone(UTC) if at else None


def event_document(event: Reference) -> Document:
    """An event: source, id, and type as its producer wrote it."""
    return {"source": event.source, "id": event.id, "type": event.type}


def hold_document(hold: Hold) -> Document:
    """A hold."""
    ruling = hold.ruling
    return {
        "id": hold.id,
        "tenant": hold.department.tenant,
        "department_id": hold.department.id,
        "name": hold.name,
        "auth_id": hold.auth_id,
        "reason": hold.reason,
        "detail": hold.detail,
        "state": hold.state,
        "event": event_document(hold.cause.reference),
        "held_at": time_or_none(hold.held_at),
        "resources": _counts(hold.resources),
        "ruling": ruling and {"by": ruling.by, "at": time_or_none(ruling.at), "cascade": ruling.cascade},
    }


def _counts(counts: Counts | None) -> Document | None:
    if counts is None:
        return None
    return {
        "numbers": counts.numbers,
        "applications": counts.applications,
        "endpoints": counts.endpoints,
    }


def answer_document(answer: Answer) -> Document:
    """The answer to one event."""
    superseded_by = answer.superseded_by
    return {
        "event": event_document(answer.event),
        "outcome": answer.outcome,
        "code": answer.code,
        "reason": answer.reason,
        "answered_at": time_or_none(answer.answered_at),
        "confirmed": answer.confirmed,
        "name": answer.name,
        "auth_id": answer.auth_id,
        "superseded_by": event_document(superseded_by) if superseded_by else None,
        "hold_id": answer.hold_id,
    }


def call_document(call: CallNote) -> Document:
    """A call to the provider. `status` None: there was no response."""
    return {
        "at": time_or_none(call.at),
        "operation": call.operation,
        "status": call.status,
        "idempotency_key": call.idempotency_key,
        "api_id": call.api_id,
        "auth_id": call.auth_id,
        "error": call.error,
    }


def audit_documents(lines: Iterable[AuditLine]) -> list[Document]:
    """Lines of the audit."""
    return [
        {
            "at": time_or_none(line.at),
            "by": line.by,
            "action": line.action,
            "run": line.run,
            "selection": line.selection,
            "event_id": line.event_id,
            "source": line.source,
            "reason": line.reason,
            "outcome": line.outcome,
            "detail": line.detail,
        }
        for line in lines
    ]
