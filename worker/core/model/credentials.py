"""The credentials issued for a subaccount, without the token, and what is still owed of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from worker.core.model.causes import NO_TRACE, Reference, Trace

ANY_RECIPIENT = ""
"""The recipient while none is configured: any queue bound to the secrets exchange."""


class Fingerprint(NamedTuple):
    """A keyed digest that tells auth tokens apart without revealing them. `key_check` identifies the key."""

    key_check: str
    token: str

    def differs(self, other: "Fingerprint") -> bool:
        """Whether the tokens certainly differ; False for fingerprints made with different keys."""
        return self.key_check == other.key_check and self.token != other.token


@dataclass(frozen=True)
class PartialReissue:
    """A request to reissue that has not ended. `recipients`: those whose copies the broker has confirmed."""

    request: Reference
    recipients: frozenset[str]


@dataclass(frozen=True)
class IssuedCredentials:
    """The credentials of the newest subaccount, without the token itself.

    They are kept after its deletion: the next ones continue the count of generations. `cause` is the event
    they were issued for, `trace` its trace. `fingerprint` is that of the token last published,
    `reissued_at` the time of the last reissue on request. `partial_reissues`: requests that have served only
    some recipients. `supersedes`: the auth id of the department's subaccount before this one.
    """

    cause: Reference
    trace: Trace = NO_TRACE
    generation: int = 1
    fingerprint: Fingerprint | None = None
    reissued_at: datetime | None = None
    partial_reissues: tuple[PartialReissue, ...] = ()
    supersedes: str | None = None

    def __post_init__(self) -> None:
        if self.generation < 1:
            raise ValueError("generations count from 1")


@dataclass(frozen=True)
class Debt:
    """Work still owed for a subaccount: credentials, enabling it, or both.

    `recipients`: those whose credentials the broker has not confirmed. `enable`: the subaccount was
    created disabled, and is enabled once its credentials are confirmed. The scheduler tries again at
    `retry_at`; None while the department is not active.
    """

    recipients: frozenset[str]
    enable: bool = False
    retry_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.enable and not self.recipients:
            raise ValueError("a debt owes credentials, or enabling, or both")

    @property
    def holds_back(self) -> bool:
        """Whether the subaccount must stay disabled because its credentials are not confirmed."""
        return self.enable and bool(self.recipients)
