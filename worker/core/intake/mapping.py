"""Maps a foreign payload to department events.

Nearly every system sends states: "it is so", or "it is gone". So a live item becomes a created event, which
the worker treats like a renamed one, and only an explicit sign a removed one.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from contracts.departments import (
    DEFAULT_TENANT,
    DepartmentCreated,
    DepartmentEvent,
    DepartmentRemoved,
    Kind,
)
from contracts.encoding import Unreadable, json_of
from contracts.envelope import describe, rfc3339
from contracts.subaccounts import NAMESPACE
from contracts.text import name as name_spelling
from worker.core.intake.expressions import Expression, Unevaluated
from worker.core.intake.profile import Profile, covered_headers, hidden_headers
from worker.core.intake.received import Received
from worker.core.intake.values import sequence_of, text_of, time_of, truth_of

T = TypeVar("T")

MOST_ITEMS = 1_000
"""The most items of one payload."""


class Unmappable(ValueError):
    """The payload cannot be mapped. The text names keys of the profile, never values of the payload."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """The outcome of one payload: its events in order, the items ignored, a reason for each not mapped."""

    events: tuple[DepartmentEvent, ...] = ()
    ignored: int = 0
    unmappable: tuple[str, ...] = ()


def map_received(profile: Profile, received: Received) -> Mapped:
    """Maps an authentic request. It never raises: a body that is no JSON is unmappable too."""
    try:
        body = json_of(received.body)
        items = _items(profile, body, received)
    except Unreadable as error:
        return Mapped(unmappable=(f"body: {error}",))
    except Unmappable as error:
        return Mapped(unmappable=(str(error),))
    events: list[DepartmentEvent] = []
    ignored, unmappable = 0, []
    for index, item in enumerate(items):
        try:
            event = map_item(profile, item, received, body=body, index=index)
        except Unmappable as error:
            unmappable.append(f"item {index}: {error}" if profile.each else str(error))
            continue
        if event is None:
            ignored += 1
        else:
            events.append(event)
    return Mapped(tuple(events), ignored, tuple(unmappable))


def map_item(
    profile: Profile, item: Any, received: Received, *, body: Any = None, index: int = 0
) -> DepartmentEvent | None:
    """Maps one item, for example a row of a snapshot; None if it is ignored. Raises `Unmappable`.

    `body` is the document that the item was taken from, `index` its place there. The `source` is that of the
    profile.
    """
    scope = _scope(profile, received, item=item, body=item if body is None else body)
    if _read(scope, "ignore", profile.ignore, truth_of):
        return None
    kind = Kind.REMOVED if _read(scope, "removed_when", profile.removed_when, truth_of) else Kind.CREATED
    department_id = _read(scope, "id", profile.id, text_of)
    tenant = DEFAULT_TENANT if profile.tenant is None else _read(scope, "tenant", profile.tenant, text_of)
    sequence = _read(scope, "sequence", profile.sequence, sequence_of)
    time = _read(scope, "time", profile.time, lambda value: time_of(value, profile.time_format))
    event_id = _read(scope, "event_id", profile.event_id, text_of)
    if event_id is None:
        version = None if sequence is None and time is None else (sequence if sequence is not None else time)
        event_id = _derived_id(profile, (tenant, department_id, kind, version), received, index)
    given = {
        "id": event_id,
        "source": profile.source,
        "subject": department_id,
        "tenant": tenant,
        "time": time or received.at.astimezone(UTC) + timedelta(microseconds=index),
        "sequence": sequence,
        "data": {
            "department_id": department_id,
            "name": _name(profile, scope, kind),
            "parent_id": _parent(profile, scope),
            **_cause(profile, scope, kind),
        },
    }
    return _validated(kind, {key: value for key, value in given.items() if value is not None})


def visible_headers(profile: Profile, received: Received) -> dict[str, str]:
    """The headers that expressions see: those that the proof covers, and none that holds a secret."""
    covered, hidden = covered_headers(profile.auth), hidden_headers(profile.auth)
    return {
        name: value
        for name, value in received.headers.items()
        if name not in hidden and (covered is None or name in covered)
    }


def _items(profile: Profile, body: Any, received: Received) -> list[Any]:
    if profile.each is None:
        return [body]
    scope = _scope(profile, received, item=None, body=body)
    items = _evaluated(scope, "each", profile.each)
    if not isinstance(items, list):
        raise Unmappable("each: must give a list")
    if len(items) > MOST_ITEMS:
        raise Unmappable(f"each: gives more than {MOST_ITEMS:,} items")
    return items


def _scope(profile: Profile, received: Received, *, item: Any, body: Any) -> Mapping[str, Any]:
    """The values that expressions see."""
    return {"item": item, "body": body, "headers": visible_headers(profile, received)}


def _evaluated(scope: Mapping[str, Any], key: str, expression: Expression) -> Any:
    try:
        return expression.value(scope)
    except Unevaluated as error:
        raise Unmappable(f"{key}: {error}") from None


def _read(
    scope: Mapping[str, Any], key: str, expression: Expression | None, read: Callable[[Any], T]
) -> T | None:
    """The value of an expression as `read` takes it; None if the profile has none."""
    if expression is None:
        return None
    value = _evaluated(scope, key, expression)
    try:
        return read(value)
    except ValueError as error:
        raise Unmappable(f"{key}: {error}") from None


def _name(profile: Profile, scope: Mapping[str, Any], kind: Kind) -> str | None:
    """The name. A removal needs none, so one that is missing or wrong does not stop it."""
    try:
        name = _read(scope, "name", profile.department_name, text_of)
        return name_spelling(name) if kind is Kind.REMOVED else name
    except ValueError:
        if kind is Kind.REMOVED:
            return None
        raise


def _parent(profile: Profile, scope: Mapping[str, Any]) -> str | None:
    """The parent's id if there is one. The worker does not read it, so no value of it is an error."""
    try:
        return _read(scope, "parent", profile.parent, text_of) or None
    except Unmappable:
        return None


def _cause(profile: Profile, scope: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    if kind is not Kind.REMOVED or profile.cause is None:
        return {}
    return {"cause": _evaluated(scope, "cause", profile.cause)}


def _derived_id(
    profile: Profile,
    versioned: tuple[str | None, str | None, Kind, int | datetime | None],
    received: Received,
    index: int,
) -> str:
    """The same for a repeated request. Without a version, for as long as the minute of its arrival lasts.

    The time of arrival is in it lest a state that comes back is taken for a repetition of itself.
    """
    *department, version = versioned
    if version is not None:
        parts = [profile.name, *department, rfc3339(version) if isinstance(version, datetime) else version]
    else:
        minute = received.at.astimezone(UTC).replace(second=0, microsecond=0)
        digest = hashlib.sha256(received.body).hexdigest()
        parts = [profile.name, digest, index, rfc3339(minute)]
    return str(uuid.uuid5(NAMESPACE, to_json(["intake", *parts]).decode()))


def _validated(kind: Kind, given: Mapping[str, Any]) -> DepartmentEvent:
    model = DepartmentRemoved if kind is Kind.REMOVED else DepartmentCreated
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise Unmappable(_in_keys(describe(error, given))) from None


_KEY_OF = {
    "data.department_id": "id",
    "data.name": "name",
    "data.cause": "cause",
    "subject": "id",
    "id": "event_id",
}


def _in_keys(reasons: str) -> str:
    """Names the keys of the profile in place of the event's fields; the same reason once."""
    lines = [
        re.sub(r"^[a-z_.]+(?=: )", lambda match: _KEY_OF.get(match[0], match[0]), line)
        for line in reasons.split("; ")
    ]
    return "; ".join(dict.fromkeys(lines))
