"""Inbound: the request to issue a department's credentials again. It states nothing about the department."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from contracts.departments import Identifier, Invalid, SentData, SentEvent, UnsupportedType, digest
from contracts.envelope import CloudEvent, describe
from contracts.text import END

REISSUE: Final = "subaccount.credentials.reissue.requested.v1"
REISSUE_KEY: Final = "subaccount.credentials.reissue.requested"
"""The routing key of a request; a suffix may follow. No other is accepted, because the broker's topic
permissions are granted by routing key."""

_NAME = "(?:[A-Za-z0-9_-]+[.])*subaccount[.]credentials[.]reissue[.]requested(?:[.]v1)?"
_TYPE = re.compile(_NAME)
TYPE_PATTERN = f"^{_NAME}{END}"


class ReissueWish(SentData):
    """The department whose credentials are requested, and their recipient."""

    recipient: Identifier | None = Field(
        None, description="A recipient known to the worker; all of them if absent."
    )


class ReissueRequested(SentEvent):
    """Requests a department's credentials again. It changes nothing and is never superseded."""

    type: Literal["subaccount.credentials.reissue.requested.v1"] = REISSUE
    data: ReissueWish


def is_reissue_key(routing_key: str) -> bool:
    """Whether a message under this routing key may be a request."""
    return routing_key == REISSUE_KEY or routing_key.startswith(f"{REISSUE_KEY}.")


def asks_for_reissue(event: CloudEvent) -> bool:
    """Whether the event's type is that of a request, with or without reverse-DNS prefix and `.v1`."""
    return _TYPE.fullmatch(event.type) is not None


def reissue_request(event: CloudEvent, sent: Mapping[str, Any] | None = None) -> ReissueRequested:
    """Validates a CloudEvent as a request, like `department_event`; raises `UnsupportedType` or `Invalid`."""
    if not asks_for_reissue(event):
        raise UnsupportedType(f"type: not {REISSUE}")
    given = {name: value for name, value in event if value is not None}
    try:
        return ReissueRequested.model_validate(given | {"type": REISSUE})
    except ValidationError as error:
        raise Invalid(describe(error, {**(sent or {}), **given})) from None


def request_digest(event: CloudEvent) -> str:
    """Returns the digest of a request's payload, like `payload_digest` for department events."""
    return digest(event, REISSUE)
