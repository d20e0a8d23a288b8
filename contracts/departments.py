"""Inbound: department events, published by HR and CRM systems.

An event states what a department is; it is not a command. Of two events of one department the newer one
applies, in whatever order they arrive (`DepartmentEvent.version`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
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

from contracts import text, times
from contracts.envelope import CloudEvent, Instant, Mistaken, RequiredAttribute, describe, mistakes_in
from contracts.spelling import near_word
from contracts.text import IDENTIFIER_LENGTH, identifier, integer

DEFAULT_TENANT = "default"
SEQUENCE_DIGITS = 20

_LARGEST_NUMBER = 10**IDENTIFIER_LENGTH - 1
_SMALLEST_NUMBER = 1 - 10 ** (IDENTIFIER_LENGTH - 1)


class UnsupportedType(Mistaken):
    """A CloudEvent of a type that this contract does not define."""


class Invalid(Mistaken):
    """An event of a supported type that breaks its contract."""


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


def _spelt(value: str) -> str:
    if identifier(value) != value:
        raise ValueError("must be trimmed and in NFC")
    return value


def _sequence(value: object) -> int:
    """Reads an integer or its decimal text: AMQP headers and the CloudEvents sequence extension use both."""
    if isinstance(value, str) and re.fullmatch("[0-9]+", value):
        digits = value.lstrip("0")
        number = int(digits or "0") if len(digits) <= SEQUENCE_DIGITS else None
    else:
        number = -1 if isinstance(value, str) and re.fullmatch("-[0-9]+", value) else integer(value)
        if number is None:
            raise ValueError("must be an integer or its decimal text")
    if number is None or number >= 10**SEQUENCE_DIGITS:
        raise ValueError(f"must have at most {SEQUENCE_DIGITS} digits")
    if number < 0:
        raise ValueError("must not be negative")
    return number


def _cause(value: object) -> object:
    words = ("deleted", "merged", "deactivated")
    if isinstance(value, str) and value in words:
        return value
    meant = near_word(value, words) if isinstance(value, str) else None
    raise ValueError("must be deleted, merged or deactivated" + (f"; did you mean {meant}?" if meant else ""))


Identifier = Annotated[
    str,
    Field(
        min_length=1,
        max_length=IDENTIFIER_LENGTH,
        json_schema_extra={"pattern": f"^{text.IN_IDENTIFIERS}*$"},
    ),
    AfterValidator(_spelt),
]
"""An id as we write it: the one spelling of all that are accepted."""

SentIdentifier = Annotated[
    str,
    BeforeValidator(identifier),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": text.IDENTIFIER,
                    "anyOf": [{"pattern": text.SHORT_IDENTIFIER}, {"pattern": text.CHANGED_BY_NFC}],
                },
                {"type": "integer", "minimum": _SMALLEST_NUMBER, "maximum": _LARGEST_NUMBER},
            ]
        }
    ),
]
"""An id as a producer may write it."""

Name = Annotated[
    str,
    BeforeValidator(text.name),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": text.NAME,
            "allOf": [
                {"pattern": text.VISIBLE},
                {"anyOf": [{"pattern": text.SHORT_NAME}, {"pattern": text.CHANGED_BY_NFC}]},
            ],
        }
    ),
]
Sequence = Annotated[
    int,
    BeforeValidator(_sequence),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "exclusiveMaximum": 10**SEQUENCE_DIGITS},
                {"type": "string", "pattern": f"^0*[0-9]{{1,{SEQUENCE_DIGITS}}}{text.END}"},
            ]
        }
    ),
]
Cause = Annotated[Literal["deleted", "merged", "deactivated"], BeforeValidator(_cause)]
SentAttribute = Annotated[
    RequiredAttribute,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": text.ATTRIBUTE_LENGTH,
                    "pattern": text.ATTRIBUTE,
                },
                {"type": "number", "minimum": _SMALLEST_NUMBER, "maximum": _LARGEST_NUMBER},
            ]
        }
    ),
]
SentInstant = Annotated[Instant, WithJsonSchema({"type": "string", "pattern": times.PATTERN})]


class SentData(BaseModel):
    """Data as a producer sends it: `null` is the same as leaving a member out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    department_id: SentIdentifier = Field(
        description="1 to 128 characters, none of them a control or format character; an integer is read as"
        " its decimal text. Outer white space is trimmed, and it is brought to NFC. Never changes."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {member: value for member, value in given.items() if value is not None}


class Created(SentData):
    """The data of a created event."""

    name: Name = Field(
        description="Brought to NFC, with white space trimmed and folded; its length is counted after that."
        " It has at least one visible character."
    )
    parent_id: Any = Field(None, description="Ignored.")
    attributes: Any = Field(None, description="Ignored.")


class Renamed(SentData):
    """The data of a renamed event."""

    name: Name = Field(description="The new name. Brought to NFC, with white space trimmed and folded.")
    previous_name: Any = Field(None, description="Ignored.")


class Removed(SentData):
    """The data of a removed event."""

    name: Name | None = Field(None, description="The department's last name.")
    cause: Cause | None = Field(None, description="The reason for the removal.")
    merged_into: SentIdentifier | None = Field(
        None, description="The department that takes over. The removal then waits for a person."
    )


class SentEvent(CloudEvent):
    """The attributes that events and requests share, as a producer sends them."""

    id: SentAttribute = Field(description="Identifies the event together with `source`.")
    source: SentAttribute = Field(description="The system that published the event: a URI reference.")
    time: SentInstant = Field(
        description="RFC 3339 with an offset. Digits beyond the microsecond are ignored; second 60 is the end"
        " of its minute. +0000, a blank for T and a time without seconds are accepted."
    )
    subject: SentIdentifier | None = Field(None, description="If given, equal to data.department_id.")
    tenant: SentIdentifier = Field(
        DEFAULT_TENANT,
        description="The owner of the department. A department_id is unique only within its tenant.",
    )
    data: SentData

    @model_validator(mode="after")
    def _subject_is_the_department(self) -> "SentEvent":
        if self.subject is not None and self.subject != self.data.department_id:
            raise ValueError("subject must equal data.department_id")
        return self


class _DepartmentEvent(SentEvent):
    time: SentInstant = Field(
        description="The time of the change: RFC 3339 with an offset. Digits beyond the microsecond are"
        " ignored; second 60 is the end of its minute. +0000, a blank for T and a time without seconds are"
        " accepted. If it decides which event is newer, it may be at most 10 minutes ahead of the worker's"
        " clock."
    )
    sequence: Sequence | None = Field(
        None,
        description="Increases with every event of the department. An event with a sequence is newer than any"
        " without. Send it as text if your JSON library loses digits of long numbers.",
    )

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
_SYNONYMS = {"updated": "renamed", "deleted": "removed"}
_WORDS = {kind: "|".join([kind, *(word for word in _SYNONYMS if _SYNONYMS[word] == kind)]) for kind in Kind}
_PREFIX = "(?:[A-Za-z0-9_-]+[.])*"
_TYPE = re.compile(rf"{_PREFIX}department[.]({'|'.join(_WORDS.values())})(?:[.]v1)?")
TYPE_PATTERNS = {
    f"department.{kind}.v1": f"^{_PREFIX}department[.](?:{words})(?:[.]v1)?{text.END}"
    for kind, words in _WORDS.items()
}


def canonical_type(sent: str) -> str:
    """`com.example.hr.department.deleted` -> `department.removed.v1`; raises `UnsupportedType`."""
    match = _TYPE.fullmatch(sent)
    if match is None:
        meant = _type_meant(sent)
        hint = f"; did you mean {meant}?" if meant else ""
        raise UnsupportedType(f"type: not department.created.v1, .renamed.v1 or .removed.v1{hint}")
    return f"department.{_SYNONYMS.get(match[1], match[1])}.v1"


def _type_meant(sent: str) -> str | None:
    """`department_created`, `Departments.Create` -> `department.created.v1`."""
    words = [word for word in re.split("[^a-z0-9]+", _apart(sent).lower()) if word]
    if words[-1:] == ["v1"]:
        del words[-1]
    if not words or (words[1:] and near_word(words[-2], ("department", "departments", "dept")) is None):
        return None
    meant = near_word(words[-1], (*Kind, *_SYNONYMS))
    return f"department.{_SYNONYMS.get(meant, meant)}.v1" if meant else None


def _apart(sent: str) -> str:
    """`DepartmentCreated` -> `Department.Created`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", ".", sent[:200])


def department_event(event: CloudEvent, sent: Mapping[str, Any] | None = None) -> DepartmentEvent:
    """Validates a CloudEvent as a department event; raises `UnsupportedType` or `Invalid`.

    `sent` has the attributes that it was read from: with them, a missing one is found under another name.
    """
    canonical = canonical_type(event.type)
    given = {name: value for name, value in event if value is not None}
    try:
        return _MODELS[canonical].model_validate(given | {"type": canonical})
    except ValidationError as error:
        known = {**(sent or {}), **given}
        raise Invalid(describe(error, known), mistakes_in(error, known)) from None


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_SPELLINGS: Mapping[str, Callable[[object], str]] = {
    "department_id": identifier,
    "merged_into": identifier,
    "name": text.name,
}


def payload_digest(event: CloudEvent) -> str:
    """Returns a SHA-256, in hex, of type, tenant and data; raises `UnsupportedType`.

    It tells a redelivery from another payload under the same id. The event is taken as it was read, with its
    unknown fields. The mode, trace attributes, the order of JSON keys, `1` or `1.0` for a whole number, the
    spelling of the type, of an id and of a name, and `null` for a member that is left out make no difference.
    """
    return digest(event, canonical_type(event.type))


def digest(event: CloudEvent, canonical: str) -> str:
    """Returns the same for an event of any type; `canonical` is the type's name in its contract."""
    tenant = DEFAULT_TENANT if event.tenant is None else _respelt(identifier, event.tenant)
    return digest_of_payload(canonical, tenant, _spelt_data(event.data))


def digest_of_payload(canonical: str, tenant: object, data: Any) -> str:
    """Returns the same for a tenant and data in their one spelling."""
    payload = [canonical, tenant, _canonical(_given(data))]
    return hashlib.sha256(_COMPACT.encode(payload).encode()).hexdigest()


def _given(data: Any) -> Any:
    """The members that are not `null`."""
    if not isinstance(data, dict):
        return data
    return {member: value for member, value in data.items() if value is not None}


def _spelt_data(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    given = _given(data)
    return given | {
        member: _respelt(spelling, given[member])
        for member, spelling in _SPELLINGS.items()
        if member in given
    }


def _respelt(spelling: Callable[[object], str], value: object) -> object:
    """The one spelling of a value; one that breaks the rules is taken as it is."""
    try:
        return spelling(value)
    except ValueError:
        return value


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
