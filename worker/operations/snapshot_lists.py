"""Reads the list of a snapshot: CSV, a JSON array, or JSON Lines. Memory does not grow with it.

CSV has a header with `department_id`, `name`, and optionally `parent_id` and `tenant`, in any order,
separated by commas, semicolons or tabs. A JSON object has the same members. Nothing is guessed: a line that
is not certainly a department is refused, with its number.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from contracts.spelling import near_miss
from worker.core.snapshots import Row, row_of
from worker.ports import UserError

REQUIRED = ("department_id", "name")
COLUMNS = (*REQUIRED, "parent_id", "tenant")
SEPARATORS = ",;\t"
CHUNK = 64 * 1024
LONGEST_ITEM = 1 << 20
"""Characters of one line of a file, or of one object of an array."""

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class ListUnreadable(UserError):
    """The list as a whole cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list, and its line. `from_csv`: its values are texts, perhaps of a spreadsheet."""

    line: int
    given: Any
    from_csv: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that is no department, and why."""

    line: int
    error: str


MakeRow = Callable[[Item], Row | None]
"""The row of an item, None for an item that is no live department. Raises `ValueError`."""


def row_by_contract(item: Item) -> Row:
    """The row of an item with the members that this project names."""
    if not isinstance(item.given, Mapping):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a mistake in the list, not in our types
    for member in item.given:
        if member not in COLUMNS:
            raise ValueError(f"unknown member {_shown(member)}{_hint(member, item.given)}")
    return row_of(item.given, item.line, from_csv=item.from_csv)


def rows_of(items: Iterable[Item | Refused], make: MakeRow) -> Iterator[Row | Refused]:
    """The row of each item that has one, or why it is refused."""
    for item in items:
        if isinstance(item, Refused):
            yield item
            continue
        try:
            _require_once(item.given)
            row = make(item)
        except ValueError as error:
            yield Refused(item.line, str(error))
            continue
        if row is not None:
            yield row


def _require_once(given: Any) -> None:
    if isinstance(given, _Twice):
        raise ValueError(f"{_shown(given.member)} stands twice in it")  # noqa: TRY004 - a mistake in the list


def items_in(
    file: BinaryIO, name: str, encoding: str | None = None, columns: Sequence[str] | None = COLUMNS
) -> Iterator[Item | Refused]:
    """The items of a list. `name` is that of the file in errors; `columns`: those of CSV, None for any.

    Without an `encoding` it is that of the byte order mark, else UTF-8. Raises `ListUnreadable`.
    """
    text = _Text(file, name, encoding)
    match text.first():
        case "":
            raise ListUnreadable(f"{name}: the list is empty")
        case "[":
            return _array_items(text)
        case "{":
            return _line_items(text)
        case _:
            return _csv_items(text, columns)


def document_in(content: bytes, name: str) -> Any:
    """A whole JSON document. Raises `ListUnreadable`."""
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ListUnreadable(f"{name}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise ListUnreadable(f"{name}: not JSON in UTF-8, or nested too deeply") from None


class _Text:
    """The decoded text of a file, read once, in lines or in pieces."""

    def __init__(self, file: BinaryIO, name: str, encoding: str | None) -> None:
        self.name = name
        begin = file.read(CHUNK)
        self._file, self._begin = file, begin
        mark, found = next(((one, of) for one, of in _MARKS if begin.startswith(one)), (b"", "utf-8"))
        if encoding is None and not mark and b"\0" in begin[:2]:
            raise ListUnreadable(f"{name}: UTF-16 without a byte order mark: give --encoding utf-16-le")
        self._encoding = encoding or found
        if encoding is None or codecs.lookup(encoding).name == codecs.lookup(found).name:
            self._begin = begin[len(mark) :]
        self._decoder = codecs.getincrementaldecoder(self._encoding)("strict")
        self._decoded = ""
        self._line = 1
        self._at_end = False

    def first(self) -> str:
        """The first character that is no white space."""
        while not self._decoded.lstrip() and not self._at_end:
            if len(self._decoded) > LONGEST_ITEM:
                raise ListUnreadable(f"{self.name}: the list begins with a megabyte of white space")
            self._decoded += self.piece()
        return self._decoded.lstrip()[:1]

    def piece(self) -> str:
        """The next text, empty at the end."""
        while not self._at_end:
            raw, self._begin = self._begin or self._file.read(CHUNK), b""
            self._at_end = not raw
            try:
                decoded = self._decoder.decode(raw, final=self._at_end)
            except UnicodeDecodeError as error:
                line = self._line + str(error.object[: error.start], self._encoding, "replace").count("\n")
                raise ListUnreadable(
                    f"{self.name}:{line}: not {self._encoding}; give --encoding, such as cp1252"
                ) from None
            self._line += decoded.count("\n")
            if decoded:
                return decoded
        return ""

    def pieces(self) -> Iterator[str]:
        """All of the text."""
        begin, self._decoded = self._decoded, ""
        if begin:
            yield begin
        while piece := self.piece():
            yield piece

    def lines(self) -> Iterator[str]:
        """The lines, with their ends."""
        rest, number = "", 1
        for piece in self.pieces():
            lines = _lines_of(rest + piece)
            rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
            number += len(lines)
            if len(rest) > LONGEST_ITEM:
                raise ListUnreadable(f"{self.name}:{number}: a line of more than a megabyte")
            yield from lines
        if rest:
            yield rest


def _lines_of(text: str) -> list[str]:
    """Lines end with LF or CR LF only: other separators of Unicode may stand in a name."""
    return io.StringIO(text, newline="\n").readlines()


class _Twice(dict[str, Any]):
    """An object with a member that stands twice in it."""

    def __init__(self, member: str) -> None:
        super().__init__()
        self.member = member


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return _Twice(next(name for name in names if names.count(name) > 1))


def _no_constant(_word: str) -> Any:
    raise ValueError("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _line_items(text: _Text) -> Iterator[Item | Refused]:
    for number, line in enumerate(text.lines(), start=1):
        if line.strip():
            try:
                yield Item(number, _DECODER.decode(line.strip()))
            except (ValueError, RecursionError):
                yield Refused(number, "not JSON: write one object on each line, or one array")


def _array_items(text: _Text) -> Iterator[Item]:
    """The items of an array as far as they are read. A list that ends too early raises `ListUnreadable`."""
    cursor = _Cursor(text)
    cursor.skip()
    if cursor.sign() == "]":
        cursor.skip()
    else:
        while True:
            given = cursor.value()
            yield Item(cursor.begun, given)
            if (sign := cursor.sign()) not in {",", "]"}:
                raise cursor.failure("a comma or the end of the array is missing" if sign else CUT)
            cursor.skip()
            if sign == "]":
                break
    if cursor.sign():
        raise cursor.failure("something stands after the array")


class _Cursor:
    """A place in JSON text that is read in pieces. `begun`: the line at which the last value begins."""

    def __init__(self, text: _Text) -> None:
        self._name, self._pieces = text.name, text.pieces()
        self._buffer, self._at, self._line = "", 0, 1
        self.begun = 1
        self.sign()

    def sign(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            rest = self._buffer[self._at :].lstrip(" \t\r\n")
            self._move(len(self._buffer) - len(rest))
            if rest or not self._more():
                return rest[:1]

    def skip(self) -> None:
        """Goes on after that character."""
        self._at += 1

    def value(self) -> Any:
        """The next value. Raises `ListUnreadable`."""
        self.sign()
        self.begun = self._line
        while True:
            try:
                given, end = _DECODER.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):
                if len(self._buffer) - self._at > LONGEST_ITEM or not self._more():
                    raise self.failure(CUT) from None
                continue
            if end == len(self._buffer) and self._more():  # a number may go on
                continue
            self._move(end)
            return given

    def failure(self, why: str) -> ListUnreadable:
        """The error that the list is no JSON here."""
        return ListUnreadable(f"{self._name}:{self._line}: {why}")

    def _move(self, to: int) -> None:
        self._line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        piece = next(self._pieces, "")
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return bool(piece)


CUT = "not JSON, or the file was cut"


def _csv_items(text: _Text, columns: Sequence[str] | None) -> Iterator[Item | Refused]:
    lines = text.lines()
    header, skipped, separator = "", 0, ""
    for header in lines:
        if header.startswith("sep=") and len(header.strip()) == len("sep=") + 1:  # as Excel writes it
            separator = header[len("sep=")]
        elif header.strip(" \t\r\n,;"):
            break
        skipped += 1
    separator = separator or _separator(text.name, skipped + 1, header, columns)
    names = _header(
        text.name, skipped + 1, next(csv.reader([header], delimiter=separator, strict=True)), columns
    )
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number = skipped + 2 + reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ListUnreadable(f"{text.name}:{number}: not CSV ({error})") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            yield Refused(number, f"{len(cells)} fields, and the header has {len(names)}")
        else:
            given = {column: cell for column, cell in zip(names, cells, strict=True) if cell.strip()}
            yield Item(number, given, from_csv=True)


def _separator(name: str, number: int, header: str, columns: Sequence[str] | None) -> str:
    """The separator that makes columns of the header."""
    if columns is None:
        return max(SEPARATORS, key=header.count)
    for one in SEPARATORS:
        try:
            cells = next(csv.reader([header], delimiter=one, strict=True))
        except csv.Error as error:
            raise ListUnreadable(f"{name}:{number}: not CSV ({error})") from None
        if set(REQUIRED) <= {cell.strip().casefold() for cell in cells}:
            return one
    return max(SEPARATORS, key=header.count)


def _header(name: str, number: int, cells: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """The names of the columns. Raises `ListUnreadable` for one that is missing, unknown, or there twice."""
    if columns is None:
        names = [cell.strip() for cell in cells]
    else:
        names = [cell.strip().casefold() for cell in cells]
    where = f"{name}:{number}"
    if twice := [one for one in names if names.count(one) > 1]:
        raise ListUnreadable(f"{where}: two columns are called {_shown(twice[0])}")
    if columns is None:
        return names
    for column in REQUIRED:
        if column not in names:
            meant = near_miss(column, names, COLUMNS)
            hint = f"; is it {meant}?" if meant else ""
            raise ListUnreadable(f"{where}: there is no column {column}{hint}")
    for one in names:
        if one not in columns:
            raise ListUnreadable(
                f"{where}: unknown column {_shown(one)}; the columns are {', '.join(COLUMNS)}"
                " (with a profile, any)"
            )
    return names


def _hint(member: str, given: Mapping[str, Any]) -> str:
    meant = next((one for one in COLUMNS if one not in given and near_miss(one, [member], COLUMNS)), None)
    return f"; did you mean {meant}?" if meant else ""


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 64 and name.isprintable() else "with a long or odd name"  # noqa: PLR2004
