"""The circuit breaker as a table: the effects of every event in every state."""

from dataclasses import replace
from typing import get_args

import pytest

from worker.core.breaker import (
    IDLE_SECONDS,
    MAX_FAILED_IN_A_ROW,
    MAX_FAILED_LISTS,
    PREFERENCE_SECONDS,
    Admit,
    Alert,
    Block,
    Breaker,
    CallAnswered,
    CallAsked,
    CallFaulted,
    CallRefused,
    FaultProbed,
    OutageProbed,
    Probe,
    ProbeIn,
    Refuse,
    ReportClosed,
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
ONE_OPERATION = replace(HALF_OPEN, one_kind=True)
MANY: dict[Operation, frozenset[str]] = {
    "create": frozenset(str(number) for number in range(MAX_FAILED_IN_A_ROW))
}
WAITS = "waiting for the outcome of one call after an outage: refused"

STATES = {
    "closed": CLOSED,
    "open": OPEN,
    "open, by the probe": replace(OPEN, refused="list"),
    "half-open": HALF_OPEN,
    "half-open, any operation": WAITING_FOR_ANY,
    "half-open, on trial": ON_TRIAL,
    "half-open, one operation": ONE_OPERATION,
}
OPENED = (Show(), Block("circuit open: away", affects_all=True), ProbeIn(2.0))
IN_ONE_STEP = {
    # state, event: effects
    ("closed", CallAsked("create")): (Admit(),),
    ("open", CallAsked("create")): (Refuse("refused"),),
    ("half-open", CallAsked("create")): (Admit(decides=True),),
    ("half-open, any operation", CallAsked("create")): (Admit(decides=True),),
    ("half-open, on trial", CallAsked("create")): (Refuse(WAITS),),
    ("half-open, one operation", CallAsked("create")): (Admit(decides=True),),
    ("closed", CallAsked("get")): (Admit(),),
    ("open", CallAsked("get")): (Refuse("refused"),),
    ("half-open", CallAsked("get")): (Refuse(WAITS),),
    ("half-open, any operation", CallAsked("get")): (Admit(decides=True),),
    ("half-open, on trial", CallAsked("get")): (Refuse(WAITS),),
    ("half-open, one operation", CallAsked("get")): (Admit(),),
    ("closed", TrialEnded()): (),
    ("open", TrialEnded()): (),
    ("half-open", TrialEnded()): (),
    ("half-open, any operation", TrialEnded()): (),
    ("half-open, on trial", TrialEnded()): (),
    ("half-open, one operation", TrialEnded()): (),
    ("closed", CallAnswered("create")): (),
    ("open", CallAnswered("create")): (),
    ("half-open", CallAnswered("create")): (),
    ("half-open, any operation", CallAnswered("create")): (),
    ("half-open, on trial", CallAnswered("create")): (Show(), ReportClosed()),
    ("half-open, one operation", CallAnswered("create")): (),
    ("closed", CallFaulted("create", "a")): (Probe(),),
    ("open", CallFaulted("create", "a")): (),
    ("half-open", CallFaulted("create", "a")): (),
    ("half-open, any operation", CallFaulted("create", "a")): (),
    ("half-open, on trial", CallFaulted("create", "a")): (Probe(),),
    ("half-open, one operation", CallFaulted("create", "a")): (),
    ("closed", CallRefused()): (Probe(),),
    ("open", CallRefused()): (),
    ("half-open", CallRefused()): (Probe(),),
    ("half-open, any operation", CallRefused()): (Probe(),),
    ("half-open, on trial", CallRefused()): (Probe(),),
    ("half-open, one operation", CallRefused()): (Probe(),),
    ("open, by the probe", CallAsked("create")): (Refuse("refused"),),
    ("open, by the probe", CallAsked("get")): (Refuse("refused"),),
    ("open, by the probe", TrialEnded()): (),
    ("open, by the probe", CallAnswered("create")): (),
    ("open, by the probe", CallFaulted("create", "a")): (),
    ("open, by the probe", CallRefused()): (),
    ("open, by the probe", FaultProbed("create", "away", passes=True)): (),
    ("open, by the probe", FaultProbed("create", "away", passes=False)): (),
    ("open, by the probe", OutageProbed(passes=True)): (Unblock(), Show(), ReportClosed()),
    ("open, by the probe", OutageProbed(passes=False)): (Show(), ProbeIn(2.0)),
    ("closed", FaultProbed("create", "away", passes=True)): (),
    ("open", FaultProbed("create", "away", passes=True)): (),
    ("half-open", FaultProbed("create", "away", passes=True)): (Show(), ReportClosed()),
    ("half-open, any operation", FaultProbed("create", "away", passes=True)): (Show(), ReportClosed()),
    ("half-open, on trial", FaultProbed("create", "away", passes=True)): (Show(), ReportClosed()),
    ("half-open, one operation", FaultProbed("create", "away", passes=True)): (Show(), ReportClosed()),
    ("closed", FaultProbed("create", "away", passes=False)): (
        Show(),
        Alert("create", "away", again=False),
        Block("circuit open: away", affects_all=True),
        ProbeIn(1.0),
    ),
    ("open", FaultProbed("create", "away", passes=False)): (),
    ("half-open", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, any operation", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, on trial", FaultProbed("create", "away", passes=False)): OPENED,
    ("half-open, one operation", FaultProbed("create", "away", passes=False)): OPENED,
    ("closed", OutageProbed(passes=True)): (),
    ("open", OutageProbed(passes=True)): (Show(), Unblock()),
    ("half-open", OutageProbed(passes=True)): (),
    ("half-open, any operation", OutageProbed(passes=True)): (),
    ("half-open, on trial", OutageProbed(passes=True)): (),
    ("half-open, one operation", OutageProbed(passes=True)): (),
    ("closed", OutageProbed(passes=False)): (),
    ("open", OutageProbed(passes=False)): (Show(), ProbeIn(2.0)),
    ("half-open", OutageProbed(passes=False)): (),
    ("half-open, any operation", OutageProbed(passes=False)): (),
    ("half-open, on trial", OutageProbed(passes=False)): (),
    ("half-open, one operation", OutageProbed(passes=False)): (),
}


@pytest.mark.parametrize(("state", "event"), IN_ONE_STEP, ids=str)
def test_effects_of_each_event_in_each_state(state, event):
    _, effects = transition(STATES[state], event, NOW)
    assert effects == IN_ONE_STEP[state, event]


def test_the_table_has_every_state_for_every_event():
    events = {event for _, event in IN_ONE_STEP}
    assert set(IN_ONE_STEP) == {(state, event) for state in STATES for event in events}


def after(breaker, *events, now=NOW):
    for event in events:
        breaker, _ = transition(breaker, event, now)
    return breaker


def test_an_open_breaker_records_reason_and_operation():
    opened = after(CLOSED, CallFaulted("update", "a"), FaultProbed("update", "away", passes=False))
    assert (opened.state, opened.why, opened.refused, opened.one_kind) == (
        State.OPEN,
        "away",
        "update",
        False,
    )
    assert (opened.openings, opened.affects_all) == (1, True)


@pytest.mark.parametrize("pages", [1, MAX_FAILED_LISTS - 1, MAX_FAILED_LISTS])
def test_few_pages_of_the_list_open_it(pages):
    breaker = CLOSED
    for number in range(pages):
        breaker = after(breaker, CallFaulted("list", f"{number}"), FaultProbed("list", "away", passes=True))
    assert (breaker.state is State.OPEN) == (pages == MAX_FAILED_LISTS)
    assert after(breaker, OutageProbed(passes=True)).state is not State.OPEN


@pytest.mark.parametrize(
    ("breaker", "later", "undecided"),
    [
        (CLOSED, 0.0, False),
        (OPEN, 0.0, False),
        (HALF_OPEN, 0.0, True),
        (HALF_OPEN, IDLE_SECONDS - 0.1, True),
        (HALF_OPEN, IDLE_SECONDS, False),
        (ON_TRIAL, 100 * IDLE_SECONDS, True),
    ],
)
def test_half_open_is_undecided_while_a_trial_may_come(breaker, later, undecided):
    assert breaker.undecided(NOW + later) == undecided


@pytest.mark.parametrize("subjects", [1, MAX_FAILED_IN_A_ROW - 1, MAX_FAILED_IN_A_ROW])
def test_faults_of_many_subjects_open_it_for_one_operation(subjects):
    breaker = CLOSED
    for number in range(subjects):
        breaker = after(
            breaker, CallFaulted("create", f"{number}"), FaultProbed("create", "away", passes=True)
        )
    opens = subjects == MAX_FAILED_IN_A_ROW
    assert (breaker.state is State.OPEN, breaker.one_kind, breaker.affects_all) == (opens, opens, False)


def test_one_subject_never_opens_it_and_a_success_resets_the_count():
    again = (CallFaulted("create", "a"), FaultProbed("create", "away", passes=True))
    assert after(CLOSED, *again * 3 * MAX_FAILED_IN_A_ROW).state is State.CLOSED
    almost = replace(CLOSED, failed_in_a_row={"create": frozenset(map(str, range(MAX_FAILED_IN_A_ROW - 1)))})
    assert after(almost, CallAnswered("create"), *again).state is State.CLOSED
    assert after(almost, CallAnswered("get"), *again).state is State.OPEN


def test_a_failed_probe_extends_an_outage_to_all_operations():
    one_kind = after(replace(CLOSED, failed_in_a_row=MANY), FaultProbed("create", "away", passes=True))
    assert not one_kind.affects_all
    assert after(one_kind, OutageProbed(passes=False)).affects_all


@pytest.mark.parametrize("operation", OTHERS)
def test_other_operations_are_admitted_during_a_slow_trial(operation):
    on_trial = after(ONE_OPERATION, CallAsked("create"))
    assert transition(on_trial, CallAsked(operation), NOW + 100)[1] == (Admit(),)
    assert transition(on_trial, CallAsked("create"), NOW + 100)[1] == (Refuse(WAITS),)


def test_a_trial_without_an_outcome_allows_the_next_trial():
    assert after(ON_TRIAL, TrialEnded()) == HALF_OPEN


def test_probe_intervals_grow_with_failed_probes_and_failed_trials():
    breaker, seconds = OPEN, []
    for _ in range(6):
        breaker, (_, probe) = transition(breaker, OutageProbed(passes=False), NOW)
        assert isinstance(probe, ProbeIn)
        seconds.append(probe.seconds)
    assert seconds == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    seconds = []
    for _ in range(5):
        breaker = after(breaker, OutageProbed(passes=True), CallAsked("create"))
        breaker, (*_, probe) = transition(breaker, FaultProbed("create", "away", passes=False), NOW)
        assert isinstance(probe, ProbeIn)
        seconds.append(probe.seconds)
    assert seconds == [2.0, 4.0, 8.0, 15.0, 15.0]
    breaker = after(breaker, OutageProbed(passes=True), CallAsked("create"), CallAnswered("create"))
    assert (breaker.state, breaker.failed_trials) == (State.CLOSED, 0)


def test_an_operation_alerts_once_until_a_call_of_it_succeeds():
    opened = after(CLOSED, FaultProbed("create", "away", passes=False), OutageProbed(passes=True))
    closed_by_another = after(opened, CallAsked("get"), CallAsked("list"), now=NOW + 2)
    closed_by_another = after(closed_by_another, CallAnswered("get"))
    assert closed_by_another.state is State.CLOSED
    failed = FaultProbed("create", "away", passes=False)
    assert Alert("create", "away", again=True) in transition(closed_by_another, failed, NOW)[1]
    well = after(closed_by_another, CallAnswered("create"))
    assert Alert("create", "away", again=False) in transition(well, failed, NOW)[1]
