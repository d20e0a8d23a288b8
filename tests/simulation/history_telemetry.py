"""Notes in the history what the worker logs and publishes.

Events that the checker does not need are dropped.
"""

import traceback
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from contracts import topology as names
from tests.simulation.history import History
from tests.simulation.producer_events import ProducerEvent
from worker.core.inventory import Counts
from worker.core.judge import Failure, Operation, Park, Pause, Wait
from worker.core.messages import Outgoing, Subject
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold
from worker.telemetry.events import Telemetry


def _nothing(*_: Any, **__: Any) -> None:
    """Drops an event that the checker does not need."""


class HistoryTelemetry(Telemetry):
    """Telemetry that writes to the history."""

    def __init__(self, history: History) -> None:
        self._history = history

    received = stepped = answered = superseded = dead_lettered = credentials_published = _nothing
    departments_counted = subaccount_missing = result_unroutable = _nothing
    intake_held = intake_lifted = _nothing
    holds_waiting = sweep_finished = sweep_on_record = sweep_failed = _nothing

    def doubles_disabled(self, entry: Entry, auth_ids: tuple[str, ...]) -> None:
        self._history.note(
            "duplicates reported", entry.department.id, kept=entry.auth_id, duplicates=auth_ids
        )

    def drift_mended(self, entry: Entry) -> None:
        self._history.note("repaired", entry.department.id, auth_id=entry.auth_id)

    def removal_held(self, hold: Hold) -> None:
        self._history.note("removal held", hold.department.id, hold=hold.id, reason=str(hold.reason))

    def hold_ruled(self, hold: Hold, by: str) -> None:
        self._history.note("hold ruled", hold.department.id, hold=hold.id, state=str(hold.state), by=by)

    def hold_void(self, hold: Hold, newer: Reference | None) -> None:
        self._history.note("hold void", hold.department.id, hold=hold.id, newer=newer and newer.id)

    def hold_lapsed(self, hold: Hold) -> None:
        self._history.note("hold lapsed", hold.department.id, hold=hold.id)

    def removal_failed(self, department: Department, detail: str, tries: int, _next_at: Any) -> None:
        self._history.note("removal failed", department.id, detail=detail, tries=tries)

    def subaccount_deleted(self, entry: Entry, auth_id: str, counts: Counts, cascade: int | None) -> None:
        self._history.note(
            "deletion reported", entry.department.id, auth_id=auth_id, resources=counts.total, cascade=cascade
        )

    def finding_corrected(self, kind: str, department: Department, auth_id: str, by: str) -> None:
        self._history.note("finding corrected", department.id, finding=kind, auth_id=auth_id, by=by)

    def department_adopted(self, department: Department, auth_id: str, by: str) -> None:
        self._history.note("adoption reported", department.id, auth_id=auth_id, by=by)

    def duty_failed(self, department: Any, detail: str) -> None:
        self._history.note("duty failed", department and department.id, detail=detail)

    def waiting(
        self,
        failure: Failure,
        verdict: Wait | Pause,
        tries: int,
        subject: Subject | None,
        _now_seconds: float,
    ) -> None:
        whose = subject.department_id if subject else None
        seconds = round(verdict.seconds, 2)
        self._history.note("waits", whose, why=failure.detail, seconds=seconds, tries=tries)

    def circuit(self, state: str) -> None:
        self._history.note("circuit", None, state=str(state))

    def circuit_opened(self, operation: Operation, detail: str, *, again: bool) -> None:
        self._history.note("circuit opened", None, operation=operation, why=detail, again=again)

    def circuit_closed(self) -> None:
        self._history.note("circuit closed", None)

    def parked(self, verdict: Park, subject: Subject | None, *, counted: bool) -> None:
        whose = subject.department_id if subject else None
        self._history.note(
            "parks", whose, delay=str(verdict.delay), attempts=verdict.attempts, counted=counted
        )

    def step_crashed(self, error: Exception) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        self._history.note("step crashed", None, error=repr(error), at=f"{last.filename}:{last.lineno}")


def routing_key_of(event: ProducerEvent) -> str:
    return f"department.{event.kind}"


def message_facts(outgoing: Outgoing, events: Mapping[bytes, ProducerEvent]) -> dict[str, Any]:
    """The facts of a message published by the worker, as fields of a history note."""
    if outgoing.exchange == names.DEAD_LETTERS:
        event = events[outgoing.message.body]
        return {
            "department": event.department,
            "to": "dead letters",
            "event": event.id,
            "reason": str(outgoing.message.headers["x-dead-reason"]),
            "body": event.body,
            "routing_key": outgoing.routing_key,
            "sent_with": routing_key_of(event),
        }
    if outgoing.exchange == names.RETRY:
        event = events[outgoing.message.body]
        return {
            "department": event.department,
            "to": "retry",
            "event": event.id,
            "body": event.body,
            "attempts": outgoing.message.headers["x-attempts"],
        }
    message = from_json(outgoing.message.body)
    to = "secrets" if outgoing.exchange == names.SECRETS else "results"
    return {"department": message["data"]["department_id"], "to": to, "message": message}
