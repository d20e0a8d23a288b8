"""Log lines: written together, none delayed or lost; what tells most comes first, and nothing repeats."""

import asyncio
import json
import re
import sys
import threading

import pytest

from worker.core.judge import Pause, Transient, Wait
from worker.core.messages import Subject
from worker.core.model.causes import Reference
from worker.telemetry.events import REMEMBERED, Telemetry
from worker.telemetry.logs import GatheredLines, configure_logging


class Written:
    """Records each write to standard error."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> None:
        self.writes.append(text)

    def flush(self) -> None:
        """Does nothing: writes are not buffered."""


async def test_lines_of_one_loop_iteration_are_one_write(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.write("b\n")
    assert written.writes == []
    await asyncio.sleep(0)
    lines.write("c\n")
    await asyncio.sleep(0)
    assert written.writes == ["a\nb\n", "c\n"]


def test_without_a_loop_each_line_is_written_at_once(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.write("b\n")
    assert written.writes == ["a\n", "b\n"]


async def test_a_line_of_another_thread_is_written_at_once_with_pending_ones(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    other = threading.Thread(target=lines.write, args=["b\n"])
    other.start()
    other.join()
    assert written.writes == ["a\nb\n"]
    await asyncio.sleep(0)
    assert written.writes == ["a\nb\n"]


async def test_pending_lines_are_flushed_at_exit(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.flush_all()
    assert written.writes == ["a\n"]


# Their content


@pytest.fixture
def logged(capsys):
    """Logs what the function reports, in one format, and returns the lines."""

    def lines(log_format, report, level="info"):
        configure_logging(log_format, level)
        try:
            report(Telemetry())
        finally:
            configure_logging("json", "error")
        return capsys.readouterr().err.splitlines()

    return lines


def waiting(
    detail="Plivo answered 500 to create", verdict=None, department_id="sales", at=0.0, tenant="default"
):
    subject = Subject(Reference("/hr", "hr-1", "department.created.v1"), tenant, department_id)
    return lambda telemetry: telemetry.waiting(Transient(detail), verdict or Wait(1.5), 1, subject, at)


def test_json_lines_begin_with_event_time_and_level_then_what_tells_most(logged):
    (line,) = logged("json", waiting())
    assert list(json.loads(line)) == [
        *("event", "timestamp", "level", "tenant", "department_id", "event_id", "failure", "detail"),
        *("seconds", "tries"),
    ]
    assert line.isascii()


def test_console_lines_have_one_time_format_and_leave_out_what_says_nothing(logged):
    (line,) = logged("console", waiting())
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ warning step_waiting department_id=sales event_id=hr-1"
        r' failure=transient detail="Plivo answered 500 to create" seconds=1.5 tries=1',
        line,
    )
    (line,) = logged("console", waiting(tenant="acme"))
    assert " tenant=acme department_id=sales " in line


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("odd", ["\u202e", "\x1b[2J", "\x7f", "\x9b", "\u200b", "\ud800", "\n", "\U000e0041"])
def test_no_line_steers_a_terminal(logged, log_format, odd):
    (line,) = logged(log_format, waiting(detail=f"a{odd}b", department_id=f"c{odd}d"))
    assert line.isprintable()
    assert "a\\" in line
    if log_format == "json" and odd != "\ud800":
        assert json.loads(line)["detail"] == f"a{odd}b"


def test_a_text_with_blanks_or_quotes_is_quoted(logged):
    (line,) = logged("console", waiting(detail='say "no"'))
    assert r'detail="say \"no\"" ' in line


def test_a_department_that_waits_is_one_warning_a_minute(logged):
    def report(telemetry):
        for second in range(0, 150, 10):
            waiting(at=float(second))(telemetry)
            waiting(at=float(second), department_id="ops", detail=f"try {second}")(telemetry)

    lines = [json.loads(line) for line in logged("json", report)]
    assert [line["department_id"] for line in lines] == ["sales", "ops"] * 3
    assert len(logged("json", report, "debug")) == 30


def test_a_wait_for_everybody_is_one_warning_a_minute(logged):
    def report(telemetry):
        for number in range(50):
            waiting(verdict=Pause(1.0), department_id=f"d-{number}", at=float(number))(telemetry)

    assert len(logged("json", report)) == 1


def test_what_is_remembered_of_waits_is_bounded(logged):
    telemetry = Telemetry()

    def report(_):
        for number in range(REMEMBERED + 500):
            waiting(department_id=f"d-{number}", at=number / 1e6)(telemetry)

    logged("json", report, "error")
    assert len(telemetry._reported_at) <= REMEMBERED + 1
    waiting(at=1_000.0)(telemetry)
    assert list(telemetry._reported_at) == [("default", "sales")]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_stderr_that_takes_nothing_ends_nothing(log_format, monkeypatch):
    class Full:
        def write(self, _text):
            raise OSError(28, "No space left on device")

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stderr", Full())
    configure_logging(log_format, "info")
    waiting()(Telemetry())
    configure_logging("json", "error")
