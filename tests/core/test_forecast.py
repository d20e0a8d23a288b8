"""The forecast for an event, in one word, with its outcome, reason and least number of calls."""

from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.subaccounts import ResultKind
from tests.support.builders import (
    NOW,
    Attributes,
    a_recollection,
    an_answer,
    an_entry,
    created,
    owing,
    removed,
    renamed,
)
from worker.core.decide import CountTenant, Enable, Policy, Removal, UnknownRename
from worker.core.forecast import Forecast, forecast
from worker.core.limits import DEFAULT_LIMIT, TenantCounts, WindowCount
from worker.core.model.causes import Cause, Event
from worker.core.model.departments import Department
from worker.core.model.entry import Begun, Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.protected import Protected
from worker.operations.dead_letters.plan import event_prospect

NEWER: Attributes = {"sequence": 11}
MANY = TenantCounts(40, (WindowCount(0, 0), WindowCount(0, 0)))
USED_UP = TenantCounts(36, (WindowCount(4, 4), WindowCount(4, 4)))
LAST = TenantCounts(1, (WindowCount(0, 0), WindowCount(0, 0)))
GONE = an_entry(gone_at=NOW, missing_since=NOW)


def told(
    entry: Entry | None, event: Event, policy: Policy | None = None, counts: TenantCounts = MANY
) -> Forecast:
    limited = policy or Policy(limit=DEFAULT_LIMIT)
    found = forecast(event, replace(a_recollection(entry), counts=counts), limited, NOW)
    assert isinstance(found, Forecast)
    return found


def merged() -> Event:
    return replace(removed(**NEWER), merged_into="marketing")


PLANNED = [
    (None, created(), {}, "create", "created", 1),
    (None, created(), {"enable": Enable.PUBLISHED}, "create", "created", 2),
    (None, removed(), {}, "skip", "unchanged", 0),
    (None, renamed(), {"unknown_rename": UnknownRename.REJECT}, "refuse", "failed", 0),
    (an_entry(Status.CLAIMED), created(**NEWER), {}, "adopt", "created", 2),
    (an_entry(Status.CLAIMED), removed(**NEWER), {}, "adopt", None, 3),
    (an_entry(Status.CLAIMED), removed(**NEWER), {"removal": Removal.DELETE}, "adopt", None, 7),
    (an_entry(Status.CLAIMED), removed(**NEWER), {"removal": Removal.IGNORE}, "adopt", None, 2),
    (an_entry(), renamed(**NEWER), {}, "rename", "renamed", 1),
    (an_entry(debt=owing("crm")), renamed(**NEWER), {}, "rename", "renamed", 2),
    (an_entry(), created(**NEWER), {}, "skip", "unchanged", 0),
    (an_entry(debt=owing("")), created(**NEWER), {}, "skip", "unchanged", 1),
    (an_entry(debt=owing("", enable=True)), created(**NEWER), {}, "skip", "unchanged", 2),
    (an_entry(), created(sequence=9), {}, "skip", "superseded", 0),
    (an_entry(), removed(**NEWER), {}, "disable", "disabled", 1),
    (an_entry(), removed(**NEWER), {"removal": Removal.DISABLE}, "disable", "disabled", 1),
    (an_entry(), removed(**NEWER), {"removal": Removal.DELETE}, "delete", "removed", 5),
    (an_entry(), removed(**NEWER), {"removal": Removal.IGNORE}, "skip", "unchanged", 0),
    (an_entry(Status.DISABLED), created(**NEWER), {}, "restore", "restored", 1),
    (an_entry(Status.DISABLED), removed(**NEWER), {}, "skip", "unchanged", 0),
    (an_entry(Status.DELETING), removed(**NEWER), {}, "delete", "removed", 5),
    (an_entry(Status.DELETING), created(**NEWER), {}, "create", "created", 2),
    (an_entry(Status.REMOVED), created(**NEWER), {}, "create", "created", 1),
    (GONE, created(**NEWER), {}, "refuse", "failed", 1),
    (GONE, removed(**NEWER), {}, "skip", "removed", 1),
    (None, created(sequence=None, time=NOW + timedelta(hours=1)), {}, "refuse", "failed", 0),
]


@pytest.mark.parametrize(("entry", "event", "policy", "decision", "outcome", "calls"), PLANNED)
def test_a_decision_in_one_word_with_its_outcome_and_its_calls(
    entry, event, policy, decision, outcome, calls
):
    found = told(entry, event, Policy(**policy))
    assert (found.decision, found.outcome, found.calls) == (decision, outcome, calls)


@pytest.mark.parametrize(
    ("event", "policy", "counts", "reason"),
    [
        (removed(**NEWER), {"protected": Protected(("*",))}, MANY, "protected"),
        (merged(), {}, MANY, "merged"),
        (removed(**NEWER), {}, LAST, "last-active"),
        (removed(**NEWER), {}, USED_UP, "limit"),
        (removed(**NEWER), {"removal": Removal.DELETE}, USED_UP, "limit"),
    ],
)
def test_a_removal_that_would_be_held_names_its_reason(event, policy, counts, reason):
    found = told(an_entry(), event, Policy(limit=DEFAULT_LIMIT, **policy), counts)
    assert (found.decision, found.outcome, found.reason, found.calls) == ("hold", "held", reason, 0)
    assert found.detail
    assert event_prospect(found)[0] == "hold"


def test_a_removal_wants_its_tenant_counted():
    found = forecast(removed(**NEWER), a_recollection(an_entry()), Policy(limit=DEFAULT_LIMIT), NOW)
    assert found == CountTenant()


def test_without_a_limit_nobody_is_counted():
    found = forecast(removed(**NEWER), a_recollection(an_entry()), Policy(limit=()), NOW)
    assert isinstance(found, Forecast)
    assert found.decision == "disable"


def test_a_newer_event_voids_a_hold_and_is_decided_then():
    event = removed(sequence=10)
    cause = Cause(event.reference, event.payload_digest, event.version)
    department = Department("acme", "sales")
    hold = Hold("H1", department, HoldReason.LIMIT, "", cause, "SA1", "Sales", NOW)
    found = told(an_entry(hold=hold), renamed("Marketing", **NEWER))
    assert (found.decision, found.outcome) == ("rename", "renamed")
    assert "hold H1 (limit) becomes void" in str(found.detail)
    again = told(an_entry(hold=hold), removed(**NEWER), counts=USED_UP)
    assert (again.decision, again.reason) == ("hold", "limit")


def test_an_event_behind_a_newer_one_is_foreseen_superseded():
    newer = renamed("North", sequence=12)
    begun = Begun(newer.version, newer.reference, NOW)
    found = told(an_entry(begun=begun), renamed("South", sequence=11))
    assert (found.decision, found.outcome, found.calls) == ("skip", "superseded", 0)
    assert newer.reference.id in str(found.detail)


@pytest.mark.parametrize(("confirmed", "decision"), [(True, "skip"), (False, "republish")])
def test_an_answered_event_is_skipped_or_published_again(confirmed, decision):
    known = a_recollection(an_entry(), an_answer(created(), confirmed=confirmed))
    found = forecast(created(), known, Policy(), NOW)
    assert isinstance(found, Forecast)
    assert (found.decision, found.outcome, found.calls) == (decision, ResultKind.CREATED, 0)
    assert event_prospect(found)[0] == "already answered"


def test_another_payload_of_an_answered_event_is_refused():
    known = a_recollection(an_entry(), an_answer(replace(created(), payload_digest="other")))
    found = forecast(created(), known, Policy(), NOW)
    assert isinstance(found, Forecast)
    assert (found.decision, found.reason) == ("refuse", "conflicting-duplicate")
    assert event_prospect(found)[0] == "still conflicting-duplicate"


def test_a_superseded_event_names_the_newer_one():
    assert told(an_entry(), created(sequence=9)).reason == "a newer event was answered: created-10 of /hr"
    tied = told(an_entry(version=created(sequence=None, id="z").version), created(sequence=None, id="a"))
    assert tied.reason == "tie: same time, no sequence"


def test_a_skipped_dead_letter_is_named_by_its_outcome():
    assert event_prospect(told(an_entry(), created(**NEWER))) == ("unchanged", "nothing to change", 0)
