"""Producer events about departments, drawn from a seed."""

import json
import random
from dataclasses import dataclass

SOURCE = "/soak/hr"
WORDS = ("north", "south", "east", "west")
LATER_KINDS = ("renamed", "renamed", "removed", "created")


@dataclass(frozen=True, slots=True)
class Statement:
    """One event. The greatest `sequence` of a department is the newest."""

    department: str
    kind: str
    sequence: int
    name: str | None = None

    @property
    def id(self) -> str:
        return f"{self.department}-{self.sequence}"

    @property
    def routing_key(self) -> str:
        return f"department.{self.kind}"

    @property
    def body(self) -> bytes:
        data = {"department_id": self.department} | ({"name": self.name} if self.name else {})
        event = {
            "specversion": "1.0",
            "id": self.id,
            "source": SOURCE,
            "type": f"department.{self.kind}.v1",
            "time": "2026-11-01T08:30:00Z",
            "sequence": self.sequence,
            "data": data,
        }
        return json.dumps(event).encode()


def draw_statements(departments: int, rng: random.Random) -> list[Statement]:
    """Mixes departments. One department in five is out of order; one statement in ten is sent twice."""
    timed = []
    for number in range(departments):
        of_department = _about(f"d{number:04}", rng)
        moments = sorted(rng.random() for _ in of_department)
        if rng.random() < 0.2:
            rng.shuffle(moments)
        timed += list(zip(moments, of_department, strict=True))
        timed += [
            (rng.uniform(at, 1.0), one)
            for at, one in zip(moments, of_department, strict=True)
            if rng.random() < 0.1
        ]
    return [statement for _, statement in sorted(timed, key=lambda pair: pair[0])]


def _about(department: str, rng: random.Random) -> list[Statement]:
    kinds = ["created", *rng.choices(LATER_KINDS, k=rng.randint(1, 3))]
    return [
        Statement(
            department, kind, sequence, None if kind == "removed" else f"{department} {rng.choice(WORDS)}"
        )
        for sequence, kind in enumerate(kinds, start=1)
    ]
