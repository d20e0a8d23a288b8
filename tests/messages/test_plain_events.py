"""The fast reader of plain events reads an event as the contract does, or not at all."""

import random
from typing import Any

import pytest

from contracts.envelope import STRUCTURED, Malformed, Message, attributes_in
from tests.messages.variants import Variants, written
from worker.core.model.causes import Event
from worker.pipeline.plain_events import plain_event
from worker.pipeline.reading import validate_attributes

PLAIN: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/hr",
    "type": "department.created.v1",
    "time": "2026-11-21T08:30:00.123456Z",
    "sequence": 7,
    "tenant": "emea",
    "subject": "sales",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "data": {"department_id": "sales", "name": "Sales", "parent_id": None, "attributes": {"cost": 1.0}},
}
HARD: list[Any] = [
    *(None, "", " ", "a b", " a", "a ", "a  b", "a\tb", "a\u00a0b", "\u00e9", "e\u0301", "\u3164", "\ud800"),
    *("\x7f", "a\x00", "a" * 128, "a" * 129, "a" * 256, "a" * 257, "a" * 1024, "a" * 1025, "-1", "007"),
    *(0, 1, 1.0, 1.5, -1, True, 10**20 - 1, 10**20, [], {}, ["a"], {"a": None}, float("inf")),
    *("2026-11-21T08:30:00Z", "2026-11-21T08:30:00.1Z", "2026-02-29T08:30:00Z", "2026-11-21T24:00:00Z"),
    *("2026-11-21T08:30:60Z", "2026-11-21 08:30:00Z", "2026-11-21T08:30:00+00:00", "2026-11-21T08:30:00"),
    *("0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-21T08:30:00z", "20261121T083000Z"),
    *("department.renamed.v1", "department.updated.v1", "department.removed.v1", "department.created"),
]


def read_both(body: bytes) -> Event | None:
    """The event as the fast reader reads it, which must be as the contract reads it."""
    message = Message(body, STRUCTURED)
    try:
        given = attributes_in(message)
    except Malformed:
        return None
    fast = plain_event(given)
    assert fast is None or fast == validate_attributes(given, message), given
    return fast


def test_events_of_careless_producers_are_read_alike() -> None:
    seed = random.randrange(2**32)
    variants = Variants(seed)
    for number in range(3_000):
        try:
            read_both(written(variants.event()))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, event {number}: {error}") from error


@pytest.mark.parametrize("place", [*PLAIN, *PLAIN["data"], "merged_into", "correlationid", "unknown"])
def test_a_plain_event_with_one_hard_value_is_read_alike(place: str) -> None:
    assert read_both(written(PLAIN)) is not None
    for hard in HARD:
        in_data = place in PLAIN["data"] or place == "merged_into"
        changed = PLAIN | ({"data": PLAIN["data"] | {place: hard}} if in_data else {place: hard})
        read_both(written(changed))
        if place in {"subject", "department_id"}:
            read_both(written(changed | {"subject": hard, "data": changed["data"] | {"department_id": hard}}))


@pytest.mark.parametrize("missing", [*PLAIN, *PLAIN["data"]])
def test_a_plain_event_without_one_value_is_read_alike(missing: str) -> None:
    data = {name: value for name, value in PLAIN["data"].items() if name != missing}
    read_both(written({name: value for name, value in PLAIN.items() if name != missing} | {"data": data}))


def test_most_events_of_careful_producers_are_plain() -> None:
    for kind in ("created", "renamed"):
        for without in ("sequence", "tenant", "subject", "traceparent"):
            event = {name: value for name, value in PLAIN.items() if name != without}
            assert read_both(written(event | {"type": f"department.{kind}.v1"})) is not None
