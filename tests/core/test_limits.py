"""Limits of removals: windows, percentages, and no order or timing that exceeds one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW
from worker.core.limits import (
    AT_LEAST,
    DEFAULT_LIMIT,
    Admission,
    RemovalLimit,
    TenantCounts,
    Window,
    WindowCount,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def percent(most: Fraction | int, length: timedelta = DAY) -> Window:
    return Window(Fraction(most), length, is_percentage=True)


def plain(most: int, length: timedelta = DAY) -> Window:
    return Window(most, length, is_percentage=False)


@pytest.mark.parametrize(
    ("window", "departments", "allowed"),
    [
        (percent(10), 0, 3),
        (percent(10), 39, 3),
        (percent(10), 40, 4),
        (percent(10), 49, 4),
        (percent(10), 1000, 100),
        (percent(Fraction("0.1")), 10_000, 10),
        (percent(Fraction(29, 10)), 1000, 29),
        (percent(100), 7, 7),
        (plain(1), 1000, 1),
        (plain(20), 5, 20),
    ],
)
def test_a_percentage_is_rounded_down_but_never_below_three(window, departments, allowed):
    assert window.allowed(departments) == allowed


def test_windows_begin_their_length_before_the_removal():
    assert Admission(DEFAULT_LIMIT, NOW).since == [NOW - DAY, NOW - 30 * DAY]


@pytest.mark.parametrize(
    ("counts", "window"),
    [
        (TenantCounts(40, (WindowCount(0, 0), WindowCount(0, 0))), None),
        (TenantCounts(37, (WindowCount(3, 3), WindowCount(3, 3))), None),
        (TenantCounts(36, (WindowCount(4, 4), WindowCount(4, 4))), 0),
        (TenantCounts(500, (WindowCount(0, 0), WindowCount(19, 19))), None),
        (TenantCounts(500, (WindowCount(0, 0), WindowCount(20, 20))), 1),
        (TenantCounts(10, (WindowCount(4, 4), WindowCount(20, 20))), 0),
        (TenantCounts(40, (WindowCount(4, 0), WindowCount(4, 0))), 0),
    ],
    ids=["none", "one left", "day", "one left of a month", "month", "both", "existing again"],
)
def test_the_first_window_that_is_used_up_is_named(counts, window):
    used_up = None if window is None else DEFAULT_LIMIT[window]
    assert Admission(DEFAULT_LIMIT, NOW).used_up(counts) == used_up
    assert Admission(DEFAULT_LIMIT, NOW).allows(counts) is (used_up is None)


def test_the_last_active_department_is_not_removed_unless_there_is_no_limit():
    last = TenantCounts(1, (WindowCount(0, 0),))
    assert Admission((plain(5),), NOW).is_last_active(last)
    assert not Admission((plain(5),), NOW).allows(last)
    assert not Admission((plain(5),), NOW).is_last_active(TenantCounts(2, last.windows))
    assert Admission((), NOW).allows(TenantCounts(1))


@dataclass
class Tenant:
    """A model of one tenant: when each department was removed last, and all removals that count."""

    active: set[int]
    removals: list[tuple[datetime, int]] = field(default_factory=list)

    def counts(self, since: list[datetime]) -> TenantCounts:
        windows = []
        for begin in since:
            within = [department for at, department in self.removals if at > begin]
            windows.append(WindowCount(len(within), len(set(within) - self.active)))
        return TenantCounts(len(self.active), tuple(windows))

    def remove(self, department: int, at: datetime, limit: RemovalLimit) -> bool:
        admission = Admission(limit, at)
        if department not in self.active or not admission.allows(self.counts(list(admission.since))):
            return False
        self.active.remove(department)
        self.removals.append((at, department))
        return True

    def restore(self, department: int) -> None:
        """Its last removal no longer counts."""
        self.active.add(department)
        last = max(number for number, (_, who) in enumerate(self.removals) if who == department)
        del self.removals[last]

    def create_again(self, department: int) -> None:
        """Its deletion still counts."""
        self.active.add(department)


@pytest.mark.parametrize(
    ("departments", "removed"), [(1, 0), (2, 1), (3, 2), (4, 3), (10, 3), (40, 4), (60, 6), (1000, 20)]
)
def test_a_wiped_org_chart_is_held_but_for_a_few(departments, removed):
    tenant = Tenant(set(range(departments)))
    for number in range(departments):
        tenant.remove(number, NOW + number * timedelta(seconds=1), DEFAULT_LIMIT)
    assert len(tenant.removals) == removed


def test_a_slow_drip_is_held_by_the_longer_window():
    """One removal a day never uses up a day's window."""
    tenant = Tenant(set(range(60)))
    removed = [tenant.remove(day, NOW + day * DAY, DEFAULT_LIMIT) for day in range(50)]
    assert removed == [*[True] * 20, *[False] * 10, *[True] * 20]


windows = st.builds(
    lambda most, hours, is_percentage: Window(
        Fraction(most) if is_percentage else most, timedelta(hours=hours), is_percentage
    ),
    st.integers(1, 60),
    st.integers(1, 72),
    st.booleans(),
)
limits = st.lists(windows, min_size=1, max_size=3).map(tuple)
steps = st.lists(
    st.tuples(
        st.sampled_from(["remove", "remove", "remove", "restore", "create again"]),
        st.integers(0, 24),
        st.integers(-36, 36).map(lambda hours: hours * HOUR),
    ),
    max_size=80,
)
"""The change of a department, and how far the clock of that worker then is from the last one's."""


@given(limit=limits, departments=st.integers(1, 25), steps=steps)
def test_no_order_or_timing_exceeds_a_window_or_removes_the_last_department(limit, departments, steps):
    """Every worker counts by its own clock, and the clocks may differ by days."""
    tenant = Tenant(set(range(departments)))
    at = NOW
    for action, department, apart in steps:
        at += apart
        inactive = department < departments and department not in tenant.active
        if action == "remove" and tenant.remove(department, at, limit):
            assert list(exceeded(tenant, limit, at)) == []
            assert tenant.active
        elif action == "restore" and inactive:
            tenant.restore(department)
        elif action == "create again" and inactive:
            tenant.create_again(department)


def exceeded(tenant: Tenant, limit: RemovalLimit, at: datetime) -> Iterator[Window]:
    """The windows with more removals than they allow, counted anew: any that hold the removal at `at`."""
    for window in limit:
        for end in {removal for removal, _ in tenant.removals if at <= removal < at + window.length} | {at}:
            within = [one for one, _ in tenant.removals if end - window.length < one <= end]
            removed = {who for one, who in tenant.removals if one > at - window.length} - tenant.active
            share = int(window.most * (len(tenant.active) + len(removed)) / 100)
            if len(within) > (max(AT_LEAST, share) if window.is_percentage else window.most):
                yield window
