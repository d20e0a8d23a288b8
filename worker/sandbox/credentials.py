"""Authentication: HTTP Basic (RFC 7617) with Auth ID and token of the main account or a subaccount."""

import base64
import binascii
import hmac
from dataclasses import dataclass

from worker.sandbox.requests import Refusal
from worker.sandbox.state import State


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated account; `sub_account` is None for the main account."""

    auth_id: str
    sub_account: str | None


def authenticate(state: State, auth_token: str, header: str | None) -> Caller:
    """Authenticate an Authorization header; raises Refusal."""
    auth_id, token = _read_basic(header)
    main_id = state.account.auth_id
    if auth_id == main_id and _equal(token, auth_token):
        return Caller(main_id, None)
    subaccount = state.subaccounts.get(auth_id)
    if subaccount is None or not _equal(token, subaccount.auth_token):
        raise Refusal(401, "authentication failed")
    if not subaccount.enabled:
        raise Refusal(state.assumptions.disabled_status, "this subaccount is disabled")
    return Caller(auth_id, auth_id)


def _read_basic(header: str | None) -> tuple[str, str]:
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        raise Refusal(401, "authentication credentials were not provided")
    try:
        auth_id, _, token = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refusal(401, "authentication failed") from None
    return auth_id, token


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
