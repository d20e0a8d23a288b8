"""The causes of steps and answers: events, late removals, requests of people; and their references."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from contracts.departments import (
    DepartmentCreated,
    DepartmentRemoved,
    DepartmentRenamed,
    Kind,
    Version,
)
from contracts.reissues import ReissueRequested
from worker.core.model.departments import Department


class Reference(NamedTuple):
    """Identifies one event. `type` is as its producer wrote it; empty if it cannot be read."""

    source: str
    id: str
    type: str


class Trace(NamedTuple):
    """The tracing attributes that an event passes on to the messages it causes."""

    traceparent: str | None = None
    tracestate: str | None = None
    correlationid: str | None = None


NO_TRACE = Trace()


@dataclass(frozen=True, slots=True)
class Cause:
    """The reason for a step; its answer refers to it.

    An event is a cause. A step that is due later has the cause it was scheduled for, or none. The answer to a
    cause without a `version` does not change the department's newest event.
    """

    reference: Reference
    payload_digest: str
    version: Version | None = None
    name: str | None = None
    trace: Trace = NO_TRACE

    @property
    def bare(self) -> "Cause":
        """The cause without anything beside it, as it is kept for a removal that ends later."""
        return Cause(self.reference, self.payload_digest, self.version, self.name, self.trace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Cause):
    """A valid department event, reduced to the fields that decisions need.

    `merged_into`: the department that takes over, if a removal names one.
    """

    department: Department
    version: Version
    merged_into: str | None = None

    @property
    def kind(self) -> Kind:
        """The kind of event: created, renamed or removed."""
        return self.version.kind

    @classmethod
    def of(
        cls,
        event: DepartmentCreated | DepartmentRenamed | DepartmentRemoved,
        sent_type: str,
        payload_digest: str,
    ) -> "Event":
        """Reduces a valid event; `sent_type` is its type as its producer wrote it."""
        return cls(
            department=Department(event.tenant, event.data.department_id),
            version=event.version,
            reference=Reference(event.source, event.id, sent_type),
            payload_digest=payload_digest,
            name=event.data.name,
            trace=Trace(event.traceparent, event.tracestate, event.correlationid),
            merged_into=event.data.merged_into if isinstance(event, DepartmentRemoved) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRemoval(Cause):
    """A removal that is carried out without its message: its grace is over, or a person has approved it.

    The reference, the digest and the version are those of the removal event, whose answer it makes.
    """

    department: Department

    @classmethod
    def of(cls, department: Department, cause: Cause) -> "LateRemoval":
        """The removal of a department for this event."""
        return cls(
            department=department,
            reference=cause.reference,
            payload_digest=cause.payload_digest,
            version=cause.version,
            name=cause.name,
            trace=cause.trace,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recreation(Cause):
    """A person's request to create a subaccount for a department whose own is gone."""

    department: Department
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Reissue:
    """A request to issue a department's credentials again, to one recipient or to all.

    The ids of these credentials are derived from `cause`.
    """

    department: Department
    reference: Reference
    payload_digest: str
    recipient: str | None
    cause: tuple[str, ...]
    trace: Trace = NO_TRACE

    @classmethod
    def of(cls, request: ReissueRequested, sent_type: str, payload_digest: str) -> "Reissue":
        """Reduces a valid request; `sent_type` is its type as its producer wrote it."""
        return cls(
            department=Department(request.tenant, request.data.department_id),
            reference=Reference(request.source, request.id, sent_type),
            payload_digest=payload_digest,
            recipient=request.data.recipient,
            cause=(request.source, request.id),
            trace=Trace(request.traceparent, request.tracestate, request.correlationid),
        )
