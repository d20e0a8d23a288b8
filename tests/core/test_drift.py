"""The findings of a sweep: how the provider's list differs from the ledger, by kind."""

import dataclasses
import json
from datetime import date, timedelta

import pytest

from tests.support.builders import AUTH_ID, ISSUED, NOW, SALES, an_entry, owing
from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.drift import (
    FIXABLE,
    Finding,
    FindingKind,
    Others,
    Report,
    Seen,
    another_account,
    compare,
    is_uncertain,
    ordered,
)
from worker.core.listed import ListedSubaccount
from worker.core.model.credentials import Fingerprint
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.removals import Removed, Removing
from worker.core.model.replace import replace
from worker.core.naming import NO_EVENT, Names, NameTemplate

NAMES = Names("default", NameTemplate())
ISSUED_TOKEN, OTHER_TOKEN = Fingerprint("key", "issued"), Fingerprint("key", "other")
OTHER_KEY = Fingerprint("another key", "other")
OTHER = "SA000000000000000099"
KNOWN = an_entry(issued=replace(ISSUED, fingerprint=ISSUED_TOKEN))


def seen(entry: Entry = KNOWN, auth_id: str = AUTH_ID, token: Fingerprint | None = ISSUED_TOKEN, **shown):
    """A subaccount as it should be listed for the entry, with the given differences."""
    wanted = {
        "name": NAMES.sent(entry.name or "", entry),
        "enabled": entry.status is Status.ACTIVE,
        "created": date(2026, 11, 21),
    }
    return Seen(ListedSubaccount(auth_id, **{**wanted, **shown}), token)


def kinds(entry, own, doubles=(), capabilities: Capabilities = EVERYTHING):
    return [finding.kind for finding in compare(entry, own, doubles, NAMES, capabilities)]


def test_a_department_as_on_record_yields_no_finding():
    assert kinds(KNOWN, seen()) == []


@pytest.mark.parametrize("status", [Status.ABSENT, Status.REMOVED])
def test_a_department_without_a_subaccount_yields_no_finding(status):
    assert kinds(an_entry(status), None) == []


@pytest.mark.parametrize(
    ("entry", "own", "kind"),
    [
        (KNOWN, seen(name="Renamed by hand"), "name"),
        (KNOWN, seen(enabled=False), "enabled"),
        (an_entry(Status.DISABLED), seen(an_entry(Status.DISABLED), enabled=True), "enabled"),
        (KNOWN, seen(token=OTHER_TOKEN), "token"),
        (KNOWN, None, "missing"),
        (an_entry(Status.DISABLED), None, "missing"),
        (an_entry(gone_at=NOW), None, "missing"),
        (an_entry(Status.REMOVED, gone_at=NOW, removal=Removed(NOW, auth_id=AUTH_ID)), None, "missing"),
    ],
)
def test_each_kind_of_difference(entry, own, kind):
    (finding,) = compare(entry, own, (), NAMES, EVERYTHING)
    assert (finding.kind, finding.department, finding.auth_id) == (kind, SALES, AUTH_ID)
    assert finding.fixable == (kind in FIXABLE)


def test_several_differences_of_one_subaccount_are_several_findings():
    assert kinds(KNOWN, seen(name="x", enabled=False, token=OTHER_TOKEN)) == ["name", "enabled", "token"]


@pytest.mark.parametrize(
    ("entry", "own"),
    [
        (an_entry(debt=owing("crm", enable=True)), seen(enabled=False)),
        (an_entry(debt=owing("crm", enable=True)), seen(enabled=True)),
        (an_entry(debt=owing(enable=True)), seen(enabled=False)),
    ],
    ids=["credentials-owed", "enabled-by-hand", "enabling-owed"],
)
def test_a_subaccount_still_owed_its_enabling_is_rightly_disabled(entry, own):
    assert kinds(entry, own) == []


def test_owed_credentials_alone_excuse_no_disabled_subaccount():
    assert kinds(an_entry(debt=owing("crm")), seen(enabled=False)) == ["enabled"]


@pytest.mark.parametrize("token", [None, OTHER_KEY], ids=["not-shown", "another-key"])
def test_a_token_that_cannot_be_compared_is_no_finding(token):
    assert kinds(KNOWN, seen(token=token)) == []


def test_a_token_that_was_never_issued_or_is_of_a_removed_department_is_no_finding():
    disabled = an_entry(Status.DISABLED, issued=KNOWN.issued)
    assert kinds(an_entry(), seen(token=OTHER_TOKEN)) == []
    assert kinds(disabled, seen(disabled, token=OTHER_TOKEN)) == []


def test_a_department_that_keeps_its_name_lacks_no_tag():
    kept = replace(KNOWN, keeps_name=True, kept_name="Their own name")
    assert kinds(kept, seen(name="Their own name")) == []
    assert kinds(replace(kept, kept_name=None), seen(name="Sales")) == []
    assert kinds(kept, seen(name="Renamed by hand")) == ["name"]


def test_a_provider_that_cannot_rename_or_shows_no_token_yields_no_such_finding():
    own = seen(name="x", token=OTHER_TOKEN)
    assert kinds(KNOWN, own, capabilities=Capabilities(can_rename=False, can_read_token=False)) == []


@pytest.mark.parametrize(
    ("enabled", "own", "kind", "fixable"),
    [
        (True, seen(), "double", True),
        (False, seen(), "double-disabled", False),
        (True, None, "double", False),
    ],
    ids=["enabled", "disabled", "the-recorded-one-is-missing"],
)
def test_a_double(enabled, own, kind, fixable):
    found = {
        one.kind: one
        for one in compare(KNOWN, own, [seen(auth_id=OTHER, enabled=enabled)], NAMES, EVERYTHING)
    }
    assert (found[FindingKind(kind)].auth_id, found[FindingKind(kind)].fixable) == (OTHER, fixable)
    assert ("missing" in found) == (own is None)


def test_a_subaccount_left_over_of_a_removed_department_is_a_double():
    (finding,) = compare(an_entry(Status.REMOVED), None, [seen(auth_id=OTHER)], NAMES, EVERYTHING)
    assert (finding.kind, finding.fixable) == ("double", True)


@pytest.mark.parametrize(
    "entry",
    [
        an_entry(Status.CLAIMED),
        an_entry(Status.DELETING),
        an_entry(removing=Removing(NO_EVENT)),
    ],
    ids=["claimed", "deleting", "removing"],
)
def test_a_department_with_a_step_under_way_is_left_out(entry):
    assert kinds(entry, None, [seen(auth_id=OTHER)]) == []
    assert is_uncertain(entry.revision, entry)


@pytest.mark.parametrize(
    ("before", "after", "uncertain"),
    [
        (KNOWN, KNOWN, False),
        (None, KNOWN, True),
        (KNOWN, replace(KNOWN, revision=5), True),
        (replace(KNOWN, check=Check(NOW)), replace(KNOWN, check=Check(NOW)), True),
    ],
    ids=["unchanged", "new", "changed", "a-call-may-be-on-its-way"],
)
def test_the_list_proves_nothing_about_a_department_that_changed_meanwhile(before, after, uncertain):
    assert is_uncertain(before.revision if before else None, after) is uncertain


def test_a_subaccount_with_a_tag_of_any_incarnation_so_far_is_a_double():
    now = replace(KNOWN, incarnation=3)
    others = Others(
        [seen(auth_id=OTHER), seen(replace(KNOWN, incarnation=4), auth_id=OTHER + "4")],
        NAMES,
    )
    assert [one.auth_id for one in others.take_doubles(now)] == [OTHER]
    assert [one.kind for one in others.strangers()] == ["unrecorded"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (Names("another", NameTemplate()).sent("Sales", KNOWN), "unrecorded"),
        ("Made by hand", "untagged"),
    ],
)
def test_a_subaccount_of_nobody_on_record(name, kind):
    others = Others([seen(auth_id=OTHER, name=name)], NAMES)
    assert not others.take_doubles(KNOWN)
    (finding,) = others.strangers()
    assert (finding.kind, finding.department, finding.auth_id, finding.fixable) == (kind, None, OTHER, False)


@pytest.mark.parametrize(("recorded", "listed", "warns"), [(3, 0, True), (2, 0, False), (500, 1, False)])
def test_a_list_without_any_subaccount_on_record_may_be_of_another_account(recorded, listed, warns):
    assert (another_account(recorded, listed) is not None) == warns


def test_a_report_comes_back_from_its_json():
    findings = (
        Finding(FindingKind.UNTAGGED, None, OTHER, "“odd”"),
        Finding(FindingKind.NAME, SALES, AUTH_ID, "x", fixable=True, fixed=True),
    )
    report = Report(NOW, NOW + timedelta(seconds=2), 20, 10, ordered(findings), "a note")
    assert Report.from_json(report.to_json()) == report


def test_the_document_of_a_report_is_that_of_the_specification():
    finding = Finding(FindingKind.NAME, SALES, AUTH_ID, "x", fixable=True)
    report = Report(
        NOW, NOW + timedelta(seconds=2), 20, 10, (finding, dataclasses.replace(finding, department=None))
    )
    document = json.loads(json.dumps(report.document()))
    known = {"kind": "name", "auth_id": AUTH_ID, "detail": "x", "fixable": True, "fixed": False}
    assert document == {
        "started_at": "2026-11-21T12:00:00Z",
        "finished_at": "2026-11-21T12:00:02Z",
        "subaccounts": 20,
        "departments": 10,
        "findings": [
            known | {"tenant": "acme", "department_id": "sales"},
            known | {"tenant": None, "department_id": None},
        ],
    }
