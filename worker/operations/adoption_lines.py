"""Reads the file of an adoption: CSV, or JSON Lines. Each line names a department and its subaccount.

CSV has a header with `department_id`, `auth_id`, and optionally `tenant` and `name`, in any order, separated
by commas, semicolons or tabs. A JSON object has the same members. Line numbers are those of the file, and a
record that spans several lines has the number of its first.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from contracts import text
from contracts.departments import DEFAULT_TENANT
from contracts.spelling import near_miss
from worker.core.model.departments import Department
from worker.ports import UserError

REQUIRED = ("department_id", "auth_id")
FIELDS = (*REQUIRED, "tenant", "name")
SEPARATORS = ",;\t"

_AUTH_ID = re.compile("SA[A-Z0-9]{18}")
_MAIN_ACCOUNT = re.compile("MA[A-Z0-9]{18}")


class NotReadable(UserError):
    """The file as a whole is no list of subaccounts."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class AdoptionLine:
    """One line of the file. `mistakes`: what is wrong with it; a wrong field is None then.

    `name`: None if the line gives none.
    """

    number: int
    department: Department | None
    auth_id: str | None
    name: str | None = None
    mistakes: tuple[str, ...] = ()


def lines_in(content: str) -> list[AdoptionLine]:
    """The lines of the file, without blank ones. Raises `NotReadable`."""
    first = content.lstrip()[:1]
    if not first:
        raise NotReadable("the file is empty: write a header `department_id,auth_id`, then a line for each")
    if first == "[":
        raise NotReadable("the file is a JSON array: `jq -c '.[]'` writes one object on each line")
    lines = list(_json_lines(content) if first == "{" else _csv_lines(content))
    if not lines:
        raise NotReadable("the file has a header, and no line after it")
    return lines


def _json_lines(content: str) -> Iterator[AdoptionLine]:
    for number, line in enumerate(io.StringIO(content, newline=None), start=1):
        if not line.strip():
            continue
        try:
            given = from_json(line.strip())
        except ValueError as error:  # it counts lines within this one
            reason = str(error).replace(" at line 1 column", " at column").strip()
            yield _bad_line(number, f"not JSON ({reason})")
            continue
        if not isinstance(given, dict):
            yield _bad_line(number, "not a JSON object")
            continue
        yield _line(number, {field: value for field, value in given.items() if value is not None})


def _csv_lines(content: str) -> Iterator[AdoptionLine]:
    header_line = next(line for line in io.StringIO(content) if line.strip())
    separator = max(SEPARATORS, key=header_line.count)
    records = _records(content, separator)
    header_number, header = next(records)
    columns = _columns(header_number, header)
    for number, cells in records:
        if len(cells) > len(columns):
            yield _bad_line(number, f"{len(cells)} fields, and the header has {len(columns)}")
        else:
            given = dict(zip(columns, cells, strict=False))
            yield _line(number, {field: value for field, value in given.items() if value.strip()})


def _records(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the number of its first line."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise NotReadable(f"line {number}: not CSV ({error})") from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield number, cells


def _columns(number: int, header: Iterable[str]) -> list[str]:
    """The names of the columns. Raises `NotReadable` if required ones are missing, or some are misspelt."""
    names = [cell.strip().casefold() for cell in header]
    if missing := [field for field in REQUIRED if field not in names]:
        hint = _meant(missing[0], names)
        raise NotReadable(
            f"line {number}: the header has no {missing[0]}{hint};"
            " it must be `department_id,auth_id` and may have `tenant` and `name`"
        )
    if twice := [name for name in FIELDS if names.count(name) > 1]:
        raise NotReadable(f"line {number}: the header has {twice[0]} twice")
    for field in FIELDS:
        if field not in names and (hint := _meant(field, names)):
            raise NotReadable(f"line {number}: the header has no {field}{hint}")
    return names


def _line(number: int, given: Mapping[str, Any]) -> AdoptionLine:
    """The line with these fields, each of which has a value."""
    mistakes: list[str] = []

    def read(field: str, default: str | None = None) -> str | None:
        if field not in given:
            hint = _meant(field, given)
            if field in REQUIRED or hint:
                mistakes.append(f"{field} is missing{hint}")
            return default
        try:
            return _READERS[field](given[field])
        except ValueError as error:
            mistakes.append(f"{field} {error}")
            return None

    id_, auth_id = read("department_id"), read("auth_id")
    tenant, name = read("tenant", DEFAULT_TENANT), read("name")
    department = Department(tenant, id_) if tenant is not None and id_ is not None else None
    return AdoptionLine(number, department, auth_id, name, tuple(mistakes))


def _bad_line(number: int, mistake: str) -> AdoptionLine:
    return AdoptionLine(number, None, None, mistakes=(mistake,))


def _auth_id(value: object) -> str:
    """Returns the auth id of a subaccount; raises `ValueError`."""
    given = value.strip() if isinstance(value, str) else ""
    if _MAIN_ACCOUNT.fullmatch(given):
        raise ValueError("is that of a main account, not of a subaccount")
    if not _AUTH_ID.fullmatch(given):
        raise ValueError("must be SA and 18 capital letters or digits")
    return given


_READERS = {
    "department_id": text.identifier,
    "auth_id": _auth_id,
    "tenant": text.identifier,
    "name": text.name,
}


def _meant(field: str, given: Iterable[str]) -> str:
    """`; did you mean it by departmentId?`, if a field was probably meant to be this one."""
    found = near_miss(field, given, FIELDS)
    return f", but {found}: write {field}" if found else ""
