"""Inbound: department events, published by HR and CRM systems.

An event states what a department is; it is not a command. Of two events of one department the newer one
applies, in whatever order they arrive (`DepartmentEvent.version`).
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

# Canonical composition (Unicode Annex 15) joins at most four code points into one: a longer name cannot come
# down to NAME_LENGTH. Normalising takes quadratic time in a run of combining marks, so its input is bounded.
_NAME_LENGTH_BEFORE_NFC = 4 * NAME_LENGTH


class UnsupportedType(ValueError):
    """A CloudEvent of a type that this contract does not define."""


class Invalid(ValueError):
    """An event of a supported type that breaks its contract. The text names fields, never their values."""


class Kind(StrEnum):
    """The kinds of department events, oldest first where their times are equal."""

    CREATED = "created"
    RENAMED = "renamed"
    REMOVED = "removed"


_KINDS = list(Kind)


class Version(NamedTuple):
    """Orders the events of one department.

    Compare with `newer_than` or sort by `rank`: `<` and `max` of the tuples follow another order.
    """

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
        """Whether this version supersedes the other. Every version is newer than `None`."""
        return other is None or self.rank() > other.rank()


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


def _clean_name(value: str) -> str:
    """Returns the name in Unicode NFC, trimmed, with each run of inner white space as one space."""
    folded = re.sub(r"[^\S\x1c-\x1f]+", " ", value).strip(" ")
    name = unicodedata.normalize("NFC", folded) if len(folded) <= _NAME_LENGTH_BEFORE_NFC else folded
    if not 1 <= len(name) <= NAME_LENGTH:
        raise ValueError(f"must have 1 to {NAME_LENGTH} characters besides outer white space")
    if not is_free_of_control(name):
        raise ValueError("must not contain control characters")
    return name


def _sequence(value: object) -> object:
    """Reads an integer or its decimal text: AMQP headers and the CloudEvents sequence extension use both."""
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

    department_id: Identifier = Field(description="1 to 128 printable characters. Never changes.")


class Created(_Data):
    """The data of a created event."""

    name: Name = Field(
        description="Brought to NFC, with white space trimmed and folded; its length is counted after that."
    )
    parent_id: str | None = Field(None, description="Ignored.")
    attributes: dict[str, Any] | None = Field(None, description="Ignored.")


class Renamed(_Data):
    """The data of a renamed event."""

    name: Name = Field(description="The new name. Brought to NFC, with white space trimmed and folded.")
    previous_name: str | None = Field(None, description="Ignored.")


class Removed(_Data):
    """The data of a removed event."""

    name: Name | None = Field(None, description="The department's last name.")
    cause: Literal["deleted", "merged", "deactivated"] | None = Field(
        None, description="The reason for the removal."
    )
    merged_into: Identifier | None = Field(
        None, description="The department that takes over. It has no effect on the removal yet."
    )


class _DepartmentEvent(CloudEvent):
    time: Instant = Field(
        description="The time of the change: RFC 3339 with an offset. Digits beyond the microsecond are"
        " ignored. If it decides which event is newer, it may be at most 10 minutes ahead of the worker's"
        " clock."
    )
    subject: str | None = Field(None, description="If given, equal to data.department_id.")
    sequence: Sequence | None = Field(
        None,
        description="Increases with every event of the department. An event with a sequence is newer than any"
        " without. Send it as text if your JSON library loses digits of long numbers.",
    )
    tenant: Identifier = Field(
        DEFAULT_TENANT,
        description="The owner of the department. A department_id is unique only within its tenant.",
    )
    data: _Data

    @model_validator(mode="after")
    def _subject_is_the_department(self) -> "_DepartmentEvent":
        if self.subject is not None and self.subject != self.data.department_id:
            raise ValueError("subject must equal data.department_id")
        return self

    @property
    def kind(self) -> Kind:
        """The kind named in `type`."""
        return Kind(self.type.split(".")[1])

    @property
    def version(self) -> Version:
        """The place of this event among those of its department."""
        return Version(self.sequence, self.time, self.kind, self.source, self.id)


class DepartmentCreated(_DepartmentEvent):
    """A department exists under this name. It gets a subaccount, or its disabled one is enabled."""

    type: Literal["department.created.v1"] = "department.created.v1"
    data: Created


class DepartmentRenamed(_DepartmentEvent):
    """A department has a new name."""

    type: Literal["department.renamed.v1"] = "department.renamed.v1"
    data: Renamed


class DepartmentRemoved(_DepartmentEvent):
    """A department no longer exists. Its subaccount is disabled or deleted, as the operator configured."""

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
    """Validates a CloudEvent as a department event; raises `UnsupportedType` or `Invalid`."""
    canonical = canonical_type(event.type)
    given = {name: value for name, value in event if value is not None}
    try:
        return _MODELS[canonical].model_validate(given | {"type": canonical})
    except ValidationError as error:
        raise Invalid(describe(error)) from None


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def payload_digest(event: CloudEvent) -> str:
    """Returns a SHA-256, in hex, of type, tenant and data; raises `UnsupportedType`.

    It tells a redelivery from another payload under the same id. The event is taken as it was read, with its
    unknown fields. The mode, trace attributes, the order of JSON keys, and `1` or `1.0` for a whole number
    make no difference.
    """
    return digest(event, canonical_type(event.type))


def digest(event: CloudEvent, canonical: str) -> str:
    """Returns the same for an event of any type; `canonical` is the type's name in its contract."""
    payload = [canonical, event.tenant or DEFAULT_TENANT, _canonical(event.data)]
    return hashlib.sha256(_COMPACT.encode(payload).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Turns `1.0` into `1`: JSON libraries differ in how they write a whole number."""
    match value:
        case dict():
            return {name: _canonical(member) for name, member in value.items()}
        case list():
            return [_canonical(member) for member in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
