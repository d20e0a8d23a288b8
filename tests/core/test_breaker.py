"""The circuit breaker as a table: every state met by every event, and what it does then."""

from dataclasses import replace
from typing import get_args

import pytest

from worker.core.breaker import (
    MAX_FAILED_IN_A_ROW,
    PREFERENCE_SECONDS,
    Admit,
    Alert,
    Block,
    Breaker,
    CallAnswered,
    CallAsked,
    CallFaulted,
    Closed,
    FaultProbed,
    OutageProbed,
    Probe,
    ProbeIn,
    Refuse,
    Show,
    State,
    TrialEnded,
    Unblock,
    transition,
)
from worker.core.judge import Operation

NOW = 1000.0
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
OTHERS = [operation for operation in OPERATIONS if operation != "create"]

CLOSED = Breaker()
OPEN = Breaker(State.OPEN, why="refused", refused="create", alerted=frozenset({"create"}), openings=1)
HALF_OPEN = replace(OPEN, state=State.HALF_OPEN, half_open_at=NOW)
WAITING_FOR_ANY = replace(HALF_OPEN, half_open_at=NOW - PREFERENCE_SECONDS)
ON_TRIAL = replace(HALF_OPEN, trial="create")
BESIDE = replace(HALF_OPEN, one_kind=True)
MANY = {"create": frozenset(str(number) for number in range(MAX_FAILED_IN_A_ROW))}
WAITS = "waiting for the outcome of one call after an outage: refused"

STATES = {
    "closed": CLOSED,
    "open": OPEN,
    "half-open": HALF_OPEN,
    "half-open, nobody of that kind came": WAITING_FOR_ANY,
    "half-open, one decides": ON_TRIAL,
    "half-open, one kind refused": BESIDE,
}
OPENED = (Show(), Block("circuit open: away", affects_all=True), ProbeIn(2.0))
IN_ONE_STEP = {
    # state, event: effects
    ("closed", CallAsked("create")): (Admit(),),
    ("open", CallAsked("create")): (Refuse("refused"),),
    ("half-open", CallAsked("create")): (Admit(decides=True),),
    ("half-open, nobody of that kind came", CallAsked("create")): (Admit(decides=True),),
    ("half-open, one decides", CallAsked("create")): (Refuse(WAITS),),
    ("half-open, one kind refused", CallAsked("create")): (Admit(decides=True),),
    ("closed", CallAsked("get")): (Admit(),),
    ("open", CallAsked("get")): (Refuse("refused"),),
    ("half-open", CallAsked("get")): (Refuse(WAITS),),
    ("half-open, nobody of that kind came", CallAsked("get")): (Admit(decides=True),),
    ("half-open, one decides", CallAsked("get")): (Refuse(WAITS),),
    ("half-open, one kind refused", CallAsked("get")): (Admit(),),
    ("closed", TrialEnded()): (),
    ("open", TrialEnded()): (),
    ("half-open", TrialEnded()): (),
    ("half-open, nobody of that kind came", TrialEnded()): (),
    ("half-open, one decides", TrialEnded()): (),
    ("half-open, one kind refused", TrialEnded()): (),
    ("closed", CallAnswered("create")): (),
    ("open", CallAnswered("create")): (),
    ("half-open", CallAnswered("create")): (),
    ("half-open, nobody of that kind came", CallAnswered("create")): (),
    ("half-open, one decides", CallAnswered("create")): (Show(), Closed()),
    ("half-open, one kind refused", CallAnswered("create")): (),
    ("closed", CallFaulted("create", "a")): (Probe(),),
    ("open", CallFaulted("create", "a")): (),
    ("half-open", CallFaulted("create", "a")): (),
    ("half-open, nobody of that kind came", CallFaulted("create", "a")): (),
    ("half-open, one decides", CallFaulted("create", "a")): (Probe(),),
    ("half-open, one kind refused", CallFaulted("create", "a")): (),
    ("closed", FaultProbed("create", "away", passes=True)): (),
    ("open", FaultProbed("create", "away", passes=True)): (),
    ("half-open", FaultProbed("create", "away", passes=True)): (Show(), Closed()),
    ("half-open, nobody of that kind came", FaultProbed("create", "away", passes=True)): (Show(), Closed()),
    ("half-open, one decides", FaultProbed("create", "away", passes=True)): (Show(), Closed()),
    ("half-open, one kind refused", FaultProbed("create", "away", passes=True)): (Show(), Closed()),
    ("closed", FaultProbed("create", "away", passes=False)): (
        Show(),
        Alert("create", "away", again=False),
        Block("circuit open: away", affects_all=True),
        ProbeIn(1.0),
    ),
    ("open", FaultProbed("create", "away", passes=False)): (),
    ("half-open", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, nobody of that kind came", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, one decides", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, one kind refused", FaultProbed("create", "away", passes=False)): OPENED,
    ("closed", OutageProbed(passes=True)): (),
    ("open", OutageProbed(passes=True)): (Show(), Unblock()),
    ("half-open", OutageProbed(passes=True)): (),
    ("half-open, nobody of that kind came", OutageProbed(passes=True)): (),
    ("half-open, one decides", OutageProbed(passes=True)): (),
    ("half-open, one kind refused", OutageProbed(passes=True)): (),
    ("closed", OutageProbed(passes=False)): (),
    ("open", OutageProbed(passes=False)): (Show(), ProbeIn(2.0)),
    ("half-open", OutageProbed(passes=False)): (),
    ("half-open, nobody of that kind came", OutageProbed(passes=False)): (),
    ("half-open, one decides", OutageProbed(passes=False)): (),
    ("half-open, one kind refused", OutageProbed(passes=False)): (),
}


@pytest.mark.parametrize(("state", "event"), IN_ONE_STEP, ids=str)
def test_what_each_event_does_in_each_state(state, event):
    _, effects = transition(STATES[state], event, NOW)
    assert effects == IN_ONE_STEP[state, event]


def test_the_table_has_every_state_for_every_event():
    events = {event for _, event in IN_ONE_STEP}
    assert set(IN_ONE_STEP) == {(state, event) for state in STATES for event in events}


def after(breaker, *events, now=NOW):
    for event in events:
        breaker, _ = transition(breaker, event, now)
    return breaker


def test_an_opened_breaker_knows_why_and_for_whom():
    opened = after(CLOSED, CallFaulted("update", "a"), FaultProbed("update", "away", passes=False))
    assert (opened.state, opened.why, opened.refused, opened.one_kind) == (
        State.OPEN,
        "away",
        "update",
        False,
    )
    assert (opened.openings, opened.affects_all) == (1, True)


@pytest.mark.parametrize("subjects", [1, MAX_FAILED_IN_A_ROW - 1, MAX_FAILED_IN_A_ROW])
def test_subjects_in_a_row_open_it_for_one_kind_though_probes_pass(subjects):
    breaker = CLOSED
    for number in range(subjects):
        breaker = after(
            breaker, CallFaulted("create", f"{number}"), FaultProbed("create", "away", passes=True)
        )
    opens = subjects == MAX_FAILED_IN_A_ROW
    assert (breaker.state is State.OPEN, breaker.one_kind, breaker.affects_all) == (opens, opens, False)


def test_one_subject_never_does_and_one_call_that_goes_well_starts_the_count_anew():
    again = (CallFaulted("create", "a"), FaultProbed("create", "away", passes=True))
    assert after(CLOSED, *again * 3 * MAX_FAILED_IN_A_ROW).state is State.CLOSED
    almost = replace(CLOSED, failed_in_a_row={"create": frozenset(map(str, range(MAX_FAILED_IN_A_ROW - 1)))})
    assert after(almost, CallAnswered("create"), *again).state is State.CLOSED
    assert after(almost, CallAnswered("get"), *again).state is State.OPEN


def test_an_outage_of_one_kind_affects_all_when_probes_fail():
    one_kind = after(replace(CLOSED, failed_in_a_row=MANY), FaultProbed("create", "away", passes=True))
    assert not one_kind.affects_all
    assert after(one_kind, OutageProbed(passes=False)).affects_all


@pytest.mark.parametrize("operation", OTHERS)
def test_beside_a_slow_trial_calls_of_other_kinds_go_on_where_one_kind_is_refused(operation):
    on_trial = after(BESIDE, CallAsked("create"))
    assert transition(on_trial, CallAsked(operation), NOW + 100)[1] == (Admit(),)
    assert transition(on_trial, CallAsked("create"), NOW + 100)[1] == (Refuse(WAITS),)


def test_the_next_trial_follows_one_that_ended_without_an_outcome():
    assert after(ON_TRIAL, TrialEnded()) == HALF_OPEN


def test_intervals_between_probes_grow_with_each_and_with_each_trial_that_fails():
    breaker, seconds = OPEN, []
    for _ in range(6):
        breaker, (_, probe) = transition(breaker, OutageProbed(passes=False), NOW)
        seconds.append(probe.seconds)
    assert seconds == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    seconds = []
    for _ in range(5):
        breaker = after(breaker, OutageProbed(passes=True), CallAsked("create"))
        breaker, effects = transition(breaker, FaultProbed("create", "away", passes=False), NOW)
        seconds.append(effects[-1].seconds)
    assert seconds == [2.0, 4.0, 8.0, 15.0, 15.0]
    breaker = after(breaker, OutageProbed(passes=True), CallAsked("create"), CallAnswered("create"))
    assert (breaker.state, breaker.failed_trials) == (State.CLOSED, 0)


def test_a_kind_is_alerted_once_until_a_call_of_it_goes_well():
    opened = after(CLOSED, FaultProbed("create", "away", passes=False), OutageProbed(passes=True))
    closed_by_another = after(opened, CallAsked("get"), CallAsked("list"), now=NOW + 2)
    closed_by_another = after(closed_by_another, CallAnswered("get"))
    assert closed_by_another.state is State.CLOSED
    failed = FaultProbed("create", "away", passes=False)
    assert Alert("create", "away", again=True) in transition(closed_by_another, failed, NOW)[1]
    well = after(closed_by_another, CallAnswered("create"))
    assert Alert("create", "away", again=False) in transition(well, failed, NOW)[1]
