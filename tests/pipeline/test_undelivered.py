"""Credentials that cannot be delivered hold the intake for as long as anybody owes them, and no longer."""

import pytest

from tests.support.builders import NOW, SALES
from worker.adapters.memory.clock import MemoryClock
from worker.flow.gate import Intake
from worker.flow.undelivered import Undelivered
from worker.flow.waiting import WaitingRoom
from worker.ports import Unroutable
from worker.telemetry.events import Telemetry

LEGAL = SALES._replace(id="legal")
NOBODY = Unroutable("nobody is bound")


@pytest.fixture
def intake() -> Intake:
    clock = MemoryClock(NOW)
    return Intake(clock, Telemetry(), WaitingRoom(clock, 10))


@pytest.fixture
def undelivered(intake: Intake) -> Undelivered:
    return Undelivered(intake)


def test_it_is_held_until_they_are_delivered(intake, undelivered):
    undelivered.note(SALES, (), {"crm": NOBODY})
    assert list(intake.holds) == ["credentials of crm"]
    undelivered.note(SALES, {"crm"})
    assert not intake.holds


def test_what_goes_for_one_department_goes_for_all(intake, undelivered):
    undelivered.note(SALES, (), {"crm": NOBODY})
    undelivered.note(LEGAL, {"crm"})
    assert not intake.holds


def test_a_department_that_was_removed_owes_nothing_and_holds_nothing(intake, undelivered):
    undelivered.note(SALES, (), {"": NOBODY})
    undelivered.note(SALES)
    assert not intake.holds


def test_another_department_that_owes_holds_on(intake, undelivered):
    undelivered.note(SALES, (), {"crm": NOBODY})
    undelivered.note(LEGAL, (), {"crm": NOBODY})
    undelivered.note(SALES)
    assert list(intake.holds) == ["credentials of crm"]


def test_each_recipient_holds_for_itself(intake, undelivered):
    undelivered.note(SALES, (), {"crm": NOBODY, "billing": NOBODY})
    undelivered.note(SALES, {"crm"}, {"billing": NOBODY})
    assert list(intake.holds) == ["credentials of billing"]
