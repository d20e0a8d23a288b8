"""The pages of a list that a source profile reads: where they are, and what must be true of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from worker.core.intake.expressions import Expression, Unevaluated

MOST_PAGES = 10_000
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class PageInvalid(ValueError):
    """A page is not what the profile says. The text names keys of the profile, never values of the page."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a list is, and how to go from page to page. `url` fixes the only host that is asked.

    `rows`: the rows of a page. `next`: the URL of the next page, or with `cursor` the value of that parameter
    of the URL; none, empty or false at the end. `offset`: the parameter that counts rows, instead of `next`;
    such a list ends with an empty page. `size`: the rows of each page but the last. `total`: the number of
    all rows. `header`, `prefix` and `secret_file`: the login.
    """

    url: str
    rows: Expression
    next: Expression | None = None
    cursor: str | None = None
    offset: str | None = None
    size: int | None = None
    total: Expression | None = None
    header: str = "authorization"
    prefix: str = ""
    secret_file: str | None = None


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. Raises `ValueError` for a URL that may not be asked."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must have no login in it; name a secret_file")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must begin with https:// beyond loopback")
    default = {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme, parts.hostname, parts.port or default


@dataclass(slots=True)
class Paging:
    """Goes through the pages that begin at `url`, and checks each. Not to be used after an error."""

    pages: Pages
    url: str
    number: int = 0
    _taken: int = 0
    _total: int | None = None
    _short: bool = False
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._seen.add(self.url)
        if origin_of(self.url) != origin_of(self.pages.url):
            raise PageInvalid("url: this profile reads another host; only the one in the profile is asked")

    def rows(self, body: Any) -> Sequence[Any]:
        """The rows of the page that was asked for last; raises `PageInvalid`."""
        self.number += 1
        found = self._value("rows", self.pages.rows, body)
        if not isinstance(found, list):
            raise PageInvalid(f"page {self.number}: rows: must give a list")
        if self._short and found:
            raise PageInvalid(f"page {self.number - 1}: it is short, and more pages follow")
        self._short = self.pages.size is not None and len(found) < self.pages.size
        if self.pages.size is not None and len(found) > self.pages.size:
            raise PageInvalid(f"page {self.number}: {len(found)} rows, and size is {self.pages.size}")
        self._taken += len(found)
        self._note_total(body)
        return found

    def next_url(self, body: Any, rows: Sequence[Any]) -> str | None:
        """The URL of the next page; None at the end. Raises `PageInvalid`."""
        following = self._following(body, rows)
        if following is None:
            if self._total is not None and self._total != self._taken:
                raise PageInvalid(f"{self._taken:,} rows were read, and total says {self._total:,}")
            return None
        if self.number >= MOST_PAGES:
            raise PageInvalid(f"more than {MOST_PAGES:,} pages")
        if following in self._seen:
            raise PageInvalid(f"page {self.number}: next: it leads back to a page that was read")
        if origin_of(following) != origin_of(self.pages.url):
            raise PageInvalid(f"page {self.number}: next: it leads to another host")
        self._seen.add(following)
        self.url = following
        return following

    def _following(self, body: Any, rows: Sequence[Any]) -> str | None:
        if self.pages.offset is not None:
            return _with_parameter(self.url, self.pages.offset, str(self._taken)) if rows else None
        if self.pages.next is None:
            return None
        value = self._value("next", self.pages.next, body)
        if value in (None, "", False):
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise PageInvalid(f"page {self.number}: next: must be text, a number or null")
        if self.pages.cursor is not None:
            return _with_parameter(self.url, self.pages.cursor, str(value))
        try:
            following = urljoin(self.url, str(value))
            origin_of(following)
        except ValueError as error:
            raise PageInvalid(f"page {self.number}: next: {error}") from None
        return following

    def _note_total(self, body: Any) -> None:
        if self.pages.total is None:
            return
        total = self._value("total", self.pages.total, body)
        if isinstance(total, bool) or not isinstance(total, int):
            raise PageInvalid(f"page {self.number}: total: must be a whole number")
        if self._total not in {None, total}:
            raise PageInvalid(f"page {self.number}: total: it has changed while the list was read")
        self._total = total

    def _value(self, key: str, expression: Expression, body: Any) -> Any:
        scope: Mapping[str, Any] = {"item": body, "body": body, "headers": {}}
        try:
            return expression.value(scope)
        except Unevaluated as error:
            raise PageInvalid(f"page {self.number}: {key}: {error}") from None


def _with_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    query = [(key, of) for key, of in parse_qsl(parts.query, keep_blank_values=True) if key != name]
    return urlunsplit(parts._replace(query=urlencode([*query, (name, value)])))
