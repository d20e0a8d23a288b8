"""Outbound: what came of an event (`provisioner.results`) and credentials (`provisioner.secrets`)."""

import uuid
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import to_json

from contracts.departments import Identifier
from contracts.envelope import STRUCTURED, CloudEvent, Instant, Message, document

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
    """Identifies an inbound event. `type` is what its producer wrote."""

    source: str
    id: str
    type: str


class Result(_Data):
    tenant: str
    department_id: Identifier | None = Field(description="null only where a dead letter does not tell it")
    name: str | None = Field(description="null only where no event of the department ever told it")
    auth_id: str | None = None
    outcome: ResultKind
    reason: str | None = None
    superseded_by: EventReference | None = None
    event: EventReference


class Credentials(_Data):
    tenant: str
    department_id: Identifier
    name: str
    auth_id: str
    auth_token: SecretStr
    generation: Annotated[int, Field(ge=1)]


class _Outbound(CloudEvent):
    time: Instant
    datacontenttype: str = "application/json"


class SubaccountResult(_Outbound):
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
    data: Result


class CredentialsMessage(_Outbound):
    type: Literal["subaccount.credentials.issued.v1", "subaccount.credentials.reissued.v1"]
    data: Credentials


def result_type(kind: ResultKind) -> Any:
    return f"subaccount.{kind}.v1"


def outbound_id(cause: Iterable[str], type_: str, recipient: str | None = None) -> str:
    """UUIDv5 of (cause, type, recipient): the same on every retry and replay.

    `cause` is what identifies the cause: (source, id) of an inbound event, or the id of an audit entry.
    """
    return str(uuid.uuid5(NAMESPACE, to_json([*cause, type_, recipient]).decode()))


def routing_key(type_: str, recipient: str | None = None) -> str:
    """`subaccount.credentials.issued.v1` for `crm` -> `subaccount.credentials.issued.crm`."""
    key = type_.removesuffix(".v1")
    return f"{key}.{recipient}" if recipient else key


def plain_message(event: CredentialsMessage) -> Message:
    """The credentials with the token readable: the one place where it leaves its `SecretStr`."""
    body = document(event)
    body["data"]["auth_token"] = event.data.auth_token.get_secret_value()
    return Message(to_json(body), STRUCTURED)
