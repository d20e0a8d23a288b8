"""The claim before a step, and the entry and the answer after its outcome."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from pydantic import SecretStr

from contracts.subaccounts import DeadReason, ResultKind
from tests.support.builders import (
    AUTH_ID,
    CLAIM,
    IDEMPOTENCY_KEY,
    ISSUED,
    NOW,
    an_entry,
    created,
    owing,
    removed,
    renamed,
)
from worker.core.conclude import (
    Changed,
    Conclusion,
    Deleted,
    Failed,
    Found,
    Made,
    NothingDone,
    NothingSeen,
    conclude,
    confirmed,
    intend,
)
from worker.core.decide import Adopt, Create, Delete, Disable, Policy, Rename, Restore, Skip, Step
from worker.core.duties import DEBT_PAUSE
from worker.core.judge import Permanent, Transient, Unavailable, Unknown
from worker.core.model import (
    ANY_RECIPIENT,
    Cause,
    Check,
    Claim,
    Debt,
    Entry,
    IssuedCredentials,
    Reference,
    Removed,
    Status,
    Trace,
)

LATER = NOW + timedelta(minutes=1)
NEW_AUTH_ID = "SA000000000000000002"
MADE = Made(NEW_AUTH_ID, SecretStr("made-up-token"))
RECIPIENTS = frozenset({"crm", "billing"})
POLICY = Policy(recipients=RECIPIENTS)
WINDOW = POLICY.settle_window

TRANSIENT = Transient("Plivo answered 503 to create")
UNAVAILABLE = Unavailable("Plivo answered 401 to create")
UNKNOWN = Unknown("no answer")
PERMANENT = Permanent(DeadReason.REJECTED, "Plivo answered 400 to create")
FAILURES = [TRANSIENT, UNAVAILABLE, UNKNOWN, PERMANENT]

STEPS: dict[str, tuple[Step, Status]] = {
    "create": (Create("Marketing"), Status.CLAIMED),
    "adopt": (Adopt("Marketing"), Status.CLAIMED),
    "rename": (Rename(AUTH_ID, "Marketing"), Status.ACTIVE),
    "restore": (Restore(AUTH_ID, "Marketing"), Status.DISABLED),
    "disable": (Disable(AUTH_ID), Status.ACTIVE),
    "delete": (Delete(AUTH_ID), Status.DELETING),
    "skip": (Skip(ResultKind.UNCHANGED), Status.ACTIVE),
}
OUTCOMES = [MADE, NothingSeen(NOW), Changed(), Deleted(), NothingDone()]
POSSIBLE = {
    ("create", Made),
    ("adopt", Made),
    ("adopt", NothingSeen),
    ("rename", Changed),
    ("restore", Changed),
    ("disable", Changed),
    ("delete", Deleted),
    ("skip", NothingDone),
}
of_every_step = pytest.mark.parametrize("step", STEPS)
with_every_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__.lower())


def concluded(entry, event, step, outcome, now=LATER):
    return conclude(entry, event, step, outcome, POLICY, now)


def changes(before, after):
    """The new values of the fields that differ."""
    old, new = vars(before), vars(after)
    return {name: new[name] for name in new if new[name] != old[name]}


class TestIntend:
    def test_a_create_is_claimed_with_its_event_and_idempotency_key(self):
        event = created("Marketing", sequence=11)
        entry = Entry(event.department)

        claimed = intend(Create("Marketing"), entry, event, IDEMPOTENCY_KEY, POLICY, NOW)

        claim = Claim(NOW, IDEMPOTENCY_KEY, event.reference)
        assert claimed == replace(entry, status=Status.CLAIMED, name="Marketing", claim=claim)

    def test_a_delete_is_recorded_as_deleting(self):
        entry = an_entry()

        deleting = intend(Delete(AUTH_ID), entry, removed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW)

        assert deleting == replace(entry, status=Status.DELETING)

    def test_a_delete_already_begun_changes_nothing(self):
        entry = an_entry(Status.DELETING)

        assert intend(Delete(AUTH_ID), entry, removed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW) == entry

    @pytest.mark.parametrize("step", ["adopt", "skip"])
    def test_adopt_and_skip_claim_nothing(self, step):
        decided, status = STEPS[step]
        entry = an_entry(status)

        assert intend(decided, entry, renamed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW) == entry


class TestStepsAndOutcomes:
    @pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: type(o).__name__)
    @of_every_step
    def test_only_possible_outcomes_of_a_step_are_accepted(self, step, outcome):
        decided, status = STEPS[step]
        event = renamed(sequence=11)

        if (step, type(outcome)) in POSSIBLE:
            assert isinstance(concluded(an_entry(status), event, decided, outcome), Conclusion)
        else:
            refusal = f"{type(decided).__name__} cannot end as {type(outcome).__name__}"
            with pytest.raises(ValueError, match=refusal) as raised:
                concluded(an_entry(status), event, decided, outcome)
            assert "made-up-token" not in str(raised.value)

    @with_every_failure
    @of_every_step
    def test_a_failed_step_has_a_failure_and_no_answer(self, step, failure):
        decided, status = STEPS[step]

        conclusion = concluded(an_entry(status), renamed(sequence=11), decided, Failed(failure))

        assert conclusion.answer is None
        assert (type(conclusion.failure), conclusion.failure.detail) == (type(failure), failure.detail)
        assert conclusion.entry.version == an_entry(status).version

    @pytest.mark.parametrize("failure", [TRANSIENT, UNAVAILABLE, PERMANENT])
    @pytest.mark.parametrize("step", sorted(set(STEPS) - {"create"}))
    def test_a_definite_failure_leaves_the_entry_unchanged(self, step, failure):
        decided, status = STEPS[step]
        entry = an_entry(status)

        conclusion = concluded(entry, renamed(sequence=11), decided, Failed(failure))

        assert (conclusion.entry, conclusion.failure) == (entry, failure)


class TestMade:
    @pytest.mark.parametrize("step", [Create("Marketing"), Adopt("Marketing")])
    @pytest.mark.parametrize("event", [created("Marketing", sequence=11), renamed("Marketing", sequence=11)])
    def test_the_department_is_active_and_owes_credentials(self, step, event):
        claim = Claim(NOW, IDEMPOTENCY_KEY, event.reference, clean_scans=1)
        entry = an_entry(
            Status.CLAIMED,
            claim=claim,
            issued=replace(ISSUED, generation=2),
            incarnation=3,
            removal=Removed(NOW),
        )
        adopted = isinstance(step, Adopt)

        conclusion = concluded(entry, event, step, MADE)

        assert conclusion.entry == Entry(
            entry.department,
            revision=entry.revision,
            status=Status.ACTIVE,
            incarnation=3,
            name="Marketing",
            auth_id=NEW_AUTH_ID,
            version=event.version,
            version_type=event.reference.type,
            created_at=LATER,
            issued=IssuedCredentials(event.reference, generation=3),
            debt=Debt(RECIPIENTS, retry_at=LATER + DEBT_PAUSE),
            check=Check(LATER + WINDOW, late_call=True) if adopted else None,
        )
        assert conclusion.answer is not None
        assert (conclusion.answer.outcome, conclusion.answer.auth_id) == (ResultKind.CREATED, NEW_AUTH_ID)

    def test_first_credentials_are_generation_1_for_any_recipient(self):
        absent = Entry(created().department)
        claimed = intend(Create("Sales"), absent, created(), IDEMPOTENCY_KEY, POLICY, NOW)

        entry = conclude(claimed, created(), Create("Sales"), MADE, Policy(), LATER).entry

        assert (entry.generation, entry.incarnation, entry.owed_to) == (1, 1, {ANY_RECIPIENT})

    def test_credentials_of_a_claim_are_issued_for_the_claiming_event(self):
        claiming, adopting = created("Sales", sequence=11), renamed("Marketing", sequence=12)
        entry = an_entry(Status.CLAIMED, claim=Claim(NOW, IDEMPOTENCY_KEY, claiming.reference))

        adopted = concluded(entry, adopting, Adopt("Marketing"), MADE).entry

        assert (adopted.issued.cause, adopted.version) == (claiming.reference, adopting.version)

    def test_credentials_of_an_unclaimed_subaccount_name_the_event(self):
        adopted = concluded(an_entry(Status.ABSENT), created(), Adopt("Sales"), MADE).entry

        assert (adopted.status, adopted.auth_id) == (Status.ACTIVE, NEW_AUTH_ID)
        assert adopted.issued.cause == created().reference

    @pytest.mark.parametrize(("generation", "incarnation"), [(0, 1), (0, 3), (5, 6), (6, 3)])
    def test_an_outdated_ledger_takes_over_the_found_incarnation(self, generation, incarnation):
        behind = an_entry(
            Status.ABSENT, issued=replace(ISSUED, generation=generation) if generation else None
        )
        found = replace(MADE, found=Found(incarnation, "Sales"))

        adopted = concluded(behind, created(), Adopt("Sales"), found).entry

        assert (adopted.incarnation, adopted.generation) == (incarnation, max(generation + 1, incarnation))

    @pytest.mark.parametrize(("known", "name"), [(None, "As found"), ("As claimed", "As claimed")])
    def test_a_removal_without_a_name_adopts_a_known_or_found_name(self, known, name):
        found = replace(MADE, found=Found(1, "As found"))

        adopted = concluded(an_entry(Status.ABSENT, name=known), removed(), Adopt(None), found).entry

        assert adopted.name == name

    def test_an_adoption_for_a_removal_is_decided_again(self):
        entry = an_entry(Status.CLAIMED)

        conclusion = concluded(entry, removed(sequence=12), Adopt(None), MADE)

        assert (conclusion.answer, conclusion.failure) == (None, None)
        assert changes(entry, conclusion.entry) == {
            "status": Status.ACTIVE,
            "auth_id": NEW_AUTH_ID,
            "issued": IssuedCredentials(CLAIM.event),
            "debt": Debt(RECIPIENTS, retry_at=LATER + DEBT_PAUSE),
            "claim": None,
            "created_at": LATER,
            "check": Check(LATER + WINDOW, late_call=True),
        }

    def test_no_token_is_in_entry_answer_or_repr(self):
        conclusion = concluded(an_entry(Status.CLAIMED), created(), Create("Sales"), MADE)

        assert "made-up-token" not in f"{conclusion!r}{MADE!r}{MADE}"


class TestChanged:
    def test_a_rename_records_name_and_version(self):
        entry, event = an_entry(), renamed("Marketing", sequence=11)

        conclusion = concluded(entry, event, Rename(AUTH_ID, "Marketing"), Changed())

        assert conclusion.entry == replace(
            entry, name="Marketing", version=event.version, version_type=event.reference.type
        )
        assert conclusion.answer.outcome is ResultKind.RENAMED

    @pytest.mark.parametrize(("sent", "name"), [("Marketing", "Marketing"), (None, "Sales")])
    def test_a_restore_with_and_without_a_new_name(self, sent, name):
        entry, event = an_entry(Status.DISABLED), renamed(name, sequence=11)

        conclusion = concluded(entry, event, Restore(AUTH_ID, sent), Changed())

        assert conclusion.entry == replace(
            entry,
            status=Status.ACTIVE,
            name=name,
            version=event.version,
            version_type=event.reference.type,
            removal=None,
        )
        assert conclusion.answer.outcome is ResultKind.RESTORED

    @pytest.mark.parametrize(
        ("step", "status", "kept"),
        [
            (Rename(AUTH_ID, "Marketing"), Status.ACTIVE, None),
            (Restore(AUTH_ID, "Marketing"), Status.DISABLED, None),
            (Restore(AUTH_ID, None), Status.DISABLED, "EU 7"),
            (Disable(AUTH_ID), Status.ACTIVE, "EU 7"),
        ],
    )
    def test_a_name_that_was_kept_ends_with_a_rename(self, step, status, kept):
        before = an_entry(status, keeps_name=True, kept_name="EU 7")

        entry = concluded(before, renamed(sequence=11), step, Changed()).entry

        assert (entry.keeps_name, entry.kept_name) == (True, kept)

    def test_the_next_subaccount_of_a_department_has_a_tag(self):
        before = an_entry(Status.DELETING, keeps_name=True, kept_name="EU 7")

        entry = concluded(before, removed(sequence=11), Delete(AUTH_ID), Deleted()).entry

        assert (entry.keeps_name, entry.kept_name) == (False, None)

    def test_a_disable_records_the_removal(self):
        entry, event = an_entry(), removed(sequence=11)

        conclusion = concluded(entry, event, Disable(AUTH_ID), Changed())

        assert conclusion.entry == replace(
            entry,
            status=Status.DISABLED,
            version=event.version,
            version_type=event.reference.type,
            removal=Removed(LATER),
        )
        assert conclusion.answer.outcome is ResultKind.DISABLED

    @pytest.mark.parametrize(
        ("event", "step", "status"),
        [
            (renamed(sequence=11), Rename(AUTH_ID, "Marketing"), Status.ACTIVE),
            (created("Sales", sequence=11), Restore(AUTH_ID, None), Status.DISABLED),
            (removed(sequence=11), Disable(AUTH_ID), Status.ACTIVE),
        ],
    )
    def test_a_changed_subaccount_keeps_credentials_and_debt(self, event, step, status):
        before = an_entry(status, debt=owing("crm"), issued=replace(ISSUED, generation=2), incarnation=3)

        entry = concluded(before, event, step, Changed()).entry

        kept = ("auth_id", "incarnation", "issued", "owed_to", "created_at")
        assert [getattr(entry, name) for name in kept] == [getattr(before, name) for name in kept]

    @pytest.mark.parametrize(
        ("step", "status", "owed_to", "retry_at"),
        [
            (Rename(AUTH_ID, "Marketing"), Status.ACTIVE, RECIPIENTS, NOW),
            (Disable(AUTH_ID), Status.ACTIVE, RECIPIENTS, None),
            (Restore(AUTH_ID, None), Status.DISABLED, RECIPIENTS, LATER + DEBT_PAUSE),
            (Restore(AUTH_ID, None), Status.DISABLED, frozenset(), None),
        ],
    )
    def test_a_debt_is_due_only_while_the_department_is_active(self, step, status, owed_to, retry_at):
        before = NOW if status is Status.ACTIVE else None
        entry = an_entry(status, debt=owing(*owed_to, retry_at=before))

        after = concluded(entry, renamed(sequence=11), step, Changed()).entry

        assert after.debt == owing(*owed_to, retry_at=retry_at)


class TestDeleted:
    def test_a_removal_is_answered_and_increments_the_incarnation(self):
        entry = an_entry(Status.DELETING, debt=owing(*RECIPIENTS, retry_at=NOW), incarnation=2)
        event = removed(sequence=11)

        conclusion = concluded(entry, event, Delete(AUTH_ID), Deleted())

        assert conclusion.entry == replace(
            entry,
            status=Status.REMOVED,
            auth_id=None,
            incarnation=3,
            debt=None,
            removal=Removed(LATER),
            version=event.version,
            version_type=event.reference.type,
        )
        assert (conclusion.answer.outcome, conclusion.answer.auth_id) == (ResultKind.REMOVED, AUTH_ID)

    @pytest.mark.parametrize("event", [created(sequence=12), renamed(sequence=12)])
    def test_an_event_during_a_deletion_is_decided_again_after_it(self, event):
        entry = an_entry(Status.DELETING)

        conclusion = concluded(entry, event, Delete(AUTH_ID), Deleted())

        assert (conclusion.answer, conclusion.failure) == (None, None)
        assert (conclusion.entry.status, conclusion.entry.version) == (Status.REMOVED, entry.version)


class TestAnswers:
    EVENT = replace(
        renamed("Marketing", sequence=11), trace=Trace("00-trace-parent-01", "vendor=1", "order-7")
    )

    def test_an_answer_describes_its_event(self):
        answer = concluded(an_entry(), self.EVENT, Rename(AUTH_ID, "Marketing"), Changed()).answer

        assert answer.department == self.EVENT.department
        assert answer.event == self.EVENT.reference
        assert answer.payload_digest == self.EVENT.payload_digest
        assert answer.trace == self.EVENT.trace
        assert answer.name == "Marketing"
        assert answer.auth_id == AUTH_ID
        assert answer.answered_at == LATER
        assert (answer.reason, answer.superseded_by, answer.confirmed) == (None, None, False)

    @pytest.mark.parametrize(("event_name", "name"), [("Sales (old)", "Sales (old)"), (None, "Sales")])
    def test_the_name_is_the_events_or_else_the_last_known(self, event_name, name):
        answer = concluded(an_entry(), removed(event_name, sequence=11), Disable(AUTH_ID), Changed()).answer

        assert answer.name == name

    def test_the_name_of_an_unknown_department_is_none(self):
        entry = Entry(removed().department)

        assert concluded(entry, removed(), Skip(ResultKind.UNCHANGED), NothingDone()).answer.name is None

    @pytest.mark.parametrize("status", Status)
    def test_unchanged_records_only_the_version(self, status):
        entry, event = an_entry(status), removed(sequence=11)

        conclusion = concluded(entry, event, Skip(ResultKind.UNCHANGED, "why"), NothingDone())

        assert conclusion.entry == replace(entry, version=event.version, version_type=event.reference.type)
        assert (conclusion.answer.outcome, conclusion.answer.reason) == (ResultKind.UNCHANGED, "why")

    @pytest.mark.parametrize("status", Status)
    def test_superseded_keeps_the_entry_and_names_the_newer_event(self, status):
        newer = removed(sequence=12)
        entry = an_entry(status, version=newer.version)

        conclusion = concluded(entry, self.EVENT, Skip(ResultKind.SUPERSEDED), NothingDone())

        assert conclusion.entry is entry
        assert conclusion.answer.outcome is ResultKind.SUPERSEDED
        assert conclusion.answer.superseded_by == Reference("/hr", "removed-12", "department.removed.v1")
        assert conclusion.answer.name == "Marketing"


class TestConfirmed:
    OWED: tuple[frozenset[str], ...] = (frozenset(), frozenset({"crm"}), RECIPIENTS)

    @pytest.mark.parametrize(("owed", "recipients"), list(product(OWED, OWED)))
    def test_a_confirmed_recipient_is_no_longer_owed(self, owed, recipients):
        entry = an_entry(debt=owing(*owed, retry_at=LATER))

        left = confirmed(entry, recipients)

        assert left == replace(entry, debt=owing(*owed - recipients, retry_at=LATER))


class TestWithoutAnEvent:
    """A step that falls due is intended and concluded like any other."""

    DISABLED = an_entry(Status.DISABLED, check=Check(NOW))

    def deleted(self, cause):
        deleting = intend(Delete(AUTH_ID), self.DISABLED, cause, IDEMPOTENCY_KEY, POLICY, NOW)
        assert deleting == replace(self.DISABLED, status=Status.DELETING)
        return conclude(deleting, cause, Delete(AUTH_ID), Deleted(), POLICY, LATER)

    def test_a_deletion_returns_an_entry_and_no_answer(self):
        gone = replace(
            self.DISABLED,
            status=Status.REMOVED,
            auth_id=None,
            incarnation=2,
            check=None,
            removal=Removed(LATER),
        )
        assert self.deleted(None) == Conclusion(gone)

    @with_every_failure
    def test_a_failed_deletion_stays_deleting_and_has_a_failure(self, failure):
        deleting = intend(Delete(AUTH_ID), self.DISABLED, None, IDEMPOTENCY_KEY, POLICY, NOW)

        failed = conclude(deleting, None, Delete(AUTH_ID), Failed(failure), POLICY, LATER)

        assert failed == Conclusion(deleting, failure=failure)

    def test_a_cause_is_answered_and_keeps_the_newest_event(self):
        removal = removed(sequence=10)
        cause = Cause(removal.reference, removal.payload_digest, name="Sales", trace=TestAnswers.EVENT.trace)

        conclusion = self.deleted(cause)

        assert conclusion.entry == self.deleted(None).entry
        answer = conclusion.answer
        assert (answer.event, answer.payload_digest) == (cause.reference, cause.payload_digest)
        assert (answer.outcome, answer.auth_id, answer.trace) == (ResultKind.REMOVED, AUTH_ID, cause.trace)

    @pytest.mark.parametrize(
        ("step", "status"),
        [
            (Rename(AUTH_ID, "Marketing"), Status.ACTIVE),
            (Restore(AUTH_ID, None), Status.DISABLED),
            (Disable(AUTH_ID), Status.ACTIVE),
        ],
    )
    def test_a_change_without_an_event_keeps_the_version(self, step, status):
        entry, event = an_entry(status), renamed(sequence=11)

        alone, with_event = (
            conclude(entry, cause, step, Changed(), POLICY, LATER) for cause in (None, event)
        )

        assert alone == Conclusion(
            replace(with_event.entry, version=entry.version, version_type=entry.version_type)
        )

    def test_a_create_needs_a_cause(self):
        with pytest.raises(ValueError, match="needs a cause"):
            intend(Create("Sales"), an_entry(Status.ABSENT), None, IDEMPOTENCY_KEY, POLICY, NOW)
        with pytest.raises(ValueError, match="needs a cause"):
            conclude(an_entry(Status.CLAIMED), None, Adopt("Sales"), MADE, POLICY, NOW)
