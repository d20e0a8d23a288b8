"""Undelivered credentials block the gate for exactly as long as a department owes them."""

import pytest

from tests.support.builders import NOW, SALES
from worker.adapters.memory.clock import MemoryClock
from worker.flow.gate import Gate
from worker.flow.undelivered import UndeliveredCredentials
from worker.flow.waiting import WaitingRoom
from worker.ports import Unroutable
from worker.telemetry.events import Telemetry

LEGAL = SALES._replace(id="legal")
NOBODY = Unroutable("nobody is bound")


@pytest.fixture
def gate() -> Gate:
    clock = MemoryClock(NOW)
    return Gate(clock, Telemetry(), WaitingRoom(clock, 10))


@pytest.fixture
def undelivered(gate: Gate) -> UndeliveredCredentials:
    return UndeliveredCredentials(gate)


def test_the_gate_is_blocked_until_they_are_delivered(gate, undelivered):
    undelivered.update(SALES, (), {"crm": NOBODY})
    assert list(gate.blocks) == ["credentials of crm"]
    undelivered.update(SALES, {"crm"})
    assert not gate.blocks


def test_a_delivery_for_one_department_unblocks_its_recipient(gate, undelivered):
    undelivered.update(SALES, (), {"crm": NOBODY})
    undelivered.update(LEGAL, {"crm"})
    assert not gate.blocks


def test_a_department_without_debts_blocks_nothing(gate, undelivered):
    undelivered.update(SALES, (), {"": NOBODY})
    undelivered.update(SALES)
    assert not gate.blocks


def test_another_department_that_owes_keeps_the_gate_blocked(gate, undelivered):
    undelivered.update(SALES, (), {"crm": NOBODY})
    undelivered.update(LEGAL, (), {"crm": NOBODY})
    undelivered.update(SALES)
    assert list(gate.blocks) == ["credentials of crm"]


def test_each_recipient_has_its_own_block(gate, undelivered):
    undelivered.update(SALES, (), {"crm": NOBODY, "billing": NOBODY})
    undelivered.update(SALES, {"crm"}, {"billing": NOBODY})
    assert list(gate.blocks) == ["credentials of billing"]
