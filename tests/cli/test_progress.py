"""Progress of long work: correct during waits, and printed without a terminal too."""

import io

import pytest
from rich.console import Console

from tests.support.builders import NOW
from worker.adapters.memory.clock import MemoryClock
from worker.cli import progress, terminal
from worker.cli.progress import Meter, _speed_text, _time_text


@pytest.fixture
def clock(monkeypatch):
    clock = MemoryClock(NOW)
    monkeypatch.setattr(progress, "SystemClock", lambda: clock)
    return clock


@pytest.fixture
def printed_lines(monkeypatch):
    """Lines printed to stderr when it is not a terminal."""
    file = io.StringIO()
    monkeypatch.setattr(terminal, "ERR", Console(file=file, width=200))
    return lambda: file.getvalue().splitlines()


def test_a_meter_reports_progress_and_recent_speed(clock):
    meter = Meter(clock, 1_000, sent=0)
    assert meter.words == ["0/1,000", "0 sent"]
    meter.sent = 20
    for _ in range(100):
        clock.advance(1)
        meter.add(4)
    assert meter.words == ["400/1,000", "20 sent", "4.0/s", "2:30 left"]
    clock.advance(15)
    assert meter.words == ["400/1,000", "20 sent", "2.0/s", "5:00 left"]
    clock.advance(15)
    assert meter.words == ["400/1,000", "20 sent"], "nothing came of anything for half a minute"


def test_a_reported_rate_never_exceeds_the_requested_rate(clock):
    meter = Meter(clock, 1_000, per_second=5)
    clock.advance(1)
    meter.add(50)
    assert meter.words == ["50/1,000", "5.0/s", "3:10 left"]


@pytest.mark.parametrize(("speed", "text"), [(0.04, "0.0"), (9.99, "9.9"), (10.9, "10"), (4_200, "4,200")])
def test_a_speed_is_rounded_down(speed, text):
    assert _speed_text(speed) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (61, "1:01"), (7_322, "2:02:02")])
def test_a_duration_is_formatted(seconds, text):
    assert _time_text(seconds) == text


def test_without_a_terminal_progress_lines_are_printed_at_intervals(clock, printed_lines):
    with progress.progress("looking") as display:
        for number in range(1, 36):
            clock.advance(1)
            display.at(number * 100)
    assert printed_lines() == [
        "looking: 1,000, 100/s",
        "looking: 2,000, 100/s",
        "looking: 3,000, 100/s",
    ]


def test_short_work_reports_no_progress(clock, printed_lines):
    with progress.progress("looking") as display:
        clock.advance(9)
        display.at(500)
    assert printed_lines() == []


@pytest.mark.usefixtures("clock")
def test_a_wait_is_explained_once(printed_lines):
    with progress.progress("replaying", 8, tracked=True) as display:
        display.sent(3)
        display.settled(2)
        for seconds in (1, 3, 7, 9.9, 10.1, 15):
            display.waiting(seconds)
        display.waiting(12)
    assert printed_lines() == ["sent 3, waiting for an answer: is a worker running, and ready? Ctrl-C stops"]
    assert (display.meter.sent, display.meter.done) == (3, 2)


@pytest.mark.usefixtures("clock")
def test_without_tracking_sent_messages_count_as_done():
    with progress.progress("replaying", 8) as display:
        display.sent(3)
    assert display.meter.words == ["3/8"]


def test_on_a_terminal_progress_is_a_bar(clock, monkeypatch):
    file = io.StringIO()
    err = Console(file=file, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "ERR", err)
    with progress.progress("replaying", 3_000, 5, tracked=True) as display:
        display.sent(150)
        clock.advance(20)
        display.settled(100)
        display._bar.refresh()
    drawn = file.getvalue()
    assert "100/3,000  150 sent  5.0/s  9:40 left" in drawn
    assert "…" not in drawn
