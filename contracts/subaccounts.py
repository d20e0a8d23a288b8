"""Outbound: what came of an event (`provisioner.results`) and credentials (`provisioner.secrets`)."""

import uuid
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema, model_validator
from pydantic_core import to_json

from contracts.departments import Identifier
from contracts.envelope import STRUCTURED, Attribute, CloudEvent, Instant, Message, attributes_of
from contracts.topology import checked_recipient

JOSE = "application/jose"

# The namespace of every id this project derives. Changing it changes them all: never do.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "subaccount-provisioner")


class ResultKind(StrEnum):
    """What became of an event. The first seven are final; `held` and `failed` may come before a final one."""

    CREATED = "created"
    RENAMED = "renamed"
    DISABLED = "disabled"
    RESTORED = "restored"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    HELD = "held"
    FAILED = "failed"


class DeadReason(StrEnum):
    """Why a message lies in `provisioner.dead-letters`: a closed set."""

    MALFORMED = "malformed"
    INVALID = "invalid"
    UNSUPPORTED_TYPE = "unsupported-type"
    CONFLICTING_DUPLICATE = "conflicting-duplicate"
    REJECTED = "rejected"
    CREATE_UNKNOWN = "create-unknown"
    EXHAUSTED = "exhausted"
    DELIVERY_LIMIT = "delivery-limit"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class EventReference(_Data):
    """An inbound event. `type` is what its producer wrote."""

    source: str
    id: str
    type: str


class Result(_Data):
    """What became of one event."""

    tenant: Identifier
    department_id: Identifier | None = Field(description="null only where a dead letter does not tell it.")
    name: str | None = Field(description="null only where no event of the department ever told it.")
    auth_id: str | None = Field(None, description="Of the subaccount, where there is or was one.")
    outcome: ResultKind = Field(description="The word in `type`.")
    reason: str | None = Field(
        None, description="For people. That of `failed` begins with the reason of the dead letter."
    )
    superseded_by: EventReference | None = Field(None, description="The newer event that holds.")
    event: EventReference = Field(description="The event answered.")


class Credentials(_Data):
    """A department's subaccount and how to use it."""

    tenant: Identifier
    department_id: Identifier
    name: str
    auth_id: str
    auth_token: Annotated[SecretStr, WithJsonSchema({"type": "string", "minLength": 1})] = Field(
        description="A secret. Store it where secrets belong, and nowhere else."
    )
    generation: int = Field(
        ge=1,
        description="1 for a department's first credentials. Grows with each new subaccount and each changed"
        " token; a reissue keeps it. Of two messages the greater holds.",
    )


class _Outbound(CloudEvent):
    id: Attribute = Field(description="The same on every retry and replay: what to drop duplicates by.")
    source: Attribute = Field(description="The deployment that speaks.")
    time: Instant = Field(description="When it was published; differs between copies.")
    tenant: Identifier
    causationid: Attribute = Field(
        description="The id of the event that caused this, or of the audit entry where none did."
    )


class SubaccountResult(_Outbound):
    """What became of an event. Each event gets one final result; `held` and `failed` may come before it."""

    type: Literal[
        "subaccount.created.v1",
        "subaccount.renamed.v1",
        "subaccount.disabled.v1",
        "subaccount.restored.v1",
        "subaccount.removed.v1",
        "subaccount.unchanged.v1",
        "subaccount.superseded.v1",
        "subaccount.held.v1",
        "subaccount.failed.v1",
    ]
    datacontenttype: Literal["application/json"] = "application/json"
    data: Result

    @model_validator(mode="after")
    def _type_tells_the_outcome(self) -> Self:
        if self.type != result_type(self.data.outcome):
            raise ValueError("type must name data.outcome")
        return self


class CredentialsMessage(_Outbound):
    """Credentials in the clear: only where no recipients are named."""

    type: Literal["subaccount.credentials.issued.v1", "subaccount.credentials.reissued.v1"]
    datacontenttype: Literal["application/json"] = "application/json"
    data: Credentials


class SealedCredentialsMessage(_Outbound):
    """Credentials for one recipient, sealed: a JWE that holds a JWS that holds what the clear ones show."""

    type: Literal["subaccount.credentials.issued.v1", "subaccount.credentials.reissued.v1"]
    datacontenttype: Literal["application/jose"] = "application/jose"
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){4}$")] = Field(
        description="A JWE in compact serialisation."
    )


class SealedContent(Credentials):
    """What a seal holds: the credentials, and what ties them to their message and to one recipient."""

    iss: str = Field(description="The `source` of the message.")
    aud: str = Field(description="The recipient.")
    sub: str = Field(description="The `subject` of the message: the department_id.")
    jti: str = Field(description="The `id` of the message.")
    iat: int = Field(description="When it was signed, in seconds since 1970.")


def result_type(kind: ResultKind) -> Any:
    return f"subaccount.{kind}.v1"


def outbound_id(cause: Iterable[str], type_: str, recipient: str | None = None) -> str:
    """UUIDv5 of (cause, type, recipient): the same on every retry and replay.

    `cause` is what identifies the cause: (source, id) of an inbound event, or the id of an audit entry.
    """
    return str(uuid.uuid5(NAMESPACE, to_json([*cause, type_, recipient]).decode()))


def routing_key(type_: str, recipient: str | None = None) -> str:
    """`subaccount.credentials.issued.v1` for `crm` -> `subaccount.credentials.issued.crm`.

    Raises `ValueError` for a recipient that is not one word of a routing key.
    """
    key = type_.removesuffix(".v1")
    return f"{key}.{checked_recipient(recipient)}" if recipient else key


def plain_message(event: CredentialsMessage) -> Message:
    """The credentials for everybody who is bound to read."""
    return Message(to_json(attributes_of(event) | {"data": uncovered(event.data)}), STRUCTURED)


def content_to_seal(event: CredentialsMessage, recipient: str) -> bytes:
    """A `SealedContent` as JSON: what is to be signed, then sealed for the recipient."""
    claims = {"iss": event.source, "aud": recipient, "sub": event.subject, "jti": event.id}
    return to_json(claims | {"iat": int(event.time.timestamp())} | uncovered(event.data))


def sealed_message(event: CredentialsMessage, sealed: str) -> Message:
    """The same event with a seal for data."""
    attributes = attributes_of(event) | {"datacontenttype": JOSE, "data": sealed}
    return Message.structured(SealedCredentialsMessage.model_validate(attributes))


def uncovered(credentials: Credentials) -> dict[str, Any]:
    """Credentials with the token readable: the one place where it leaves its `SecretStr`."""
    data = {name: getattr(credentials, name) for name in Credentials.model_fields}
    return data | {"auth_token": credentials.auth_token.get_secret_value()}
