"""Inbound: the request to issue a department's credentials again. It says nothing about the department."""

import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.departments import DEFAULT_TENANT, Identifier, Invalid, UnsupportedType, digest
from contracts.envelope import CloudEvent, Instant, describe

REISSUE: Final = "subaccount.credentials.reissue.requested.v1"
REISSUE_KEY: Final = "subaccount.credentials.reissue.requested"
"""The routing key of a request; a suffix may follow. The broker's rights go by it, so no other will do."""

_TYPE = re.compile(r"(?:[A-Za-z0-9-]+\.)*subaccount\.credentials\.reissue\.requested(?:\.v1)?")


class ReissueWish(BaseModel):
    """Whose credentials, and for whom."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    department_id: Identifier
    recipient: Identifier | None = Field(
        None, description="One of the recipients the worker knows; all of them if absent."
    )


class ReissueRequested(CloudEvent):
    """Asks for a department's credentials once more. It changes nothing, and is never superseded."""

    type: Literal["subaccount.credentials.reissue.requested.v1"] = REISSUE
    time: Instant = Field(description="When it was asked for: RFC 3339 with an offset.")
    subject: str | None = Field(None, description="Equal to data.department_id where given.")
    tenant: Identifier = Field(
        DEFAULT_TENANT, description="Whose department it is: an id is unique within its tenant only."
    )
    data: ReissueWish

    @model_validator(mode="after")
    def _subject_is_the_department(self) -> "ReissueRequested":
        if self.subject is not None and self.subject != self.data.department_id:
            raise ValueError("subject must equal data.department_id")
        return self


def is_reissue_key(routing_key: str) -> bool:
    return routing_key == REISSUE_KEY or routing_key.startswith(f"{REISSUE_KEY}.")


def asks_for_reissue(event: CloudEvent) -> bool:
    """Whether its type is that of a request, a reverse-DNS prefix and a missing `.v1` allowed."""
    return _TYPE.fullmatch(event.type) is not None


def reissue_request(event: CloudEvent) -> ReissueRequested:
    """The request a CloudEvent carries; raises `UnsupportedType` or `Invalid`."""
    if not asks_for_reissue(event):
        raise UnsupportedType(f"type: not {REISSUE}")
    given = {name: value for name, value in event if value is not None}
    try:
        return ReissueRequested.model_validate(given | {"type": REISSUE})
    except ValidationError as error:
        raise Invalid(describe(error)) from None


def request_digest(event: CloudEvent) -> str:
    """As `payload_digest` of department events."""
    return digest(event, REISSUE)
