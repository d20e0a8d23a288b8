"""Lays out tables for a width in cells: columns side by side while they fit, the others under their row.

Widths are those of the terminal: an East Asian wide character takes two cells, a combining mark none.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.text import Text

GAP = 2
"""Cells between two columns, and the indent of what stands under a row."""

PROSE_BLANKS = 3
"""A text with more blanks than this is prose, which may be wrapped."""

_IDS = {"department", "event", "event id", "event or letter", "auth id", "kid", "id"}
_UNTITLED = {"", "detail", "reason", "outcome", "meaning"}
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table: its title and its cells, all without line breaks."""

    title: Text
    cells: Sequence[Text]

    @cached_property
    def width(self) -> int:
        """The cells that the column takes when nothing of it is wrapped."""
        return max(text.cell_len for text in (self.title, *self.cells))

    @property
    def is_id(self) -> bool:
        """Whether it holds ids, which people copy."""
        return self.title.plain in _IDS

    @cached_property
    def is_prose(self) -> bool:
        """Whether it holds sentences; an id is never one, whatever it contains."""
        return not self.is_id and any(cell.plain.count(" ") > PROSE_BLANKS for cell in self.cells)

    @cached_property
    def is_redundant(self) -> bool:
        """Whether it says nothing: the tenant, where all are `default`."""
        return self.title.plain == "tenant" and all(cell.plain == "default" for cell in self.cells)

    @property
    def precedence(self) -> tuple[int, int]:
        """The order in which columns leave the row, lowest first; the widest of one kind goes first."""
        if self.is_prose:
            return 0, -self.width
        if any(_TIME.search(cell.plain) for cell in self.cells):
            return 1, -self.width
        return (2 if self.title.plain == "type" else 4 if self.is_id else 3), -self.width


def laid_out(columns: Sequence[Column], width: int) -> Iterator[Text]:
    """The lines of a table in `width` cells: a header, a rule, then for each row its cells.

    If it does not fit, a tenant that is always `default` is left out, then columns leave the row for lines
    under it, by their precedence, until the rest fits. The first column of ids without
    a gap stays. No word is broken: a
    line with a word longer than the terminal is as long as that word.
    """
    kept = list(columns)
    if not _fits(kept, width):
        kept = [column for column in kept if not column.is_redundant]
    shown = list(kept)
    stays = next((column for column in kept if column.is_id and all(column.cells)), kept[0])
    for column in sorted(shown, key=lambda column: column.precedence):
        if column is not stays and not _fits(kept, width):
            kept.remove(column)
    under = [column for column in shown if column not in kept]
    yield _joined([padded(Text(column.title.plain, "bold"), column.width) for column in kept])
    yield Text("─" * min(width, _width(kept)), "dim")
    for number in range(len(columns[0].cells)):
        yield _joined([padded(column.cells[number], column.width) for column in kept])
        yield from _under_row(under, number, width)


def _under_row(columns: Sequence[Column], number: int, width: int) -> Iterator[Text]:
    """The cells that did not fit, indented: short ones side by side, then each prose on lines of its own."""
    given = [(column, column.cells[number]) for column in columns if column.cells[number].plain]
    short = [_titled(column, cell) for column, cell in given if not column.is_prose]
    line = Text()
    for item in short:
        if line and line.cell_len + GAP + item.cell_len > width - GAP:
            yield _indented(line)
            line = Text()
        line = Text(" " * GAP).join([line, item]) if line else item
    if line:
        yield _indented(line)
    for column, cell in given:
        if column.is_prose:
            yield from map(_indented, wrapped(_titled(column, cell), width - GAP))


def _titled(column: Column, cell: Text) -> Text:
    title = column.title.plain
    return cell if title in _UNTITLED and column.is_prose else Text(f"{title}: " if title else "") + cell


def _indented(line: Text) -> Text:
    return Text(" " * GAP) + line


def wrapped(text: Text, width: int) -> list[Text]:
    """The text in lines of `width` cells, broken at blanks only. At least one line."""
    lines: list[Text] = []
    for word in text.split(" "):
        if lines and lines[-1].cell_len + 1 + word.cell_len <= width:
            lines[-1] = Text(" ").join([lines[-1], word])
        else:
            lines.append(word)
    return lines or [Text()]


def padded(text: Text, width: int) -> Text:
    """The text with blanks after it, up to `width` cells."""
    return text + Text(" " * max(0, width - text.cell_len))


def _joined(cells: Iterable[Text]) -> Text:
    return Text(" " * GAP).join(cells)


def _fits(columns: Sequence[Column], width: int) -> bool:
    return _width(columns) <= width


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)
