"""Tests of the answers that a purge may forget: none that keeps an event from a second effect."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from contracts.departments import Kind
from contracts.subaccounts import ResultKind
from tests.support.builders import NOW, an_answer, an_entry, created, removed, renamed
from worker.core.decide import Policy, Skip, decide
from worker.core.keeping import CURRENT_FOR, Table, Tally, may_be_behind, purgeable
from worker.core.model.answers import Answer
from worker.core.model.causes import Event
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Removed
from worker.core.next_step import next_step

NEWEST = renamed(sequence=10)
OLDER = {
    Kind.CREATED: created("Another", sequence=9, id="old-created"),
    Kind.RENAMED: renamed("Another", sequence=9, id="old-renamed"),
    Kind.REMOVED: removed(sequence=9, id="old-removed"),
}


def settled(
    event: Event = OLDER[Kind.CREATED], outcome: ResultKind = ResultKind.CREATED, **fields: Any
) -> Answer:
    return an_answer(event, outcome, **{"confirmed": True} | fields)


def an_entry_of_newest(status: Status = Status.ACTIVE, **fields: Any) -> Entry:
    return an_entry(status, **{"version": NEWEST.version, "version_type": NEWEST.reference.type} | fields)


def held(event: Event) -> Hold:
    return Hold("H1", event.department, HoldReason.LIMIT, "", event.bare, "SA1", "Sales", NOW)


def entries() -> Iterator[Entry]:
    """An entry of each kind that there is."""
    more: tuple[dict[str, Any], ...] = ({}, {"gone_at": NOW}, {"hold": held(NEWEST)})
    for status, fields in product(Status, more):
        with suppress(ValueError):  # it would break a rule
            yield an_entry_of_newest(status, **fields)


@pytest.mark.parametrize("event", OLDER.values(), ids=list(OLDER))
def test_a_replay_of_a_purged_event_is_superseded_and_makes_no_call(event):
    """Whatever the department has become meanwhile."""
    found = list(entries())
    assert {entry.status for entry in found} == set(Status)
    for entry in found:
        assert purgeable(entry, [settled(event)]) == [settled(event)]
        decision = next_step(event, Recollection(entry), Policy(), NOW)
        assert isinstance(decision, Skip), entry
        assert decision.outcome is ResultKind.SUPERSEDED


@pytest.mark.parametrize("event", OLDER.values(), ids=list(OLDER))
@pytest.mark.parametrize(("newest", "older"), [(None, None), (10, None), (10, 9)])
def test_it_is_superseded_with_and_without_sequences(event, newest, older):
    """The order of versions is total, so an event that was once older stays older."""
    ago = NOW - timedelta(days=100)
    replay = replace(event, version=event.version._replace(sequence=older, time=ago))
    entry = an_entry_of_newest(version=NEWEST.version._replace(sequence=newest))
    decision = decide(replay, Recollection(entry), Policy(), NOW)
    assert isinstance(decision, Skip)
    assert decision.outcome is ResultKind.SUPERSEDED


def test_the_answer_of_the_newest_event_stays():
    newest = settled(NEWEST, ResultKind.RENAMED)
    assert purgeable(an_entry_of_newest(), [newest, settled()]) == [settled()]


def test_the_answers_of_the_removal_and_of_its_hold_stay():
    event = OLDER[Kind.REMOVED]
    answer = settled(event, ResultKind.DISABLED)
    disabled = an_entry_of_newest(Status.DISABLED, removal=Removed(NOW, event.bare))
    assert purgeable(disabled, [answer, settled()]) == [settled()]
    waiting = an_entry_of_newest(Status.ACTIVE, hold=held(event))
    assert purgeable(waiting, [replace(answer, outcome=ResultKind.HELD)]) == []


def test_an_answer_that_is_not_confirmed_stays():
    assert purgeable(an_entry_of_newest(), [settled(confirmed=False)]) == []


def test_an_answer_that_the_entry_owes_stays():
    entry = an_entry_of_newest(owed_results=(settled(),), results_at=NOW)
    assert purgeable(entry, [settled()]) == []


def test_answers_without_a_version_stay_because_a_replay_would_be_carried_out():
    """Those to requests to reissue and to wishes."""
    assert purgeable(an_entry_of_newest(), [settled(version=None)]) == []


def test_without_a_version_all_answers_stay():
    """A person had it forgotten: the next event of any sequence applies, except one that was answered."""
    assert purgeable(an_entry_of_newest(version=None), [settled()]) == []


def test_answers_with_a_higher_version_stay():
    """From before a version was forgotten: only its answer keeps such an event from being done again."""
    higher = settled(version=NEWEST.version._replace(sequence=1000))
    same = settled(version=NEWEST.version)
    assert purgeable(an_entry_of_newest(), [higher, same, settled()]) == [settled()]


@pytest.mark.parametrize(
    ("age", "behind"),
    [
        (None, True),
        (timedelta(0), False),
        (CURRENT_FOR, False),
        (CURRENT_FOR + timedelta(seconds=1), True),
        (-CURRENT_FOR - timedelta(seconds=1), True),
    ],
)
def test_a_ledger_that_was_used_long_ago_may_be_behind(age, behind):
    assert may_be_behind(NOW - age if age is not None else None, NOW) is behind


def test_a_tally_depends_on_every_value_and_its_place():
    def digest(*rows: tuple[Table, tuple[str | int | None, ...]]) -> str:
        tally = Tally()
        for table, row in rows:
            tally.add(table, [row])
        return tally.digest

    one, two = (Table.SUSPECTS, ("a", 1)), (Table.SUSPECTS, ("b", 1))
    variants = [
        digest(),
        digest(one),
        digest(one, two),
        digest(two, one),
        digest((Table.HOLDS, ("a", 1))),
        digest((Table.SUSPECTS, ("a", "1"))),
        digest((Table.SUSPECTS, ("a1",))),
        digest((Table.SUSPECTS, ("a", None))),
    ]
    assert len(set(variants)) == len(variants)
