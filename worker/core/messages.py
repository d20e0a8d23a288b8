"""Outgoing messages, as the contract defines them: results, credentials, parked messages and dead letters."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr
from pydantic_core import to_json

from contracts import topology
from contracts.encoding import COMPRESSION
from contracts.envelope import JSON, STRUCTURED, Message, attribute_in, rfc3339
from contracts.subaccounts import (
    Credentials,
    CredentialsMessage,
    ResultCode,
    ResultKind,
    outbound_id,
    result_type,
    routing_key,
)
from worker.core.judge import DeadLetter, Park
from worker.core.model.answers import Answer
from worker.core.model.causes import NO_TRACE, Reference, Reissue, Trace
from worker.core.model.entry import Entry

ISSUED: Final = "subaccount.credentials.issued.v1"
REISSUED: Final = "subaccount.credentials.reissued.v1"

# Headers that the broker maintains. Before RabbitMQ 4.0, a message sent back with x-death may be lost.
_BROKER_HEADERS = frozenset({"x-death", "x-delivery-count", "x-acquired-count"})
_BROKER_HEADER_PREFIXES = ("x-first-death-", "x-last-death-")

# Our headers: the state of a parked message, and the reason of a dead letter.
ATTEMPTS = "x-attempts"
ORIGINAL_EXCHANGE = "x-original-exchange"
ORIGINAL_ROUTING_KEY = "x-original-routing-key"
DEAD_PREFIX = "x-dead-"
DEAD_REASON = "x-dead-reason"
DEAD_DETAIL = "x-dead-detail"
DEAD_AT = "x-dead-at"
EVENT_ID = "x-event-id"
DEPARTMENT_ID = "x-department-id"
LEFT_OUT = "x-left-out"
"""Lists the properties and headers of a message that could not be encoded, if any."""
_MAX_ATTEMPTS = 1000
_OUR_RETURNS = frozenset({topology.RETRY, topology.REPLAY})
"""Only messages from here can bear our parking headers: producers may not write to these exchanges."""


@dataclass(frozen=True, slots=True)
class SentAs:
    """The encoding of a received message: each value by name, with the bytes it was decoded from.

    Python's types carry less than AMQP's, so the original bytes of an unchanged value are sent again.
    """

    fields: Mapping[str, tuple[Any, bytes]] = field(default_factory=dict, repr=False)
    headers: Mapping[str, tuple[Any, bytes]] = field(default_factory=dict, repr=False)


NEVER_SENT = SentAs()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and its address. `properties`: those of AMQP 0-9-1 that are not in `message`.

    `id`: the CloudEvents id of a result or of credentials.
    """

    exchange: str
    routing_key: str
    message: Message
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sent_as: SentAs = field(default=NEVER_SENT, repr=False, compare=False)
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """The facts about an event that its result needs, as far as they are known."""

    reference: Reference
    tenant: str
    department_id: str | None = None
    name: str | None = None
    trace: Trace = NO_TRACE


def source_of(owner: str) -> str:
    """The CloudEvents `source` of everything that this deployment publishes."""
    return f"/subaccount-provisioner/{owner}"


def result(answer: Answer, owner: str, now: datetime) -> Outgoing:
    """The result that publishes an answer.

    The id of a `held` one is derived from its hold: one event may be held several times.
    """
    subject = Subject(answer.event, answer.department.tenant, answer.department.id, answer.name, answer.trace)
    cause: tuple[str, ...] = (answer.event.source, answer.event.id)
    if answer.outcome is ResultKind.HELD and answer.hold_id is not None:
        cause = (answer.hold_id,)
    return _result(subject, answer.outcome, owner, now, answer, cause)


def failed(subject: Subject, verdict: DeadLetter, owner: str, now: datetime) -> Outgoing:
    """The result that accompanies a dead letter."""
    cause = (subject.reference.source, subject.reference.id)
    return _result(subject, ResultKind.FAILED, owner, now, verdict, cause)


def failed_unattributed(
    letter: Outgoing, original: Outgoing, verdict: DeadLetter, owner: str, now: datetime
) -> Outgoing:
    """The result that accompanies a dead letter whose event cannot be identified.

    `letter` is the dead letter, `original` the message as it came. The id is derived from the letter's
    fingerprint, by which an operator finds it.
    """
    received_id, _ = original.sent_as.fields.get("message_id", (None, b""))
    text = {"message_id": received_id, **original.properties}
    message = {
        name: value if isinstance(value := text.get(name), str) else None for name in ("message_id", "app_id")
    }
    data = {
        "tenant": None,
        "department_id": None,
        "name": None,
        "outcome": ResultKind.FAILED,
        "event": None,
        "message": message | {"exchange": original.exchange, "routing_key": original.routing_key},
        **_details(verdict),
    }
    return _outgoing_result((fingerprint(letter),), ResultKind.FAILED, owner, {"time": rfc3339(now)}, data)


def traced(outgoing: Outgoing, headers: Mapping[str, str]) -> Outgoing:
    """The message with trace headers of its transport; its attributes have the event's own trace."""
    if not headers:
        return outgoing
    message = replace(outgoing.message, headers={**outgoing.message.headers, **headers})
    return replace(outgoing, message=message)


def fingerprint(letter: Outgoing) -> str:
    """Identifies a dead letter: a digest of its routing key, time of death and body."""
    dead_at = text_of(letter.message.headers.get(DEAD_AT)) or ""
    digest = hashlib.sha256(f"{letter.routing_key}\n{dead_at}\n".encode())
    digest.update(letter.message.body)
    return digest.hexdigest()[:24]


def text_of(value: object) -> str | None:
    """A header's value as text."""
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return None if value is None else str(value)


def credentials(
    entry: Entry, recipient: str, auth_token: SecretStr, owner: str, now: datetime
) -> CredentialsMessage:
    """The credentials message that an active entry owes to one recipient, not sealed yet."""
    issued = entry.existing.issued
    cause = issued.cause
    return CredentialsMessage(
        # One event may cause two generations: created, removed by a newer one, created again by its replay.
        id=outbound_id((cause.source, cause.id, str(issued.generation)), ISSUED, recipient or None),
        source=source_of(owner),
        type=ISSUED,
        time=now,
        subject=entry.department.id,
        tenant=entry.department.tenant,
        causationid=cause.id,
        data=_content(entry, auth_token),
        **issued.trace._asdict(),
    )


def credentials_again(
    request: Reissue, entry: Entry, recipient: str, auth_token: SecretStr, owner: str, now: datetime
) -> CredentialsMessage:
    """The credentials message of an active entry that a request asked for, not sealed yet."""
    return CredentialsMessage(
        id=outbound_id(request.cause, REISSUED, recipient or None),
        source=source_of(owner),
        type=REISSUED,
        time=now,
        subject=entry.department.id,
        tenant=entry.department.tenant,
        causationid=request.reference.id,
        data=_content(entry, auth_token),
        **request.trace._asdict(),
    )


def _content(entry: Entry, auth_token: SecretStr) -> Credentials:
    auth_id, name, issued = entry.existing
    return Credentials(
        tenant=entry.department.tenant,
        department_id=entry.department.id,
        name=name,
        auth_id=auth_id,
        auth_token=auth_token,
        generation=issued.generation,
        supersedes=issued.supersedes,
    )


def addressed(clear: CredentialsMessage, recipient: str, message: Message) -> Outgoing:
    """A credentials message with its address: `message` is `clear` as the recipient gets it."""
    return Outgoing(topology.SECRETS, routing_key(clear.type, recipient), message, id=clear.id)


def parked(original: Outgoing, verdict: Park) -> Outgoing:
    """The original, addressed to a delay queue, with its own address and attempts in headers.

    It comes back under another routing key, so the address is restored from the headers.
    """
    headers = without_broker_headers(original.message.headers) | {
        ATTEMPTS: verdict.attempts,
        ORIGINAL_EXCHANGE: original.exchange,
        ORIGINAL_ROUTING_KEY: original.routing_key,
    }
    message = replace(original.message, headers=headers)
    key = topology.delay_label(verdict.delay)
    return replace(original, exchange=topology.RETRY, routing_key=key, message=message)


def unparked(delivered: Outgoing) -> Outgoing:
    """The message as it was before it was parked; any other message unchanged."""
    if delivered.exchange not in _OUR_RETURNS:
        return delivered
    headers = dict(delivered.message.headers)
    exchange, key = headers.pop(ORIGINAL_EXCHANGE, None), headers.pop(ORIGINAL_ROUTING_KEY, None)
    if not isinstance(exchange, str) or not isinstance(key, str):
        return delivered
    headers.pop(ATTEMPTS, None)
    message = replace(delivered.message, headers=headers)
    return replace(delivered, exchange=exchange, routing_key=key, message=message)


def attempts_of(delivered: Outgoing) -> int:
    """The number of attempts that ended in parking; 0 for a message that was not parked."""
    headers = delivered.message.headers
    was_parked = ORIGINAL_ROUTING_KEY in headers and delivered.exchange in _OUR_RETURNS
    attempts = headers.get(ATTEMPTS) if was_parked else None
    return max(0, min(attempts, _MAX_ATTEMPTS)) if isinstance(attempts, int) else 0


def deliveries_of(delivered: Outgoing) -> int:
    """The number of earlier deliveries, by the broker's `x-delivery-count`."""
    count = delivered.message.headers.get("x-delivery-count")
    return count if isinstance(count, int) else 0


def message_digest(delivered: Outgoing) -> str:
    """Identifies a message that may be unreadable: a digest of its body and its CloudEvents headers."""
    headers = delivered.message.headers
    attributes = sorted((name, repr(headers[name])) for name in headers if attribute_in(name))
    return hashlib.sha256(repr(attributes).encode() + delivered.message.body).hexdigest()


def dead_letter(
    original: Outgoing, verdict: DeadLetter, subject: Subject | None, attempts: int, now: datetime
) -> Outgoing:
    """The original, byte for byte, with the reason in headers."""
    kept = without_broker_headers(original.message.headers)
    for name in (ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY):  # a producer's must not pass for ours
        kept.pop(name, None)
    why = {
        DEAD_REASON: str(verdict.reason),
        DEAD_DETAIL: verdict.detail,
        DEAD_AT: now.isoformat(),
        ATTEMPTS: attempts,
        EVENT_ID: subject.reference.id if subject else None,
        DEPARTMENT_ID: subject.department_id if subject else None,
    }
    headers = kept | {name: value for name, value in why.items() if value is not None}
    message = replace(original.message, headers=headers)
    return replace(original, exchange=topology.DEAD_LETTERS, message=message)


def without_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers without those that the broker maintains."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _BROKER_HEADERS and not name.startswith(_BROKER_HEADER_PREFIXES)
    }


def is_needed(header: str) -> bool:
    """Whether a header belongs to the event or to us. If there is no room for all, these are dropped last."""
    return header.startswith("x-") or header == COMPRESSION or attribute_in(header) is not None


def _result(
    subject: Subject,
    outcome: ResultKind,
    owner: str,
    now: datetime,
    answer: Answer | DeadLetter,
    cause: tuple[str, ...],
) -> Outgoing:
    """`cause`: the source of the result's id; its `causationid` is always the event."""
    source, id_, type_ = subject.reference
    given = {
        "time": rfc3339(now),
        "subject": subject.department_id,
        "tenant": subject.tenant,
        **subject.trace._asdict(),
        "causationid": id_,
    }
    data = {
        "tenant": subject.tenant,
        "department_id": subject.department_id,
        "name": subject.name,
        "outcome": outcome,
        "event": {"source": source, "id": id_, "type": type_ or None},
        **_details(answer),
    }
    return _outgoing_result(cause, outcome, owner, given, data)


def _outgoing_result(
    cause: tuple[str, ...],
    outcome: ResultKind,
    owner: str,
    given: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Outgoing:
    """Equal to a `SubaccountResult`, as a test proves. Building the model would take three times as long."""
    type_ = result_type(outcome)
    identity = {"id": outbound_id(cause, type_), "source": source_of(owner), "type": type_}
    event = {"specversion": "1.0", "datacontenttype": JSON, **identity, **_without_none(given), "data": data}
    message = Message(to_json(event), STRUCTURED)
    return Outgoing(topology.RESULTS, routing_key(type_), message, id=identity["id"])


def _details(answer: Answer | DeadLetter) -> dict[str, Any]:
    """The outcome's details; unknown ones are left out."""
    if isinstance(answer, DeadLetter):
        code = answer.code or ResultCode(answer.reason)
        return {"code": code, "reason": f"{answer.reason}: {answer.detail}"}
    superseded_by = answer.superseded_by._asdict() if answer.superseded_by else None
    known = {"reason": answer.reason, "auth_id": answer.auth_id, "superseded_by": superseded_by}
    return {"code": answer.code} | _without_none(known)


def _without_none(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
