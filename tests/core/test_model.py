"""The nouns: an event as decisions see it, what names it, and when an entry's duties are due."""

import dataclasses
from datetime import timedelta
from itertools import permutations

import pytest

from contracts.departments import Kind, Version
from tests.support.builders import (
    NOW,
    SALES,
    an_entry,
    created,
    department_created,
    department_removed,
    department_renamed,
    removed,
    renamed,
)
from worker.core.model import NO_TRACE, Event, Reference, Status, Trace, replace

SENT_TYPE = "com.example.hr.department.created"


def test_an_event_holds_what_decisions_need():
    told = department_created(
        "Sales", sequence=7, traceparent="00-parent-01", tracestate="vendor=1", correlationid="order-7"
    )

    assert Event.of(told, SENT_TYPE, "digest") == Event(
        department=SALES,
        version=Version(7, NOW, Kind.CREATED, "/hr", "created-7"),
        reference=Reference("/hr", "created-7", SENT_TYPE),
        payload_digest="digest",
        name="Sales",
        trace=Trace("00-parent-01", "vendor=1", "order-7"),
    )


@pytest.mark.parametrize(
    ("told", "kind", "name"),
    [
        (department_created("Sales"), Kind.CREATED, "Sales"),
        (department_renamed("Marketing"), Kind.RENAMED, "Marketing"),
        (department_removed("Sales"), Kind.REMOVED, "Sales"),
        (department_removed(), Kind.REMOVED, None),
    ],
)
def test_of_each_kind(told, kind, name):
    event = Event.of(told, told.type, "digest")

    assert (event.kind, event.name, event.trace) == (kind, name, NO_TRACE)


def test_a_department_is_one_of_its_tenant():
    assert created(tenant="other").department != created().department
    assert created(department_id="other").department != created().department


@pytest.mark.parametrize("event", [created(), renamed(), removed()], ids=lambda event: event.kind)
@pytest.mark.parametrize("sent", [None, SENT_TYPE])
def test_an_entry_names_the_newest_event_as_its_producer_did(event, sent):
    entry = an_entry(version=event.version, version_type=sent)

    assert entry.newest == Reference("/hr", event.reference.id, sent or f"department.{event.kind}.v1")


def test_an_entry_that_nothing_was_answered_for_has_none():
    assert an_entry(version=None).newest is None


@pytest.mark.parametrize("status", Status)
def test_an_entry_has_no_room_for_a_token(status):
    assert not [name for name in vars(an_entry(status)) if "token" in name]


def test_an_entry_with_something_replaced_is_another_that_is_as_it_was_else():
    entry = an_entry(name="Sales")
    renamed = replace(entry, name="Marketing", revision=7)
    assert renamed == dataclasses.replace(entry, name="Marketing", revision=7)
    assert entry == an_entry(name="Sales")
    with pytest.raises(TypeError, match="nome"):
        replace(entry, nome="Marketing")


@pytest.mark.parametrize(
    ("due_in", "minutes"),
    [(None, (None, None, None)), *((2, order) for order in permutations((2, 20, None))), (2, (2, 5, 20))],
)
def test_an_entry_is_due_when_the_first_of_its_duties_is(due_in, minutes):
    due_at, check_at, recount_at, owed_at = (
        None if each is None else NOW + timedelta(minutes=each) for each in (due_in, *minutes)
    )

    assert an_entry(check_at=check_at, recount_at=recount_at, owed_at=owed_at).due_at == due_at


def test_nothing_is_due_while_a_create_is_open():
    assert an_entry(Status.CLAIMED, check_at=NOW, recount_at=NOW, owed_at=NOW).due_at is None
