"""Lines of one turn of the event loop are written together; none waits longer, and none is lost at an end."""

import asyncio
import sys
import threading

from worker.telemetry.logs import GatheredLines


class Written:
    """What standard error was told, write by write."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> None:
        self.writes.append(text)

    def flush(self) -> None:
        """Nothing is held back."""


async def test_what_is_logged_in_one_turn_is_one_write(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.write("b\n")
    assert written.writes == []
    await asyncio.sleep(0)
    lines.write("c\n")
    await asyncio.sleep(0)
    assert written.writes == ["a\nb\n", "c\n"]


def test_without_a_loop_each_is_written_at_once(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.write("b\n")
    assert written.writes == ["a\n", "b\n"]


async def test_so_is_that_of_another_thread_with_what_has_gathered(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    other = threading.Thread(target=lines.write, args=["b\n"])
    other.start()
    other.join()
    assert written.writes == ["a\nb\n"]
    await asyncio.sleep(0)
    assert written.writes == ["a\nb\n"]


async def test_at_an_end_without_another_turn_it_is_flushed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    lines = GatheredLines()
    lines.write("a\n")
    lines.flush_all()
    assert written.writes == ["a\n"]
