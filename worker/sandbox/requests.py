"""A request as the operations see it: who asks, about what, with which parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from worker.sandbox.assumptions import Assumptions

T = TypeVar("T")
LARGEST_PAGE = 20


class Refusal(Exception):
    """The request is answered with an error: its status, and one line for a person."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body, before the api_id is added; None is no body."""

    status: int
    body: Mapping[str, Any] | None = None


CHANGED = Answer(202, {"message": "changed"})
DELETED = Answer(204)


@dataclass(frozen=True, slots=True)
class Page:
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class ListView:
    """How far a list is from the truth: late by so many seconds, shifted by so many items."""

    lag_seconds: float = 0
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """`sub_account` is the subaccount whose credentials were used, None for the main account."""

    sub_account: str | None
    identifier: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    view: ListView = field(default_factory=ListView)


def read_query(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True))
    except ValueError:
        raise Refusal(400, "the query string cannot be read") from None


def read_body(raw: bytes) -> dict[str, Any]:
    """Read a JSON object; nothing at all and an empty string count as `{}`, as the SDKs mean it."""
    if not raw:
        return {}
    try:
        value = json.loads(raw)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid JSON format") from None
    if value == "":
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, "invalid JSON format: an object is expected")
    return value


def text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, f"{name} parameter is invalid: text is expected")
    return value


def required_text(body: Mapping[str, Any], name: str) -> str:
    value = text(body, name)
    if value is None:
        raise Refusal(400, f"{name} parameter is missing")
    return value


def boolean(body: Mapping[str, Any], name: str, assumptions: Assumptions) -> bool | None:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and assumptions.string_booleans == "accepted":
        known = {"true": True, "false": False}.get(value.lower())
        if known is not None:
            return known
    if assumptions.other_booleans == "ignored":
        return None
    raise Refusal(400, f"{name} parameter is invalid: true or false is expected")


def page(query: Mapping[str, str], assumptions: Assumptions) -> Page:
    limit = _count(query, "limit", LARGEST_PAGE)
    if not 1 <= limit <= LARGEST_PAGE:
        if assumptions.list_limit == "refuse":
            raise Refusal(400, f"limit parameter is invalid: 1 to {LARGEST_PAGE} is expected")
        limit = LARGEST_PAGE
    return Page(_count(query, "offset", 0), limit)


def known(record: T | None) -> T:
    if record is None:
        raise Refusal(404, "not found")
    return record


def listing(
    path: str, page: Page, total: int, objects: Sequence[Mapping[str, Any]], **filters: str | None
) -> Answer:
    """Answer one page; `next` and `previous` are relative and carry the filters along."""

    def link(offset: int) -> str:
        given = {name: value for name, value in filters.items() if value is not None}
        return f"{path}?{urlencode({'limit': page.limit, 'offset': offset, **given})}"

    after = page.offset + page.limit
    meta = {
        "limit": page.limit,
        "next": link(after) if after < total else None,
        "offset": page.offset,
        "previous": link(max(page.offset - page.limit, 0)) if page.offset else None,
        "total_count": total,
    }
    return Answer(200, {"meta": meta, "objects": objects})


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 18):  # noqa: PLR2004 - fits 64 bits
        raise Refusal(400, f"{name} parameter is invalid: a number of 0 or more is expected")
    return int(value)
