"""The shipped source profiles: their samples, and what each sender's habits end in.

Senders repeat deliveries, some later than newer ones, and states come back (A, B, A). The events that a
profile makes of them must end in the state that the sender has.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from contracts.departments import Kind, Version, payload_digest
from contracts.envelope import Message, read
from worker.core.intake.mapping import map_received
from worker.core.intake.received import Received
from worker.core.intake.samples import failures
from worker.settings.sources import load_sources

BEGIN = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)
SHIPPED = {
    *(
        "7shifts",
        "dataverse",
        "erpnext",
        "event-grid",
        "eventbridge",
        "factorial",
        "factorial-deleted",
        "lark",
    ),
    *("merge", "odoo", "okta", "quickbooks", "standard-webhooks"),
}

# A failure prints a line that replays it; --hypothesis-seed repeats a whole run.
thoroughly = settings(max_examples=60, deadline=None, print_blob=True)


@cache
def sources():
    return load_sources(None)


@dataclass(frozen=True)
class Change:
    """The sender's department has this name from now on; None: it is gone."""

    number: int
    department: int
    name: str | None
    last: "Change | None" = None
    """The department's change before this one."""

    @property
    def at(self) -> datetime:
        """Senders without a time of the change are read by the minute of arrival."""
        return BEGIN + timedelta(minutes=self.number)

    @property
    def seconds(self) -> str:
        return self.at.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def naive(self) -> str:
        return self.at.strftime("%Y-%m-%d %H:%M:%S.%f")

    @property
    def milliseconds(self) -> int:
        return int(self.at.timestamp() * 1000)

    @property
    def uuid(self) -> str:
        return f"6f2a0e2c-0000-4000-8000-{self.number:012}"


def standard_webhooks(change):
    type_ = "department.updated" if change.name else "department.deleted"
    return {
        "type": type_,
        "timestamp": change.seconds,
        "data": {"id": change.department, "name": change.name or "last"},
    }


def okta(change):
    return {
        "uuid": change.uuid,
        "published": change.seconds,
        "eventType": "group.profile.update" if change.name else "group.lifecycle.delete",
        "target": [
            {"type": "User", "id": "00u1"},
            {"type": "UserGroup", "id": str(change.department), "displayName": change.name or "last"},
        ],
    }


def factorial(change):
    return {"id": change.department, "company_id": 17, "name": change.name or "last"}


def seven_shifts(change):
    return {
        "company_id": 101,
        "department_id": change.department,
        "department_name": change.name or "last",
        "is_deleted": change.name is None,
    }


def lark(change):
    kind = "updated" if change.name else "deleted"
    return {
        "header": {
            "event_id": change.uuid,
            "event_type": f"contact.department.{kind}_v3",
            "create_time": str(change.milliseconds),
            "tenant_key": "acme",
        },
        "event": {"object": {"open_department_id": f"od-{change.department}", "name": change.name}},
    }


def erpnext(change):
    """A deletion has the time of the change before it."""
    gone = change.name is None
    return {
        "department_id": f"D-{change.department}",
        "department_name": change.name or "last",
        "disabled": 0,
        "modified": (change.last or change).naive if gone else change.naive,
    } | ({"event": "on_trash"} if gone else {})


def odoo(change):
    gone = change.name is None
    return {
        "_action": "department deleted(#8)" if gone else "department saved(#7)",
        "_id": change.department,
        "_model": "hr.department",
        "name": change.name or "last",
        "active": True,
        "parent_id": [1, "Company"],
        "write_date": (change.last or change).naive if gone else change.naive,
    }


def dataverse(change):
    attributes = [{"key": "name", "value": change.name}]
    return {
        "MessageName": "Update" if change.name else "Delete",
        "PrimaryEntityName": "businessunit",
        "PrimaryEntityId": str(change.department),
        "OperationId": change.uuid,
        "OperationCreatedOn": f"/Date({change.milliseconds}+0000)/",
        "InputParameters": [{"key": "Target", "value": {"Attributes": []}}],
        "PostEntityImages": [{"key": "image", "value": {"Attributes": attributes}}] if change.name else [],
    }


def merge(change):
    return {
        "hook": {"event": "Group.changed"},
        "linked_account": {"end_user_origin_id": "acme"},
        "data": {
            "id": str(change.department),
            "type": "DEPARTMENT",
            "name": change.name or "last",
            "remote_was_deleted": change.name is None,
            "modified_at": change.seconds,
        },
    }


def quickbooks(change):
    return {
        "specversion": "1.0",
        "id": change.uuid,
        "source": "intuit.1",
        "type": f"qbo.department.{'updated' if change.name else 'deleted'}.v1",
        "time": change.seconds,
        "intuitentityid": str(change.department),
        "intuitaccountid": "310687",
        "data": {"Name": change.name, "Active": True},
    }


def event_grid(change):
    return {
        "id": change.uuid,
        "eventType": "department.updated" if change.name else "department.deleted",
        "eventTime": change.seconds,
        "data": {"id": change.department, "name": change.name},
    }


def eventbridge(change):
    return {
        "id": change.uuid,
        "detail-type": "Department Updated" if change.name else "Department Deleted",
        "time": change.seconds,
        "detail": {"id": change.department, "name": change.name},
    }


@dataclass(frozen=True)
class Sender:
    """How a system sends a change. `batch`: the body of several; without one, a change is a request.

    `ordered`: its payloads tell neither a time nor a version, so deliveries come in order, and repetitions
    within the minute. `gone`: the profile of the URL for removals, if they have one of their own.
    """

    payload: object
    batch: object = None
    ordered: bool = False
    gone: str | None = None
    headers: object = field(default=lambda _change: {})


SENDERS = {
    "standard-webhooks": Sender(
        standard_webhooks, headers=lambda change: {"webhook-id": f"msg_{change.number}"}
    ),
    "okta": Sender(okta, batch=lambda items: {"data": {"events": items}}),
    "factorial": Sender(factorial, ordered=True, gone="factorial-deleted"),
    "7shifts": Sender(seven_shifts, ordered=True),
    "lark": Sender(lark),
    "erpnext": Sender(erpnext),
    "odoo": Sender(odoo),
    "dataverse": Sender(dataverse),
    "merge": Sender(merge),
    "quickbooks": Sender(quickbooks, batch=list),
    "event-grid": Sender(event_grid, batch=list),
    "eventbridge": Sender(eventbridge),
}


def test_every_shipped_profile_has_a_sender_here():
    assert sources().keys() == SHIPPED
    assert SENDERS.keys() | {sender.gone for sender in SENDERS.values() if sender.gone} == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_its_samples_map_as_they_must(name):
    assert failures(sources()[name].profile) == []


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_its_header_marks_its_facts(name):
    path = Path(__file__).parents[2] / "worker/sources" / f"{name}.yaml"
    header = path.read_text().partition("\nauth:")[0]

    assert all(line.startswith("#") for line in header.splitlines())
    assert f"POST /in/{name}" in header
    assert any(f"# {mark} " in header for mark in ("documented", "seen"))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_it_waits_for_its_secret(name, tmp_path):
    assert not sources()[name].is_enabled
    source = load_sources(tmp_path)[name]
    assert not source.is_enabled
    (tmp_path / source.profile.secret_file).write_text("anything\n")
    assert source.is_enabled


histories = st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["A", "B", None])), min_size=1, max_size=7)


@pytest.mark.parametrize("name", sorted(SENDERS))
@given(data=st.data())
@thoroughly
def test_any_delivery_of_a_history_ends_in_its_last_state(name, data):
    sender = SENDERS[name]
    changes = _changes(data.draw(histories))
    deliveries = list(_deliveries(sender, changes, data))
    note(f"{len(deliveries) - len(changes)} repeated")

    seen = _apply(event for delivery in deliveries for event in _mapped(name, sender, *delivery))

    assert seen == {change.department: change.name for change in changes}


def _changes(history):
    last: dict[int, Change] = {}
    changes = []
    for number, (department, name) in enumerate(history):
        last[department] = Change(number, department, name, last.get(department))
        changes.append(last[department])
    return changes


def _deliveries(sender, changes, data):
    """Requests as (changes, time of arrival): each at least once."""
    if sender.ordered:
        for change in changes:
            for repetition in range(data.draw(st.integers(1, 3))):
                yield [change], change.at + timedelta(seconds=10 * repetition)
        return
    most = 3 if sender.batch else 1
    chosen = [change for change in changes for _ in range(data.draw(st.integers(1, 2)))]
    order = data.draw(st.permutations(chosen))
    at = BEGIN + timedelta(hours=1)
    while order:
        size = data.draw(st.integers(1, most))
        yield order[:size], at
        order, at = order[size:], at + timedelta(seconds=data.draw(st.integers(0, 90)))


def _mapped(name, sender, changes, at):
    profile = sources()[name].profile
    if sender.gone and changes[0].name is None:
        profile = sources()[sender.gone].profile
    items = [sender.payload(change) for change in changes]
    body = to_json(sender.batch(items) if sender.batch else items[0])
    mapped = map_received(profile, Received(body, sender.headers(changes[0]), at))
    assert mapped.unmappable == ()
    assert len(mapped.events) == len(changes)
    return mapped.events


def _apply(events):
    """A worker in small: an answered event is not carried out again, and the newest version wins."""
    answered: dict[tuple[str, str], str] = {}
    newest: dict[int, tuple[Version, str | None]] = {}
    for event in events:
        digest = payload_digest(read(Message.structured(event)))
        assert answered.setdefault((event.source, event.id), digest) == digest, "a conflicting duplicate"
        department = int(event.data.department_id.removeprefix("od-").removeprefix("D-"))
        if department not in newest or event.version.newer_than(newest[department][0]):
            newest[department] = (event.version, None if event.kind is Kind.REMOVED else event.data.name)
    return {department: name for department, (_, name) in newest.items()}
