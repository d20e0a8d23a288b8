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
from worker.core.conclude import conclude, intend
from worker.core.conclusions.conclusion import Conclusion
from worker.core.conclusions.removal import admission_of
from worker.core.debts import confirmed
from worker.core.decide import (
    Adopt,
    Create,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    Policy,
    Reconsider,
    Rename,
    Restore,
    Skip,
    Step,
)
from worker.core.duties import DEBT_PAUSE
from worker.core.inventory import NOTHING, Inspection
from worker.core.judge import Missing, Permanent, Transient, Unavailable, Unknown
from worker.core.limits import DEFAULT_LIMIT, Admission
from worker.core.model.causes import LateRemoval, Reference, Trace
from worker.core.model.credentials import ANY_RECIPIENT, Debt, IssuedCredentials
from worker.core.model.entry import Begun, Check, Claim, Entry, NewerEvent, Status
from worker.core.model.holds import HoldReason
from worker.core.model.removals import Deletion, Removed, Removing, Retry
from worker.core.outcomes import (
    Changed,
    Deleted,
    Failed,
    Found,
    Inspected,
    Made,
    NothingDone,
    NothingSeen,
    Seen,
)

LATER = NOW + timedelta(minutes=1)
NEW_AUTH_ID = "SA000000000000000002"
MADE = Made(NEW_AUTH_ID, SecretStr("made-up-token"))
RECIPIENTS = frozenset({"crm", "billing"})
POLICY = Policy(recipients=RECIPIENTS)
LIMITED = replace(POLICY, limit=DEFAULT_LIMIT)
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
    "inspect": (Inspect(AUTH_ID), Status.ACTIVE),
    "hold back": (HoldBack(HoldReason.LIMIT, "used up"), Status.ACTIVE),
    "reconsider": (Reconsider(AUTH_ID), Status.DELETING),
}
OUTCOMES = [
    MADE,
    NothingSeen(NOW),
    Changed(),
    Deleted(),
    NothingDone(),
    Seen(),
    Inspected(Inspection(None, tagged=False, inventory=NOTHING, begun=0.0)),
]
POSSIBLE = {
    ("create", Made),
    ("adopt", Made),
    ("adopt", NothingSeen),
    ("rename", Changed),
    ("restore", Changed),
    ("disable", Changed),
    ("delete", Deleted),
    ("skip", NothingDone),
    ("inspect", Inspected),
    ("hold back", NothingDone),
    ("reconsider", Seen),
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
        assert changes(entry, claimed) == {
            "status": Status.CLAIMED,
            "name": "Marketing",
            "claim": claim,
            "wanted_by": NewerEvent(event.version, event.reference),
            "begun": Begun(event.version, event.reference, NOW),
        }

    def test_a_delete_is_recorded_as_deleting(self):
        entry, event = an_entry(), removed(sequence=11)

        deleting = intend(Delete(AUTH_ID), entry, event, IDEMPOTENCY_KEY, POLICY, NOW)

        assert changes(entry, deleting) == {
            "status": Status.DELETING,
            "deletion": Deletion(NOW),
            "removing": Removing(event.reference, counted_at=NOW),
            "begun": Begun(event.version, event.reference, NOW),
        }

    def test_a_delete_already_begun_is_in_doubt(self):
        event = removed(sequence=11)
        before = intend(Delete(AUTH_ID), an_entry(), event, IDEMPOTENCY_KEY, POLICY, NOW)

        again = intend(Delete(AUTH_ID, cascade=True), before, event, IDEMPOTENCY_KEY, POLICY, LATER)

        assert changes(before, again) == {
            "deletion": Deletion(LATER, cascade=True, in_doubt=True),
            "begun": Begun(event.version, event.reference, LATER),
        }

    def test_a_disable_reserves_its_removal(self):
        entry, event = an_entry(), removed(sequence=11)

        intended = intend(Disable(AUTH_ID), entry, event, IDEMPOTENCY_KEY, POLICY, NOW)

        assert changes(entry, intended) == {
            "check": Check(NOW + WINDOW),
            "removing": Removing(event.reference, counted_at=NOW),
            "begun": Begun(event.version, event.reference, NOW),
        }

    def test_a_repeated_disable_counts_once(self):
        event = removed(sequence=11)
        before = intend(Disable(AUTH_ID), an_entry(), event, IDEMPOTENCY_KEY, POLICY, NOW)

        again = intend(Disable(AUTH_ID), before, event, IDEMPOTENCY_KEY, POLICY, LATER)

        assert again.counted_removals == (NOW,)

    @pytest.mark.parametrize("step", [Restore(AUTH_ID, None), Reconsider(AUTH_ID)])
    def test_something_newer_cancels_a_deletion_before_it_acts(self, step):
        cause = removed(sequence=10).bare
        status = Status.DISABLED if isinstance(step, Restore) else Status.DELETING
        retry = Retry(NOW, LATER, 1, "no answer")
        entry = an_entry(status, removal=Removed(NOW, cause), retry=retry)

        intended = intend(step, entry, created(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW)

        assert intended.retry is None
        assert intended.removal == Removed(NOW, cause, cancelled=True)
        assert (intended.late_removal, intended.deletable_since) == (None, None)

    def test_skip_claims_nothing(self):
        decided, status = STEPS["skip"]
        entry = an_entry(status)

        assert intend(decided, entry, renamed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW) == entry

    def test_adopt_claims_nothing_and_notes_its_event(self):
        decided, status = STEPS["adopt"]
        entry, event = an_entry(status), renamed(sequence=11)

        intended = intend(decided, entry, event, IDEMPOTENCY_KEY, POLICY, NOW)

        assert changes(entry, intended) == {
            "wanted_by": NewerEvent(event.version, event.reference),
            "begun": Begun(event.version, event.reference, NOW),
        }

    @pytest.mark.parametrize("step", ["skip", "inspect", "hold back", "reconsider"])
    def test_a_step_without_a_change_begins_none(self, step):
        decided, status = STEPS[step]

        intended = intend(decided, an_entry(status), removed(sequence=11), IDEMPOTENCY_KEY, POLICY, NOW)

        assert intended.begun is None

    def test_a_change_for_an_older_event_keeps_the_newer_one_begun(self):
        newer = renamed(sequence=12)
        before = intend(Rename(AUTH_ID, "North"), an_entry(), newer, IDEMPOTENCY_KEY, POLICY, NOW)

        again = intend(Rename(AUTH_ID, "South"), before, renamed(sequence=11), IDEMPOTENCY_KEY, POLICY, LATER)

        assert again.begun == before.begun


class TestAdmission:
    """The ledger must admit the write that begins a removal which counts."""

    EVENT = removed(sequence=11)

    @pytest.mark.parametrize("step", [Disable(AUTH_ID), Delete(AUTH_ID)])
    def test_a_removal_that_begins_needs_an_admission(self, step):
        intended = intend(step, an_entry(), self.EVENT, IDEMPOTENCY_KEY, LIMITED, NOW)

        assert admission_of(an_entry(), intended, LIMITED, NOW) == Admission(DEFAULT_LIMIT, NOW)
        assert admission_of(intended, intended, LIMITED, NOW) is None
        assert admission_of(an_entry(), intended, POLICY, NOW) is None

    @pytest.mark.parametrize("step", [Disable(AUTH_ID), Delete(AUTH_ID)])
    def test_an_approved_removal_counts_not(self, step):
        late = LateRemoval.of(self.EVENT.department, self.EVENT)
        intended = intend(step, an_entry(), late, IDEMPOTENCY_KEY, LIMITED, NOW)

        assert intended.removing == Removing(self.EVENT.reference, None)
        assert admission_of(an_entry(), intended, LIMITED, NOW) is None

    @pytest.mark.parametrize("step", ["create", "adopt", "rename", "restore", "skip", "inspect", "hold back"])
    def test_other_steps_need_none(self, step):
        decided, status = STEPS[step]
        entry = an_entry(status)
        intended = intend(decided, entry, created(sequence=11), IDEMPOTENCY_KEY, LIMITED, NOW)

        assert admission_of(entry, intended, LIMITED, NOW) is None


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
    @pytest.mark.parametrize("step", sorted(set(STEPS) - {"create", "delete"}))
    def test_a_definite_failure_leaves_the_entry_unchanged(self, step, failure):
        decided, status = STEPS[step]
        entry = an_entry(status)

        conclusion = concluded(entry, renamed(sequence=11), decided, Failed(failure))

        assert (conclusion.entry, conclusion.failure) == (entry, failure)

    @pytest.mark.parametrize("step", [Inspect(AUTH_ID), Reconsider(AUTH_ID)])
    @with_every_failure
    def test_a_failed_read_keeps_the_check_of_an_earlier_call(self, step, failure):
        status = Status.DELETING if isinstance(step, Reconsider) else Status.ACTIVE
        entry = an_entry(status, check=Check(NOW), removing=Removing(removed(sequence=11).reference))

        conclusion = concluded(entry, removed(sequence=11), step, Failed(failure))

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
            removal=Removed(NOW, counted_at=NOW, auth_id=AUTH_ID),
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
            issued=IssuedCredentials(event.reference, generation=3, supersedes=AUTH_ID),
            past_removals=(NOW,),
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
            removal=Removed(LATER, event.bare),
            owed_results=(conclusion.answer,),
            results_at=LATER + DEBT_PAUSE,
        )
        assert conclusion.answer.outcome is ResultKind.DISABLED

    def test_a_disable_counts_from_its_reservation(self):
        event = removed(sequence=11)
        intended = intend(Disable(AUTH_ID), an_entry(), event, IDEMPOTENCY_KEY, POLICY, NOW)

        disabled = concluded(intended, event, Disable(AUTH_ID), Changed()).entry

        assert (disabled.removal, disabled.removing) == (Removed(LATER, event.bare, counted_at=NOW), None)

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
        event = removed(sequence=11)
        entry = an_entry(
            Status.DELETING,
            debt=owing(*RECIPIENTS, retry_at=NOW),
            incarnation=2,
            removing=Removing(event.reference, counted_at=NOW),
            keeps_name=True,
        )

        conclusion = concluded(entry, event, Delete(AUTH_ID), Deleted())

        assert conclusion.entry == replace(
            entry,
            status=Status.REMOVED,
            auth_id=None,
            incarnation=3,
            debt=None,
            removal=Removed(LATER, event.bare, counted_at=NOW, auth_id=AUTH_ID),
            removing=None,
            deletion=None,
            keeps_name=False,
            version=event.version,
            version_type=event.reference.type,
        )
        assert (conclusion.answer.outcome, conclusion.answer.auth_id) == (ResultKind.REMOVED, AUTH_ID)

    @pytest.mark.parametrize("disabled", [False, True])
    @pytest.mark.parametrize("failure", [TRANSIENT, UNAVAILABLE, PERMANENT])
    def test_a_refused_deletion_leaves_the_entry_as_before_it(self, failure, disabled):
        event = removed(sequence=11)
        removal = Removed(NOW, event.bare) if disabled else None
        before = an_entry(Status.DISABLED if disabled else Status.ACTIVE, removal=removal)
        deleting = intend(Delete(AUTH_ID), before, event, IDEMPOTENCY_KEY, POLICY, NOW)

        conclusion = concluded(deleting, event, Delete(AUTH_ID), Failed(failure))

        assert conclusion == Conclusion(before, failure=failure)

    def test_a_deletion_without_a_response_stays_on_record(self):
        event = removed(sequence=11)
        deleting = intend(Delete(AUTH_ID), an_entry(), event, IDEMPOTENCY_KEY, POLICY, NOW)

        assert concluded(deleting, event, Delete(AUTH_ID), Failed(UNKNOWN)) == Conclusion(
            deleting, failure=UNKNOWN
        )

    @with_every_failure
    def test_a_deletion_in_doubt_stays_on_record(self, failure):
        entry = an_entry(Status.DELETING, deletion=Deletion(NOW, in_doubt=True))

        conclusion = concluded(entry, removed(sequence=11), Delete(AUTH_ID), Failed(failure))

        assert conclusion == Conclusion(entry, failure=failure)


class TestReconsidered:
    """A newer event during a deletion: it is decided again once the deletion cannot be carried out late."""

    AFTER = NOW + WINDOW
    EVENTS = pytest.mark.parametrize("event", [created(sequence=12), renamed(sequence=12)])

    def reconsidered(self, entry, event, outcome, now):
        return conclude(entry, event, Reconsider(AUTH_ID), outcome, POLICY, now)

    @EVENTS
    @pytest.mark.parametrize("outcome", [Seen(), Failed(Missing("404"))])
    def test_nothing_is_certain_before_the_settle_window_is_over(self, event, outcome):
        entry = an_entry(Status.DELETING)

        conclusion = self.reconsidered(entry, event, outcome, self.AFTER - timedelta(seconds=1))

        assert (conclusion.entry, conclusion.answer) == (entry, None)
        assert isinstance(conclusion.failure, Unknown)
        assert conclusion.failure.scan_in_seconds == pytest.approx(1.1)

    @EVENTS
    @pytest.mark.parametrize("removal", [None, Removed(NOW, removed(sequence=10).bare, cancelled=True)])
    def test_one_that_is_still_there_is_as_before_and_checked_once_more(self, event, removal):
        removing = None if removal else Removing(removed(sequence=10).reference, counted_at=NOW)
        entry = an_entry(Status.DELETING, removal=removal, removing=removing)

        conclusion = self.reconsidered(entry, event, Seen(), self.AFTER)

        assert (conclusion.answer, conclusion.failure) == (None, None)
        assert changes(entry, conclusion.entry).items() >= {
            ("status", Status.DISABLED if removal else Status.ACTIVE),
            ("deletion", None),
            ("check", Check(self.AFTER + WINDOW, late_call=True)),
        }
        assert conclusion.entry.removing is None

    @EVENTS
    def test_one_that_is_gone_was_deleted_and_counts(self, event):
        removing = Removing(removed(sequence=10).reference, counted_at=NOW)
        entry = an_entry(Status.DELETING, removing=removing)

        conclusion = self.reconsidered(entry, event, Failed(Missing("404")), self.AFTER)

        assert (conclusion.answer, conclusion.failure) == (None, None)
        assert (conclusion.entry.status, conclusion.entry.version) == (Status.REMOVED, entry.version)
        assert conclusion.entry.removal == Removed(self.AFTER, None, counted_at=NOW, auth_id=AUTH_ID)

    @EVENTS
    def test_the_next_subaccount_supersedes_the_one_that_is_gone(self, event):
        gone = self.reconsidered(an_entry(Status.DELETING), event, Failed(Missing("404")), self.AFTER).entry
        claimed = intend(Create("Sales"), gone, event, IDEMPOTENCY_KEY, POLICY, self.AFTER)

        made = concluded(claimed, event, Create("Sales"), MADE).entry

        assert (made.issued.supersedes, made.incarnation) == (AUTH_ID, 2)


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


class TestLate:
    """A removal without its message is intended and concluded like any other."""

    REMOVAL = replace(removed(sequence=10), trace=TestAnswers.EVENT.trace, name="Sales")
    LATE = LateRemoval.of(REMOVAL.department, REMOVAL)
    REMOVED = Removed(NOW, REMOVAL.bare, counted_at=NOW)
    DISABLED = an_entry(Status.DISABLED, version=REMOVAL.version, removal=REMOVED)

    def test_it_counts_no_second_time(self):
        deleting = intend(Delete(AUTH_ID), self.DISABLED, self.LATE, IDEMPOTENCY_KEY, POLICY, NOW)

        assert changes(self.DISABLED, deleting) == {"status": Status.DELETING, "deletion": Deletion(NOW)}
        assert admission_of(self.DISABLED, deleting, LIMITED, NOW) is None

    def test_its_answer_is_that_of_the_event_and_is_owed(self):
        deleting = intend(Delete(AUTH_ID), self.DISABLED, self.LATE, IDEMPOTENCY_KEY, POLICY, NOW)

        conclusion = conclude(deleting, self.LATE, Delete(AUTH_ID), Deleted(), POLICY, LATER)

        answer = conclusion.answer
        assert answer is not None
        assert (answer.event, answer.payload_digest) == (self.REMOVAL.reference, self.REMOVAL.payload_digest)
        assert (answer.outcome, answer.auth_id) == (ResultKind.REMOVED, AUTH_ID)
        assert (answer.trace, answer.name) == (self.REMOVAL.trace, "Sales")
        assert (conclusion.entry.owed_results, conclusion.entry.results_at) == ((answer,), LATER)
        assert conclusion.entry.removal == replace(self.REMOVED, removed_at=LATER, auth_id=AUTH_ID)
        assert conclusion.entry.version == self.DISABLED.version


class TestWithoutACause:
    @pytest.mark.parametrize(
        ("step", "status"),
        [
            (Rename(AUTH_ID, "Marketing"), Status.ACTIVE),
            (Restore(AUTH_ID, None), Status.DISABLED),
            (Disable(AUTH_ID), Status.ACTIVE),
        ],
    )
    def test_a_change_without_a_cause_keeps_the_version(self, step, status):
        entry, event = an_entry(status), renamed(sequence=11)

        alone, with_event = (
            conclude(entry, cause, step, Changed(), POLICY, LATER) for cause in (None, event)
        )

        removal = with_event.entry.removal and replace(with_event.entry.removal, cause=None)
        same = replace(
            with_event.entry,
            version=entry.version,
            version_type=entry.version_type,
            removal=removal,
            owed_results=(),
            results_at=None,
        )
        assert alone == Conclusion(same)

    @pytest.mark.parametrize(
        ("step", "status"),
        [
            (Create("Sales"), Status.ABSENT),
            (Disable(AUTH_ID), Status.ACTIVE),
            (Delete(AUTH_ID), Status.DISABLED),
        ],
    )
    def test_a_create_and_a_removal_need_a_cause(self, step, status):
        with pytest.raises(ValueError, match="needs a cause"):
            intend(step, an_entry(status), None, IDEMPOTENCY_KEY, POLICY, NOW)

    def test_an_adoption_needs_a_cause(self):
        with pytest.raises(ValueError, match="needs a cause"):
            conclude(an_entry(Status.CLAIMED), None, Adopt("Sales"), MADE, POLICY, NOW)
