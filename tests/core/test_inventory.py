"""The resources of a subaccount, as values."""

import pytest

from worker.core.inventory import NOTHING, Counts, Inventory, ProvidedResource, owned_by

OURS, OTHERS = "SA000000000000000001", "SA000000000000000002"


def test_only_what_is_ours_counts_whatever_the_filter_did():
    listed = [ProvidedResource("1", OURS), ProvidedResource("2", OTHERS), ProvidedResource("3", None)]
    assert owned_by(OURS, listed) == ["1"]


def test_the_counts_are_by_kind_and_in_total():
    inventory = Inventory(("14155550000", "14155550001"), ("app",), ("e1", "e2", "e3"))
    assert inventory.counts == Counts(numbers=2, applications=1, endpoints=3)
    assert inventory.counts.total == 6


def test_nothing_is_a_total_of_zero():
    assert (NOTHING.counts, NOTHING.counts.total) == (Counts(0, 0, 0), 0)


@pytest.mark.parametrize("field", ["numbers", "applications", "endpoints"])
def test_one_resource_of_any_kind_counts(field):
    assert Inventory(**{field: ("1",)}).counts.total == 1
    assert getattr(Inventory(**{field: ("1",)}).counts, field) == 1
