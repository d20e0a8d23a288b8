"""The responses of `/livez` and `/readyz`, and the address that a server cannot have."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from worker.ports import UserError
from worker.settings.parse import Address


class AddressUnusable(UserError):
    """The server cannot listen on the address: it is in use, or not of this machine."""

    exit_code = 2


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    content_type: str
    body: bytes


def health(healthy: str, unhealthy: str, problems: Sequence[str]) -> Response:
    """The response of a probe: 503 with the problems, if there are any."""
    body = json.dumps({"status": unhealthy if problems else healthy, "wrong": [*problems]}).encode()
    return Response(503 if problems else 200, "application/json", body)


def cannot_listen(address: Address, error: Exception, setting: str) -> AddressUnusable:
    """The error for an address that cannot be listened on; `setting` names it."""
    why = getattr(error, "strerror", None) or "not a host name"
    return AddressUnusable(
        f"cannot listen on {address.host}:{address.port} ({why}); set {setting} to another address"
    )
