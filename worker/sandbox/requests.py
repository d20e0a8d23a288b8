"""Parsed requests and responses, as the operations see them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from worker.sandbox.assumptions import Assumptions

T = TypeVar("T")
MAX_PAGE_SIZE = 20


class Refusal(Exception):
    """The request fails with this HTTP status and a one-line error text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP status and a JSON body without `api_id`; None is no body."""

    status: int
    body: Mapping[str, Any] | None = None


CHANGED = Response(202, {"message": "changed"})
DELETED = Response(204)


@dataclass(frozen=True, slots=True)
class Page:
    """The requested part of a list."""

    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class ListView:
    """How a list differs from the truth: it lags by some seconds, and is shifted by some items."""

    lag_seconds: float = 0
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request. `sub_account` is the authenticated subaccount, None for the main account."""

    sub_account: str | None
    identifier: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    view: ListView = field(default_factory=ListView)


def read_query(text: str) -> dict[str, str]:
    """Parse a query string; raises Refusal."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True))
    except ValueError:
        raise Refusal(400, "the query string cannot be read") from None


def read_body(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises Refusal. SDKs send an empty body or an empty string for `{}`."""
    if not raw:
        return {}
    try:
        value = json.loads(raw)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is not valid text
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid JSON format") from None
    if value == "":
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, "invalid JSON format: an object is expected")
    return value


def text(body: Mapping[str, Any], name: str) -> str | None:
    """Return an optional text parameter; raises Refusal for another type."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, f"{name} parameter is invalid: text is expected")
    return value


def required_text(body: Mapping[str, Any], name: str) -> str:
    """Return a text parameter; raises Refusal if it is missing."""
    value = text(body, name)
    if value is None:
        raise Refusal(400, f"{name} parameter is missing")
    return value


def boolean(
    body: Mapping[str, Any], name: str, assumptions: Assumptions, *, is_query: bool = False
) -> bool | None:
    """Return an optional boolean parameter, read as the assumptions say; raises Refusal.

    A query has only texts.
    """
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and (is_query or assumptions.string_booleans == "accepted"):
        known = {"true": True, "false": False}.get(value.lower())
        if known is not None:
            return known
    if assumptions.other_booleans == "ignored":
        return None
    raise Refusal(400, f"{name} parameter is invalid: true or false is expected")


def page(query: Mapping[str, str], assumptions: Assumptions) -> Page:
    """Return the page given by `limit` and `offset`; raises Refusal."""
    limit = _count(query, "limit", MAX_PAGE_SIZE)
    if not 1 <= limit <= MAX_PAGE_SIZE:
        if assumptions.list_limit == "refuse":
            raise Refusal(400, f"limit parameter is invalid: 1 to {MAX_PAGE_SIZE} is expected")
        limit = MAX_PAGE_SIZE
    return Page(_count(query, "offset", 0), limit)


def existing(record: T | None) -> T:
    """Return the record; raises Refusal (404) for None."""
    if record is None:
        raise Refusal(404, "not found")
    return record


def listing(
    path: str, page: Page, total: int, objects: Sequence[Mapping[str, Any]], **filters: str | None
) -> Response:
    """Return one page of a list. `next` and `previous` are relative and repeat the filters."""

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
    return Response(200, {"meta": meta, "objects": objects})


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 18):  # noqa: PLR2004 - fits 64 bits
        raise Refusal(400, f"{name} parameter is invalid: a number of 0 or more is expected")
    return int(value)
