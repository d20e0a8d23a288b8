"""Reads files of JSON objects, one per line. One object over several lines, or one array, is read as well."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic_core import from_json

from worker.ports import UserError

T = TypeVar("T")
SHOWN_MISTAKES = 20


class BadItems(ValueError):
    """Some items of a file are invalid; the text has a line for each, as far as `SHOWN_MISTAKES` goes."""


def read_each(text: str, make: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """The result of `make` for each object. Its `ValueError`s and `UserError`s are mistakes of their items.

    Raises `BadItems` with every mistake, and the number of its line or of its place in an array.
    """
    made, mistakes = [], []
    for place, item in _items_in(text):
        try:
            made.append(make(_object(item)))
        except (ValueError, UserError) as error:
            mistakes.append(f"{place}: {error}")
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        rest = [f"and {more:,} more"] if more > 0 else []
        raise BadItems("\n".join(mistakes[:SHOWN_MISTAKES] + rest))
    return made


def _items_in(text: str) -> Sequence[tuple[str, Any]]:
    """Each item with its place. Text that is not JSON is an error in place of its item."""
    try:
        whole = from_json(text)
    except ValueError:
        lines = [(f"line {number}", line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
        items = [(place, _parsed(line)) for place, line in lines if line]
        if len(items) > 1 and text.lstrip().startswith(("{", "[")):
            _require_an_object(items)
        return items
    if isinstance(whole, list):
        return [(f"item {number}", item) for number, item in enumerate(whole, start=1)]
    return [("line 1", whole)]


def _require_an_object(items: Sequence[tuple[str, Any]]) -> None:
    """Objects over several lines are one mistake, not one for each line."""
    if not any(isinstance(item, dict) for _, item in items):
        raise BadItems(
            "no line is a JSON object; `jq -c .` writes each on one line, `jq -c '.[]'` those of an array"
        )


def _parsed(line: str) -> Any:
    try:
        return from_json(line)
    except ValueError as error:  # it counts lines within this one
        return ValueError(f"not JSON ({str(error).replace(' at line 1 column', ' at column')})")


def _object(item: Any) -> Mapping[str, Any]:
    if isinstance(item, ValueError):
        raise item
    if not isinstance(item, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a mistake in a file, not in our types
    return item
