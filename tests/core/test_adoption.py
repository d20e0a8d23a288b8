"""Scans of the provider's list after an unknown create, while the list changes between pages."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, pairwise, repeat
from random import Random

import pytest
from hypothesis import event as note_event
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import NOW, an_entry
from worker.core.adoption import (
    CLEAN_SCANS_WHEN_LOST,
    MARGIN,
    Adoption,
    Match,
    Update,
    choose,
    duplicates_of,
    far_enough,
    in_question,
    is_lost,
    plan_adoption,
    plan_repair,
    seconds_to_next_scan,
)
from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.listed import ListedSubaccount
from worker.core.model.entry import Status
from worker.core.pages import Cursor, Reading

# A failure prints a line that replays it; --hypothesis-seed repeats a whole run.
thoroughly = settings(max_examples=500, deadline=None, print_blob=True)

TODAY = NOW.date()
WINDOW = timedelta(seconds=120)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)


def seen(auth_id: str, days_ago: int = 0) -> ListedSubaccount:
    return ListedSubaccount(auth_id, f"Sales {auth_id}", enabled=True, created=TODAY - days_ago * DAY)


class TestFarEnough:
    @pytest.mark.parametrize(
        ("days_ago", "enough"), [(0, False), (1, False), (2, False), (3, True), (9, True)]
    )
    @pytest.mark.parametrize("time", [NOW.replace(hour=0), NOW, NOW.replace(hour=23, minute=59)])
    def test_a_scan_ends_more_than_two_days_before_the_claim(self, days_ago, enough, time):
        assert far_enough((seen("SA2"), seen("SA1", days_ago)), time) is enough

    def test_the_last_item_counts_as_the_oldest(self):
        assert not far_enough((seen("SA1", 9), seen("SA2")), NOW)

    def test_an_empty_page_is_not_far_enough(self):
        assert not far_enough((), NOW)

    @given(st.integers(-14 * 60, 14 * 60), st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)))  # noqa: DTZ001
    def test_no_time_zone_of_the_provider_makes_the_create_too_old(self, minutes, at):
        started_at = at.replace(tzinfo=NOW.tzinfo)
        shown = (started_at + timedelta(minutes=minutes)).date()

        assert not far_enough((ListedSubaccount("SA1", "Sales", enabled=True, created=shown),), started_at)


@dataclass
class Shifting:
    """A list of subaccounts, newest first, that changes before each page is read."""

    held: list[ListedSubaccount]
    changes: list[list[int | None]]
    throughout: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.throughout = {one.auth_id for one in self.held}
        self._changes = chain(self.changes, repeat([]))
        self._made = 0

    def page(self, offset: int, size: int) -> list[ListedSubaccount]:
        for position in next(self._changes):
            self._create() if position is None else self._delete(position)
        return self.held[offset : offset + size]

    def _create(self) -> None:
        self._made += 1
        self.held.insert(0, seen(f"NEW{self._made}"))

    def _delete(self, position: int) -> None:
        if self.held:
            self.throughout.discard(self.held.pop(position % len(self.held)).auth_id)


def scan(listed: Shifting, size: int, since: datetime | None = None) -> set[str] | None:
    """The ids a complete scan saw; None if it must restart. Mirrors `worker/provider/scan.py`."""
    seen_ids: set[str] = set()
    cursor = Cursor()
    while True:
        page = listed.page(cursor.offset, size)
        reading = cursor.take([one.auth_id for one in page])
        if reading is Reading.BROKEN:
            return None
        seen_ids |= {one.auth_id for one in page}
        if reading is Reading.COMPLETE or (since and far_enough(page, since)):
            return seen_ids


@st.composite
def lists(draw) -> list[ListedSubaccount]:
    ages = sorted(draw(st.lists(st.integers(0, 6), max_size=25)))
    return [seen(f"SA{number:02d}", days_ago) for number, days_ago in enumerate(ages)]


creates = st.none()
deletions = st.integers(0, 40)
sizes = st.integers(2, 6)


class TestScans:
    """Each inner list holds the changes before one page: `None` is a create, a number a deleted position."""

    @thoroughly
    @given(lists(), st.lists(st.lists(creates | deletions, max_size=7), max_size=12), sizes)
    def test_a_complete_scan_sees_all_that_existed_throughout(self, held, changes, size):
        listed = Shifting(held, changes)

        seen_ids = scan(listed, size)

        note_event("begins again" if seen_ids is None else "complete")
        assert seen_ids is None or seen_ids >= listed.throughout

    @thoroughly
    @given(lists(), st.lists(st.lists(creates | deletions, max_size=7), max_size=12), sizes)
    def test_a_scan_that_stops_before_the_claim_sees_all_recent_ones(self, held, changes, size):
        recent = {one.auth_id for one in held if one.created >= TODAY - 3 * DAY}
        listed = Shifting(held, changes)

        seen_ids = scan(listed, size, since=NOW - DAY)

        note_event("begins again" if seen_ids is None else "complete")
        assert seen_ids is None or seen_ids >= listed.throughout & recent

    @thoroughly
    @given(lists(), sizes, st.data())
    def test_creates_alone_never_restart_a_scan(self, held, size, data):
        fewer_than_a_page = st.lists(creates, max_size=size - 1)
        listed = Shifting(held, data.draw(st.lists(fewer_than_a_page, max_size=12)))

        seen_ids = scan(listed, size)

        assert seen_ids is not None
        assert seen_ids >= listed.throughout

    @pytest.mark.parametrize("length", range(13))
    @pytest.mark.parametrize("size", [2, 3, 4])
    def test_an_unchanged_list_is_seen_completely(self, length, size):
        held = [seen(f"SA{number}") for number in range(length)]

        assert scan(Shifting(held, []), size) == {one.auth_id for one in held}

    def test_a_scan_stops_two_days_before_the_claim(self):
        held = [seen(f"SA{days_ago}", days_ago) for days_ago in range(9)]

        assert scan(Shifting(held, []), 2, since=NOW) == {"SA0", "SA1", "SA2", "SA3"}

    @pytest.mark.parametrize("changed_before", [1, 2])
    def test_a_gap_caused_by_a_deletion_is_detected(self, changed_before):
        held = [seen(f"SA{number}") for number in range(9)]

        assert scan(Shifting(held, [[]] * changed_before + [[0]]), 3) is None

    def test_a_list_emptied_during_a_scan_is_incomplete(self):
        held = [seen(f"SA{number}") for number in range(3)]

        assert scan(Shifting(held, [[], [0, 0, 0]]), 3) is None


def match(auth_id: str, days_ago: int = 0, incarnation: int = 1, *, enabled: bool = True) -> Match:
    return Match(incarnation, replace(seen(auth_id, days_ago), enabled=enabled))


def ids(matches: Iterable[Match]) -> list[str]:
    return [one.subaccount.auth_id for one in matches]


class TestChoose:
    @pytest.mark.parametrize(
        ("on_record", "kept"), [(None, "SA5"), ("SA9", "SA9"), ("SA2", "SA2"), ("SA0", "SA5"), ("SA5", "SA5")]
    )
    def test_the_recorded_one_is_kept_else_the_oldest_then_by_auth_id(self, on_record, kept):
        matches = [match("SA9", 1), match("SA7", 2), match("SA2", 0), match("SA5", 2)]

        chosen, duplicates = choose(matches, on_record, claimed=True)

        assert ids([chosen]) == [kept]
        assert set(ids(duplicates)) == {"SA9", "SA7", "SA2", "SA5"} - {kept}

    @pytest.mark.parametrize(
        ("matches", "kept"),
        [
            ([match("SA1", 9), match("SA2", incarnation=3), match("SA3", incarnation=2)], "SA2"),
            ([match("SA1", 9), match("SA2", incarnation=3, enabled=False)], "SA2"),
            ([match("SA1", 9, enabled=False), match("SA2")], "SA2"),
            ([match("SA2", 1, enabled=False), match("SA1", enabled=False)], "SA2"),
            ([match("SA3"), match("SA1", 9, 2, enabled=False), match("SA2", 1, 2)], "SA2"),
        ],
    )
    def test_without_a_claim_newest_incarnation_then_enabled_is_kept(self, matches, kept):
        assert ids([choose(matches, None, claimed=False)[0]]) == [kept]

    def test_with_a_claim_the_oldest_is_kept_even_if_disabled(self):
        matches = [match("SA1", 2, enabled=False), match("SA2", 1)]

        assert ids([choose(matches, None, claimed=True)[0]]) == ["SA1"]

    def test_a_single_match_has_no_duplicates(self):
        assert choose([match("SA1"), match("SA1")], None, claimed=True) == (match("SA1"), ())

    def test_an_empty_list_of_matches_is_an_error(self):
        with pytest.raises(ValueError, match="no match to choose from"):
            choose([], "SA1", claimed=True)

    @thoroughly
    @given(
        st.dictionaries(st.sampled_from([f"SA{n}" for n in range(9)]), st.integers(0, 3), min_size=1),
        st.none() | st.sampled_from([f"SA{n}" for n in range(9)]),
        st.integers(0, 2**32),
    )
    def test_the_choice_ignores_order_and_repetition(self, ages, on_record, seed):
        matches = [match(auth_id, days_ago) for auth_id, days_ago in ages.items()]
        again = matches + Random(seed).choices(matches, k=4)
        Random(seed).shuffle(again)

        kept, duplicates = choose(again, on_record, claimed=True)

        oldest = min(ages, key=lambda auth_id: (-ages[auth_id], auth_id))
        assert ids([kept]) == [on_record if on_record in ages else oldest]
        assert sorted(ids([kept, *duplicates])) == sorted(ages)
        assert choose(matches, on_record, claimed=True) == (kept, duplicates)


WITHOUT_RENAME = Capabilities(can_rename=False)


def shown(name: str = "Sales", *, enabled: bool = True) -> ListedSubaccount:
    return ListedSubaccount("SA1", name, enabled, TODAY)


class TestPlanAdoption:
    @pytest.mark.parametrize(
        ("found", "wanted", "at_once", "update", "enabled"),
        [
            (shown(), "Sales", True, Update(), True),
            (shown(), "Marketing", True, Update("Marketing"), True),
            (shown(enabled=False), "Sales", True, Update(enabled=True), True),
            (shown(enabled=False), "Marketing", True, Update("Marketing", enabled=True), True),
            (shown(enabled=False), "Marketing", False, Update("Marketing"), False),
            (shown(), "Sales", False, Update(), True),
            (shown(enabled=False), None, True, Update(), True),
            (shown(enabled=False), None, False, Update(), False),
        ],
    )
    def test_the_kept_subaccount_is_updated_to_the_wanted_state(
        self, found, wanted, at_once, update, enabled
    ):
        plan = plan_adoption(found, (), wanted, EVERYTHING, enables_at_once=at_once)

        assert plan == Adoption((), update, (), enabled)
        assert bool(plan.update) is (update != Update())

    def test_the_name_is_kept_if_the_provider_cannot_rename(self):
        plan = plan_adoption(shown(enabled=False), (), "Marketing", WITHOUT_RENAME, enables_at_once=True)

        assert plan.update == Update(enabled=True)

    def test_all_duplicates_are_reported_and_enabled_ones_are_disabled(self):
        duplicates = [replace(seen("SA2"), enabled=False), seen("SA3")]

        plan = plan_adoption(shown(), duplicates, "Sales", EVERYTHING, enables_at_once=True)

        assert (plan.disable, plan.report) == (("SA3",), ("SA2", "SA3"))

    def test_the_recorded_subaccount_is_no_duplicate(self):
        matches = [match("SA1"), match("SA2")]

        assert [one.auth_id for one in duplicates_of(matches, "SA1")] == ["SA2"]
        assert [one.auth_id for one in duplicates_of(matches, None)] == ["SA1", "SA2"]


class TestPlanRepair:
    @pytest.mark.parametrize("wanted_enabled", [True, False])
    @pytest.mark.parametrize("enabled", [True, False])
    @pytest.mark.parametrize("name", ["Sales", "late"])
    @pytest.mark.parametrize("capabilities", [EVERYTHING, WITHOUT_RENAME], ids=["all", "no rename"])
    def test_a_repair_sends_only_what_differs(self, name, enabled, wanted_enabled, capabilities):
        update = plan_repair(
            shown(name, enabled=enabled), "Sales", capabilities, wanted_enabled=wanted_enabled
        )

        renames = name != "Sales" and capabilities is EVERYTHING
        assert update.name == ("Sales" if renames else None)
        assert update.enabled == (wanted_enabled if enabled != wanted_enabled else None)


class TestInQuestion:
    @pytest.mark.parametrize(("status", "incarnation"), [(Status.ABSENT, 1), (Status.REMOVED, 5)])
    def test_an_outdated_ledger_may_have_missed_32_incarnations(self, status, incarnation):
        entry = an_entry(status, incarnation=incarnation)

        assert list(in_question(entry)) == list(range(incarnation, incarnation + 32))

    def test_a_claim_is_about_one_incarnation(self):
        assert list(in_question(an_entry(Status.CLAIMED, incarnation=3))) == [3]


class TestIsLost:
    @pytest.mark.parametrize(
        ("clean_scans", "after", "lost"),
        [
            (0, 2 * WINDOW, False),
            (1, 2 * WINDOW, False),
            (2, timedelta(0), False),
            (2, WINDOW - TICK, False),
            (2, WINDOW, False),
            (2, WINDOW + TICK, True),
            (3, WINDOW, False),
            (3, WINDOW + TICK, True),
            (100, timedelta(0), False),
        ],
    )
    def test_lost_after_two_clean_scans_the_last_begun_after_the_window(self, clean_scans, after, lost):
        assert is_lost(clean_scans, NOW + after, NOW, WINDOW) is lost

    def test_two_clean_scans_are_enough(self):
        assert CLEAN_SCANS_WHEN_LOST == 2


windows = st.integers(1, 3600).map(lambda seconds: timedelta(seconds=seconds))


def schedule(window: timedelta, took: timedelta = timedelta(0)) -> list[datetime]:
    """The start of each scan, until one may be the last; `took` is the duration of a scan."""
    now = NOW
    scans: list[datetime] = []
    while not scans or scans[-1] <= NOW + window:
        now += timedelta(seconds=seconds_to_next_scan(now, NOW, window))
        scans.append(now)
        now += took
    return scans


class TestScanSchedule:
    def test_default_scans_start_after_5_15_45_and_120_seconds(self):
        begun = [(begun_at - NOW).total_seconds() for begun_at in schedule(WINDOW)]

        assert begun == pytest.approx([5.1, 15.1, 45.1, 120.1])

    @pytest.mark.parametrize(
        ("now", "seconds"),
        [(0, 5.1), (5, 0.1), (5.1, 10), (20, 25.1), (60, 60.1), (120, 0.1), (120.1, 0.1), (9999, 0.1)],
    )
    def test_next_scan_is_scheduled_or_immediate_after_the_window(self, now, seconds):
        seconds_left = seconds_to_next_scan(NOW + timedelta(seconds=now), NOW, WINDOW)

        assert seconds_left == pytest.approx(seconds)

    @given(st.timedeltas(timedelta(0), timedelta(days=30)), windows)
    def test_a_wait_is_positive_and_ends_with_the_window(self, passed, window):
        seconds = seconds_to_next_scan(NOW + passed, NOW, window)

        assert seconds > 0
        assert timedelta(seconds=seconds) <= max(window - passed, timedelta(0)) + MARGIN

    @given(windows)
    def test_scans_start_after_their_moments_the_last_after_the_window(self, window):
        scans = schedule(window)
        moments = [NOW + part * window for part in (1 / 24, 1 / 8, 3 / 8, 1)]

        assert len(scans) == 4 or window < timedelta(seconds=3)
        assert scans[-1] > NOW + window
        for moment in moments:
            assert any(moment < begun_at <= moment + MARGIN + TICK for begun_at in scans)

    @given(windows, st.timedeltas(timedelta(0), timedelta(hours=2)))
    def test_slow_scans_still_advance(self, window, took):
        scans = schedule(window, took)

        assert all(later > earlier for earlier, later in pairwise(scans))
        assert scans[-1] > NOW + window
