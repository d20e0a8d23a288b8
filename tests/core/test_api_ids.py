"""The provider's id of a call: kept with every failure and in the entry, shown where a person reads."""

import itertools
from typing import get_args

import pytest

from contracts.envelope import STRUCTURED, Message
from contracts.subaccounts import DeadReason, ResultKind
from tests.support.builders import NOW, an_entry, renamed
from worker.core.conclude import conclude
from worker.core.dead_letters import audit_line, letter_of
from worker.core.decide import Delete, Policy, Rename, Skip
from worker.core.judge import (
    CallFault,
    DeadLetter,
    FaultKind,
    Operation,
    RetryPolicy,
    RetryState,
    classify,
    judge,
    told,
)
from worker.core.messages import Outgoing, dead_letter
from worker.core.model.entry import Status
from worker.core.outcomes import Changed, Deleted, Failed, NothingDone

API_ID = "5a9f8b2c-10be-11f1-9c0a-0242ac110003"
AUTH_ID = "SA000000000000000001"
TOLD = f"refused (Plivo api_id {API_ID})"


@pytest.mark.parametrize(
    ("operation", "kind"), list(itertools.product(get_args(Operation), FaultKind)), ids=str
)
def test_every_failure_keeps_the_id_of_its_call(operation, kind):
    failure = classify(CallFault(operation, kind, "refused", api_id=API_ID))
    assert (failure.api_id, failure.detail, told(failure)) == (API_ID, "refused", TOLD)
    assert told(classify(CallFault(operation, kind, "refused"))) == "refused"


@pytest.mark.parametrize("operation", get_args(Operation))
def test_every_failure_keeps_the_status_of_its_call(operation):
    for kind in FaultKind:
        assert classify(CallFault(operation, kind, "refused", status=503)).status == 503
        assert classify(CallFault(operation, kind, "refused")).status is None


@pytest.mark.parametrize("kind", [FaultKind.REJECTED, FaultKind.SERVER_ERROR])
def test_a_dead_letter_tells_the_id(kind):
    failure = classify(CallFault("update", kind, "refused", api_id=API_ID))
    verdict = judge(failure, RetryState(attempts=7, tries=1, spent_seconds=1e6), RetryPolicy(), 0.5)
    assert isinstance(verdict, DeadLetter)
    assert verdict.detail.endswith(TOLD)


def test_the_entry_keeps_the_id_of_the_last_call():
    event, policy = renamed("Marketing", sequence=2), Policy()
    entry = an_entry(Status.ACTIVE, auth_id=AUTH_ID)

    def after(entry, step, outcome):
        return conclude(entry, event, step, outcome, policy, NOW).entry

    changed = after(entry, Rename(AUTH_ID, "Marketing"), Changed(API_ID))
    assert changed.api_id == API_ID
    skipped = after(changed, Skip(ResultKind.UNCHANGED), NothingDone())
    assert skipped.api_id == API_ID
    refused = Failed(classify(CallFault("update", FaultKind.REJECTED, "no", api_id="another")))
    assert after(changed, Rename(AUTH_ID, "Marketing"), refused).api_id == "another"
    deleted = after(an_entry(Status.DELETING, auth_id=AUTH_ID), Delete(AUTH_ID), Deleted(API_ID))
    assert deleted.api_id == API_ID
    unnamed = after(changed, Rename(AUTH_ID, "Marketing"), Changed(None))
    assert unnamed.api_id == API_ID


def test_the_audit_keeps_what_a_dead_letter_said():
    original = Outgoing("departments", "department.created", Message(b"{}", STRUCTURED))
    letter = letter_of(dead_letter(original, DeadLetter(DeadReason.REJECTED, TOLD), None, 1, NOW), None)
    line = audit_line(letter, "replayed", at=NOW, by="me", action="replay", run="1", selection="all")
    assert line.detail == TOLD
