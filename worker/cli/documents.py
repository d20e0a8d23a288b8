"""The JSON of departments and holds, as several commands print it. It does not mirror the ledger."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from contracts.departments import Version
from worker.core.dead_letters import AuditLine
from worker.core.decide import Policy
from worker.core.inventory import Counts
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold
from worker.core.removal import deletion_due_at
from worker.operations.departments import History, pending

Document = dict[str, Any]


def time_or_none(at: datetime | None) -> datetime | None:
    """The time in UTC, which JSON shows with `Z`."""
    return at.astimezone(UTC) if at else None


def event_document(event: Reference) -> Document:
    """An event: source, id, and type as its producer wrote it."""
    return {"source": event.source, "id": event.id, "type": event.type}


def version_document(version: Version | None) -> Document | None:
    """The version that decides what is newer."""
    if version is None:
        return None
    return {
        "sequence": version.sequence,
        "time": time_or_none(version.time),
        "kind": version.kind,
        "source": version.source,
        "id": version.id,
    }


def department_document(entry: Entry, policy: Policy) -> Document:
    """A department. `deletion_due_at` follows the policy; null: nothing will delete its subaccount."""
    issued, removal = entry.issued, entry.removal
    return {
        "tenant": entry.department.tenant,
        "department_id": entry.department.id,
        "name": entry.name,
        "status": entry.status,
        "auth_id": entry.auth_id,
        "incarnation": entry.incarnation,
        "generation": entry.generation,
        "owed_to": sorted(entry.owed_to),
        "enable_owed": entry.debt is not None and entry.debt.enable,
        "deletion_due_at": time_or_none(deletion_due_at(entry, policy)),
        "version": version_document(entry.version),
        "hold_id": entry.hold.id if entry.hold else None,
        "created_at": time_or_none(entry.created_at),
        "removed_at": time_or_none(removal.removed_at if removal else None),
        "missing_since": time_or_none(entry.missing_since),
        "gone_at": time_or_none(entry.gone_at),
        "reissued_at": time_or_none(issued.reissued_at if issued else None),
        "keeps_name": entry.keeps_name,
        "api_id": entry.api_id,
    }


def history_document(found: History, policy: Policy) -> Document:
    """A department's whole story."""
    waits = [
        {"for": one.what, "since": time_or_none(one.since), "next_try": time_or_none(one.next_try)}
        for one in pending(found.entry)
    ]
    return department_document(found.entry, policy) | {
        "answers": [answer_document(answer) for answer in found.answers],
        "holds": [hold_document(hold) for hold in found.holds],
        "calls": [call_document(call) for call in found.calls],
        "audit": audit_documents(found.lines),
        "waits": waits,
    }


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
        "version": version_document(answer.version),
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
