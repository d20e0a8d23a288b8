"""The model: events as decisions see them, their references, and the due times and rules of an entry."""

import dataclasses
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from contracts.departments import Kind, Version
from tests.support.builders import (
    CLAIM,
    ISSUED,
    NOW,
    SALES,
    an_entry,
    created,
    department_created,
    department_removed,
    department_renamed,
    owing,
    removed,
    renamed,
)
from worker.core.model.causes import NO_TRACE, Event, Reference, Trace
from worker.core.model.credentials import Debt
from worker.core.model.entry import Check, Status
from worker.core.model.removals import Removed
from worker.core.model.replace import replace

SENT_TYPE = "com.example.hr.department.created"


def test_an_event_holds_the_facts_for_a_decision():
    contract_event = department_created(
        "Sales", sequence=7, traceparent="00-parent-01", tracestate="vendor=1", correlationid="order-7"
    )

    assert Event.of(contract_event, SENT_TYPE, "digest") == Event(
        department=SALES,
        version=Version(7, NOW, Kind.CREATED, "/hr", "created-7"),
        reference=Reference("/hr", "created-7", SENT_TYPE),
        payload_digest="digest",
        name="Sales",
        trace=Trace("00-parent-01", "vendor=1", "order-7"),
    )


@pytest.mark.parametrize(
    ("contract_event", "kind", "name"),
    [
        (department_created("Sales"), Kind.CREATED, "Sales"),
        (department_renamed("Marketing"), Kind.RENAMED, "Marketing"),
        (department_removed("Sales"), Kind.REMOVED, "Sales"),
        (department_removed(), Kind.REMOVED, None),
    ],
)
def test_an_event_of_each_kind(contract_event, kind, name):
    event = Event.of(contract_event, contract_event.type, "digest")

    assert (event.kind, event.name, event.trace) == (kind, name, NO_TRACE)


def test_tenant_and_id_identify_a_department():
    assert created(tenant="other").department != created().department
    assert created(department_id="other").department != created().department


@pytest.mark.parametrize("event", [created(), renamed(), removed()], ids=lambda event: event.kind)
@pytest.mark.parametrize("sent", [None, SENT_TYPE])
def test_the_newest_event_is_named_as_its_producer_wrote_it(event, sent):
    entry = an_entry(version=event.version, version_type=sent)

    assert entry.newest == Reference("/hr", event.reference.id, sent or f"department.{event.kind}.v1")


def test_an_entry_without_answers_has_no_newest_event():
    assert an_entry(version=None).newest is None


@pytest.mark.parametrize("status", Status)
def test_an_entry_has_no_field_for_a_token(status):
    assert not [name for name in vars(an_entry(status)) if "token" in name]


def test_replace_copies_an_entry_with_the_given_changes():
    entry = an_entry(name="Sales")
    renamed = replace(entry, name="Marketing", revision=7)
    assert renamed == dataclasses.replace(entry, name="Marketing", revision=7)
    assert entry == an_entry(name="Sales")
    with pytest.raises(TypeError, match="nome"):
        replace(entry, nome="Marketing")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("due_in", "minutes"),
    [(None, (None, None, None)), *((2, order) for order in permutations((2, 20, None))), (2, (2, 5, 20))],
)
def test_an_entry_is_due_at_the_time_of_its_first_duty(due_in, minutes):
    due_at, check_at, duplicates_check_at, retry_at = (
        None if each is None else NOW + timedelta(minutes=each) for each in (due_in, *minutes)
    )
    entry = an_entry(
        check=check_at and Check(check_at),
        duplicates_check_at=duplicates_check_at,
        debt=owing("crm", retry_at=retry_at),
    )

    assert entry.due_at == due_at


def test_nothing_is_due_while_a_create_is_unsettled():
    assert an_entry(Status.CLAIMED, duplicates_check_at=NOW).due_at is None


BROKEN: dict[str, list[tuple[Status, dict[str, Any]]]] = {
    "an auth_id exactly while its subaccount exists": [
        *((status, {"auth_id": None}) for status in (Status.ACTIVE, Status.DISABLED, Status.DELETING)),
        *((status, {"auth_id": "SA1"}) for status in (Status.ABSENT, Status.CLAIMED, Status.REMOVED)),
    ],
    "an existing subaccount has a name, and credentials were issued": [
        *((status, {"name": None}) for status in (Status.ACTIVE, Status.DISABLED, Status.DELETING)),
        *((status, {"issued": None}) for status in (Status.ACTIVE, Status.DISABLED, Status.DELETING)),
    ],
    "a debt, a check and a hold are for an existing subaccount": [
        (status, owed)
        for status in (Status.ABSENT, Status.CLAIMED, Status.REMOVED)
        for owed in ({"debt": owing("crm")}, {"check": Check(NOW)})
    ],
    "a claimed department has a claim": [
        (Status.CLAIMED, {"claim": None}),
        *((status, {"claim": CLAIM}) for status in (Status.ACTIVE, Status.DISABLED, Status.DELETING)),
    ],
    "a disabled or removed department has a removal": [
        (status, {"removal": None}) for status in (Status.DISABLED, Status.REMOVED)
    ],
    "an active or absent department has no removal": [
        (status, {"removal": Removed(NOW)}) for status in (Status.ACTIVE, Status.ABSENT)
    ],
    "count from": [
        (Status.ABSENT, {"revision": -1}),
        (Status.ABSENT, {"incarnation": 0}),
        (Status.ABSENT, {"repairs": -1}),
    ],
}


@pytest.mark.parametrize(
    ("rule", "status", "fields"),
    [(rule, *case) for rule, cases in BROKEN.items() for case in cases],
)
def test_an_entry_that_breaks_a_rule_is_an_error(rule, status, fields):
    with pytest.raises(ValueError, match=rule):
        an_entry(status, **fields)
    with pytest.raises(ValueError, match=rule):
        replace(an_entry(status), **fields)


@pytest.mark.parametrize("status", Status)
def test_the_rules_allow_every_entry_that_the_worker_writes(status):
    """A claim may outlive its create, a removal the next claim, and any entry may have duplicates."""
    an_entry(status, duplicates_check_at=NOW, repairs=7)
    an_entry(Status.CLAIMED, removal=Removed(NOW))
    an_entry(Status.DELETING, removal=Removed(NOW), check=Check(NOW), debt=owing("crm", retry_at=NOW))
    for before in (Status.ABSENT, Status.REMOVED):
        an_entry(before, claim=CLAIM)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda: Debt(frozenset()), "a debt owes"),
        (lambda: replace(CLAIM, attempt=-1), "a claim counts"),
        (lambda: replace(CLAIM, clean_scans=-1), "a claim counts"),
        (lambda: replace(ISSUED, generation=0), "generations count from 1"),
    ],
)
def test_a_nested_value_that_breaks_a_rule_is_an_error(broken, rule):
    with pytest.raises(ValueError, match=rule):
        broken()


@pytest.mark.parametrize("status", Status)
def test_existing_is_an_error_without_a_subaccount(status):
    entry = an_entry(status)
    if status in {Status.ACTIVE, Status.DISABLED, Status.DELETING}:
        assert entry.existing == (entry.auth_id, "Sales", ISSUED)
    else:
        with pytest.raises(ValueError, match=f"there is no subaccount: the department is {status}"):
            _ = entry.existing
