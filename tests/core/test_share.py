"""A worker's share of the rate limit, from what it sees of the others."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW, a_worker
from worker.core.presence import WorkerSeen
from worker.core.share import FRESH_SECONDS, LATEST_ARRIVAL, Share

WINDOW = 5.0
SEEN_FOR = Share("a", 300, WINDOW).seen_for_seconds


def share_of(worker_id: str = "w0", limit: int = 300) -> Share:
    return Share(worker_id, limit, WINDOW)


def others(*ids: str, second: float = 0.0, left: bool = False) -> list[WorkerSeen]:
    seen_at = NOW + timedelta(seconds=second)
    return [replace(a_worker(id_), seen_at=seen_at, left=left) for id_ in ids]


def test_nothing_may_be_sent_before_the_first_look():
    assert share_of().calls_at(0.0) == 0


def test_a_worker_alone_has_the_whole_limit_at_once():
    assert share_of().looked(10.0, 10.1, others("w0")).calls_at(10.1) == 300


def test_without_a_fresh_look_nothing_is_sent():
    alone = share_of().looked(10.0, 11.0, [])
    assert alone.calls_at(10.0 + FRESH_SECONDS) == 300
    assert alone.calls_at(10.0 + FRESH_SECONDS + 0.01) == 0


def test_a_newcomer_waits_until_all_have_seen_it_and_their_windows_are_over():
    share = share_of()
    for second in range(20):
        share = share.looked(second, second + 0.5, others("w0", "w1", second=second))
        assert share.calls_at(second + 0.5) == (150 if second + 0.5 >= 0.5 + SEEN_FOR else 0), second
    assert SEEN_FOR > WINDOW + FRESH_SECONDS


def test_a_newcomer_begins_once_it_sees_nobody_any_more():
    share = share_of().looked(0.0, 0.1, others("w1"))
    later = SEEN_FOR / 2
    share = share.looked(later, later, others("w1"))
    assert share.calls_at(later) == 0
    after = SEEN_FOR + 0.2  # the ledger still shows its last announcement
    assert share.looked(after, after, others("w1")).calls_at(after) == 300


def test_a_share_shrinks_once_the_look_before_is_stale():
    share = share_of().looked(0.0, 0.0, []).looked(1.0, 1.0, others("w1", second=1))
    assert share.calls_at(1.0) == share.calls_at(FRESH_SECONDS) == 300
    assert share.calls_at(FRESH_SECONDS + 0.01) == 150
    for second in (2.0, 3.0, 4.0):
        share = share.looked(second, second, others("w1", second=second))
        assert len(share.parts) <= 3, "older looks are forgotten"
    assert share.calls_at(4.0) == 150


def test_a_share_grows_when_the_other_is_seen_no_more():
    share = share_of().looked(0.0, 0.0, []).looked(1.0, 1.0, others("w1", second=1))
    share = share.looked(3.0, 3.0, [])  # the ledger's clock has jumped: it shows nobody
    assert share.calls_at(3.0) == 150
    until = 1.0 + SEEN_FOR
    assert share.looked(until, until, []).calls_at(until) == 150
    assert share.looked(until + 0.1, until + 0.1, []).calls_at(until + 0.1) == 300


def test_a_worker_that_has_left_counts_until_its_calls_are_over():
    share = share_of().looked(0.0, 0.0, others("w1"))
    for second in range(1, 20):
        share = share.looked(second, second, others("w1", second=second))
    left = others("w1", second=19.5, left=True)
    share = share.looked(20.0, 20.0, left)
    over = 20.0 + share.left_for_seconds
    assert WINDOW * (1 + LATEST_ARRIVAL) < share.left_for_seconds < SEEN_FOR - FRESH_SECONDS
    assert share.looked(over, over, left).calls_at(over) == 150
    assert share.looked(over + 0.1, over + 0.1, left).calls_at(over + 0.1) == 300


@pytest.mark.parametrize(("gap", "calls"), [(SEEN_FOR - 0.1, 150), (SEEN_FOR + 0.1, 0)])
def test_a_worker_that_was_out_of_sight_is_a_newcomer_again(gap, calls):
    share = share_of()
    for second in range(10):
        share = share.looked(second, second, others("w1", second=second))
    back = 9 + gap
    share = share.looked(back, back, others("w1", second=back))
    assert share.calls_at(back) == calls


@given(limit=st.integers(1, 400), workers=st.integers(1, 12))
def test_the_shares_of_all_sum_up_to_the_limit(limit, workers):
    ids = [f"w{number:02}" for number in range(workers)]
    parts = [share_of(id_, limit).looked(0.0, 0.0, others(*ids)).part for id_ in ids]
    assert sum(parts) == limit
    assert max(parts) - min(parts) <= 1


@given(limit=st.integers(1, 400), data=st.data())
def test_views_that_have_more_workers_in_them_never_sum_up_to_more(limit, data):
    """Each of those that send sees all that send, and perhaps some that do not send yet, or any more."""
    names = [f"w{number:02}" for number in range(14)]
    sending = data.draw(st.sets(st.sampled_from(names), min_size=1))
    parts = []
    for id_ in sending:
        view = sending | data.draw(st.sets(st.sampled_from(names)))
        parts.append(share_of(id_, limit).looked(0.0, 0.0, others(*view)).part)
    assert sum(parts) <= limit
