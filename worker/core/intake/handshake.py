"""Answers the handshakes by which senders make sure that a URL wants their events."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.core.intake.profile import Profile


@dataclass(frozen=True, slots=True)
class HandshakeAnswer:
    """The response to a handshake. `needs_proof`: send it only if the request is authentic."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    needs_proof: bool = False


def handshake(
    profile: Profile, method: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> HandshakeAnswer | None:
    """The answer to a handshake that the profile declares; None if the request is no such handshake.

    `headers` have names in lower case.
    """
    raise NotImplementedError
