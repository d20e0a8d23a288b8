"""Output: text, tables and JSON on stdout, errors and hints on stderr. Nothing from outside controls it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from worker.cli.streams import ReaderGone
from worker.cli.tables import GAP, Column, laid_out, padded, wrapped
from worker.core.visible import is_odd, visible

WIDE = 10_000
"""The width of output that is not a terminal: scripts get each row in one line."""


def _leave_off(self: Console) -> NoReturn:  # noqa: ARG001 - a method
    raise ReaderGone from None


Console.on_broken_pipe = _leave_off  # type: ignore[method-assign] # of typer's consoles, too
OUT = Console()
ERR = Console(stderr=True)
if not OUT.is_terminal:
    OUT.width = WIDE

_STYLES = {
    "active": "green",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "created": "green",
    "claimed": "yellow",
    "disabled": "yellow",
    "gone": "red",
    "in use": "green",
    "older": "dim",
    "unusable": "red",
    "unsafe": "yellow",
    "missing": "red",
    "differs": "red",
    "refused": "red",
    "deleting": "red",
    "removed": "dim",
    "absent": "dim",
}


def complain(lines: Iterable[str]) -> None:
    """Prints errors on stderr, in red."""
    for line in lines:
        ERR.print(visible(line), style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)


def advise(*lines: str) -> None:
    """Prints hints on stderr."""
    for line in lines:
        ERR.print(visible(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(line: str, style: str | None = None) -> None:
    """Prints one line on stdout, as it is: no markup, no wrapping."""
    OUT.print(Text(_showable(visible(line)), style or ""), soft_wrap=True)


def _showable(text: str) -> str:
    """Escapes the characters that the encoding of stdout lacks, so that widths are those of the output."""
    encoding = getattr(OUT.file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def ascii_json(document: bytes) -> bytes:
    """Escapes in JSON whatever is not printable ASCII: only strings can hold it, and there it is allowed."""
    if document.isascii() and b"\x7f" not in document:
        return document
    return re.sub(r"[^\x00-\x7e]", _json_escape, document.decode()).encode()


def readable_json(value: Any) -> str:
    """A JSON document for people: indented, with the characters of `visible` escaped as JSON does."""
    text = to_json(value, indent=2).decode()
    return "\n".join(re.sub(r"[^\x20-\x7e]", _json_escape_invisible, line) for line in text.split("\n"))


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _json_escape_invisible(found: re.Match[str]) -> str:
    return _json_escape(found) if is_odd(found[0]) else found[0]


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout."""
    write(ascii_json(to_json(value, indent=2)).decode() + "\n")


@contextmanager
def json_array() -> Iterator[Callable[[Any], None]]:
    """Prints a JSON array as `print_json` does, item by item. The block gets a function that adds one."""
    begun = False

    def add(item: Any) -> None:
        nonlocal begun
        text = ascii_json(to_json(item, indent=2)).decode().replace("\n", "\n  ")
        write(f"{',' if begun else '['}\n  {text}")
        begun = True

    yield add
    write("\n]\n" if begun else "[]\n")


def write(text: str) -> None:
    """Writes text to stdout as it is. Raises `ReaderGone`."""
    try:
        OUT.file.write(text)
    except BrokenPipeError:
        raise ReaderGone from None


def flush() -> None:
    """Hands what was written to the reader. Raises `ReaderGone`."""
    try:
        OUT.file.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def moment(value: datetime) -> str:
    """A time as people are shown it: in UTC, to the second, `2026-11-28 10:14:30Z`."""
    return value.astimezone(UTC).isoformat(" ", "seconds").replace("+00:00", "Z")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, width: int | None = None
) -> None:
    """Prints a table, or the line `empty` if there are no rows. States are coloured.

    `width` is in cells, by default that of the output. If it is too narrow, some columns stand under their
    row (`laid_out`); no word is broken or cut.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        say(empty)
        return
    titled = [Column(_cell(title), of) for title, of in zip(columns, zip(*cells, strict=True), strict=True)]
    _print_lines(laid_out(titled, width or OUT.width))


def print_facts(heading: str, facts: Mapping[str, object]) -> None:
    """Prints names and values in two columns, without empty values. Long values are wrapped at blanks."""
    shown = [(_cell(name), _cell(value)) for name, value in facts.items() if value not in (None, "", (), [])]
    width = max((name.cell_len for name, _ in shown), default=0)
    lines = [Text(_showable(visible(heading)), "bold")]
    for name, value in shown:
        first, *more = wrapped(value, OUT.width - width - GAP)
        lines.append(padded(name, width + GAP) + first)
        lines += [Text(" " * (width + GAP)) + line for line in more]
    _print_lines(lines)


def _print_lines(lines: Iterable[Text]) -> None:
    """Prints the lines of a table, with a blank line before and after them."""
    spaced = (Text(), *lines, Text())
    if not OUT.is_terminal:
        write("".join(f"{line.plain.rstrip()}\n" for line in spaced))
        return
    for line in spaced:
        line.rstrip()
        OUT.print(line, soft_wrap=True)


def _cell(value: object) -> Text:
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case datetime():
            text = moment(value)
        case list() | tuple() | set() | frozenset():
            text = ", ".join(map(str, value))
        case _:
            text = str(value)
    return Text(_showable(visible(text)), _STYLES.get(text, ""))
