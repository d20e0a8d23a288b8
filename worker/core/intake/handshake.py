"""Answers the handshakes by which senders make sure that a URL wants their events.

An answer repeats a part of the request. So it is given only on profiles that declare the handshake, its
length is limited, and its type is JSON or plain text that no browser takes for something else.

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
Okta: https://developer.okta.com/docs/concepts/event-hooks/
Microsoft Graph: https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from contracts.encoding import Unreadable, json_of
from worker.core.intake.profile import Handshakes, Profile

LONGEST_CHALLENGE = 1024
"""The most characters that are repeated."""
_JSON = "application/json"
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_ORIGIN = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")
_NO_SNIFFING = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class HandshakeAnswer:
    """The response to a handshake. `needs_proof`: send it only if the request is authentic."""

    status: int
    content_type: str | None
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_SNIFFING)
    needs_proof: bool = False


def handshake(
    profile: Profile,
    method: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    body: bytes,
    *,
    per_minute: int | None = None,
) -> HandshakeAnswer | None:
    """The answer to a handshake that the profile declares; None if the request is no such handshake.

    `headers` have names in lower case. `per_minute`: the rate of requests that is allowed, None for any.
    """
    declared = profile.handshakes
    match method.upper():
        case "OPTIONS" if Handshakes.CLOUDEVENTS in declared:
            return consent(headers, per_minute)
        case "GET" if Handshakes.OKTA in declared:
            return _repeated("verification", headers.get("x-okta-verification-challenge"))
        case "POST" if Handshakes.GRAPH in declared and "validationToken" in query:
            return _plain(query["validationToken"])
        case "POST" if Handshakes.EVENT_GRID in declared and _is_event_grid(headers):
            return _repeated("validationResponse", _validation_code(body))
        case "POST" if Handshakes.URL_VERIFICATION in declared:
            return _url_verification(body)
        case _:
            return None


def consent(headers: Mapping[str, str], per_minute: int | None = None) -> HandshakeAnswer:
    """The answer to `OPTIONS` of CloudEvents. Without the sender's name it allows nobody."""
    allowed = {"allow": "POST, OPTIONS", **_NO_SNIFFING}
    origin = headers.get("webhook-request-origin", "").strip()
    if _ORIGIN.fullmatch(origin):
        allowed["webhook-allowed-origin"] = origin
        allowed["webhook-allowed-rate"] = "*" if per_minute is None else str(per_minute)
    return HandshakeAnswer(200, None, b"", allowed)


def _is_event_grid(headers: Mapping[str, str]) -> bool:
    return headers.get("aeg-event-type", "").strip().lower() == "subscriptionvalidation"


def _validation_code(body: bytes) -> Any:
    match _document(body):
        case [{"data": {"validationCode": code}}]:
            return code
        case _:
            return None


def _url_verification(body: bytes) -> HandshakeAnswer | None:
    """Lark and Slack. The request is signed, or has the token in its body, so its proof is asked for."""
    if b"url_verification" not in body:
        return None
    match _document(body):
        case {"type": "url_verification", "challenge": challenge}:
            return _repeated("challenge", challenge, needs_proof=True)
        case _:
            return None


def _document(body: bytes) -> Any:
    try:
        return json_of(body)
    except Unreadable:
        return None


def _repeated(member: str, value: Any, *, needs_proof: bool = False) -> HandshakeAnswer | None:
    if value is None:
        return None
    if not _may_be_repeated(value):
        return _refused(needs_proof=needs_proof)
    return HandshakeAnswer(200, _JSON, to_json({member: value}), needs_proof=needs_proof)


def _plain(value: str) -> HandshakeAnswer:
    if not _may_be_repeated(value):
        return _refused()
    return HandshakeAnswer(200, "text/plain; charset=utf-8", value.encode())


def _may_be_repeated(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_CHALLENGE and bool(_PRINTABLE.fullmatch(value))


def _refused(*, needs_proof: bool = False) -> HandshakeAnswer:
    body = to_json({"error": f"the challenge must be text of 1 to {LONGEST_CHALLENGE} printable characters"})
    return HandshakeAnswer(400, _JSON, body, needs_proof=needs_proof)
