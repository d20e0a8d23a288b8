"""Parses the document of a source profile, and finds every mistake in it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from contracts.times import instant
from worker.core.intake.expressions import compiled
from worker.core.intake.pages import Pages, origin_of
from worker.core.intake.profile import (
    EXPRESSIONS,
    Algorithm,
    Auth,
    Bearer,
    Encoding,
    Handshakes,
    Hmac,
    NoProof,
    Profile,
    ProfileInvalid,
    Sample,
    TimeFormat,
    Unmappables,
    covered_headers,
    hidden_headers,
)

E = TypeVar("E", bound=StrEnum)


class _Kind(StrEnum):
    HMAC = "hmac"
    BEARER = "bearer"
    NONE = "none"


NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
SAMPLE_ARRIVAL = datetime(2026, 1, 1, tzinfo=UTC)
"""When the payload of a sample arrives that has no `received_at`."""
EVENT_KEYS = ("type", "department_id", "name", "id", "time", "sequence", "tenant", "parent_id", "cause")
"""The members of an event that a sample may expect."""

_ANSWERS = (200, 202, 204)
_KEYS = (
    *("auth", "handshake", "each", "ignore", "removed_when", "id", "name", "parent", "tenant", "time"),
    *("time_format", "sequence", "event_id", "cause", "answer", "on_unmappable", "pages", "samples"),
)
_SAMPLE_KEYS = ("body", "events", "headers", "received_at", "ignored", "unmapped")
_HMAC_KEYS = (
    *("kind", "header", "algorithm", "encoding", "prefix", "signed", "timestamp_header", "id_header"),
    *("tolerance", "secret_file"),
)
_PAGES_KEYS = (
    *("url", "rows", "next", "cursor", "offset", "size", "total"),
    *("header", "prefix", "secret_file"),
)
_BEARER_KEYS = ("kind", "header", "prefix", "field", "secret_file")
_ALL_AUTH_KEYS = (*_HMAC_KEYS, "field")
_AUTH_KEYS: Mapping[str, Sequence[str]] = {"hmac": _HMAC_KEYS, "bearer": _BEARER_KEYS, "none": ("kind",)}


def parse_profile(name: str, document: object) -> Profile:
    """Parses and compiles the document of a profile; raises `ProfileInvalid` with every mistake."""
    mistakes: list[str] = []
    if not NAME.fullmatch(name):
        mistakes.append(
            "file: its name is the profile's: 1 to 64 of a-z 0-9 -, such as acme-hr.yaml for /in/acme-hr"
        )
    top = _Section("", document, _KEYS, mistakes)
    auth = top.read("auth", partial(_auth, mistakes))
    values = {
        "handshakes": top.read("handshake", _handshakes, frozenset()),
        **{field: top.read(key, compiled) for key, field in EXPRESSIONS.items()},
        "time_format": top.read("time_format", _one_of(TimeFormat), TimeFormat.RFC3339),
        "answer": top.read("answer", _answer, 202),
        "on_unmappable": top.read("on_unmappable", _one_of(Unmappables), Unmappables.KEEP),
        "pages": top.read("pages", partial(_pages, mistakes)),
        "samples": top.read("samples", partial(_samples, mistakes), ()),
    }
    top.require("auth", "say how the sender proves itself: kind hmac, bearer, or none on loopback")
    top.require("id", "a JMESPath expression for the department's id, such as item.id")
    top.require("name", "a JMESPath expression for the department's name, such as item.name")
    top.require("samples", "give a payload, and the events that it must map to")
    mistakes += _clashes(values, top.keys)
    if mistakes:
        raise ProfileInvalid(list(dict.fromkeys(mistakes)))
    return Profile(name=name, auth=auth, **values)


class _Section:
    """A mapping of the document at `place`; its mistakes go to the list."""

    def __init__(self, place: str, document: object, known: Iterable[str], mistakes: list[str]) -> None:
        self._place = f"{place}." if place else ""
        self._mistakes = mistakes
        self._document: Mapping[str, Any] = {}
        if not isinstance(document, Mapping):
            mistakes.append(f"{place or 'file'}: must be a mapping of keys and values")
            return
        known = list(known)
        for key in document:
            if key not in known:
                meant = get_close_matches(str(key)[:40], known, 1)
                hint = f"did you mean {meant[0]}?" if meant else f"the keys are {', '.join(known)}"
                mistakes.append(f"{self._place}{_shown(key)}: unknown key; {hint}")
        self._document = {key: value for key, value in document.items() if value is not None}

    @property
    def keys(self) -> frozenset[str]:
        """The keys that have a value."""
        return frozenset(self._document)

    def read(self, key: str, parse: Callable[[Any], Any], otherwise: Any = None) -> Any:
        """The parsed value; `otherwise` without one, or with one that is a mistake."""
        if key not in self._document:
            return otherwise
        try:
            return parse(self._document[key])
        except ValueError as error:
            self._mistakes.append(f"{self._place}{key}: {error}")
            return otherwise

    def require(self, key: str, what: str) -> None:
        """Notes a missing key."""
        if key not in self._document:
            self._mistakes.append(f"{self._place}{key}: missing; {what}")


def _shown(key: object) -> str:
    text = str(key)
    return text if re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", text) else "a key"


def _one_of(words: type[E]) -> Callable[[object], E]:
    def parse(value: object) -> E:
        try:
            return words(str(value))
        except ValueError:
            meant = get_close_matches(str(value)[:40], list(words), 1)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise ValueError(f"must be one of {', '.join(words)}{hint}") from None

    return parse


def _answer(value: object) -> int:
    if isinstance(value, bool) or value not in _ANSWERS:
        raise ValueError("must be 200, 202 or 204")
    return int(value)


def _handshakes(value: object) -> frozenset[Handshakes]:
    names = value if isinstance(value, list) else [value]
    return frozenset(_one_of(Handshakes)(name) for name in names)


def _pages(mistakes: list[str], document: object) -> Pages | None:
    """The pages of the list that `provisioner snapshot plan URL` reads."""
    before = len(mistakes)
    pages = _Section("pages", document, _PAGES_KEYS, mistakes)
    values = {
        "url": pages.read("url", _url),
        "rows": pages.read("rows", compiled),
        "next": pages.read("next", compiled),
        "cursor": pages.read("cursor", _text),
        "offset": pages.read("offset", _text),
        "size": pages.read("size", _size),
        "total": pages.read("total", compiled),
        "header": pages.read("header", _header, "authorization"),
        "prefix": pages.read("prefix", _text, ""),
        "secret_file": pages.read("secret_file", _file),
    }
    pages.require("url", "the first page of the list; no other host is asked")
    pages.require("rows", "a JMESPath expression for the rows of a page, such as body.data")
    if {"next", "offset"} <= pages.keys:
        mistakes.append("pages.offset: there is next as well; keep one")
    if "cursor" in pages.keys and "next" not in pages.keys:
        mistakes.append("pages.cursor: it needs next, the expression for its value")
    return Pages(**values) if len(mistakes) == before else None


def _url(value: object) -> str:
    origin_of(_text(value))
    return str(value)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number above 0")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    return value


def _header(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", value):
        raise ValueError("must be the name of a header, such as X-Acme-Signature")
    return value.lower()


def _file(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", value):
        raise ValueError("must be the name of a file beside the profile, such as acme.secret, not a path")
    return value


def _tolerance(value: object) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration, such as 5m")
    return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def _signed(value: object) -> tuple[str, ...]:
    """`body`, or a template as its literals and placeholders in order."""
    if value == "body":
        return ("{body}",)
    parts = tuple(part for part in re.split(r"(\{[^{}]*\})", value) if part) if isinstance(value, str) else ()
    placeholders = [part for part in parts if "{" in part or "}" in part]
    if parts.count("{body}") != 1 or len(set(placeholders)) != len(placeholders):
        raise ValueError('must be body, or a template with {body} once, such as "{timestamp}.{body}"')
    if unknown := set(placeholders) - {"{id}", "{timestamp}", "{body}"}:
        raise ValueError(f"has {min(unknown)}; the placeholders are {{id}}, {{timestamp}} and {{body}}")
    return parts


def _auth(mistakes: list[str], document: object) -> Auth | None:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    section = _Section("auth", document, _AUTH_KEYS.get(str(kind), _ALL_AUTH_KEYS), mistakes)
    if not isinstance(document, Mapping):
        return None
    if kind is None:
        section.require("kind", "hmac, bearer, or none on loopback")
        return None
    if section.read("kind", _one_of(_Kind)) is None:
        return None
    if kind == _Kind.NONE:
        return NoProof()
    section.require("secret_file", "the name of a file beside the profile, with a secret in each line")
    secret_file = section.read("secret_file", _file, "")
    if kind == _Kind.BEARER:
        field = section.read("field", compiled)
        if field is not None and "header" in section.keys:
            mistakes.append("auth.field: the token is in a header or in the body; give one of them")
        if field is not None and not field.roots <= {"body"}:
            mistakes.append("auth.field: may read body only, such as body.token")
        return Bearer(
            secret_file,
            section.read("header", _header, "authorization"),
            section.read("prefix", _text, ""),
            field,
        )
    section.require("header", "the header with the signature, such as X-Acme-Signature")
    auth = Hmac(
        secret_file,
        section.read("header", _header, ""),
        section.read("algorithm", _one_of(Algorithm), Algorithm.SHA256),
        section.read("encoding", _one_of(Encoding), Encoding.HEX),
        section.read("prefix", _text, ""),
        section.read("signed", _signed, ("{body}",)),
        section.read("timestamp_header", _header),
        section.read("id_header", _header),
        section.read("tolerance", _tolerance, timedelta(minutes=5)),
    )
    mistakes += _unsigned(auth, section.keys)
    return auth


def _unsigned(auth: Hmac, keys: frozenset[str]) -> Iterator[str]:
    """A part of the signature without its header. A header that is not signed is not read."""
    for part, key in (("{timestamp}", "timestamp_header"), ("{id}", "id_header")):
        if part in auth.signed and key not in keys:
            yield f"auth.{key}: missing; auth.signed has {part}"


def _clashes(values: Mapping[str, Any], keys: frozenset[str]) -> Iterator[str]:
    if (each := values["each"]) is not None and "item" in each.roots:
        yield "each: reads item, which it is about to choose; begin with body"
    if "time_format" in keys and "time" not in keys:
        yield "time_format: there is no time"
    if "cause" in keys and "removed_when" not in keys:
        yield "cause: it is that of a removal, and there is no removed_when"


def notes_on(profile: Profile) -> list[str]:
    """The parts of a profile that have no effect, or prove less than they seem to, one `key: reason` each."""
    return [*_notes_on_auth(profile.auth), *_notes_on_headers(profile), *_notes_on_order(profile)]


def _notes_on_auth(auth: Auth) -> Iterator[str]:
    if isinstance(auth, NoProof):
        yield "auth.kind: nothing proves the sender, so it is served on loopback only"
    if isinstance(auth, Hmac):
        for part, header in (("timestamp", auth.timestamp_header), ("id", auth.id_header)):
            if header and f"{{{part}}}" not in auth.signed:
                yield f"auth.{part}_header: not read, because auth.signed has no {{{part}}}"


def _notes_on_headers(profile: Profile) -> Iterator[str]:
    covered, hidden = covered_headers(profile.auth), hidden_headers(profile.auth)
    for key, expression in profile.expressions.items():
        for header in sorted(expression.headers or ()):
            if header in hidden:
                yield f"{key}: headers.{header} holds a secret, so it is never seen"
            elif covered is not None and header not in covered:
                yield f"{key}: headers.{header} is not signed, so it is never seen: anybody could set it"


def _notes_on_order(profile: Profile) -> Iterator[str]:
    if profile.time is None and profile.sequence is None:
        yield "time: neither time nor sequence, so the order of arrival decides: a late retry may win"


def _samples(mistakes: list[str], value: object) -> tuple[Sample, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of payloads with the events that they must map to")
    return tuple(_sample(f"samples[{place}]", each, mistakes) for place, each in enumerate(value))


def _sample(place: str, document: object, mistakes: list[str]) -> Sample:
    section = _Section(place, document, _SAMPLE_KEYS, mistakes)
    section.require("body", "the payload")
    section.require("events", "the events that it maps to, [] for none")
    return Sample(
        section.read("body", _json),
        section.read("events", partial(_expected, place, mistakes), ()),
        section.read("headers", _sample_headers, {}),
        section.read("received_at", instant, SAMPLE_ARRIVAL),
        section.read("ignored", _count),
        section.read("unmapped", _count, 0),
    )


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise ValueError("is no JSON; put dates and times in quotes") from None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be a number of items")
    return value


def _sample_headers(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of names and values")  # noqa: TRY004 - collected as a mistake
    return {_header(name): str(each) for name, each in value.items()}


def _expected(place: str, mistakes: list[str], value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of events, [] for none")  # noqa: TRY004 - collected as a mistake
    for index, each in enumerate(value):
        _Section(f"{place}.events[{index}]", each, EVENT_KEYS, mistakes)
    return tuple(each for each in value if isinstance(each, Mapping))
