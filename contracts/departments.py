"""Inbound: what HR and CRM systems say about departments.

An event is a statement of state, not a command: of two events of one department the newer one holds, whatever
order they arrive in (`DepartmentEvent.version`).
"""

import hashlib
import json
import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from contracts.envelope import CloudEvent, Instant, describe, is_free_of_control

DEFAULT_TENANT = "default"
IDENTIFIER_LENGTH = 128
NAME_LENGTH = 200
SEQUENCE_DIGITS = 18

# Canonical composition makes one code point of four at most: what is longer than this cannot come down to
# NAME_LENGTH. Normalising takes time by the square of a run of combining marks, so it must not see more.
_NAME_LENGTH_BEFORE_NFC = 4 * NAME_LENGTH


class UnsupportedType(ValueError):
    """A CloudEvent, but not of a type this contract has."""


class Invalid(ValueError):
    """An event of a supported type that breaks its contract. The text names fields, never their values."""


class Kind(StrEnum):
    CREATED = "created"
    RENAMED = "renamed"
    REMOVED = "removed"


_KINDS = list(Kind)


class Version(NamedTuple):
    """Orders the events of one department, by `newer_than`; `<` and `max` of the bare tuples do not."""

    sequence: int | None
    time: datetime
    kind: Kind
    source: str
    id: str

    def rank(self) -> tuple[bool, int, datetime, int, str, str]:
        """The sort key: an event with a sequence is newer than any without."""
        order = _KINDS.index(self.kind)
        return (self.sequence is not None, self.sequence or 0, self.time, order, self.source, self.id)

    def newer_than(self, other: "Version | None") -> bool:
        return other is None or self.rank() > other.rank()


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


def _clean_name(value: str) -> str:
    """NFC, trimmed, inner white space folded to one space each."""
    folded = re.sub(r"[^\S\x1c-\x1f]+", " ", value).strip(" ")
    name = unicodedata.normalize("NFC", folded) if len(folded) <= _NAME_LENGTH_BEFORE_NFC else folded
    if not 1 <= len(name) <= NAME_LENGTH:
        raise ValueError(f"must have 1 to {NAME_LENGTH} characters besides outer white space")
    if not is_free_of_control(name):
        raise ValueError("must not contain control characters")
    return name


def _sequence(value: object) -> object:
    """An integer, or its decimal text: AMQP headers and the CloudEvents sequence extension use both."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value, re.ASCII):
        digits, value = len(value.lstrip("-")), int(value) if len(value) < 2 * SEQUENCE_DIGITS else 0
    elif isinstance(value, int) and not isinstance(value, bool):
        digits = 1 if abs(value) < 10**SEQUENCE_DIGITS else SEQUENCE_DIGITS + 1
    else:
        raise ValueError("must be an integer or its decimal text")
    if digits > SEQUENCE_DIGITS:
        raise ValueError(f"must have at most {SEQUENCE_DIGITS} digits")
    return value


_NO_CONTROL_CHARACTERS = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"

Identifier = Annotated[
    str,
    Field(
        min_length=1,
        max_length=IDENTIFIER_LENGTH,
        json_schema_extra={"pattern": _NO_CONTROL_CHARACTERS},
    ),
    AfterValidator(_printable),
]
Name = Annotated[
    str,
    AfterValidator(_clean_name),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH, "pattern": _NO_CONTROL_CHARACTERS}
    ),
]
Sequence = Annotated[
    int,
    BeforeValidator(_sequence),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1 - 10**SEQUENCE_DIGITS, "maximum": 10**SEQUENCE_DIGITS - 1},
                {"type": "string", "pattern": f"^-?[0-9]{{1,{SEQUENCE_DIGITS}}}$"},
            ]
        }
    ),
]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    department_id: Identifier = Field(description="Never changes. 1 to 128 printable characters.")


class Created(_Data):
    """What a created event tells."""

    name: Name = Field(description="NFC, white space trimmed and folded; its length counts after that.")
    parent_id: str | None = Field(None, description="Not read here.")
    attributes: dict[str, Any] | None = Field(None, description="Not read here.")


class Renamed(_Data):
    """What a renamed event tells."""

    name: Name = Field(description="The new name; NFC, white space trimmed and folded.")
    previous_name: str | None = Field(None, description="Not read here.")


class Removed(_Data):
    """What a removed event tells."""

    name: Name | None = Field(None, description="The name it last had.")
    cause: Literal["deleted", "merged", "deactivated"] | None = Field(None, description="Why it is gone.")
    merged_into: Identifier | None = Field(
        None, description="The department that takes over. A removal with it waits for a person's approval."
    )


class _DepartmentEvent(CloudEvent):
    time: Instant = Field(
        description="When it happened: RFC 3339 with an offset. Digits beyond the microsecond do not count."
        " Where it decides what is newer, it may be at most 10 minutes ahead of the worker's clock."
    )
    subject: str | None = Field(None, description="Equal to data.department_id where given.")
    sequence: Sequence | None = Field(
        None,
        description="Rises with every event of the department. An event with one is newer than any without."
        " Text where numbers this long lose digits.",
    )
    tenant: Identifier = Field(
        DEFAULT_TENANT, description="Whose department it is: an id is unique within its tenant only."
    )
    data: _Data

    @model_validator(mode="after")
    def _subject_is_the_department(self) -> "_DepartmentEvent":
        if self.subject is not None and self.subject != self.data.department_id:
            raise ValueError("subject must equal data.department_id")
        return self

    @property
    def kind(self) -> Kind:
        return Kind(self.type.split(".")[1])

    @property
    def version(self) -> Version:
        return Version(self.sequence, self.time, self.kind, self.source, self.id)


class DepartmentCreated(_DepartmentEvent):
    """A department exists, under this name: it gets a subaccount, or has its own enabled again."""

    type: Literal["department.created.v1"] = "department.created.v1"
    data: Created


class DepartmentRenamed(_DepartmentEvent):
    """A department exists, under another name than before."""

    type: Literal["department.renamed.v1"] = "department.renamed.v1"
    data: Renamed


class DepartmentRemoved(_DepartmentEvent):
    """A department exists no more: its subaccount is disabled or deleted, as the operator has chosen."""

    type: Literal["department.removed.v1"] = "department.removed.v1"
    data: Removed


DepartmentEvent = Annotated[
    DepartmentCreated | DepartmentRenamed | DepartmentRemoved, Field(discriminator="type")
]
_MODELS: dict[str, type[DepartmentEvent]] = {
    "department.created.v1": DepartmentCreated,
    "department.renamed.v1": DepartmentRenamed,
    "department.removed.v1": DepartmentRemoved,
}
_TYPE = re.compile(r"(?:[A-Za-z0-9-]+\.)*department\.(created|renamed|removed)(?:\.v1)?")


def canonical_type(sent: str) -> str:
    """`com.example.hr.department.created` -> `department.created.v1`; raises `UnsupportedType`."""
    match = _TYPE.fullmatch(sent)
    if match is None:
        raise UnsupportedType("type: not department.created.v1, .renamed.v1 or .removed.v1")
    return f"department.{match[1]}.v1"


def department_event(event: CloudEvent) -> DepartmentEvent:
    """The department event a CloudEvent carries; raises `UnsupportedType` or `Invalid`."""
    canonical = canonical_type(event.type)
    given = {name: value for name, value in event if value is not None}
    try:
        return _MODELS[canonical].model_validate(given | {"type": canonical})
    except ValidationError as error:
        raise Invalid(describe(error)) from None


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def payload_digest(event: CloudEvent) -> str:
    """Tells a redelivery from another payload under the same id: SHA-256, hex, of type, tenant and data.

    Takes the event as it was read, with its unknown fields. Mode, trace attributes, the order of JSON keys
    and whether a whole number is written `1` or `1.0` do not change it.
    """
    return digest(event, canonical_type(event.type))


def digest(event: CloudEvent, canonical: str) -> str:
    """The same of an event of any type, under the name its contract has for that."""
    payload = [canonical, event.tenant or DEFAULT_TENANT, _canonical(event.data)]
    return hashlib.sha256(_COMPACT.encode(payload).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """`1.0` is `1`: which of them is written is the choice of a producer's JSON library."""
    match value:
        case dict():
            return {name: _canonical(member) for name, member in value.items()}
        case list():
            return [_canonical(member) for member in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
