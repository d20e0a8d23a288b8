"""Inbound: the request to issue a department's credentials again. It states nothing about the department."""

import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.departments import DEFAULT_TENANT, Identifier, Invalid, UnsupportedType, digest
from contracts.envelope import CloudEvent, Instant, describe

REISSUE: Final = "subaccount.credentials.reissue.requested.v1"
REISSUE_KEY: Final = "subaccount.credentials.reissue.requested"
"""The routing key of a request; a suffix may follow. No other is accepted, because the broker's topic
permissions are granted by routing key."""

_TYPE = re.compile(r"(?:[A-Za-z0-9-]+\.)*subaccount\.credentials\.reissue\.requested(?:\.v1)?")


class ReissueWish(BaseModel):
    """The department whose credentials are requested, and their recipient."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    department_id: Identifier
    recipient: Identifier | None = Field(
        None, description="A recipient known to the worker; all of them if absent."
    )


class ReissueRequested(CloudEvent):
    """Requests a department's credentials again. It changes nothing and is never superseded."""

    type: Literal["subaccount.credentials.reissue.requested.v1"] = REISSUE
    time: Instant = Field(description="The time of the request: RFC 3339 with an offset.")
    subject: str | None = Field(None, description="If given, equal to data.department_id.")
    tenant: Identifier = Field(
        DEFAULT_TENANT,
        description="The owner of the department. A department_id is unique only within its tenant.",
    )
    data: ReissueWish

    @model_validator(mode="after")
    def _subject_is_the_department(self) -> "ReissueRequested":
        if self.subject is not None and self.subject != self.data.department_id:
            raise ValueError("subject must equal data.department_id")
        return self


def is_reissue_key(routing_key: str) -> bool:
    """Whether a message under this routing key may be a request."""
    return routing_key == REISSUE_KEY or routing_key.startswith(f"{REISSUE_KEY}.")


def asks_for_reissue(event: CloudEvent) -> bool:
    """Whether the event's type is that of a request, with or without reverse-DNS prefix and `.v1`."""
    return _TYPE.fullmatch(event.type) is not None


def reissue_request(event: CloudEvent) -> ReissueRequested:
    """Validates a CloudEvent as a request; raises `UnsupportedType` or `Invalid`."""
    if not asks_for_reissue(event):
        raise UnsupportedType(f"type: not {REISSUE}")
    given = {name: value for name, value in event if value is not None}
    try:
        return ReissueRequested.model_validate(given | {"type": REISSUE})
    except ValidationError as error:
        raise Invalid(describe(error)) from None


def request_digest(event: CloudEvent) -> str:
    """Returns the digest of a request's payload, like `payload_digest` for department events."""
    return digest(event, REISSUE)
