"""The correction of one finding, decided again on fresh state."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.subaccounts import ResultCode, ResultKind
from tests.core.test_drift import ISSUED_TOKEN, KNOWN, NAMES, OTHER, OTHER_TOKEN, seen
from tests.support.builders import AUTH_ID, NOW, SALES, an_entry, owing
from worker.core.adoption import Update
from worker.core.capabilities import Capabilities
from worker.core.correction import (
    AsWanted,
    Change,
    Decline,
    IssueNext,
    Look,
    corrected,
    decide_correction,
    next_generation,
)
from worker.core.decide import Policy
from worker.core.drift import FindingKind
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.removals import Removing
from worker.core.model.replace import replace
from worker.core.model.wishes import Correcting, Wish
from worker.core.naming import NO_EVENT
from worker.core.wishes import has_begun, reference_of

WISH = Wish("wish", SALES, "ada", NOW, Correcting(FindingKind.TOKEN, AUTH_ID))
CAUSE = reference_of(WISH)
DISABLED = an_entry(Status.DISABLED)
REMOVED = an_entry(Status.REMOVED)


def decided(
    finding, entry: Entry = KNOWN, shown=None, *, policy=None, auth_id=None, holder=None, own_is_there=True
):
    auth_id = auth_id or (OTHER if finding == "double" else AUTH_ID)
    look = Look(shown, holder, own_is_there)
    return decide_correction(Correcting(finding, auth_id), entry, look, NAMES, policy or Policy())


def name(decision):
    return type(decision).__name__


@pytest.mark.parametrize(
    ("finding", "entry", "shown", "decision"),
    [
        ("name", KNOWN, seen(name="x"), Change(Update(name=NAMES.sent("Sales", KNOWN)), ResultKind.RENAMED)),
        ("enabled", KNOWN, seen(enabled=False), Change(Update(enabled=True), ResultKind.RESTORED)),
        ("enabled", DISABLED, seen(enabled=True), Change(Update(enabled=False), ResultKind.DISABLED)),
        ("token", KNOWN, seen(token=OTHER_TOKEN), IssueNext(OTHER_TOKEN)),
        ("double", KNOWN, seen(auth_id=OTHER), Change(Update(enabled=False), ResultKind.DISABLED)),
        ("double", REMOVED, seen(auth_id=OTHER), Change(Update(enabled=False), ResultKind.DISABLED)),
    ],
)
def test_a_finding_that_still_holds_is_corrected(finding, entry, shown, decision):
    assert decided(finding, entry, shown) == decision


@pytest.mark.parametrize("finding", ["name", "enabled", "token"])
def test_only_the_finding_that_was_asked_for_is_corrected(finding):
    others: dict[str, dict[str, Any]] = {
        "name": {"enabled": False},
        "enabled": {"name": "x"},
        "token": {"name": "x", "enabled": False},
    }
    assert isinstance(decided(finding, shown=seen(**others[finding])), AsWanted)


@pytest.mark.parametrize(
    ("finding", "entry", "shown"),
    [
        ("name", KNOWN, seen()),
        ("name", replace(KNOWN, keeps_name=True, kept_name="x"), seen(name="x")),
        ("enabled", KNOWN, seen()),
        ("enabled", an_entry(debt=owing("crm", enable=True)), seen(enabled=False)),
        ("enabled", DISABLED, seen(enabled=False)),
        ("token", KNOWN, seen()),
        ("token", an_entry(), seen(token=OTHER_TOKEN)),
        ("token", KNOWN, seen(token=None)),
        ("double", KNOWN, seen(auth_id=OTHER, enabled=False)),
        ("double", KNOWN, None),
    ],
)
def test_nothing_is_done_once_the_provider_is_as_wanted(finding, entry, shown):
    assert isinstance(decided(finding, entry, shown), AsWanted)


@pytest.mark.parametrize(
    ("finding", "more", "code"),
    [
        ("name", {"shown": None}, "gone-at-provider"),
        ("name", {"auth_id": OTHER, "shown": seen(auth_id=OTHER)}, "not-active"),
        ("enabled", {"entry": REMOVED, "shown": seen(enabled=True)}, "not-active"),
        (
            "token",
            {"entry": replace(DISABLED, issued=KNOWN.issued), "shown": seen(token=OTHER_TOKEN)},
            "not-active",
        ),
        ("double", {"shown": seen(auth_id=OTHER), "own_is_there": False}, "gone-at-provider"),
        ("double", {"shown": seen(auth_id=OTHER), "holder": Department("acme", "other")}, "not-allowed"),
        ("double", {"shown": seen(), "auth_id": AUTH_ID, "holder": SALES}, "not-allowed"),
        ("double", {"shown": seen(auth_id=OTHER, name="Renamed by hand")}, "not-allowed"),
        ("double", {"shown": seen(replace(KNOWN, incarnation=2), auth_id=OTHER)}, "not-allowed"),
        ("missing", {"shown": None}, "not-allowed"),
        ("anything", {"shown": seen()}, "not-allowed"),
        ("double", {"entry": an_entry(Status.CLAIMED), "shown": seen(auth_id=OTHER)}, "not-allowed"),
        ("enabled", {"entry": an_entry(Status.DELETING), "shown": seen(enabled=True)}, "not-allowed"),
        (
            "enabled",
            {"entry": an_entry(removing=Removing(NO_EVENT)), "shown": seen(enabled=False)},
            "not-allowed",
        ),
    ],
)
def test_a_finding_that_does_not_hold_any_more_is_declined(finding, more, code):
    decision = decided(finding, **more)
    assert isinstance(decision, Decline)
    assert (decision.code, bool(decision.why)) == (code, True)


def test_a_provider_that_cannot_rename_is_not_asked_to():
    policy = Policy(capabilities=Capabilities(can_rename=False))
    assert isinstance(decided("name", shown=seen(name="x"), policy=policy), AsWanted)


def test_a_changed_token_begins_a_generation_owed_to_all_recipients():
    policy = Policy(recipients=frozenset({"crm", "erp"}))
    before = replace(KNOWN, debt=owing("erp", "gone from the settings", enable=True))
    after = next_generation(before, OTHER_TOKEN, CAUSE, policy, NOW)
    assert (before.generation, after.generation) == (1, 2)
    assert after.owed_to == {"crm", "erp", "gone from the settings"}
    assert after.debt is not None
    assert (after.debt.enable, after.debt.retry_at) == (True, NOW + timedelta(minutes=1))
    assert (after.existing.issued.cause, after.existing.issued.fingerprint) == (CAUSE, OTHER_TOKEN)
    assert (has_begun(WISH, before), has_begun(WISH, after)) == (False, True)
    assert isinstance(decided("token", after, seen(token=OTHER_TOKEN)), AsWanted)
    assert isinstance(decided("token", after, seen(token=ISSUED_TOKEN)), IssueNext)


def test_an_answer_names_the_subaccount_of_the_finding():
    wish = Wish("wish", SALES, "ada", NOW, Correcting(FindingKind.DOUBLE, OTHER))
    answer = corrected(wish, KNOWN, ResultKind.FAILED, NOW, "why", ResultCode.NOT_ALLOWED)
    assert (answer.auth_id, answer.code, answer.reason, answer.confirmed) == (
        OTHER,
        "not-allowed",
        "why",
        True,
    )
