"""The events of a benchmark and their orders."""

import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import aio_pika

EVENT = {"specversion": "1.0", "source": "/benchmarks", "time": "2026-11-01T08:30:00Z"}
WINDOW = 20
"""The number of departments whose events are mixed in a storm."""

Event = tuple[int, int]
"""Number of the department, and number of its event."""


def one_each(departments: int) -> list[Event]:
    """One event for each department."""
    return [(department, 1) for department in range(departments)]


def interleaved(departments: int, each: int) -> list[Event]:
    """The first event of every department, then the second of every department, and so on."""
    return [(department, number) for number in range(1, each + 1) for department in range(departments)]


def close_together(departments: int, each: int, seed: int) -> list[Event]:
    """A department's events in order, mixed with those of the departments before and after."""
    return list(_mixed(departments, each, random.Random(seed)))


def _mixed(departments: int, each: int, chance: random.Random) -> Iterator[Event]:
    to_come = (
        deque((department, number) for number in range(1, each + 1)) for department in range(departments)
    )
    current = list(islice(to_come, WINDOW))
    while current:
        place = chance.randrange(len(current))
        yield current[place].popleft()
        if not current[place]:
            current[place : place + 1] = islice(to_come, 1)


@dataclass(frozen=True)
class Said:
    """An event whose name and sequence do not follow from its number: `named` is the version of the name."""

    department: int
    number: int
    named: int
    sequence: int


def message(event: Event | Said) -> aio_pika.Message:
    said = event if isinstance(event, Said) else Said(*event, named=event[1], sequence=event[1])
    name = f"Department {said.department} version {said.named}"
    about = {"id": f"e-{said.department}-{said.number}", "type": f"{routing_key(event)}.v1"}
    data = {"department_id": f"d-{said.department}", "name": name}
    body = json.dumps(EVENT | about | {"sequence": said.sequence, "data": data}).encode()
    return aio_pika.Message(
        body,
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def routing_key(event: Event | Said) -> str:
    number = event.number if isinstance(event, Said) else event[1]
    return "department.created" if number == 1 else "department.renamed"
