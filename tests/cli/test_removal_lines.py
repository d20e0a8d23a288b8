"""Log lines and metrics of holds, late removals, sweeps and adoptions."""

import json
from dataclasses import replace

import pytest

from tests.support.builders import NOW, SALES, an_entry, removed
from worker.core.inventory import Counts
from worker.core.model.causes import Reference
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging
from worker.telemetry.metrics import FINDING_KINDS

HOLD = Hold("h-1", SALES, HoldReason.RESOURCES, "2 numbers", removed(id="e-1"), "SA1", "Sales", NOW)


class Reported:
    """Telemetry with its log lines, as dictionaries, and its metrics."""

    def __init__(self, capsys):
        configure_logging("json", "info")
        self._read = capsys.readouterr
        self.telemetry = Telemetry()

    @property
    def line(self):
        (line,) = self._read().err.splitlines()
        return json.loads(line)

    def metric(self, name, **labels):
        return self.telemetry.registry.get_sample_value(f"provisioner_{name}", labels)


@pytest.fixture
def reported(capsys):
    yield Reported(capsys)
    configure_logging("json", "error")


def test_a_held_removal_is_a_warning_and_counted_by_reason(reported):
    reported.telemetry.removal_held(replace(HOLD, resources=Counts(numbers=2)))
    line = reported.line
    assert (
        line.items()
        >= {
            "event": "removal_held",
            "level": "warning",
            "tenant": SALES.tenant,
            "department_id": SALES.id,
            "event_id": "e-1",
            "hold_id": "h-1",
            "reason": "resources",
            "detail": "2 numbers",
            "resources": {"numbers": 2, "applications": 0, "endpoints": 0},
        }.items()
    )
    assert reported.metric("removals_held_total", reason="resources") == 1


def test_every_reason_has_a_number_of_waiting_holds(reported):
    reported.telemetry.holds_waiting({HoldReason.LIMIT: 36})
    reported.telemetry.holds_waiting({HoldReason.DRIFT: 1})
    waiting = {reason: reported.metric("holds_waiting", reason=reason) for reason in HoldReason}
    assert waiting == dict.fromkeys(HoldReason, 0) | {HoldReason.DRIFT: 1}


@pytest.mark.parametrize("state", [HoldState.APPROVED, HoldState.REJECTED])
def test_a_ruling_names_the_person(reported, state):
    ruling = Ruling("alice", NOW, cascade=2)
    reported.telemetry.hold_ruled(replace(HOLD, state=state, ruling=ruling), "alice")
    expected = {"event": f"hold_{state}", "hold_id": "h-1", "by": "alice", "cascade": 2}
    assert reported.line.items() >= expected.items()


def test_the_end_of_a_hold_without_a_person_names_its_cause(reported):
    reported.telemetry.hold_void(HOLD, Reference("/hr", "e-2", "department.created.v1"))
    assert reported.line.items() >= {"event": "hold_void", "hold_id": "h-1", "newer": "e-2"}.items()
    reported.telemetry.hold_lapsed(HOLD)
    assert reported.line.items() >= {"event": "hold_lapsed", "level": "warning", "hold_id": "h-1"}.items()


def test_a_late_removal_that_fails_says_when_it_goes_on(reported):
    reported.telemetry.removal_failed(SALES, "Plivo answered 500 to delete", 3, NOW)
    line = reported.line
    assert (line["event"], line["level"], line["tries"]) == ("removal_failed", "warning", 3)
    assert line["next_at"].endswith("Z")


def test_a_deletion_tells_what_hung_on_the_subaccount(reported):
    reported.telemetry.subaccount_deleted(an_entry(), "SA1", Counts(1, 2, 3), cascade=6)
    line = reported.line
    assert (line["event"], line["auth_id"], line["cascade"]) == ("subaccount_deleted", "SA1", 6)
    assert line["resources"] == {"numbers": 1, "applications": 2, "endpoints": 3}


def test_a_sweep_reports_each_kind_and_its_end(reported):
    report = {"subaccounts": 5, "seconds": 1.234, "finished_at": NOW}
    reported.telemetry.sweep_finished(dict.fromkeys(FINDING_KINDS, 0) | {"double": 2}, **report)
    line = reported.line
    assert (line["event"], line["level"], line["findings"]) == ("sweep_finished", "warning", {"double": 2})
    assert (line["subaccounts"], line["seconds"]) == (5, 1.23)
    assert reported.metric("sweep_findings", kind="double") == 2

    reported.telemetry.sweep_finished({}, **report)
    assert reported.line["level"] == "info"
    assert [reported.metric("sweep_findings", kind=kind) for kind in FINDING_KINDS] == [0] * 8
    assert reported.metric("sweep_finished_timestamp_seconds") == NOW.timestamp()


def test_the_other_ends_of_sweeps_and_adoptions_are_told(reported):
    reported.telemetry.sweep_failed("Plivo answered 500 to list")
    assert reported.line.items() >= {"event": "sweep_failed", "level": "warning"}.items()
    reported.telemetry.finding_corrected("enabled", SALES, "SA1", "alice")
    expected = {"event": "finding_corrected", "kind": "enabled", "auth_id": "SA1", "by": "alice"}
    assert reported.line.items() >= expected.items()
    reported.telemetry.department_adopted(SALES, "SA1", "alice")
    expected = {"event": "department_adopted", "department_id": SALES.id, "auth_id": "SA1", "by": "alice"}
    assert reported.line.items() >= expected.items()
