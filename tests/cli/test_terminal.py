"""Text from other systems steers no terminal, and what an output cannot show is escaped."""

import io
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rich.console import Console

from worker.cli import terminal
from worker.cli.streams import ERRORS, ReaderGone

STEERING = "a\x1b[31m\x07\x7f\x9b2J\r\nb"
ESCAPED = r"a\x1b[31m\x07\x7f\x9b2J\r\nb"

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\xad\u2028\u2029\u180e\u034f\u115f\u3164\uffa0\u2800\ufe0f"
BEYOND = "\U000e0041\U000e0100\U0001d173\ud800"


@pytest.fixture
def out(monkeypatch):
    """Makes a console for a terminal or for a pipe, in an encoding."""

    def opened(*, is_terminal=False, width=40, encoding="utf-8"):
        width = width if is_terminal else terminal.WIDE
        written = io.BytesIO()
        shown = io.TextIOWrapper(written, encoding, ERRORS, write_through=True)
        console = Console(file=shown, width=width, force_terminal=is_terminal, color_system=None)
        monkeypatch.setattr(terminal, "OUT", console)
        return lambda: written.getvalue().decode(encoding)

    return opened


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_are_shown_as_their_escapes(out, is_terminal):
    shown = out(is_terminal=is_terminal)
    terminal.print_table(("id", STEERING), [(STEERING, "[bold]:smile: \\[x]")], "")
    terminal.print_facts(STEERING, {STEERING: STEERING})
    terminal.say(STEERING)
    said = shown()
    assert not [char for char in said if (char < " " and char != "\n") or "\x7f" <= char < "\xa0"]
    assert said.count(ESCAPED) == 6
    assert "[bold]:smile: \\[x]" in said


@pytest.mark.parametrize("char", [*BIDI, *INVISIBLE, *BEYOND], ids=ascii)
def test_a_character_that_turns_text_or_shows_nothing_is_escaped(out, char):
    shown = out()
    terminal.print_table(("name",), [(f"Sales {char}delete em",)], "")
    terminal.print_facts("x", {"name": f"{char}"})
    terminal.say(f"{char}!")
    escape = char.encode("unicode_escape").decode()
    assert shown().count(escape) == 3
    assert char not in shown()


@pytest.mark.parametrize("text", ["Équipe 営業 🚀", "e\u0301", "مبيعات", "a b", "\u2013", "नमस्ते"])
def test_other_characters_are_shown_as_they_are(text):
    assert terminal.visible(text) == text


def test_json_output_is_ascii(out):
    shown = out()
    value = {"detail": STEERING, "name": "Équipe 営業 🚀", "odd": BIDI + INVISIBLE + "\U000e0041\x9b\x7f"}
    terminal.print_json(value)
    assert shown().isascii()
    assert not [char for char in shown() if (char < " " and char != "\n") or char == "\x7f"]
    assert json.loads(shown()) == value


def test_json_for_people_keeps_letters_and_escapes_what_cannot_be_seen():
    text = terminal.readable_json({"name": "営業 \u202e\U000e0041\x9b"})
    assert text == '{\n  "name": "営業 \\u202e\\udb40\\udc41\\u009b"\n}'


@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", r"Équipe \u55b6\u696d"), ("ascii", r"\xc9quipe \u55b6\u696d")]
)
def test_what_an_encoding_lacks_is_escaped_and_columns_stay_aligned(out, encoding, name):
    shown = out(encoding=encoding)
    terminal.print_table(("name", "status"), [("Équipe 営業", "active"), ("Sales", "active")], "")
    _, header, _, first, second, _ = shown().split("\n")[:6]
    assert first.startswith(f"{name}  active")
    assert header.index("status") == first.index("active") == second.index("active")


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 28, 10, 14, 30, 375467, UTC),
        datetime(2026, 11, 28, 12, 14, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_are_shown_in_utc_and_say_so(out, value):
    shown = out()
    terminal.print_table(("at",), [(value,)], "")
    terminal.print_facts("x", {"at": value})
    assert shown().count("2026-11-28 10:14:30Z") == 2


def test_error_lines_escape_control_characters(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "ERR", Console(file=shown, width=40, color_system=None))
    terminal.complain([STEERING, "\u202e :smile: [bold]"])
    terminal.advise("\u2066")
    assert shown.getvalue().splitlines() == [ESCAPED, r"\u202e :smile: [bold]", r"\u2066"]


def test_a_reader_who_left_is_told_apart_from_a_failure(monkeypatch):
    class Pipe(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    console = Console(file=Pipe(), width=40)
    monkeypatch.setattr(terminal, "OUT", console)
    for say in (lambda: terminal.say("x"), lambda: terminal.print_json(1)):
        with pytest.raises(ReaderGone):
            say()
