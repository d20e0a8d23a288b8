"""CloudEvents 1.0 over AMQP 0-9-1, in structured and in binary mode.

Structured mode carries the whole event as JSON in the body (`application/cloudevents+json`). Binary mode
carries `data` in the body, its media type in the `content-type` property and every other attribute as a
header `cloudEvents_<name>`; on input `cloudEvents:<name>` is accepted as well.

CloudEvents 1.0.2, and its AMQP protocol binding for AMQP 1.0, from which the names of headers are taken:
https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic_core import from_json, to_json

STRUCTURED = "application/cloudevents+json"
JSON = "application/json"
ATTRIBUTE_LENGTH = 1024
HEADER_PREFIX = "cloudEvents_"
ACCEPTED_PREFIXES = (HEADER_PREFIX, "cloudEvents:")

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Malformed(ValueError):
    """The message is not a CloudEvent. The text names the error and never repeats the payload."""


def _instant(value: object) -> object:
    if isinstance(value, datetime):  # an AMQP timestamp header: whole seconds, UTC
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        return value.upper()
    raise ValueError("not an RFC 3339 time with an offset, such as 2026-11-21T08:30:00Z")


def _utc(value: datetime) -> datetime:
    """Equal instants must be equal values, whatever offset they were written with."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


def is_free_of_control(value: str) -> bool:
    """Whether the text has no control character (C0, DEL or C1)."""
    return _CONTROL.search(value) is None


def _no_control_characters(value: str) -> str:
    if not is_free_of_control(value):
        raise ValueError("contains a control character")
    return value


def rfc3339(value: datetime) -> str:
    """Formats a time, such as `2026-11-21T08:30:00Z`."""
    return value.isoformat().replace("+00:00", "Z")


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_instant),
    AfterValidator(_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
]
Attribute = Annotated[str, AfterValidator(_no_control_characters)]
RequiredAttribute = Annotated[Attribute, Field(min_length=1, max_length=ATTRIBUTE_LENGTH)]


class CloudEvent(BaseModel):
    """An event of any type, with the attributes that this project uses. Others are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    specversion: Literal["1.0"] = "1.0"
    id: RequiredAttribute = Field(description="Identifies the event together with `source`.")
    source: RequiredAttribute = Field(description="The system that published the event: a URI reference.")
    type: RequiredAttribute
    time: Instant | None = Field(
        None, description="RFC 3339 with an offset. Digits beyond the microsecond are ignored."
    )
    subject: RequiredAttribute | None = Field(None, description="The department_id.")
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


@dataclass(frozen=True, slots=True)
class Message:
    """The parts of an AMQP message: body, `content-type` property and headers.

    `repr` shows neither body nor headers: they may hold secrets.
    """

    body: bytes = field(repr=False)
    content_type: str | None
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)

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


def read(message: Message) -> CloudEvent:
    """Decodes the CloudEvent in a message of either mode; raises `Malformed`."""
    try:
        return CloudEvent.model_validate({"specversion": None} | attributes_in(message))
    except ValidationError as error:
        raise Malformed(describe(error)) from None


def attributes_in(message: Message) -> dict[str, Any]:
    """Decodes the attributes in a message of either mode, unvalidated; raises `Malformed` if it cannot."""
    media_type = (message.content_type or "").partition(";")[0].strip().lower()
    if media_type == STRUCTURED:
        return _structured_attributes(message.body)
    if media_type.startswith("application/cloudevents"):
        raise Malformed(f"content-type is a CloudEvents format other than {STRUCTURED}")
    return _binary_attributes(message, media_type)


def describe(error: ValidationError) -> str:
    """Describes a validation error field by field, without values: safe for logs and headers."""
    lines = [
        f"{'.'.join(map(str, item['loc'])) or 'event'}: {_explanation(item['type'], item['msg'])}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")  # noqa: PLR2004


def _explanation(kind: str, message: str) -> str:
    if kind in {"model_type", "dict_type"}:  # Pydantic's text names a Python class
        return "not a JSON object"
    return message.removeprefix("Value error, ")


def _structured_attributes(body: bytes) -> dict[str, Any]:
    attributes = _json(body, "body")
    if not isinstance(attributes, dict):
        raise Malformed("body: not a JSON object")
    if attributes.get("data_base64") is not None:
        attributes["data"] = _base64_data(attributes)
    return attributes


def _base64_data(attributes: Mapping[str, Any]) -> Any:
    if attributes.get("data") is not None:
        raise Malformed("data and data_base64: only one of them may be given")
    try:
        return _json(base64.b64decode(attributes["data_base64"], validate=True), "data_base64")
    except (TypeError, ValueError, binascii.Error):
        raise Malformed("data_base64: not base64 of JSON") from None


def _binary_attributes(message: Message, media_type: str) -> dict[str, Any]:
    attributes = {
        name.removeprefix(prefix): _header_value(value)
        for prefix in ACCEPTED_PREFIXES
        for name, value in message.headers.items()
        if name.startswith(prefix)
    }
    if not attributes:
        raise Malformed(f"neither structured mode (content-type {STRUCTURED}) nor cloudEvents_ headers")
    attributes.pop("data", None)
    if message.body:
        if media_type and media_type not in {JSON, "text/json"} and not media_type.endswith("+json"):
            raise Malformed("content-type: data must be JSON")
        attributes["data"] = _json(message.body, "body")
    return attributes | {"datacontenttype": message.content_type or JSON}


def _header_value(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed("a cloudEvents header is not UTF-8 text") from None
    return value


def _json(text: bytes, where: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Malformed(f"{where}: not JSON ({error})") from None
