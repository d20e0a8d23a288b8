"""Reads a message: a department event, a request to reissue, or an unreadable message."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts import text
from contracts.departments import (
    DEFAULT_TENANT,
    Invalid,
    UnsupportedType,
    department_event,
    payload_digest,
)
from contracts.envelope import (
    CloudEvent,
    Malformed,
    Message,
    attributes_in,
    event_of,
    readable_attributes,
)
from contracts.reissues import (
    REISSUE_KEY,
    asks_for_reissue,
    is_reissue_key,
    reissue_request,
    request_digest,
)
from contracts.subaccounts import DeadReason, ResultCode
from worker.core.judge import DeadLetter
from worker.core.messages import Outgoing, Subject, unparked
from worker.core.model.causes import Event, Reference, Reissue, Trace
from worker.pipeline.plain_events import plain_event


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no valid event; `subject` has the facts that could be read."""

    verdict: DeadLetter
    subject: Subject | None = None


Reading = Event | Reissue | Unreadable


def reading_of(delivered: Outgoing) -> Reading:
    """Reads a delivered message. A request must have its own routing key: the broker's rights go by keys."""
    reading = validate(delivered.message)
    if isinstance(reading, Reissue) and not is_reissue_key(unparked(delivered).routing_key):
        why = f"routing key: a request comes under {REISSUE_KEY}"
        verdict = DeadLetter(DeadReason.INVALID, why, ResultCode.NOT_ALLOWED)
        return Unreadable(verdict, subject_of(reading))
    return reading


def validate(message: Message) -> Reading:
    """Reads a message without regard to its routing key."""
    try:
        given = _with_trace(attributes_in(message), message.headers)
    except Malformed as error:
        return _malformed(error, message)
    return plain_event(given) or validate_attributes(given, message)


def validate_attributes(given: Mapping[str, Any], message: Message) -> Reading:
    """Reads the attributes of a message by the contract."""
    try:
        envelope = event_of(given)
    except Malformed as error:
        return _malformed(error, message)
    try:
        if asks_for_reissue(envelope):
            return Reissue.of(reissue_request(envelope, given), envelope.type, request_digest(envelope))
        return Event.of(department_event(envelope, given), envelope.type, payload_digest(envelope))
    except UnsupportedType as error:
        return Unreadable(_refusal(DeadReason.UNSUPPORTED_TYPE, error), _readable_part(envelope))
    except Invalid as error:
        return Unreadable(_refusal(DeadReason.INVALID, error), _readable_part(envelope))


def _with_trace(attributes: dict[str, Any], headers: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes with the trace of the transport where the event has none.

    Producers with OpenTelemetry have `traceparent` in a plain header.
    """
    if "traceparent" in attributes or "traceparent" not in headers:
        return attributes
    return attributes | {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


def glimpse(message: Message) -> Subject | None:
    """The facts about an event that can be read, valid or not; None if there are none."""
    return _partial_subject(readable_attributes(message))


def subject_of(reading: Reading) -> Subject | None:
    """The facts about a message for results and logs; None if nothing could be read."""
    match reading:
        case Unreadable():
            return reading.subject
        case Event():
            name = reading.name
        case Reissue():
            name = None
    return Subject(reading.reference, *reading.department, name, reading.trace)


def _malformed(error: Malformed, message: Message) -> Unreadable:
    return Unreadable(_refusal(DeadReason.MALFORMED, error), glimpse(message))


def _refusal(reason: DeadReason, error: ValueError) -> DeadLetter:
    return DeadLetter(reason, str(error))


def _readable_part(envelope: CloudEvent) -> Subject | None:
    """The facts in an envelope whose data breaks the contract."""
    return _partial_subject(dict(envelope))


def _partial_subject(attributes: Mapping[str, Any]) -> Subject | None:
    """The valid attributes; None unless they identify the event. A type that cannot be read is empty."""
    source, id_ = (_valid(text.attribute, attributes.get(name)) for name in ("source", "id"))
    if source is None or id_ is None:
        return None
    data = data if isinstance(data := attributes.get("data"), dict) else {}
    department_id = data.get("department_id")
    trace = {name: _valid(text.plain, attributes.get(name)) for name in Trace._fields}
    return Subject(
        Reference(source, id_, _valid(text.text_attribute, attributes.get("type")) or ""),
        _valid(text.identifier, attributes.get("tenant")) or DEFAULT_TENANT,
        _valid(text.identifier, attributes.get("subject") if department_id is None else department_id),
        _valid(text.name, data.get("name")),
        Trace(**trace),
    )


def _valid(spelling: Callable[[object], str], value: object) -> str | None:
    """The one spelling of a value; None if it breaks the rules."""
    try:
        return spelling(value)
    except ValueError:
        return None
