"""The events that producers send in a run: a few per department, in some order, some twice.

A run about removals has more departments, in one or two tenants, and most of them are removed, some merged.
In some of these runs the org chart is wiped: everybody is removed at once.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.simulation.chance import Chance

KINDS = ("created", "renamed", "removed")
CREATED, RENAMED, REMOVED = KINDS
REFUSED = "refused"
"""The provider refuses names with this word until its faults end."""


class ProducerEvent(NamedTuple):
    """One message of a producer. Unreadable messages have no department."""

    department: str | None
    kind: str
    id: str
    sequence: int | None
    time: datetime
    name: str | None
    body: bytes
    tenant: str = "acme"
    merged: bool = False

    def rank(self) -> tuple[bool, int, datetime, int, str]:
        """The total order of the contract for events of one source."""
        return (self.sequence is not None, self.sequence or 0, self.time, KINDS.index(self.kind), self.id)


class Sent(NamedTuple):
    """An event and when its producer sends it, in seconds after the start."""

    after_seconds: float
    event: ProducerEvent


class EventSchedule(NamedTuple):
    """All events of a run, and the wall clock time of its start."""

    start: datetime
    sent: list[Sent]


SOURCE = "/hr"


TENANTS = ("acme", "beta")
MOST_DEPARTMENTS = 12


def draw_schedule(chance: Chance) -> EventSchedule:
    """Draws one to three departments with their events, duplicates and unreadable messages."""
    start = datetime(2026, 11, 21, chance.one_of((12, 12, 23)), 59, tzinfo=UTC)
    if chance.profile.removals:
        return EventSchedule(start, _removals(chance, start))
    events = []
    for number in range(1, chance.number(1, 3) + 1):
        events += _department(chance, f"d{number}", start)
    order = chance.shuffled(events) if chance.strikes("events out of order") else _interleaved(chance, events)
    return EventSchedule(start, _sent(chance, _with_duplicates(chance, order)))


def _department(chance: Chance, department: str, start: datetime) -> list[ProducerEvent]:
    sequenced = chance.one_of((1.0, 0.0, 0.5))
    same_time = chance.coin(0.2)
    last = start - timedelta(minutes=chance.one_of((0, 50)))
    refusals = chance.strikes("name refused")
    names = [f"{department} {word}" for word in ("north", "south", REFUSED if refusals else "west")]
    events = []
    for index in range(chance.number(1, 5)):
        kind = "created" if index == 0 and chance.coin(0.9) else chance.one_of(KINDS)
        events.append(
            producer_event(
                department,
                kind,
                f"{department}-{index}",
                index + 1 if chance.coin(sequenced) else None,
                last - timedelta(minutes=0 if same_time else 5 - index),
                None if kind == "removed" else chance.one_of(names),
            )
        )
    return events


def _removals(chance: Chance, start: datetime) -> list[Sent]:
    """Departments of one or two tenants: created, and then mostly removed, restored and removed again."""
    departments = [f"d{number}" for number in range(1, chance.number(3, MOST_DEPARTMENTS) + 1)]
    split = len(departments) if chance.coin(0.7) else chance.number(1, len(departments))
    tenants = {one: TENANTS[index >= split] for index, one in enumerate(departments)}
    lives = [_life(chance, department, tenants[department], start) for department in departments]
    events = [event for life in lives for event in life]
    order = chance.shuffled(events) if chance.strikes("events out of order") else _interleaved(chance, events)
    sent = _sent(chance, _with_duplicates(chance, order))
    if chance.strikes("org chart wiped"):
        at = chance.seconds(0.5, 1.0) * sent[-1].after_seconds + 3
        sent += [
            Sent(at + chance.seconds(0, 0.5), _removal(chance, department, tenants[department], 9, start))
            for department in departments
        ]
    return sorted(sent, key=lambda one: one.after_seconds)


def _life(chance: Chance, department: str, tenant: str, start: datetime) -> list[ProducerEvent]:
    names = [f"{department} {word}" for word in ("north", "south")]
    kinds = [CREATED]
    for _ in range(chance.number(0, 4)):
        kinds.append(
            REMOVED if kinds[-1] != REMOVED or chance.coin(0.2) else chance.one_of((CREATED, RENAMED))
        )
    return [
        _removal(chance, department, tenant, index, start)
        if kind == REMOVED
        else producer_event(
            department,
            kind,
            f"{department}-{index}",
            index + 1,
            start - timedelta(minutes=50 - index),
            chance.one_of(names),
            tenant,
        )
        for index, kind in enumerate(kinds)
    ]


def _removal(chance: Chance, department: str, tenant: str, index: int, start: datetime) -> ProducerEvent:
    merged = chance.strikes("merged")
    time = start - timedelta(minutes=50 - index)
    id_ = f"{department}-{index}"
    return producer_event(department, REMOVED, id_, index + 1, time, None, tenant, merged=merged)


def producer_event(
    department: str,
    kind: str,
    id_: str,
    sequence: int | None,
    time: datetime,
    name: str | None,
    tenant: str = "acme",
    *,
    merged: bool = False,
) -> ProducerEvent:
    """Builds an event with its message body."""
    data: dict[str, Any] = {"department_id": department} | ({"name": name} if name else {})
    data |= {"cause": "merged", "merged_into": "d1"} if merged else {}
    event = {
        "specversion": "1.0",
        "id": id_,
        "source": SOURCE,
        "type": f"department.{kind}.v1",
        "time": time.isoformat(),
        "tenant": tenant,
        "data": data,
    } | ({"sequence": sequence} if sequence is not None else {})
    body = json.dumps(event).encode()
    return ProducerEvent(department, kind, id_, sequence, time, name, body, tenant, merged)


def _interleaved(chance: Chance, events: list[ProducerEvent]) -> list[ProducerEvent]:
    """Mixes departments and keeps the order within each."""
    lanes: dict[str | None, list[ProducerEvent]] = {}
    for event in events:
        lanes.setdefault(event.department, []).append(event)
    turns = chance.shuffled([event.department for event in events])
    return [lanes[department].pop(0) for department in turns]


def _with_duplicates(chance: Chance, events: list[ProducerEvent]) -> list[ProducerEvent]:
    sent = []
    for event in events:
        sent.append(event)
        if chance.strikes("event sent twice"):
            sent.insert(chance.number(0, len(sent)), event)
        if event.name and chance.strikes("conflicting duplicate"):
            sent.insert(chance.number(0, len(sent)), _twin(event))
        if chance.strikes("unreadable message"):
            sent.append(
                ProducerEvent(None, "created", "unreadable", None, event.time, None, b'{"not": "an event"')
            )
    return sent


def _twin(event: ProducerEvent) -> ProducerEvent:
    """Another payload with the same id."""
    assert event.department is not None
    name = f"{event.department} twin"
    return producer_event(
        event.department, event.kind, event.id, event.sequence, event.time, name, event.tenant
    )


def _sent(chance: Chance, events: list[ProducerEvent]) -> list[Sent]:
    at, longest_gap = 0.0, chance.one_of((0.01, 1.0, 6.0, 12.0))
    sent = []
    for event in events:
        sent.append(Sent(at, event))
        at += chance.seconds(0.0, longest_gap)
    return sent
