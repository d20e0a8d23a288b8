"""Dead letters: their facts, an operator's selection, the replayed message, and the lines of the audit."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from contracts import topology
from contracts.departments import UnsupportedType, canonical_type
from contracts.envelope import rfc3339
from worker.core.messages import (
    ATTEMPTS,
    DEAD_AT,
    DEAD_DETAIL,
    DEAD_PREFIX,
    DEAD_REASON,
    DEPARTMENT_ID,
    EVENT_ID,
    LEFT_OUT,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    Outgoing,
    Subject,
    fingerprint,
    text_of,
    without_broker_headers,
)

REPLAY_ID = "x-replay-id"
REPLAYED_BY = "x-replayed-by"
EDITED_FROM = "x-edited-from"

UNROUTED = "unrouted"
"""The reason of a message that no queue took. It is no dead letter: no worker has seen it."""

# Headers that the worker has added to the original, or a producer in its place. A replay removes them: it is
# a first attempt again.
_OURS = frozenset(
    {
        ATTEMPTS,
        EVENT_ID,
        DEPARTMENT_ID,
        ORIGINAL_EXCHANGE,
        ORIGINAL_ROUTING_KEY,
        REPLAY_ID,
        REPLAYED_BY,
        EDITED_FROM,
    }
)

DEFAULT_DELIVERY_LIMIT = 20
"""The limit of a quorum queue without x-delivery-limit, from RabbitMQ 4.0 on.

Source: https://www.rabbitmq.com/docs/quorum-queues
"""
FREE_RETURNS = DEFAULT_DELIVERY_LIMIT // 2
"""Fewer returns to the queue than this are always harmless."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its body. `fingerprint` identifies it, `replay_id` its last replay."""

    reason: str
    detail: str
    dead_at: datetime | None
    attempts: int | None
    source: str | None
    event_id: str | None
    type: str | None
    tenant: str | None
    department_id: str | None
    routing_key: str
    size_bytes: int
    replay_id: str | None
    fingerprint: str

    @property
    def ids(self) -> frozenset[str]:
        """The ids by which a filter finds it. A malformed message has only a fingerprint."""
        return frozenset({self.event_id or self.fingerprint, self.fingerprint})


def letter_of(original: Outgoing, subject: Subject | None) -> Letter:
    """The facts in the headers of a dead letter; `subject` holds those read from its body."""
    headers, reference = original.message.headers, subject.reference if subject else None
    return Letter(
        reason=text_of(headers.get(DEAD_REASON)) or "unknown",
        detail=_detail(headers),
        dead_at=_instant(headers.get(DEAD_AT)),
        attempts=attempts if isinstance(attempts := headers.get(ATTEMPTS), int) else None,
        source=reference.source if reference else None,
        event_id=reference.id if reference else text_of(headers.get(EVENT_ID)),
        type=reference.type if reference else None,
        tenant=subject.tenant if subject else None,
        department_id=(subject.department_id if subject else None) or text_of(headers.get(DEPARTMENT_ID)),
        routing_key=original.routing_key,
        size_bytes=len(original.message.body),
        replay_id=text_of(headers.get(REPLAY_ID)),
        fingerprint=fingerprint(original),
    )


def unrouted_letter(original: Outgoing, subject: Subject | None) -> Letter:
    """The facts of a message that no queue took. It has no headers of ours, whatever its producer wrote."""
    bare = replace(original, message=replace(original.message, headers={}))
    detail = f"no queue takes routing key {original.routing_key!r} of exchange {original.exchange}"
    return replace(letter_of(bare, subject), reason=UNROUTED, detail=detail)


def _detail(headers: Mapping[str, Any]) -> str:
    detail, left_out = text_of(headers.get(DEAD_DETAIL)) or "", text_of(headers.get(LEFT_OUT))
    return f"{detail}; left out of its properties: {left_out}" if left_out else detail


def _instant(value: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return instant if instant.tzinfo else None


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter for dead letters: every given criterion must match, and any one of its values does.

    `since` and `until` are inclusive; letters without a time of death match neither.
    """

    reason: tuple[str, ...] = ()
    department: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether the letter matches every given criterion."""
        return all(takes(letter) for takes in self._filters())

    def _filters(self) -> tuple[Callable[[Letter], bool], ...]:
        return (
            lambda letter: not self.reason or letter.reason in self.reason,
            lambda letter: not self.department or letter.department_id in self.department,
            lambda letter: not self.tenant or letter.tenant in self.tenant,
            lambda letter: not self.type or not _names_of(letter.type).isdisjoint(self.type),
            lambda letter: not self.id or not letter.ids.isdisjoint(self.id),
            lambda letter: self.since is None or _is_dead_from(letter, self.since),
            lambda letter: self.until is None or _is_dead_by(letter, self.until),
            lambda letter: self.text is None or self.text.casefold() in letter.detail.casefold(),
        )


def _is_dead_from(letter: Letter, moment: datetime) -> bool:
    return letter.dead_at is not None and letter.dead_at >= moment


def _is_dead_by(letter: Letter, moment: datetime) -> bool:
    return letter.dead_at is not None and letter.dead_at <= moment


def _names_of(type_: str | None) -> set[str]:
    """`com.example.department.created` -> itself, `department.created.v1`, `created`."""
    if type_ is None:
        return set()
    try:
        canonical = canonical_type(type_)
    except UnsupportedType:
        return {type_}
    return {type_, canonical, canonical.split(".")[1]}


def replayed(original: Outgoing, replay_id: str, by: str, edited_from: str | None = None) -> Outgoing:
    """The original message for the work queue, with headers that identify the replay and its operator."""
    added = {REPLAY_ID: replay_id, REPLAYED_BY: by} | ({EDITED_FROM: edited_from} if edited_from else {})
    headers = first_headers(original.message.headers) | added
    message = replace(original.message, headers=headers)
    return replace(original, exchange=topology.REPLAY, message=message)


def first_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of the original message, before it was dead-lettered or replayed."""
    return {
        name: value
        for name, value in without_broker_headers(headers).items()
        if name not in _OURS and not name.startswith(DEAD_PREFIX)
    }


def may_be_lost(broker: topology.BrokerVersion, returns: int) -> bool:
    """Whether a message with this number of returns is near the default delivery limit of its queue.

    Browsing returns every message, and RabbitMQ counts that. More returns than the limit prove that there is
    none.
    """
    return broker >= (4, 0) and FREE_RETURNS <= returns <= DEFAULT_DELIVERY_LIMIT


def next_return_loses(broker: topology.BrokerVersion, returns: int) -> bool:
    """Whether RabbitMQ drops the message at its next return, if its queue has the default limit."""
    return broker >= (4, 0) and returns == DEFAULT_DELIVERY_LIMIT


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One action of an operator: on a dead letter, or for a department.

    `run` is the same in all lines of one command; `selection` is its filter; `letter` is the fingerprint,
    `detail` what the dead letter said beside its reason, such as Plivo's api_id.
    """

    at: datetime
    by: str
    action: str
    run: str
    selection: str
    event_id: str | None
    source: str | None
    tenant: str | None
    department_id: str | None
    reason: str
    outcome: str
    letter: str | None = None
    detail: str | None = None


def audit_line(
    letter: Letter, outcome: str, *, at: datetime, by: str, action: str, run: str, selection: str
) -> AuditLine:
    """The line for one dead letter."""
    return AuditLine(
        at,
        by,
        action,
        run,
        selection,
        letter.event_id,
        letter.source,
        letter.tenant,
        letter.department_id,
        letter.reason,
        outcome,
        letter.fingerprint,
        letter.detail,
    )


def exported(letter: Letter, original: Outgoing) -> dict[str, Any]:
    """A line of an export, as JSON: facts for the reader, then what an import sends."""
    message = original.message
    return {
        "letter": letter.fingerprint,
        "event_id": letter.event_id,
        "reason": letter.reason,
        "detail": letter.detail,
        "dead_at": rfc3339(letter.dead_at) if letter.dead_at else None,
        "routing_key": original.routing_key,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": _json_safe(first_headers(message.headers)),
        "properties": _json_safe(original.properties),
        **_body(message.body),
    }


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _json_safe(value: Any) -> Any:
    """Turns values that JSON lacks into objects of one member, `$base64` or `$time`; see `from_json_safe`."""
    match value:
        case bytes() | bytearray():
            return {"$base64": base64.b64encode(value).decode()}
        case datetime():
            return {"$time": rfc3339(value)}
        case Mapping():
            return {str(name): _json_safe(part) for name, part in value.items()}
        case Sequence() if not isinstance(value, str):
            return [_json_safe(part) for part in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def from_json_safe(value: Any) -> Any:
    """The reverse of `_json_safe`; raises `ValueError` for base64 or a time that cannot be read."""
    match value:
        case {"$base64": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {"$time": str(text), **rest} if not rest:
            return datetime.fromisoformat(text)
        case dict():
            return {name: from_json_safe(part) for name, part in value.items()}
        case list():
            return [from_json_safe(part) for part in value]
        case _:
            return value
