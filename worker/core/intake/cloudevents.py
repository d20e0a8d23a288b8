"""CloudEvents over HTTP, in structured, binary and batched mode.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic_core import PydanticSerializationError, to_json

from contracts.departments import DepartmentEvent, department_event
from contracts.encoding import Unreadable, json_of
from contracts.envelope import BATCH, JSON, STRUCTURED, Malformed, Mistake, Mistaken, decoded, event_of
from contracts.intake import MAX_BATCH, MAX_MISTAKES

PREFIX = "ce-"
_BOM = b"\xef\xbb\xbf"
_STRUCTURED_FORMATS = frozenset({STRUCTURED, STRUCTURED.removesuffix("+json")})
_BATCH_FORMATS = frozenset({BATCH, f"{BATCH}+json"})
_SAYS_NOTHING = frozenset({"", "application/octet-stream"})
_NOT_ATTRIBUTES = frozenset({"data", "data_base64", "datacontenttype"})
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

Headers = Iterable[tuple[str, str]]
"""Names in any case, with their values; a name may come again."""


class Mode(StrEnum):
    """How a request carries events. PLAIN: as JSON that does not say so; it must have a `specversion`."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"
    PLAIN = "plain"


class NotJson(ValueError):
    """The body is no JSON. The text follows `body` and never repeats it."""


class TooMany(ValueError):
    """A batch has more events than a request may have."""


class Broken(ValueError):
    """Events break the contract. `mistakes`: each with the place of its event."""

    def __init__(self, mistakes: Sequence[tuple[int, Mistake]]) -> None:
        super().__init__(f"{len(mistakes)} mistakes")
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Posted:
    """A valid event, and its JSON in structured mode as it will be published."""

    event: DepartmentEvent = field(repr=False)
    document: bytes = field(repr=False)


def mode_of(content_type: str | None, headers: Headers) -> Mode | None:
    """The mode of a request, by its headers; None if its content type is none that is read.

    Binary mode may lack a content type, or have the one that HTTP libraries set by default: its data is JSON.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type.startswith(BATCH):
        return Mode.BATCH if media_type in _BATCH_FORMATS else None
    if media_type.startswith("application/cloudevents"):
        return Mode.STRUCTURED if media_type in _STRUCTURED_FORMATS else None
    is_binary = any(name.lower().startswith(PREFIX) for name, _ in headers)
    if media_type in _SAYS_NOTHING:
        return Mode.BINARY if is_binary else None
    if media_type not in {JSON, "text/json"} and not media_type.endswith("+json"):
        return None
    return Mode.BINARY if is_binary else Mode.PLAIN


def read_events(mode: Mode, content_type: str | None, headers: Headers, body: bytes) -> tuple[Posted, ...]:
    """The events of a request, all of them valid. Raises `NotJson`, `TooMany`, or `Broken`."""
    try:
        value = json_of(body) if body or mode is not Mode.BINARY else None
    except Unreadable as error:
        raise NotJson(str(error)) from None
    match mode:
        case Mode.BATCH:
            return _batch(value)
        case Mode.BINARY:
            attributes = _binary(content_type, headers)
            document = attributes if value is None else attributes | {"data": value}
            return _all([(document, None)])
        case Mode.STRUCTURED | Mode.PLAIN:
            return _all([(value, body.removeprefix(_BOM))])


def _batch(value: Any) -> tuple[Posted, ...]:
    if not isinstance(value, list):
        raise Broken([(0, Mistake("body", "not a JSON array"))])
    if len(value) > MAX_BATCH:
        raise TooMany(f"a batch has at most {MAX_BATCH} events")
    return _all([(each, None) for each in value])


def _all(documents: Sequence[tuple[Any, bytes | None]]) -> tuple[Posted, ...]:
    posted: list[Posted] = []
    mistakes: list[tuple[int, Mistake]] = []
    for index, (document, written) in enumerate(documents):
        try:
            posted.append(Posted(_validated(document), _json(document) if written is None else written))
        except Mistaken as error:
            mistakes += [(index, mistake) for mistake in error.mistakes]
    if mistakes:
        raise Broken(mistakes[:MAX_MISTAKES])
    return tuple(posted)


def _validated(document: Any) -> DepartmentEvent:
    """Raises `Malformed`, `Invalid` or `UnsupportedType`."""
    if isinstance(document, list):
        raise Malformed(f"body: a batch; send it as {BATCH}+json")
    if not isinstance(document, dict):
        raise Malformed("body: not a JSON object")
    attributes = decoded(document)
    return department_event(event_of(attributes), attributes)


def _json(document: Mapping[str, Any]) -> bytes:
    """JSON of JSON; a lone surrogate, in a field that is not read, is escaped as it was sent."""
    try:
        return to_json(document, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        return json.dumps(_finite(document), ensure_ascii=True).encode()


def _finite(value: Any) -> Any:
    """The value with null for each number that a double cannot hold."""
    match value:
        case dict():
            return {name: _finite(member) for name, member in value.items()}
        case list():
            return [_finite(member) for member in value]
        case float() if not isfinite(value):
            return None
        case _:
            return value


def _binary(content_type: str | None, headers: Headers) -> dict[str, Any]:
    """The attributes in the headers; raises `Broken` for one that cannot be read."""
    found: dict[str, Any] = {}
    mistakes: list[tuple[int, Mistake]] = []
    for header, name, value in _attribute_headers(headers):
        text = header_text(value)
        if text is None:
            mistakes.append((0, Mistake(header, "not UTF-8 once it is percent-decoded")))
        elif found.setdefault(name, text) != text:
            mistakes.append((0, Mistake(header, "given twice, with different values")))
    if mistakes:
        raise Broken(mistakes[:MAX_MISTAKES])
    says_nothing = (content_type or "").strip().lower() in _SAYS_NOTHING
    return found | {"datacontenttype": JSON if says_nothing or content_type is None else content_type}


def _attribute_headers(headers: Headers) -> Iterator[tuple[str, str, str]]:
    for name, value in headers:
        header = name.lower()
        attribute = header.removeprefix(PREFIX)
        if header.startswith(PREFIX) and attribute not in _NOT_ATTRIBUTES:
            yield header, attribute, value


def header_text(value: str) -> str | None:
    """The value of an attribute in a header, section 3.1.3.2; None if it is not UTF-8.

    A text in double quotes, as older senders write it, is unquoted first. Then it is percent-decoded, once.
    """
    text = value.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _QUOTED_PAIR.sub(r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text.encode(errors="surrogateescape")).decode()
    except UnicodeError:
        return None
