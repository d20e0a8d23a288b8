"""Output is complete, and control characters from other systems never reach the terminal."""

import io
import json

import pytest
from rich.console import Console

from worker.cli import terminal

UUID = "32aca478-953c-4b79-bce4-6208c99da072"
STEERING = "a\x1b[31m\x07\x7f\x9b2J\r\nb"


@pytest.fixture
def out(monkeypatch):
    """Makes a console for a terminal or for a pipe."""

    def opened(*, is_terminal, width=40):
        width = width if is_terminal else terminal.WIDE
        shown = io.StringIO()
        console = Console(file=shown, width=width, force_terminal=is_terminal, color_system=None)
        monkeypatch.setattr(terminal, "OUT", console)
        return shown

    return opened


def test_wide_text_is_wrapped_without_loss(out):
    shown = out(is_terminal=True)
    terminal.print_table(("event id", "detail"), [(UUID, "word " * 20)], "")
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    width = lines[1].index("detail")
    assert "".join(line[:width].strip() for line in lines[3:]) == UUID
    assert "…" not in shown.getvalue()


def test_an_id_stays_on_one_line_if_other_columns_can_shrink(out):
    shown = out(is_terminal=True, width=80)
    terminal.print_table(("event id", "detail"), [(UUID, "word " * 20)], "")
    assert UUID in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_in_a_pipe_each_row_is_one_line_without_padding(out):
    shown = out(is_terminal=False)
    terminal.print_table(("event id", "detail"), [(UUID, "word " * 100), ("e", "short")], "")
    lines = shown.getvalue().splitlines()
    assert f" {UUID}   {'word ' * 100}".rstrip() in lines
    assert lines == [line.rstrip() for line in lines]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_are_shown_as_their_escapes(out, is_terminal):
    shown = out(is_terminal=is_terminal)
    terminal.print_table(("id", STEERING), [(STEERING, "[bold]:smile: \\[x]")], "")
    said = shown.getvalue()
    assert not [char for char in said if (char < " " and char != "\n") or "\x7f" <= char < "\xa0"]
    assert r"\x1b[31m\x07\x7f\x9b2J\r\nb" in said.replace("\n", "") or is_terminal
    assert "[bold]:smile: \\[x]" in said or is_terminal


def test_json_output_escapes_control_characters(out):
    shown = out(is_terminal=False)
    terminal.print_json({"detail": STEERING, "name": "Ä\xa0Â\u009b"})
    said = shown.getvalue()
    assert not [char for char in said if "\x7f" <= char < "\xa0"]
    assert json.loads(said) == {"detail": STEERING, "name": "Ä\xa0Â\u009b"}


def test_error_lines_escape_control_characters(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "ERR", Console(file=shown, width=40, color_system=None))
    terminal.complain([STEERING])
    assert shown.getvalue() == r"a\x1b[31m\x07\x7f\x9b2J\r\nb" + "\n"
