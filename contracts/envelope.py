"""CloudEvents 1.0 over AMQP 0-9-1, in structured and in binary mode.

Structured mode carries the whole event as JSON in the body (`application/cloudevents+json`). Binary mode
carries `data` in the body, its media type in the `content-type` property and every other attribute as a
header `cloudEvents_<name>`. On input the prefixes `cloudEvents:`, `ce-` and `ce_` are accepted as well, in
any case, and structured mode is recognised by the body.

CloudEvents 1.0.2, and its AMQP protocol binding for AMQP 1.0, from which the names of headers are taken:
https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import to_json

from contracts.encoding import COMPRESSION, Unreadable, json_in, json_of
from contracts.spelling import near_miss
from contracts.text import (
    ATTRIBUTE_LENGTH,
    attribute,
    integer_text,
    is_plain,
    number_text,
    plain,
    text_attribute,
)
from contracts.times import from_milliseconds, instant

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch"
JSON = "application/json"
HEADER_PREFIX = "cloudEvents_"
_HEADER = re.compile(r"(?:cloudevents[_:]|ce[-_])(.+)", re.IGNORECASE | re.DOTALL | re.ASCII)
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_SPECVERSION = "specversion"
_SHOWN_ERRORS = 3
CARRIED = frozenset(
    {"traceparent", "tracestate", "correlationid", "causationid", "datacontenttype", "dataschema"}
)
"""Attributes that never make an event malformed: a value that is not text is left out."""
_READ = frozenset({_SPECVERSION, "id", "source", "type", "time", "subject", "sequence", "tenant"})
_IN_DATA = frozenset(
    {"department_id", "name", "parent_id", "attributes", "previous_name", "cause", "merged_into", "recipient"}
)


class Mistake(NamedTuple):
    """One mistake in an event: the place of the field, and the rule that it breaks, without its value."""

    field: str
    error: str


class Mistaken(ValueError):
    """An event with mistakes. The text names fields and never repeats the payload."""

    def __init__(self, text: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(text)
        self._mistakes = tuple(mistakes)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Every mistake; the text may name only the first ones."""
        if self._mistakes:
            return self._mistakes
        field, colon, error = str(self).partition(": ")
        return (Mistake(field, error) if colon else Mistake("event", str(self)),)


class Malformed(Mistaken):
    """The message is not a CloudEvent."""


def _subject(value: object) -> object:
    """The event's type says what the subject must be."""
    if value == "":
        raise ValueError("must not be empty")
    if isinstance(value, str):
        return value
    text = integer_text(value)
    if text is None:
        raise ValueError("must be text or an integer")
    return text


def rfc3339(value: datetime) -> str:
    """Formats a time, such as `2026-11-21T08:30:00Z`."""
    return value.isoformat().replace("+00:00", "Z")


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(instant),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
]
Attribute = Annotated[str, AfterValidator(plain)]
RequiredAttribute = Annotated[
    str, BeforeValidator(attribute), Field(min_length=1, max_length=ATTRIBUTE_LENGTH)
]
Subject = Annotated[str, BeforeValidator(_subject)]


class CloudEvent(BaseModel):
    """An event of any type, with the attributes that this project uses. Others are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    specversion: Literal["1.0"] = "1.0"
    id: RequiredAttribute = Field(description="Identifies the event together with `source`.")
    source: RequiredAttribute = Field(description="The system that published the event: a URI reference.")
    type: Annotated[str, BeforeValidator(text_attribute)]
    time: Instant | None = Field(
        None, description="RFC 3339 with an offset. Digits beyond the microsecond are ignored."
    )
    subject: Subject | None = Field(None, description="The department_id.")
    datacontenttype: Attribute | None = Field(None, description="Media type of `data`; JSON if absent.")
    dataschema: Attribute | None = Field(None, description="URI of the schema of `data`.")
    # Extensions. The models of the event types validate `sequence` and `tenant`.
    sequence: Any = None
    tenant: Any = None
    traceparent: Attribute | None = Field(
        None, description="W3C trace context; copied to resulting messages."
    )
    tracestate: Attribute | None = Field(None, description="W3C trace context; copied to resulting messages.")
    correlationid: Attribute | None = Field(None, description="Copied to resulting messages.")
    causationid: Attribute | None = Field(None, description="The id of the event that caused this one.")
    data: Any = Field(None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _without_what_cannot_be_carried(cls, given: Any) -> Any:
        """An attribute that is only carried through cannot make an event malformed."""
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if name not in CARRIED or (isinstance(value, str) and is_plain(value))
        }


@dataclass(frozen=True, slots=True)
class Message:
    """The parts of an AMQP message: body, headers, and the properties that say how to read the body.

    `repr` shows neither body nor headers: they may hold secrets.
    """

    body: bytes = field(repr=False)
    content_type: str | None
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_encoding: str | None = None

    @classmethod
    def structured(cls, event: CloudEvent) -> Self:
        """Encodes the event in structured mode."""
        return cls(to_json(document(event)), STRUCTURED)

    @classmethod
    def binary(cls, event: CloudEvent) -> Self:
        """Encodes the event in binary mode."""
        attributes = document(event)
        data = attributes.pop("data", None)
        content_type = attributes.pop("datacontenttype", JSON)
        headers = {HEADER_PREFIX + name: value for name, value in attributes.items()}
        return cls(b"" if data is None else to_json(data), content_type, headers)


def document(event: CloudEvent) -> dict[str, Any]:
    """Returns the event as the JSON object of structured mode, without unset attributes.

    A `null` is kept where `data` requires the member, and in data that is no model of this contract.
    """
    data = event.data
    if isinstance(data, BaseModel):
        data = data.model_dump(mode="json", exclude_defaults=True)
    return attributes_of(event) | ({} if data is None else {"data": data})


def attributes_of(event: CloudEvent) -> dict[str, Any]:
    """Returns the members of `document` except `data`."""
    attributes = {name: value for name, value in event if value is not None and name != "data"}
    return attributes | ({} if event.time is None else {"time": rfc3339(event.time)})


def attribute_in(header: str) -> str | None:
    """Returns the attribute that a header carries in binary mode; None for any other header."""
    match = _HEADER.fullmatch(header)
    return match[1].lower() if match else None


def read(message: Message) -> CloudEvent:
    """Decodes the CloudEvent in a message of either mode; raises `Malformed`."""
    return event_of(attributes_in(message))


def event_of(given: Mapping[str, Any]) -> CloudEvent:
    """Validates attributes as `attributes_in` returns them; raises `Malformed`."""
    try:
        return CloudEvent.model_validate({_SPECVERSION: None, **given})
    except ValidationError as error:
        raise Malformed(describe(error, given), mistakes_in(error, given)) from None


def attributes_in(message: Message) -> dict[str, Any]:
    """Decodes the attributes in a message of either mode, unvalidated; raises `Malformed` if it cannot.

    An attribute that is `null` is left out.
    """
    media_type = (message.content_type or "").partition(";")[0].strip().lower()
    headers = {} if media_type == STRUCTURED else _header_attributes(message.headers)
    if _SPECVERSION in headers:
        return _binary_attributes(message, headers, media_type)
    body = _body(message)
    if isinstance(body, dict) and (not headers or _SPECVERSION in body):
        return _structured_attributes(body, media_type)
    if headers:
        return _binary_attributes(message, headers, media_type)
    if isinstance(body, list) and (media_type.startswith(BATCH) or _is_batch(body)):
        raise Malformed("body: a batch; send each event as a message of its own")
    raise Malformed("body: not a JSON object")


def decoded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is not `null` in the JSON object of structured mode; raises `Malformed`."""
    attributes = {name: value for name, value in document.items() if value is not None}
    if "data_base64" in attributes:
        attributes["data"] = _base64_data(attributes)
    return attributes


def readable_attributes(message: Message) -> dict[str, Any]:
    """Returns the attributes that can be read, also those of a malformed message. It never raises."""
    try:
        return attributes_in(message)
    except Malformed:
        return _readable_headers(message) or _readable_body(message)


def _readable_headers(message: Message) -> dict[str, Any]:
    return {name: value for name, value in _given_in(message.headers) if name in _READ and value is not None}


def _readable_body(message: Message) -> dict[str, Any]:
    try:
        body = _body(message)
    except Malformed:
        return {}
    return body if isinstance(body, dict) else {}


def describe(error: ValidationError, given: Mapping[str, Any] | None = None) -> str:
    """Describes a validation error field by field, without values: safe for logs and headers.

    `given` is what was validated: it tells whether a missing field is there under another name.
    """
    lines = [f"{field}: {mistake}" for field, mistake in mistakes_in(error, given)]
    more = len(lines) - _SHOWN_ERRORS
    return "; ".join(lines[:_SHOWN_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def mistakes_in(error: ValidationError, given: Mapping[str, Any] | None = None) -> tuple[Mistake, ...]:
    """Every mistake that `describe` would name, each once."""
    return tuple(dict.fromkeys(_mistakes(error, given or {})))


def _mistakes(error: ValidationError, given: Mapping[str, Any]) -> Iterator[Mistake]:
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = [str(part) for part in item["loc"]]
        missing = item["type"] == "missing" or (place[-1:] == [_SPECVERSION] and _SPECVERSION not in given)
        if missing and (meant := _given_instead(place, given)):
            yield Mistake(".".join([*place[:-1], meant]), f"did you mean {place[-1]}?")
        else:
            kind = "missing" if missing else item["type"]
            yield Mistake(".".join(place) or "event", _explanation(kind, item["msg"]))


def _given_instead(place: list[str], given: Mapping[str, Any]) -> str | None:
    """The name under which a missing field was probably given."""
    parent: Any = given
    for part in place[:-1]:
        parent = parent.get(part) if isinstance(parent, Mapping) else None
    known = _IN_DATA if place[:-1] else _READ | CARRIED | {"data"}
    return near_miss(place[-1], parent, known) if isinstance(parent, Mapping) else None


_EXPLANATIONS = {
    "missing": "missing",
    "model_type": "not a JSON object",  # Pydantic's texts name Python classes
    "model_attributes_type": "not a JSON object",
    "dict_type": "not a JSON object",
    "string_type": "must be text",
    "string_unicode": "must not contain control or surrogate characters",
    "string_too_short": "must not be empty",
}


def _explanation(kind: str, message: str) -> str:
    said = message.removeprefix("Value error, ")
    return _EXPLANATIONS.get(kind) or said.replace("Input should be", "must be")


def _structured_attributes(body: Mapping[str, Any], media_type: str) -> dict[str, Any]:
    attributes = decoded(body)
    if media_type != STRUCTURED and not attributes.keys() & {_SPECVERSION, "source", "type"}:
        meant = near_miss(_SPECVERSION, attributes, _READ)
        hint = f"{meant}: did you mean {_SPECVERSION}?" if meant else f"it has no {_SPECVERSION}"
        raise Malformed(f"body: not a CloudEvent: {hint}, and no header {HEADER_PREFIX}{_SPECVERSION}")
    return attributes


def _base64_data(attributes: Mapping[str, Any]) -> Any:
    if "data" in attributes:
        raise Malformed("data and data_base64: only one of them may be given")
    try:
        return json_of(base64.b64decode(attributes["data_base64"], validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise Malformed("data_base64: not base64 of JSON") from None


def _given_in(headers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for header, value in headers.items():
        if name := attribute_in(header):
            yield name, _header_value(value)


def _header_attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, value in _given_in(headers):
        if value is not None and _differ(attributes.setdefault(name, value), value) and name in _READ:
            raise Malformed(f"headers: two prefixes give different values for {name}")
    return attributes


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool((number_text(one) or one) != (number_text(other) or other))
    except ArithmeticError:  # a signalling NaN, which equals nothing
        return True


def _binary_attributes(message: Message, headers: dict[str, Any], media_type: str) -> dict[str, Any]:
    attributes = {name: value for name, value in headers.items() if name not in {"data", "data_base64"}}
    try:
        attributes |= {"time": from_milliseconds(headers["time"])} if "time" in headers else {}
    except ValueError as error:
        raise Malformed(f"time: {error}") from None
    if message.content_type:
        attributes["datacontenttype"] = message.content_type
    if message.body:
        attributes["data"] = _data(message, media_type)
    return {"datacontenttype": JSON} | attributes


def _data(message: Message, media_type: str) -> Any:
    try:
        return _body(message)
    except Malformed as error:
        if media_type and media_type not in {JSON, "text/json"} and not media_type.endswith("+json"):
            shown = media_type if _MEDIA_TYPE.fullmatch(media_type) else "another type"
            raise Malformed(f"{error}; content-type: data must be JSON, not {shown}") from None
        raise


def _header_value(value: Any) -> Any:
    """Text if it is bytes of UTF-8, else the value as it is."""
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _body(message: Message) -> Any:
    try:
        return json_in(message.body, message.content_encoding, message.headers.get(COMPRESSION))
    except Unreadable as error:
        text = str(error)
        raise Malformed(
            text if text.startswith(("body", "content-", COMPRESSION)) else f"body: {text}"
        ) from None


def _is_batch(body: list[Any]) -> bool:
    return any(isinstance(item, dict) and _SPECVERSION in item for item in body)
