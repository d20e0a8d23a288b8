"""Log lines of one event loop iteration are written together; none is delayed further or lost at exit."""

import asyncio
import sys
import threading

from worker.telemetry.logs import GatheredLines


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
