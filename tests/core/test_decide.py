"""The decision table, cell by cell, and the rules applied before it."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import product

import pytest

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from tests.support.builders import (
    AUTH_ID,
    IDEMPOTENCY_KEY,
    NOW,
    a_recollection,
    an_answer,
    an_entry,
    created,
    removed,
    renamed,
)
from worker.core.decide import (
    CLOCK_TOLERANCE,
    Adopt,
    AwaitNewer,
    Create,
    Decision,
    Delete,
    Disable,
    Policy,
    Reconsider,
    Refuse,
    Removal,
    Rename,
    Republish,
    Restore,
    Skip,
    UnknownRename,
    decide,
)
from worker.core.model.entry import Begun, Claim, Status

CREATED, RENAMED, REMOVED = Kind.CREATED, Kind.RENAMED, Kind.REMOVED
ABSENT, CLAIMED, ACTIVE = Status.ABSENT, Status.CLAIMED, Status.ACTIVE
DISABLED, DELETING, GONE = Status.DISABLED, Status.DELETING, Status.REMOVED

NAME = "Marketing"  # in every event here except removals
SAME, OTHER = NAME, "Sales"  # in the entry

UNCHANGED = Skip(ResultKind.UNCHANGED)
SUPERSEDED = Skip(ResultKind.SUPERSEDED)
TIE = Skip(ResultKind.SUPERSEDED, "tie: same time, no sequence", code=ResultCode.TIE)
BY_SEQUENCE_0 = "superseded by sequence 0 of /hr"
BY_SEQUENCE = Skip(ResultKind.SUPERSEDED, "superseded by sequence 10 of /hr")
CONFLICT = Refuse(
    DeadReason.CONFLICTING_DUPLICATE,
    "an event of this source and id, with another payload, was answered before",
)
UNKNOWN_DEPARTMENT = Refuse(DeadReason.INVALID, "data.department_id: rename of an unknown department")
FROM_THE_FUTURE = Refuse(
    DeadReason.INVALID, "time: more than 10 minutes ahead of the worker's clock", by_clock=True
)


def at_another_offset(time: datetime) -> datetime:
    return time.astimezone(timezone(timedelta(hours=5)))


BY_REMOVAL: dict[Removal | UnknownRename, Decision] = {
    Removal.DISABLE_THEN_DELETE: Disable(AUTH_ID),
    Removal.DISABLE: Disable(AUTH_ID),
    Removal.DELETE: Delete(AUTH_ID),
    Removal.IGNORE: Skip(ResultKind.UNCHANGED, "removals are ignored here"),
}
BY_RENAME: dict[Removal | UnknownRename, Decision] = {
    UnknownRename.CREATE: Create(NAME),
    UnknownRename.REJECT: UNKNOWN_DEPARTMENT,
}

# The decision for a newer event. A dict gives it by policy.
TABLE = {
    # entry            created                 renamed                 removed
    (ABSENT, OTHER): (Create(NAME), BY_RENAME, UNCHANGED),
    (ABSENT, SAME): (Create(NAME), BY_RENAME, UNCHANGED),
    (CLAIMED, OTHER): (Adopt(NAME), Adopt(NAME), Adopt(None)),
    (CLAIMED, SAME): (Adopt(NAME), Adopt(NAME), Adopt(None)),
    (ACTIVE, OTHER): (Rename(AUTH_ID, NAME), Rename(AUTH_ID, NAME), BY_REMOVAL),
    (ACTIVE, SAME): (UNCHANGED, UNCHANGED, BY_REMOVAL),
    (DISABLED, OTHER): (Restore(AUTH_ID, NAME), Restore(AUTH_ID, NAME), UNCHANGED),
    (DISABLED, SAME): (Restore(AUTH_ID, None), Restore(AUTH_ID, None), UNCHANGED),
    (DELETING, OTHER): (Reconsider(AUTH_ID), Reconsider(AUTH_ID), Delete(AUTH_ID)),
    (DELETING, SAME): (Reconsider(AUTH_ID), Reconsider(AUTH_ID), Delete(AUTH_ID)),
    (GONE, OTHER): (Create(NAME), Create(NAME), UNCHANGED),
    (GONE, SAME): (Create(NAME), Create(NAME), UNCHANGED),
}
CELLS = [
    pytest.param(status, name, kind, cell, id=f"{status}-{name}-{kind}")
    for (status, name), row in TABLE.items()
    for kind, cell in zip((CREATED, RENAMED, REMOVED), row, strict=True)
]
POLICIES = [Policy(removal, unknown_rename=rename) for removal, rename in product(Removal, UnknownRename)]

in_every_cell = pytest.mark.parametrize(("status", "name", "kind", "cell"), CELLS)
to_every_entry = pytest.mark.parametrize(("status", "name"), TABLE)
of_every_kind = pytest.mark.parametrize("kind", Kind)
older_equal_or_newer = pytest.mark.parametrize("sequence", [9, 10, 11], ids=["older", "equal", "newer"])


def event_of_kind(kind, **attributes):
    if kind is REMOVED:
        return removed(**attributes)
    return {CREATED: created, RENAMED: renamed}[kind](NAME, **attributes)


def entry_after(event, status, name):
    return an_entry(status, name=name, version=event.version)


def under_every_policy(event, known):
    return {policy: decide(event, known, policy, NOW) for policy in POLICIES}


def in_cell(cell):
    if not isinstance(cell, dict):
        return dict.fromkeys(POLICIES, cell)
    return {policy: cell.get(policy.removal) or cell[policy.unknown_rename] for policy in POLICIES}


@in_every_cell
def test_a_newer_event_follows_the_table(status, name, kind, cell):
    known = a_recollection(entry_after(created(sequence=10), status, name))

    assert under_every_policy(event_of_kind(kind, sequence=11), known) == in_cell(cell)


@in_every_cell
def test_the_first_answered_event_follows_the_table(status, name, kind, cell):
    known = a_recollection(an_entry(status, name=name, version=None))

    assert under_every_policy(event_of_kind(kind), known) == in_cell(cell)


def test_a_department_with_a_lost_create_counts_as_known():
    entry = an_entry(ABSENT, claim=Claim(NOW, IDEMPOTENCY_KEY, created(sequence=10).reference))

    decisions = under_every_policy(renamed(NAME, sequence=11), a_recollection(entry))

    assert set(decisions.values()) == {Create(NAME)}


@to_every_entry
@of_every_kind
def test_an_older_event_is_superseded(status, name, kind):
    known = a_recollection(entry_after(created(sequence=10), status, name))

    assert under_every_policy(event_of_kind(kind, sequence=9), known) == in_cell(SUPERSEDED)


@to_every_entry
@of_every_kind
def test_an_event_without_its_answer_is_superseded_by_itself(status, name, kind):
    event = event_of_kind(kind, sequence=10)
    known = a_recollection(entry_after(event, status, name))

    assert under_every_policy(event, known) == in_cell(SUPERSEDED)


@to_every_entry
@of_every_kind
@older_equal_or_newer
def test_an_answered_event_republishes_its_answer(status, name, kind, sequence):
    event = event_of_kind(kind, sequence=sequence)
    answer = an_answer(event, ResultKind.RENAMED, auth_id=AUTH_ID)
    known = a_recollection(entry_after(created(sequence=10), status, name), answer)

    assert under_every_policy(event, known) == in_cell(Republish(answer))


@to_every_entry
@of_every_kind
@older_equal_or_newer
def test_another_payload_with_an_answered_id_is_refused(status, name, kind, sequence):
    event = event_of_kind(kind, sequence=sequence)
    answer = an_answer(replace(event, payload_digest="another"))
    known = a_recollection(entry_after(created(sequence=10), status, name), answer)

    assert under_every_policy(event, known) == in_cell(CONFLICT)


@pytest.mark.parametrize("confirmed", [False, True])
def test_the_decision_ignores_whether_an_answer_was_confirmed(confirmed):
    answer = an_answer(created(), confirmed=confirmed)

    assert decide(created(), a_recollection(answer=answer), Policy(), NOW) == Republish(answer)


@of_every_kind
@pytest.mark.parametrize(
    ("newest", "sequence", "decides"),
    [
        (None, None, True),
        (None, 11, False),
        (removed(sequence=None), None, True),
        (removed(sequence=None), 11, False),
        (removed(sequence=10), 11, False),
        (removed(sequence=10), 10, True),
    ],
    ids=[
        "first event, no sequence",
        "first event, with sequence",
        "neither has a sequence",
        "the first sequence",
        "a greater sequence",
        "the same sequence",
    ],
)
def test_a_future_time_is_refused_if_the_time_decides(kind, newest, sequence, decides):
    known = a_recollection(an_entry(version=newest and newest.version))
    in_time = event_of_kind(kind, sequence=sequence, time=NOW + CLOCK_TOLERANCE)
    too_far = event_of_kind(kind, sequence=sequence, time=NOW + CLOCK_TOLERANCE + timedelta(seconds=1))

    assert decide(in_time, known, Policy(), NOW) not in {FROM_THE_FUTURE, SUPERSEDED}
    assert (decide(too_far, known, Policy(), NOW) == FROM_THE_FUTURE) is decides


def with_begun(status, sequence, at=NOW):
    newer = renamed("North", sequence=sequence)
    begun = Begun(newer.version, newer.reference, at)
    return a_recollection(replace(an_entry(status, version=None), begun=begun)), newer.reference


@of_every_kind
@pytest.mark.parametrize("status", [CLAIMED, ACTIVE, DISABLED, DELETING])
def test_an_event_waits_for_a_newer_one_whose_change_may_be_in_effect(kind, status):
    known, reference = with_begun(status, sequence=12)

    older, same, newer = (
        decide(event_of_kind(kind, sequence=sequence), known, Policy(), NOW) for sequence in (11, 12, 13)
    )

    assert older == AwaitNewer(reference)
    assert not isinstance(newer, AwaitNewer)
    # Of the same sequence and time, the kind decides.
    assert isinstance(same, AwaitNewer) is (kind is CREATED)


@pytest.mark.parametrize("late", [1, -1], ids=["in time", "a clock is ahead"])
@pytest.mark.parametrize(("window", "wait"), [(120, 120), (5, 60)])
def test_the_wait_for_a_newer_event_ends_with_the_settle_window(late, window, wait):
    policy = Policy(settle_window=timedelta(seconds=window))
    waiting, _ = with_begun(ACTIVE, 12, NOW - late * timedelta(seconds=wait - 1))
    over, _ = with_begun(ACTIVE, 12, NOW - late * timedelta(seconds=wait))

    assert isinstance(decide(renamed("South", sequence=11), waiting, policy, NOW), AwaitNewer)
    assert decide(renamed("South", sequence=11), over, policy, NOW) == Rename(AUTH_ID, "South")


def test_the_tolerance_is_ten_minutes():
    assert timedelta(minutes=10) == CLOCK_TOLERANCE


@pytest.mark.parametrize("sequence", [None, 9])
def test_a_future_time_does_not_override_an_older_sequence(sequence):
    event = created(sequence=sequence, time=NOW + timedelta(days=1))

    assert is_superseded(decide(event, a_recollection(an_entry()), Policy(), NOW))


def test_an_answered_event_stays_answered_with_any_time():
    event = created(sequence=None, time=NOW + timedelta(days=1))
    answer = an_answer(event)

    assert decide(event, a_recollection(answer=answer), Policy(), NOW) == Republish(answer)


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (renamed(sequence=2, time=NOW - timedelta(days=1)), renamed(sequence=1)),
        (renamed(sequence=1, time=NOW - timedelta(days=1)), renamed(sequence=None)),
        (renamed(sequence=0), renamed(sequence=None)),
        (renamed(sequence=10**20 - 1), renamed(sequence=10**20 - 2)),
        (renamed(sequence=None), renamed(sequence=None, time=NOW - timedelta(microseconds=1))),
        (removed(), renamed()),
        (renamed(), created()),
        (renamed(source="/hr2"), renamed(source="/hr1")),
        (renamed(id="b"), renamed(id="a")),
    ],
    ids=[
        "sequence before time",
        "any sequence before none",
        "zero is a sequence",
        "twenty digits are exact",
        "then time",
        "then kind: removed",
        "then kind: renamed",
        "then source",
        "then id",
    ],
)
def test_the_newer_of_two_events_is_unambiguous(newer, older):
    assert is_superseded(decide(older, a_recollection(an_entry(version=newer.version)), Policy(), NOW))
    assert not is_superseded(decide(newer, a_recollection(an_entry(version=older.version)), Policy(), NOW))


def is_superseded(decision: Decision) -> bool:
    return isinstance(decision, Skip) and decision.outcome is ResultKind.SUPERSEDED


EARLIER = NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("newest", "older", "decision"),
    [
        (renamed(sequence=None, id="b"), renamed(sequence=None, id="a"), TIE),
        (removed(sequence=None), created(sequence=None), TIE),
        (removed(sequence=None), created(sequence=None, time=at_another_offset(NOW)), TIE),
        (renamed(sequence=None, source="/hr2"), renamed(sequence=None, source="/hr1"), TIE),
        (renamed(sequence=None, id="b"), renamed(sequence=None, id="a", time=EARLIER), SUPERSEDED),
        (renamed(sequence=3, id="b"), renamed(sequence=3, id="a"), SUPERSEDED),
        (renamed(sequence=10, id="b"), renamed(sequence=9, id="a"), SUPERSEDED),
        (renamed(sequence=10), renamed(sequence=1, source="/new"), BY_SEQUENCE),
        (renamed(sequence=10), renamed(sequence=None, source="/new"), BY_SEQUENCE),
        (renamed(sequence=10), renamed(sequence=None, id="a"), BY_SEQUENCE),
        (renamed(sequence=0), renamed(sequence=None), replace(BY_SEQUENCE, reason=BY_SEQUENCE_0)),
    ],
    ids=[
        "tie",
        "decided by kind",
        "the same instant",
        "of two sources",
        "another time",
        "the same sequence",
        "late",
        "lower sequence of another source",
        "no sequence, another source",
        "no sequence, the same source",
        "sequence 0",
    ],
)
def test_ties_and_restarts_of_a_sequence_are_told(newest, older, decision):
    known = a_recollection(an_entry(version=newest.version))

    assert decide(older, known, Policy(), NOW) == decision


@pytest.mark.parametrize("status", [ABSENT, ACTIVE, DISABLED, REMOVED])
def test_a_created_event_without_a_name_is_an_error(status):
    known = a_recollection(an_entry(status))
    with pytest.raises(ValueError, match=f"no decision for a {status} entry and a created event"):
        decide(replace(created(sequence=11), name=None), known, Policy(), NOW)
