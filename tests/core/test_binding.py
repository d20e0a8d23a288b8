"""Who may be bound to which subaccount, and the entry afterwards."""

import dataclasses
from datetime import date, timedelta

import pytest

from tests.support.builders import AUTH_ID, NOW, SALES, an_entry, created, owing, removed
from worker.core.adoption import Update
from worker.core.binding import (
    Already,
    Bind,
    Known,
    Refused,
    decide_binding,
    unbound,
)
from worker.core.capabilities import EVERYTHING
from worker.core.decide import Policy
from worker.core.duties import DEBT_PAUSE, duplicates_check_time
from worker.core.listed import ListedSubaccount
from worker.core.model.credentials import IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Check, Entry, Status
from worker.core.model.replace import replace
from worker.core.model.wishes import Binding, Wish
from worker.core.naming import Names, NameTemplate
from worker.core.wishes import reference_of

POLICY = Policy(recipients=frozenset({"crm"}), settle_window=timedelta(seconds=120))
NAMES = Names("default", NameTemplate())
UNKNOWN = Entry(SALES)
TAG = NAMES.tag(UNKNOWN)
OTHER_TAG = NAMES.tag(Entry(Department("acme", "marketing")))
OTHER_ID = "SA000000000000000002"


def a_wish(asked: Binding) -> Wish:
    return Wish("wish", SALES, "ada", NOW, asked)


def listed(name: str = "EU 7", auth_id: str = AUTH_ID, *, enabled: bool = True) -> ListedSubaccount:
    return ListedSubaccount(auth_id, name, enabled, date(2026, 1, 1))


def decided(
    entry: Entry = UNKNOWN,
    found: ListedSubaccount | None = None,
    holder: Department | None = None,
    asked: Binding | None = None,
    policy: Policy = POLICY,
    *,
    has_other: bool = False,
) -> Bind | Already | Refused:
    asked = asked or Binding(AUTH_ID)
    known = Known(entry, found or listed(), holder, has_other)
    return decide_binding(a_wish(asked), asked, known, NAMES, policy, NOW)


def bound(**more) -> Bind:
    decision = decided(**more)
    assert isinstance(decision, Bind), decision
    return decision


def refused(**more) -> str:
    decision = decided(**more)
    assert isinstance(decision, Refused), decision
    return decision.reason


class TestBind:
    def test_the_department_has_the_subaccount_and_a_check_before_it_is_renamed(self):
        decision = bound()

        entry = decision.entry
        assert (entry.status, entry.auth_id, entry.name) == (Status.ACTIVE, AUTH_ID, "EU 7")
        assert (entry.incarnation, entry.generation, entry.created_at) == (1, 1, NOW)
        assert (entry.version, entry.debt, entry.removal) == (None, None, None)
        assert entry.check == Check(NOW + POLICY.settle_window)
        assert decision.update == Update(name=f"EU 7 [{TAG}]")

    def test_credentials_are_owed_only_if_they_are_asked_for(self):
        entry = bound(asked=Binding(AUTH_ID, issues=True)).entry

        assert entry.debt == owing("crm", retry_at=NOW + DEBT_PAUSE)
        assert entry.issued == IssuedCredentials(reference_of(a_wish(Binding(AUTH_ID))))

    def test_the_name_of_the_file_wins(self):
        decision = bound(asked=Binding(AUTH_ID, name="Sales"))

        assert (decision.entry.name, decision.update) == ("Sales", Update(name=f"Sales [{TAG}]"))

    def test_a_kept_name_is_left_and_remembered(self):
        decision = bound(asked=Binding(AUTH_ID, name="Sales", keeps_name=True))

        entry = decision.entry
        assert (entry.name, entry.keeps_name, entry.kept_name) == ("Sales", True, "EU 7")
        assert (entry.check, decision.update) == (None, Update())

    def test_a_provider_that_cannot_rename_keeps_every_name(self):
        capabilities = dataclasses.replace(EVERYTHING, can_rename=False)
        policy = dataclasses.replace(POLICY, capabilities=capabilities)

        decision = bound(policy=policy)

        assert (decision.entry.keeps_name, decision.update) == (True, Update())

    def test_a_disabled_subaccount_is_enabled_on_demand(self):
        decision = bound(found=listed(enabled=False), asked=Binding(AUTH_ID, enables=True))

        assert decision.update == Update(name=f"EU 7 [{TAG}]", enabled=True)

    @pytest.mark.parametrize("incarnation", [1, 3])
    def test_a_subaccount_with_a_tag_of_the_department_keeps_its_incarnation(self, incarnation):
        tag = NAMES.tag(Entry(SALES, incarnation=incarnation))

        decision = bound(found=listed(f"EU 7 [{tag}]"))

        assert (decision.entry.incarnation, decision.entry.generation) == (incarnation, incarnation)
        assert (decision.entry.name, decision.update) == ("EU 7", Update())

    def test_white_space_of_the_name_is_folded(self):
        assert bound(found=listed(" EU   7 ")).entry.name == "EU 7"

    def test_duplicates_of_a_create_that_was_lost_are_looked_for(self):
        lost = replace(an_entry(Status.CLAIMED), status=Status.ABSENT, version=None)

        entry = bound(entry=lost).entry

        assert entry.claim is None
        assert entry.duplicates_check_at == duplicates_check_time(POLICY, NOW)


class TestAlready:
    @pytest.mark.parametrize(
        "asked", [Binding(AUTH_ID), Binding(AUTH_ID, "Other", keeps_name=True, issues=True, enables=True)]
    )
    def test_a_line_applied_before(self, asked):
        assert decided(entry=an_entry(), holder=SALES, asked=asked) == Already()

    def test_also_if_the_provider_does_not_show_it_now(self):
        asked = Binding(AUTH_ID)
        known = Known(an_entry(), None, SALES)

        assert decide_binding(a_wish(asked), asked, known, NAMES, POLICY, NOW) == Already()


class TestRefused:
    def test_an_unknown_auth_id(self):
        asked = Binding(AUTH_ID)
        decision = decide_binding(a_wish(asked), asked, Known(UNKNOWN, None, None), NAMES, POLICY, NOW)

        assert decision == Refused(f"Plivo has no subaccount {AUTH_ID} in this account")

    @pytest.mark.parametrize(
        ("holder", "named"),
        [
            (Department("acme", "marketing"), "department marketing"),
            (Department("other", "sales"), "department sales of tenant other"),
        ],
    )
    def test_one_on_record_for_another_department(self, holder, named):
        assert refused(holder=holder) == f"{AUTH_ID} is on record for {named}"

    @pytest.mark.parametrize(
        ("status", "why"),
        [
            (Status.ACTIVE, "has another subaccount"),
            (Status.DISABLED, "a newer `created` event restores it"),
            (Status.CLAIMED, "a create of the department is under way"),
            (Status.DELETING, "is under way"),
            (Status.REMOVED, "a newer `created` event makes its next subaccount"),
        ],
    )
    def test_a_department_that_has_or_had_a_subaccount(self, status, why):
        assert why in refused(entry=an_entry(status), found=listed(auth_id=OTHER_ID), asked=Binding(OTHER_ID))

    def test_a_removed_department_with_this_very_subaccount(self):
        assert "restores it" in refused(entry=an_entry(Status.DISABLED), holder=SALES)

    def test_a_department_that_was_removed_before_it_had_a_subaccount(self):
        entry = Entry(SALES, version=removed(sequence=3).version)

        assert "newest event removed it" in refused(entry=entry)
        assert isinstance(decided(entry=replace(entry, version=created().version)), Bind)

    def test_a_department_whose_subaccount_is_gone(self):
        assert "departments recreate sales" in refused(entry=an_entry(gone_at=NOW), holder=SALES)

    def test_a_disabled_subaccount(self):
        assert refused(found=listed(enabled=False)).endswith("--enable enables it")

    @pytest.mark.parametrize("keeps_name", [True, False])
    def test_the_tag_of_another_department_or_deployment(self, keeps_name):
        asked = Binding(AUTH_ID, name="Sales", keeps_name=keeps_name)

        assert "tag of another department" in refused(found=listed(f"EU [{OTHER_TAG}]"), asked=asked)

    def test_a_department_whose_tag_another_subaccount_has(self):
        assert "another subaccount with the department's tag" in refused(has_other=True)

    @pytest.mark.parametrize("name", ["", " ", "a\x07b"])
    def test_a_name_that_no_department_may_have(self, name):
        assert "give one in the file" in refused(found=listed(name))
        assert isinstance(decided(found=listed(name), asked=Binding(AUTH_ID, name="Sales")), Bind)


class TestContinued:
    """A worker that died had recorded the binding of this wish."""

    mine = bound(asked=Binding(AUTH_ID, issues=True)).entry

    def continued(self, found: ListedSubaccount | None, entry: Entry = mine) -> Bind | Already | Refused:
        asked = Binding(AUTH_ID, issues=True)
        return decide_binding(a_wish(asked), asked, Known(entry, found, SALES), NAMES, POLICY, NOW)

    def test_what_is_left_is_done(self):
        decision = self.continued(listed())

        assert isinstance(decision, Bind)
        assert decision.update == Update(name=f"EU 7 [{TAG}]")
        assert decision.entry == replace(self.mine, check=Check(NOW + POLICY.settle_window, late_call=True))

    def test_nothing_is_left(self):
        assert self.continued(listed(f"EU 7 [{TAG}]")) == Bind(self.mine, Update())

    def test_an_event_of_the_department_has_come_since(self):
        renamed = replace(self.mine, name="Sales", version=created().version)
        disabled = an_entry(Status.DISABLED, issued=self.mine.issued)

        decision = self.continued(listed(), renamed)
        assert isinstance(decision, Bind)
        assert decision.update == Update(name=f"Sales [{TAG}]")
        assert self.continued(listed(), disabled) == Already()

    def test_a_subaccount_that_is_gone_is_unbound(self):
        decision = self.continued(None)

        assert isinstance(decision, Refused)
        assert decision.entry == unbound(self.mine)


def test_nothing_of_a_binding_is_left_once_it_is_unbound():
    entry = bound(asked=Binding(AUTH_ID, issues=True, keeps_name=True)).entry

    assert replace(unbound(entry), name=None) == UNKNOWN
