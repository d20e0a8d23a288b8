"""For any events, order and faults: the core can decide, keeps one subaccount, and the newest event wins."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.departments import Kind
from contracts.subaccounts import ResultKind
from tests.core.rehearsal import Fate, Rehearsal
from tests.support.builders import NOW, a_recollection, created, removed, renamed
from worker.core.decide import Policy, Removal, Republish, UnknownRename
from worker.core.model.causes import Event
from worker.core.model.entry import Status
from worker.core.next_step import next_step

pytestmark = pytest.mark.no_cover

# A failure prints a line that replays it; --hypothesis-seed repeats a whole run.
thoroughly = settings(max_examples=300, deadline=None, print_blob=True)

FINAL = set(ResultKind) - {ResultKind.HELD, ResultKind.FAILED}
REMOVING = [Removal.DISABLE, Removal.DISABLE_THEN_DELETE, Removal.DELETE]
PASSING = sorted(set(Fate) - {Fate.REFUSED}, key=lambda fate: fate.value)
ALL_POLICIES = [Policy(removal, unknown_rename=rename) for removal, rename in product(Removal, UnknownRename)]
PROBES = [
    kind(name, id="probe", sequence=99)
    for kind, name in product((created, renamed, removed), ("Sales", "Marketing"))
]

names = st.sampled_from(["Sales", "Marketing"])
ages = st.integers(0, 5).map(lambda minutes: NOW - timedelta(minutes=minutes))
policies = st.sampled_from(ALL_POLICIES)
removing_policies = st.builds(Policy, st.sampled_from(REMOVING))
lateness = st.sampled_from([0.01, 0.1, 0.3, 0.9, 1.0])


def fates(of):
    """The fates of creates, and the fates of all other calls."""
    return st.tuples(st.lists(st.sampled_from(of), max_size=7), st.lists(st.sampled_from(of), max_size=25))


@st.composite
def event_sets(draw):
    """Up to six events of one department, each with its own id; some with a sequence, ties included."""
    facts = st.tuples(st.sampled_from(Kind), names, st.none() | st.integers(1, 4), ages)
    return [
        {Kind.CREATED: created, Kind.RENAMED: renamed, Kind.REMOVED: removed}[kind](
            name, id=f"event-{number}", sequence=sequence, time=time
        )
        for number, (kind, name, sequence, time) in enumerate(draw(st.lists(facts, min_size=1, max_size=6)))
    ]


@st.composite
def deliveries(draw):
    """A set of events and their order of delivery: each at least once, some several times."""
    events = draw(event_sets())
    again = draw(st.lists(st.sampled_from(events), max_size=6))
    return events, draw(st.permutations(events + again))


def rehearsed(policy: Policy, drawn: tuple[list[Fate], list[Fate]], late_by: float) -> Rehearsal:
    creates, others = drawn
    return Rehearsal(policy, creates, others, late_by)


def newest_of(events: list[Event]) -> Event:
    """The newest by the contract: a sequence before none, then time, kind, source, id."""
    kinds = [Kind.CREATED, Kind.RENAMED, Kind.REMOVED]

    def rank(event):
        version = event.version
        numbered = -1 if version.sequence is None else version.sequence
        return (numbered, version.time, kinds.index(version.kind), version.source, version.id)

    return max(events, key=rank)


def assert_decidable(entry):
    for event, policy in product(PROBES, ALL_POLICIES):
        next_step(event, a_recollection(entry), policy, NOW)


def assert_agrees_with_the_newest(rehearsal, newest):
    if newest.kind is Kind.REMOVED:
        assert rehearsal.entry.status in {Status.ABSENT, Status.DISABLED, Status.REMOVED}
        assert not [held for held in rehearsal.subaccounts.values() if held.enabled]
        return
    assert rehearsal.entry.status is Status.ACTIVE
    assert rehearsal.entry.name == newest.name
    [(auth_id, held)] = rehearsal.subaccounts.items()
    assert (auth_id, held.name, held.enabled) == (rehearsal.entry.auth_id, newest.name, True)


def assert_each_answered_once(rehearsal, events):
    assert {event.reference[:2] for event in events} == set(rehearsal.answers)
    assert [len(answers) for answers in rehearsal.answers.values()] == [1] * len(events)
    assert {answer.outcome for [answer] in rehearsal.answers.values()} <= FINAL


@thoroughly
@given(deliveries(), fates(list(Fate)), lateness, policies)
def test_every_reachable_entry_has_a_decision_for_every_event(history, drawn, late_by, policy):
    _, order = history
    rehearsal = rehearsed(policy, drawn, late_by)
    for event in order:
        rehearsal.deliver(event)
        assert_decidable(rehearsal.entry)


@thoroughly
@given(deliveries(), fates(list(Fate)), lateness, policies)
def test_no_history_creates_two_subaccounts_or_loses_one(history, drawn, late_by, policy):
    _, order = history
    rehearsal = rehearsed(policy, drawn, late_by)
    for event in order:
        rehearsal.deliver(event)
        assert len(rehearsal.subaccounts) <= 1
        unseen = set(rehearsal.subaccounts) - {rehearsal.entry.auth_id}
        assert not unseen or rehearsal.entry.status is Status.CLAIMED


@thoroughly
@given(deliveries(), removing_policies)
def test_any_order_with_duplicates_converges_to_the_newest_event(history, policy):
    events, order = history
    rehearsal = Rehearsal(policy)
    for event in order:
        assert isinstance(rehearsal.deliver(event), Republish)

    assert_agrees_with_the_newest(rehearsal, newest_of(events))
    assert_each_answered_once(rehearsal, events)
    [answer] = rehearsal.answers[newest_of(events).reference[:2]]
    assert answer.outcome is not ResultKind.SUPERSEDED


@thoroughly
@given(deliveries(), fates(PASSING), lateness, removing_policies)
def test_lost_and_late_calls_and_crashes_do_not_break_convergence(history, drawn, late_by, policy):
    events, order = history
    rehearsal = rehearsed(policy, drawn, late_by)
    causes = {}
    for event in order:
        rehearsal.deliver_until_ended(event)
        if issued := rehearsal.entry.issued:
            causes[issued.generation] = issued.cause
    rehearsal.settle()

    assert_agrees_with_the_newest(rehearsal, newest_of(events))
    assert_each_answered_once(rehearsal, events)
    # The id of a credentials message derives from its cause: no two generations may share one.
    assert len(set(causes.values())) == len(causes)


@thoroughly
@given(
    st.lists(st.tuples(st.sampled_from([created, renamed, removed]), names), min_size=2, max_size=5),
    fates([Fate.SUCCEEDS, Fate.LATE, Fate.CRASH_AFTER, Fate.CRASH_LATE]),
    lateness,
    removing_policies,
)
def test_late_calls_over_newer_changes_are_repaired(facts, drawn, late_by, policy):
    """Tries each event once, then again with the newest first."""
    events = [of(name, id=f"event-{number}", sequence=number) for number, (of, name) in enumerate(facts)]
    rehearsal = rehearsed(policy, drawn, late_by)
    for event in events:
        rehearsal.deliver(event)
    for event in reversed(events):
        rehearsal.deliver_until_ended(event)
    rehearsal.settle()

    assert_agrees_with_the_newest(rehearsal, events[-1])


@thoroughly
@given(deliveries(), removing_policies)
def test_answered_events_never_change_the_entry_again(history, policy):
    events, order = history
    rehearsal = Rehearsal(policy)
    for event in order:
        rehearsal.deliver(event)
    settled = rehearsal.entry

    for event in reversed(order):
        assert isinstance(rehearsal.deliver(event), Republish)
        rehearsal.deliver(replace(event, payload_digest="another"))
    assert rehearsal.entry == settled
    assert_each_answered_once(rehearsal, events)
