"""Telemetry that tells the history what matters to the judge; the rest is counted and logged by nobody."""

import traceback
from typing import Any

from tests.simulation.history import History
from worker.core.judge import Failure, Operation, Park
from worker.core.model import Entry
from worker.telemetry import Telemetry


def _nothing(*_: Any, **__: Any) -> None:
    """Not worth telling here."""


class Telling(Telemetry):
    def __init__(self, history: History) -> None:
        self._history = history

    received = stepped = answered = dead_lettered = credentials_published = _nothing
    debts_overdue = subaccount_missing = result_unroutable = _nothing
    circuit = intake_held = intake_lifted = _nothing

    def doubles_disabled(self, entry: Entry, auth_ids: tuple[str, ...]) -> None:
        self._history.note("doubles reported", entry.department.id, kept=entry.auth_id, doubles=auth_ids)

    def drift_mended(self, entry: Entry) -> None:
        self._history.note("mended", entry.department.id, auth_id=entry.auth_id)

    def duty_failed(self, department: Any, detail: str) -> None:
        self._history.note("duty failed", department and department.id, detail=detail)

    def waiting(self, failure: Failure, seconds: float, tries: int) -> None:
        self._history.note("waits", None, why=failure.detail, seconds=round(seconds, 2), tries=tries)

    def circuit_opened(self, operation: Operation, detail: str) -> None:
        self._history.note("circuit opened", None, operation=operation, why=detail)

    def circuit_closed(self) -> None:
        self._history.note("circuit closed", None)

    def parked(self, verdict: Park, *, counted: bool) -> None:
        self._history.note(
            "parks", None, delay=str(verdict.delay), attempts=verdict.attempts, counted=counted
        )

    def step_crashed(self, error: Exception) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        self._history.note("step crashed", None, error=repr(error), at=f"{last.filename}:{last.lineno}")
