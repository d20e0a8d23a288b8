"""Runs the samples of a profile: each payload must map to the events that stand beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

from contracts.departments import DepartmentEvent
from contracts.times import instant
from worker.core.intake.mapping import map_received
from worker.core.intake.profile import Profile, Sample
from worker.core.intake.received import Received


def failures(profile: Profile) -> list[str]:
    """The differences from the samples, one `key: reason` each. Empty if all of them map as they must."""
    return [
        line
        for place, sample in enumerate(profile.samples)
        for line in _failures(profile, sample, f"samples[{place}]")
    ]


def members_of(event: DepartmentEvent) -> dict[str, Any]:
    """The members of an event that a sample may expect."""
    data = event.data.model_dump(exclude_none=True)
    members = {"type": event.type, **data, "id": event.id, "time": event.time, "sequence": event.sequence}
    return members | {"tenant": event.tenant}


def _failures(profile: Profile, sample: Sample, place: str) -> Iterator[str]:
    mapped = map_received(profile, Received(sample.body, sample.headers, sample.at))
    if len(mapped.unmappable) != sample.unmapped:
        reasons = "; ".join(mapped.unmappable) or "all of it maps"
        yield f"{place}.body: {sample.unmapped} items must not map, but {reasons}"
    if sample.ignored is not None and mapped.ignored != sample.ignored:
        yield f"{place}.ignored: expected {sample.ignored}, got {mapped.ignored}"
    if len(mapped.events) != len(sample.events):
        yield f"{place}.events: expected {len(sample.events)}, got {len(mapped.events)}"
        return
    for index, (event, expected) in enumerate(zip(mapped.events, sample.events, strict=True)):
        given = members_of(event)
        for key, value in expected.items():
            if not _is_same(key, value, given.get(key)):
                yield f"{place}.events[{index}].{key}: expected {value}, got {_shown(given, key)}"


def _is_same(key: str, expected: object, given: object) -> bool:
    if key == "time" and isinstance(expected, str):
        try:
            return instant(expected) == given
        except ValueError:
            return False
    if given is None or expected is None:
        return given is expected
    return str(expected) == str(given)


def _shown(given: Mapping[str, Any], key: str) -> object:
    value = given.get(key)
    return "nothing" if value is None else value.isoformat() if key == "time" else value
