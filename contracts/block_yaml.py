"""Writes JSON values as YAML in block style, which people can read and every YAML parser accepts."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

WIDTH = 100

_WORDS_OF_YAML = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9 _.,;'`$/+(){}*-]*(?<! )")


def dump(value: Any) -> str:
    """Formats a value made of dicts with string keys, lists, strings, integers, booleans and None."""
    return "\n".join(_block(value)) + "\n"


def _block(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{_text(key)}:", item)
    elif isinstance(value, list) and value:
        for item in value:
            yield from _item(item)
    else:
        yield _text(value) if isinstance(value, str) else json.dumps(value)


def _entry(key: str, value: Any) -> Iterator[str]:
    if _folds(key, value):
        yield f"{key} >-"
        yield from (f"  {line}" for line in _folded(value))
    elif isinstance(value, dict | list) and value:
        yield key
        yield from (f"  {line}" for line in _block(value))
    else:
        yield f"{key} {next(_block(value))}"


def _item(value: Any) -> Iterator[str]:
    lead = "- "
    for line in _block(value):
        yield lead + line
        lead = "  "


def _folds(key: str, value: Any) -> bool:
    """Whether the text is long and folding keeps it: single spaces only, between words."""
    return isinstance(value, str) and len(key + value) > WIDTH and " ".join(value.split()) == value


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _text(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_YAML
    return text if plain else json.dumps(text, ensure_ascii=False)
