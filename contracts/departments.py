"""Inbound: what HR and CRM systems say about departments.

An event is a statement of state, not a command: of two events of one department the newer one holds, whatever
order they arrive in (`DepartmentEvent.version`).
"""

import hashlib
import json
import re
import unicodedata
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from contracts.envelope import CloudEvent, Instant, describe

DEFAULT_TENANT = "default"
IDENTIFIER_LENGTH = 128
NAME_LENGTH = 200
SEQUENCE_DIGITS = 18


class UnsupportedType(ValueError):
    """A CloudEvent, but not of a type this contract has."""


class Invalid(ValueError):
    """An event of a supported type that breaks its contract. The text names fields, never their values."""


class Kind(StrEnum):
    CREATED = "created"
    RENAMED = "renamed"
    REMOVED = "removed"


class Version(NamedTuple):
    """Orders the events of one department; the greater is the newer. Ties go field by field, to the last."""

    sequence: int | None
    time: datetime
    kind: Kind
    source: str
    id: str

    def rank(self) -> tuple[bool, int, datetime, int, str, str]:
        """The sort key: an event with a sequence is newer than any without."""
        order = list(Kind).index(self.kind)
        return (self.sequence is not None, self.sequence or 0, self.time, order, self.source, self.id)

    def newer_than(self, other: "Version | None") -> bool:
        return other is None or self.rank() > other.rank()


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


def _clean_name(value: str) -> str:
    """NFC, trimmed, inner white space folded to one space each."""
    folded = re.sub(r"[^\S\x1c-\x1f]+", " ", unicodedata.normalize("NFC", value)).strip(" ")
    if any(unicodedata.category(character) == "Cc" for character in folded):
        raise ValueError("must not contain control characters")
    if not 1 <= len(folded) <= NAME_LENGTH:
        raise ValueError(f"must have 1 to {NAME_LENGTH} characters besides outer white space")
    return folded


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


Identifier = Annotated[str, Field(min_length=1, max_length=IDENTIFIER_LENGTH), AfterValidator(_printable)]
Name = Annotated[str, AfterValidator(_clean_name)]
Sequence = Annotated[int, BeforeValidator(_sequence)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    department_id: Identifier


class Created(_Data):
    name: Name
    parent_id: str | None = None
    attributes: dict[str, Any] | None = None


class Renamed(_Data):
    name: Name
    previous_name: str | None = None


class Removed(_Data):
    name: Name | None = None
    cause: Literal["deleted", "merged", "deactivated"] | None = None
    merged_into: Identifier | None = None


class _DepartmentEvent(CloudEvent):
    time: Instant
    sequence: Sequence | None = None
    tenant: Identifier = DEFAULT_TENANT
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
        return Version(self.sequence, self.time.astimezone(UTC), self.kind, self.source, self.id)


class DepartmentCreated(_DepartmentEvent):
    type: Literal["department.created.v1"] = "department.created.v1"
    data: Created


class DepartmentRenamed(_DepartmentEvent):
    type: Literal["department.renamed.v1"] = "department.renamed.v1"
    data: Renamed


class DepartmentRemoved(_DepartmentEvent):
    type: Literal["department.removed.v1"] = "department.removed.v1"
    data: Removed


DepartmentEvent = Annotated[
    DepartmentCreated | DepartmentRenamed | DepartmentRemoved, Field(discriminator="type")
]
_ADAPTER: TypeAdapter[DepartmentCreated | DepartmentRenamed | DepartmentRemoved] = TypeAdapter(
    DepartmentEvent
)
_TYPE = re.compile(r"(?:[A-Za-z0-9-]+\.)*department\.(created|renamed|removed)(?:\.v1)?")


def canonical_type(sent: str) -> str:
    """`com.example.hr.department.created` -> `department.created.v1`; raises `UnsupportedType`."""
    match = _TYPE.fullmatch(sent)
    if match is None:
        raise UnsupportedType("type: not department.created.v1, .renamed.v1 or .removed.v1")
    return f"department.{match[1]}.v1"


def department_event(event: CloudEvent) -> DepartmentCreated | DepartmentRenamed | DepartmentRemoved:
    """The department event a CloudEvent carries; raises `UnsupportedType` or `Invalid`."""
    canonical = canonical_type(event.type)
    given = {name: value for name, value in event if value is not None}
    try:
        return _ADAPTER.validate_python(given | {"type": canonical})
    except ValidationError as error:
        raise Invalid(describe(error).replace(f"{canonical}.", "")) from None


def payload_digest(event: CloudEvent) -> str:
    """Tells a redelivery from another payload under the same id: SHA-256, hex, of type, tenant and data.

    Mode, trace attributes and the order of JSON keys do not change it.
    """
    payload = [canonical_type(event.type), event.tenant or DEFAULT_TENANT, event.data]
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
