"""Reads events in the plain spelling that most producers use, in a tenth of the time of a full validation.

Plain are printable ASCII, ids and names that are in their one spelling already, RFC 3339 in UTC, and
canonical types. `plain_event` knows no other rule of the contract: for any other event it returns None, and
`reading.validate` asks the contract. A test holds both readers against each other.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from contracts.departments import DEFAULT_TENANT, SEQUENCE_DIGITS, Kind, Version, digest_of_payload
from contracts.text import ATTRIBUTE_LENGTH, IDENTIFIER_LENGTH, NAME_LENGTH
from worker.core.model.causes import NO_TRACE, Event, Reference, Trace
from worker.core.model.departments import Department

_KINDS = {"department.created.v1": Kind.CREATED, "department.renamed.v1": Kind.RENAMED}
_TIME = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{3}(?:[0-9]{3})?)?Z"
)


def plain_event(given: Mapping[str, Any]) -> Event | None:
    """The event with these attributes (as `attributes_in` returns them); None if it is not plain."""
    attributes: tuple[Any, ...] = tuple(map(given.get, ("source", "id", "type", "time", "data")))
    source, id_, type_, time, data = attributes
    tenant: Any = given.get("tenant", DEFAULT_TENANT)
    kind = _KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None or not isinstance(data, dict) or "merged_into" in data:
        return None
    department_id: Any = data.get("department_id")
    name: Any = data.get("name")
    if not (
        given.get("specversion") == "1.0"
        and _is_plain(source, ATTRIBUTE_LENGTH)
        and _is_plain(id_, ATTRIBUTE_LENGTH)
        and _is_trimmed(tenant, IDENTIFIER_LENGTH)
        and _is_trimmed(department_id, IDENTIFIER_LENGTH)
        and _is_trimmed(name, NAME_LENGTH)
        and "  " not in name
        and given.get("subject", department_id) == department_id
    ):
        return None
    instant, trace, sequence = _instant(time), _trace(given), given.get("sequence")
    if instant is None or trace is None or not _is_sequence(sequence):
        return None
    return Event(
        department=Department(tenant, department_id),
        version=Version(sequence, instant, kind, source, id_),
        reference=Reference(source, id_, type_),
        payload_digest=digest_of_payload(type_, tenant, data),
        name=name,
        trace=trace,
    )


def _is_plain(value: Any, most: int) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and 0 < len(value) <= most


def _is_trimmed(value: Any, most: int) -> bool:
    return _is_plain(value, most) and value[0] != " " and value[-1] != " "


def _is_sequence(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 10**SEQUENCE_DIGITS)


def _instant(time: Any) -> datetime | None:
    if not isinstance(time, str) or _TIME.fullmatch(time) is None:
        return None
    try:
        return datetime.fromisoformat(time)
    except ValueError:  # no such day
        return None


def _trace(given: Mapping[str, Any]) -> Trace | None:
    """The trace attributes; None if one is not plain: only the contract knows when to leave it out."""
    trace = Trace(given.get("traceparent"), given.get("tracestate"), given.get("correlationid"))
    if trace == NO_TRACE:
        return NO_TRACE
    return trace if all(part is None or _is_plain(part, ATTRIBUTE_LENGTH) for part in trace) else None
