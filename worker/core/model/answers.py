"""An answer: the final outcome of one event or request."""

from dataclasses import dataclass
from datetime import datetime

from contracts.departments import Version
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.model.causes import NO_TRACE, Reference, Trace
from worker.core.model.departments import Department
from worker.core.model.replace import replace


@dataclass(frozen=True)
class Answer:
    """The final outcome of one event or request, as it is recorded and published.

    `version`: that of the event; a request has none. `recipients`: those to whom a request has published
    credentials. `hold_id`: of the hold, if it is held.
    """

    department: Department
    event: Reference
    payload_digest: str
    outcome: ResultKind
    code: ResultCode
    answered_at: datetime
    name: str | None = None
    auth_id: str | None = None
    reason: str | None = None
    superseded_by: Reference | None = None
    trace: Trace = NO_TRACE
    confirmed: bool = False
    recipients: frozenset[str] = frozenset()
    hold_id: str | None = None
    version: Version | None = None

    @property
    def is_provisional(self) -> bool:
        """Whether a later outcome of the same event may take its place."""
        return self.outcome in {ResultKind.HELD, ResultKind.DISABLED}

    def may_become(self, other: "Answer") -> bool:
        """Whether `other` may take its place: a final outcome is not taken back.

        `held` comes before any outcome of the same event, and `disabled` before `removed`. Of any other
        answer only the confirm changes.
        """
        if (self.event[:2], self.payload_digest) != (other.event[:2], other.payload_digest):
            return False
        if self.outcome is ResultKind.HELD:
            return True
        if self.outcome is ResultKind.DISABLED and other.outcome is ResultKind.REMOVED:
            return True
        return replace(self, confirmed=other.confirmed) == other
