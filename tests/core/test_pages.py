"""The cursor over a paged list. `test_adoption.py` and `test_inventories.py` read changing lists with it."""

import random
import tracemalloc

import pytest

from worker.core import pages
from worker.core.pages import MAX_STALE_PAGES, RECENT_IDS, Cursor, Ids, Reading


def after(*taken: str) -> tuple[Cursor, Reading]:
    """The cursor after pages of one-letter ids, and how the reading stands."""
    cursor, reading = Cursor(), Reading.MORE
    for page in taken:
        assert reading is Reading.MORE
        reading = cursor.take(list(page))
    return cursor, reading


def test_the_first_page_begins_the_list():
    assert Cursor().offset == 0


@pytest.mark.parametrize("length", range(1, 7))
def test_the_next_page_begins_with_the_last_item(length):
    cursor, reading = after("abcdef"[:length])
    assert (reading, cursor.offset, cursor.last) == (Reading.MORE, length - 1, "abcdef"[length - 1])


def test_an_empty_list_is_complete_at_once():
    assert after("")[1] is Reading.COMPLETE


@pytest.mark.parametrize("pages", [("a", "a"), ("abc", "c"), ("abc", "cd", "d")])
def test_a_list_is_complete_once_nothing_follows_its_last_item(pages):
    assert after(*pages)[1] is Reading.COMPLETE


@pytest.mark.parametrize("second", ["cde", "bcd", "xyc", "abc"])
def test_a_page_joins_if_it_holds_the_last_item_of_the_previous(second):
    assert after("abc", second)[1] is Reading.MORE


@pytest.mark.parametrize("second", ["", "d", "def", "ab"])
def test_a_page_without_that_item_may_have_skipped_another(second):
    assert after("abc", second)[1] is Reading.BROKEN


def test_a_list_that_repeats_its_pages_is_given_up():
    cursor = Cursor()
    readings = [cursor.take(["a", "b"]) for _ in range(MAX_STALE_PAGES + 1)]
    assert set(readings[:-1]) == {Reading.MORE}
    assert readings[-1] is Reading.BROKEN


def test_a_set_of_many_ids_has_each_once_and_no_other(monkeypatch):
    """Enough for arrays that are merged, and for several that are full."""
    monkeypatch.setattr(pages, "RECENT_IDS", 16)
    monkeypatch.setattr(pages, "SORTED_IDS", 64)
    ids, known = Ids(), set[str]()
    chance = random.Random(7)
    for _ in range(100):
        some = [f"SA{chance.randrange(10**3)}" for _ in range(7)]
        assert ids.add(some) == (not known.issuperset(some))
        known.update(some)
    assert len(ids) == len(known)
    assert all((f"SA{number}" in ids) == (f"SA{number}" in known) for number in range(10**3 + 9))
    assert not ids.add(known)


def test_a_set_of_ids_takes_few_bytes_for_each():
    tracemalloc.start()
    ids = Ids()
    for first in range(0, 5 * RECENT_IDS, RECENT_IDS // 4):
        ids.add(f"SA{number:018}" for number in range(first, first + RECENT_IDS // 4))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ids) == 5 * RECENT_IDS
    assert held / len(ids) < 16
