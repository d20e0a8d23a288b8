"""Outbound: results of events (`provisioner.results`) and credentials (`provisioner.secrets`)."""

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

# The namespace of every id that this project derives. A change would change every id: never do it.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "subaccount-provisioner")


class ResultKind(StrEnum):
    """The outcome of an event, or of a request to reissue.

    `held` may come before a final outcome, and so may the `failed` of a dead letter; all others are final.
    Only `disabled` may be followed by `removed`, and a `held` deletion may come between them.
    """

    CREATED = "created"
    RENAMED = "renamed"
    DISABLED = "disabled"
    RESTORED = "restored"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    HELD = "held"
    REISSUED = "reissued"
    FAILED = "failed"


class DeadReason(StrEnum):
    """Why a message is in `provisioner.dead-letters`: a closed set."""

    MALFORMED = "malformed"
    INVALID = "invalid"
    UNSUPPORTED_TYPE = "unsupported-type"
    CONFLICTING_DUPLICATE = "conflicting-duplicate"
    REJECTED = "rejected"
    CREATE_UNKNOWN = "create-unknown"
    EXHAUSTED = "exhausted"
    DELIVERY_LIMIT = "delivery-limit"


class ResultCode(StrEnum):
    """The result for programs: a closed set. `reason` says the same for people.

    It is the reason of the dead letter or of the hold, or names a finer distinction, or else is the outcome.
    """

    CREATED = "created"
    RENAMED = "renamed"
    DISABLED = "disabled"
    RESTORED = "restored"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    REISSUED = "reissued"

    TIE = "tie"
    """Superseded by an event of the same time; neither has a sequence."""
    GONE_AT_PROVIDER = "gone-at-provider"
    """Somebody else has deleted the subaccount."""

    TOO_SOON = "too-soon"
    UNKNOWN_DEPARTMENT = "unknown-department"
    UNKNOWN_RECIPIENT = "unknown-recipient"
    NOT_ACTIVE = "not-active"
    NOT_ALLOWED = "not-allowed"

    PROTECTED = "protected"
    MERGED = "merged"
    LAST_ACTIVE = "last-active"
    LIMIT = "limit"
    DRIFT = "drift"
    RESOURCES = "resources"

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
    """Identifies an inbound event. `type` is as its producer wrote it."""

    source: str
    id: str
    type: str | None = Field(description="null only if it cannot be read from a dead letter.")


class MessageReference(_Data):
    """Identifies a message whose event cannot be identified, as far as its producer has named it."""

    message_id: str | None = Field(description="The AMQP property, if the producer has set it.")
    app_id: str | None = Field(description="The AMQP property, if the producer has set it.")
    exchange: str
    routing_key: str


class Result(_Data):
    """The outcome of one event."""

    tenant: Identifier | None = Field(description="null only if the event cannot be identified.")
    department_id: Identifier | None = Field(description="null only if it cannot be read from a dead letter.")
    name: str | None = Field(description="null only if no event of the department has ever contained it.")
    auth_id: str | None = Field(None, description="The subaccount's Auth ID, if there is or was one.")
    outcome: ResultKind = Field(description="The same word as in `type`.")
    code: ResultCode = Field(description="What happened, for programs: the outcome, or why it is that one.")
    reason: str | None = Field(
        None,
        description="For people. If the outcome is `failed`, it begins with the reason of the dead letter.",
    )
    superseded_by: EventReference | None = Field(None, description="The newer event that applies.")
    event: EventReference | None = Field(
        description="The event that this is the outcome of; null if its `source` or `id` cannot be read."
    )
    message: MessageReference | None = Field(
        None, description="Only if `event` is null: the message, which is a dead letter."
    )

    @model_validator(mode="after")
    def _event_or_message(self) -> Self:
        if (self.event is None) is (self.message is None):
            raise ValueError("a result has either an event or a message")
        return self


class Credentials(_Data):
    """A department's subaccount and its token."""

    tenant: Identifier
    department_id: Identifier
    name: str
    auth_id: str
    auth_token: Annotated[SecretStr, WithJsonSchema({"type": "string", "minLength": 1})] = Field(
        description="A secret. Store it only in a secret store."
    )
    generation: int = Field(
        ge=1,
        description="1 for a department's first credentials. Increases with each new subaccount and each"
        " changed token; a reissue keeps it. Of two messages, use the one with the greater generation.",
    )
    supersedes: str | None = Field(
        None, description="The Auth ID of the department's subaccount before this one, if it had one."
    )


class _Outbound(CloudEvent):
    id: Attribute = Field(description="The same on every retry and replay. Use it to drop duplicates.")
    source: Attribute = Field(description="The deployment that published the message.")
    time: Instant = Field(description="The time of publication; it differs between copies.")


class SubaccountResult(_Outbound):
    """The outcome of an event. Each event gets one final result; `held` and `failed` may come before it.

    `removed` may follow `disabled`: the subaccount was deleted later.
    A dead letter whose event cannot be identified has a `failed` result without a cause.
    """

    tenant: Identifier | None = None
    causationid: Attribute | None = Field(
        None,
        description="The id of the event that caused this message, or of the audit entry if no event did.",
    )
    type: Literal[
        "subaccount.created.v1",
        "subaccount.renamed.v1",
        "subaccount.disabled.v1",
        "subaccount.restored.v1",
        "subaccount.removed.v1",
        "subaccount.unchanged.v1",
        "subaccount.superseded.v1",
        "subaccount.held.v1",
        "subaccount.reissued.v1",
        "subaccount.failed.v1",
    ]
    datacontenttype: Literal["application/json"] = "application/json"
    data: Result

    @model_validator(mode="after")
    def _type_tells_the_outcome(self) -> Self:
        if self.type != result_type(self.data.outcome):
            raise ValueError("type must name data.outcome")
        return self


class _OfDepartment(_Outbound):
    tenant: Identifier
    causationid: Attribute = Field(
        description="The id of the event that caused this message, or of the audit entry if no event did."
    )


class CredentialsMessage(_OfDepartment):
    """Credentials in the clear. Published only if no recipients are configured."""

    type: Literal["subaccount.credentials.issued.v1", "subaccount.credentials.reissued.v1"]
    datacontenttype: Literal["application/json"] = "application/json"
    data: Credentials


class SealedCredentialsMessage(_OfDepartment):
    """Credentials for one recipient, sealed: a JWE around a JWS around the same object as in the clear."""

    type: Literal["subaccount.credentials.issued.v1", "subaccount.credentials.reissued.v1"]
    datacontenttype: Literal["application/jose"] = "application/jose"
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){4}$")] = Field(
        description="A JWE in compact serialisation."
    )


class SealedContent(Credentials):
    """The payload of sealed credentials, with claims that bind it to its message and its recipient.

    The claims are those of JWT: RFC 7519, section 4.1.
    """

    iss: str = Field(description="The `source` of the message.")
    aud: str = Field(description="The recipient.")
    sub: str = Field(description="The `subject` of the message: the department_id.")
    jti: str = Field(description="The `id` of the message.")
    iat: int = Field(description="The time of signing, in seconds since 1970.")


def result_type(kind: ResultKind) -> Any:
    """`created` -> `subaccount.created.v1`."""
    return f"subaccount.{kind}.v1"


def outbound_id(cause: Iterable[str], type_: str, recipient: str | None = None) -> str:
    """Derives a message id: the UUIDv5 (RFC 9562) of cause, type and recipient.

    It is the same on every retry and replay. `cause` is the (source, id) of an inbound event, or the id of an
    audit entry or of a hold.
    """
    return str(uuid.uuid5(NAMESPACE, to_json([*cause, type_, recipient]).decode()))


def routing_key(type_: str, recipient: str | None = None) -> str:
    """`subaccount.credentials.issued.v1` for `crm` -> `subaccount.credentials.issued.crm`.

    Raises `ValueError` for a recipient that is not one word of a routing key.
    """
    key = type_.removesuffix(".v1")
    return f"{key}.{checked_recipient(recipient)}" if recipient else key


def plain_message(event: CredentialsMessage) -> Message:
    """Encodes credentials in the clear, token included."""
    return Message(to_json(attributes_of(event) | {"data": revealed(event.data)}), STRUCTURED)


def content_to_seal(event: CredentialsMessage, recipient: str) -> bytes:
    """Returns a `SealedContent` as JSON, to be signed and then encrypted for the recipient."""
    claims = {"iss": event.source, "aud": recipient, "sub": event.subject, "jti": event.id}
    return to_json(claims | {"iat": int(event.time.timestamp())} | revealed(event.data))


def sealed_message(event: CredentialsMessage, sealed: str) -> Message:
    """Encodes the same event with a compact JWE as its data."""
    attributes = attributes_of(event) | {"datacontenttype": JOSE, "data": sealed}
    return Message.structured(SealedCredentialsMessage.model_validate(attributes))


def revealed(credentials: Credentials) -> dict[str, Any]:
    """Returns the credentials with a readable token. Only here does a token leave its `SecretStr`.

    Optional members without a value are left out.
    """
    data = {name: getattr(credentials, name) for name in Credentials.model_fields}
    known = {name: value for name, value in data.items() if value is not None}
    return known | {"auth_token": credentials.auth_token.get_secret_value()}
