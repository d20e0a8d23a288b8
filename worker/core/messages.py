"""What goes out: an answer, credentials or a dead letter as the message the contract wants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from contracts import topology
from contracts.envelope import Message
from contracts.subaccounts import (
    Credentials,
    CredentialsMessage,
    EventReference,
    Result,
    ResultKind,
    SubaccountResult,
    outbound_id,
    plain_message,
    result_type,
    routing_key,
)
from worker.core.judge import DeadLetter
from worker.core.model import NO_TRACE, Answer, Entry, Reference, Trace

ISSUED = "subaccount.credentials.issued.v1"

# The broker's own bookkeeping. Sent back to it, x-death loses messages before RabbitMQ 4.0.
_BROKER_HEADERS = frozenset({"x-death", "x-delivery-count", "x-acquired-count"})
_BROKER_HEADER_PREFIXES = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes. `properties` are AMQP's besides content type and headers."""

    exchange: str
    routing_key: str
    message: Message
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the event in a message that is given up."""

    reference: Reference
    tenant: str
    department_id: str | None = None
    name: str | None = None
    trace: Trace = NO_TRACE


def source_of(owner: str) -> str:
    return f"/subaccount-provisioner/{owner}"


def result(answer: Answer, owner: str, now: datetime) -> Outgoing:
    subject = Subject(answer.event, answer.department.tenant, answer.department.id, answer.name, answer.trace)
    return _result(subject, answer.outcome, owner, now, answer)


def failed(subject: Subject, verdict: DeadLetter, owner: str, now: datetime) -> Outgoing:
    """The result beside a dead letter."""
    return _result(subject, ResultKind.FAILED, owner, now, verdict)


def credentials(
    entry: Entry, recipient: str, auth_token: SecretStr, trace: Trace, owner: str, now: datetime
) -> Outgoing:
    """The credentials an active entry owes to one recipient."""
    if entry.auth_id is None or entry.name is None or entry.issued_for is None:
        raise ValueError(f"no credentials to issue: the entry is {entry.status}")
    cause = entry.issued_for
    event = CredentialsMessage(
        # One event may cause two generations: created, removed by a newer one, created again by its replay.
        id=outbound_id((cause.source, cause.id, str(entry.generation)), ISSUED, recipient or None),
        source=source_of(owner),
        type=ISSUED,
        time=now,
        subject=entry.department.id,
        tenant=entry.department.tenant,
        causationid=cause.id,
        data=Credentials(
            tenant=entry.department.tenant,
            department_id=entry.department.id,
            name=entry.name,
            auth_id=entry.auth_id,
            auth_token=auth_token,
            generation=entry.generation,
        ),
        **trace._asdict(),
    )
    return Outgoing(topology.SECRETS, routing_key(ISSUED, recipient), plain_message(event))


def dead_letter(
    original: Outgoing, verdict: DeadLetter, subject: Subject | None, tries: int, now: datetime
) -> Outgoing:
    """The original, byte for byte, with why it is here."""
    kept = without_broker_headers(original.message.headers)
    why = {
        "x-dead-reason": str(verdict.reason),
        "x-dead-detail": verdict.detail,
        "x-dead-at": now.isoformat(),
        "x-attempts": tries,
        "x-event-id": subject.reference.id if subject else None,
        "x-department-id": subject.department_id if subject else None,
    }
    headers = kept | {name: value for name, value in why.items() if value is not None}
    message = Message(original.message.body, original.message.content_type, headers)
    return Outgoing(topology.DEAD_LETTERS, original.routing_key, message, original.properties)


def without_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in headers.items()
        if name not in _BROKER_HEADERS and not name.startswith(_BROKER_HEADER_PREFIXES)
    }


def _result(
    subject: Subject, outcome: ResultKind, owner: str, now: datetime, told: Answer | DeadLetter
) -> Outgoing:
    type_ = result_type(outcome)
    event = SubaccountResult(
        id=outbound_id((subject.reference.source, subject.reference.id), type_),
        source=source_of(owner),
        type=type_,
        time=now,
        subject=subject.department_id,
        tenant=subject.tenant,
        causationid=subject.reference.id,
        data=Result(
            tenant=subject.tenant,
            department_id=subject.department_id,
            name=subject.name,
            outcome=outcome,
            event=_referred(subject.reference),
            **_told(told),
        ),
        **subject.trace._asdict(),
    )
    return Outgoing(topology.RESULTS, routing_key(type_), Message.structured(event))


def _told(told: Answer | DeadLetter) -> dict[str, Any]:
    if isinstance(told, DeadLetter):
        return {"reason": f"{told.reason}: {told.detail}"}
    superseded_by = _referred(told.superseded_by) if told.superseded_by else None
    return {"reason": told.reason, "auth_id": told.auth_id, "superseded_by": superseded_by}


def _referred(reference: Reference) -> EventReference:
    return EventReference(source=reference.source, id=reference.id, type=reference.type)
