"""What a dead letter tells of itself, whom an operator means, and what goes out when one is replayed."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import chain, repeat
from typing import Any

from contracts import topology
from contracts.departments import UnsupportedType, canonical_type
from contracts.envelope import Message
from contracts.subaccounts import ResultKind
from worker.core.decide import Adopt, Decision, Delete, Refuse, Republish, Skip
from worker.core.messages import LEFT_OUT, Outgoing, Subject, without_broker_headers
from worker.core.model import Entry, Event, Status
from worker.core.reissue import Issue

REPLAY_ID = "x-replay-id"
REPLAYED_BY = "x-replayed-by"
EDITED_FROM = "x-edited-from"

# What we wrote beside the original. A replay is a first attempt again.
_OURS = frozenset({"x-attempts", "x-event-id", "x-department-id", REPLAY_ID, REPLAYED_BY, EDITED_FROM})
_OURS_PREFIX = "x-dead-"

BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
LARGEST_BATCH = 1_000

DEFAULT_DELIVERY_LIMIT = 20
"""Of a queue that does not say otherwise, from RabbitMQ 4.0 on."""
FREE_LOOKS = DEFAULT_DELIVERY_LIMIT // 2


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its body. `fingerprint` tells it from every other one."""

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
        """What `--id` finds it by: a malformed one tells no event's id."""
        return frozenset({self.event_id or self.fingerprint, self.fingerprint})


def letter_of(original: Outgoing, subject: Subject | None) -> Letter:
    """`subject` is what could be read of its body."""
    told, reference = original.message.headers, subject.reference if subject else None
    return Letter(
        reason=_text(told.get("x-dead-reason")) or "unknown",
        detail=_detail(told),
        dead_at=_instant(told.get("x-dead-at")),
        attempts=attempts if isinstance(attempts := told.get("x-attempts"), int) else None,
        source=reference.source if reference else None,
        event_id=reference.id if reference else _text(told.get("x-event-id")),
        type=reference.type if reference else None,
        tenant=subject.tenant if subject else None,
        department_id=(subject.department_id if subject else None) or _text(told.get("x-department-id")),
        routing_key=original.routing_key,
        size_bytes=len(original.message.body),
        replay_id=_text(told.get(REPLAY_ID)),
        fingerprint=_fingerprint(original),
    )


def _detail(headers: Mapping[str, Any]) -> str:
    detail, left_out = _text(headers.get("x-dead-detail")) or "", _text(headers.get(LEFT_OUT))
    return f"{detail}; left out of its properties: {left_out}" if left_out else detail


def _fingerprint(original: Outgoing) -> str:
    dead_at = _text(original.message.headers.get("x-dead-at")) or ""
    digest = hashlib.sha256(f"{original.routing_key}\n{dead_at}\n".encode())
    digest.update(original.message.body)
    return digest.hexdigest()[:24]


def _text(value: object) -> str | None:
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return None if value is None else str(value)


def _instant(value: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return instant if instant.tzinfo else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those that every filter given takes. Of several values one must fit."""

    reason: tuple[str, ...] = ()
    department: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def takes(self, letter: Letter) -> bool:
        return (
            (not self.reason or letter.reason in self.reason)
            and (not self.department or letter.department_id in self.department)
            and (not self.tenant or letter.tenant in self.tenant)
            and (not self.type or not _names_of(letter.type).isdisjoint(self.type))
            and (not self.id or not letter.ids.isdisjoint(self.id))
            and (self.since is None or (letter.dead_at is not None and letter.dead_at >= self.since))
            and (self.until is None or (letter.dead_at is not None and letter.dead_at <= self.until))
            and (self.text is None or self.text.casefold() in letter.detail.casefold())
        )

    def __str__(self) -> str:
        """`--reason invalid --since 2026-11-01T08:30:00+00:00`, or `all`."""
        given: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            given += [f"--{field.name} {_option(one)}" for one in values]
        return " ".join(given) or "all"


def _option(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return repr(text) if " " in text else text


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
    """The message as it came at first, on its way to the work queue."""
    added = {REPLAY_ID: replay_id, REPLAYED_BY: by} | ({EDITED_FROM: edited_from} if edited_from else {})
    headers = first_headers(original.message.headers) | added
    message = Message(original.message.body, original.message.content_type, headers)
    return replace(original, exchange=topology.REPLAY, message=message)


def first_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those the message came with, before it was dead-lettered or replayed."""
    return {
        name: value
        for name, value in without_broker_headers(headers).items()
        if name not in _OURS and not name.startswith(_OURS_PREFIX)
    }


def batch_sizes() -> Iterator[int]:
    """How many to replay before looking what came of them."""
    return chain(BATCHES, repeat(LARGEST_BATCH))


def may_be_lost(broker: topology.BrokerVersion, returns: int) -> bool:
    """Whether a message given back so often is near the delivery limit its queue has by default.

    A look gives everything back, and RabbitMQ counts that. More returns than the limit show there is none.
    """
    return broker >= (4, 0) and FREE_LOOKS <= returns <= DEFAULT_DELIVERY_LIMIT


def next_return_loses(broker: topology.BrokerVersion, returns: int) -> bool:
    return broker >= (4, 0) and returns == DEFAULT_DELIVERY_LIMIT


def least_calls(decision: Decision, event: Event, entry: Entry) -> int:
    """How many provider calls the event takes if each succeeds and finds things as they were left."""
    match decision:
        case Refuse():
            return 0
        case Skip() | Republish():
            return 1 if entry.status is Status.ACTIVE and entry.owed_to else 0  # the token is read
        case Adopt(name):
            return 2 if name else 3  # list and get; adopted only to be removed: that too
        case Delete() if event.kind != "removed":
            return 2  # and created anew
        case _:
            return 1


def described(decision: Decision | Issue) -> str:
    """A decision as one word for people: what a replay would come to."""
    match decision:
        case Refuse(reason, _):
            return f"still {reason}"
        case Republish():
            return "already answered"
        case Skip(outcome, _):
            return str(outcome)
        case _:
            return type(decision).__name__.lower()


def detail_of(decision: Decision | Issue) -> str:
    match decision:
        case Refuse(_, detail):
            return detail
        case Republish(answer):
            again = "" if answer.confirmed else "; its result goes out again"
            return f"{answer.outcome} at {answer.answered_at:%F %T}Z{again}"
        case Skip(ResultKind.SUPERSEDED, _):
            return "a newer event holds"
        case Skip(_, reason):
            return reason or "nothing to change"
        case _:
            return ""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What was done to one dead letter, or asked for one department.

    `run` joins the lines of one command; `selection` is its filter; `letter` is its fingerprint.
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


def audit_line(
    letter: Letter, outcome: str, *, at: datetime, by: str, action: str, run: str, selection: str
) -> AuditLine:
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
    )


def exported(letter: Letter, original: Outgoing) -> dict[str, Any]:
    """A line of an export: facts for the reader, then what an import sends."""
    message = original.message
    return {
        "letter": letter.fingerprint,
        "event_id": letter.event_id,
        "reason": letter.reason,
        "detail": letter.detail,
        "dead_at": letter.dead_at.isoformat() if letter.dead_at else None,
        "routing_key": original.routing_key,
        "content_type": message.content_type,
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
    """What JSON cannot say is an object of one member that tells its type; `from_json_safe` turns it back."""
    match value:
        case bytes() | bytearray():
            return {"$base64": base64.b64encode(value).decode()}
        case datetime():
            return {"$time": value.isoformat()}
        case Mapping():
            return {str(name): _json_safe(part) for name, part in value.items()}
        case Sequence() if not isinstance(value, str):
            return [_json_safe(part) for part in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def from_json_safe(value: Any) -> Any:
    """Raises `ValueError` for base64 or a time that is none."""
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
