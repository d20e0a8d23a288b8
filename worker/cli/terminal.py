"""Output: tables on a terminal, JSON for scripts, errors and hints on stderr."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 10_000
"""The width of output that is not a terminal: scripts get each row in one line."""

FOLDED_WIDTH, GAP = 20, 3
"""The minimum width of a folded column, and the space between two columns."""

OUT = Console()
ERR = Console(stderr=True)
if not OUT.is_terminal:
    OUT.width = WIDE

_CONTROLS = [chr(number) for number in (*range(0x20), *range(0x7F, 0xA0))]
_ESCAPES = {ord(control): control.encode("unicode_escape").decode() for control in _CONTROLS}
_RAW_IN_JSON = re.compile(rb"\x7f|\xc2[\x80-\x9f]")

_STYLES = {
    "active": "green",
    "ok": "green",
    "created": "green",
    "claimed": "yellow",
    "disabled": "yellow",
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
        ERR.print(visible(line), style="red", markup=False, highlight=False, soft_wrap=True)


def advise(*lines: str) -> None:
    """Prints hints on stderr."""
    for line in lines:
        ERR.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def visible(text: str) -> str:
    """Escapes control characters: text from outside must not control the terminal."""
    return text.translate(_ESCAPES)


def visible_json(document: bytes) -> bytes:
    """Escapes U+007F to U+009F in JSON, which RFC 8259 allows unescaped."""
    return _RAW_IN_JSON.sub(lambda found: b"\\u00%02x" % found[0][-1], document)


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout."""
    OUT.file.write(visible_json(to_json(value, indent=2)).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Prints a table, or the line `empty` if there are no rows. States are coloured.

    Long values are folded, never cut: an id must be whole.
    """
    header, body = [_cell(column) for column in columns], [[_cell(value) for value in row] for row in rows]
    unfolded = _unfolded([header, *body])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(header):
        table.add_column(column, overflow="fold", no_wrap=number in unfolded)
    for row in body:
        table.add_row(*row)
    if not table.row_count:
        OUT.print(empty)
    elif OUT.is_terminal:
        OUT.print(table)
    else:
        _print_unpadded(table)


def _unfolded(rows: Sequence[Sequence[Text]]) -> set[int]:
    """The indices of the columns of single words, if they leave enough width for the others."""
    columns = dict(enumerate(zip(*rows, strict=True)))
    words = {
        number for number, (_, *cells) in columns.items() if not any(" " in cell.plain for cell in cells)
    }
    taken = sum(max(cell.cell_len for cell in columns[number]) for number in words) + GAP * len(columns)
    return words if OUT.width - taken >= FOLDED_WIDTH * (len(columns) - len(words)) else set()


def _print_unpadded(table: Table) -> None:
    with OUT.capture() as captured:
        OUT.print(table)
    OUT.file.writelines(f"{line.rstrip()}\n" for line in captured.get().split("\n")[:-1])


def _cell(value: object) -> Text:
    text = "" if value is None else visible(str(value))
    return Text(text, _STYLES.get(text, ""))
