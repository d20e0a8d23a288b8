"""The published schemas accept what the worker accepts, and refuse what it refuses."""

import random
from typing import Any

import jsonschema_rs
import pytest

from tests.messages import agreement
from tests.messages.variants import Variants

VALID = {
    "specversion": "1.0",
    "id": "1",
    "source": "/hr",
    "type": "department.removed.v1",
    "time": "2026-11-21T08:30:00Z",
    "data": {"department_id": "sales"},
}


def test_a_sample_of_events_is_judged_alike() -> None:
    seed = random.randrange(2**32)
    counts, wrong = agreement.run(2_000, seed)
    assert wrong == [], f"python -m tests.messages.agreement --events 2000 --seed {seed}"
    assert min(counts["accepted"], counts["refused"]) > 500
    assert counts["beyond"] > 0


def test_a_seed_gives_the_same_events() -> None:
    one, other = Variants(7), Variants(7)
    assert [one.event() for _ in range(100)] == [other.event() for _ in range(100)]


def test_a_schema_that_is_too_strict_or_too_lax_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for schema in ({"required": ["sequence"]}, True):
        everything = {kind: jsonschema_rs.Draft202012Validator(schema) for kind in agreement.SCHEMAS}
        monkeypatch.setattr(agreement, "SCHEMAS", everything)
        _, wrong = agreement.run(100, 1)
        assert len(wrong) > 20


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "marketing"},
        {"time": "2026-02-30T08:30:00Z"},
        {"data": {"department_id": "\u0958" * 128}},
        {"data": {"department_id": "sales", "name": "a " * 200}},
        {"data": None, "data_base64": "e30="},
    ],
    ids=str,
)
def test_what_a_schema_cannot_say(change: dict[str, Any]) -> None:
    assert agreement.compare(VALID | change) == "beyond"
