"""Proves that a request comes from its sender. Every comparison takes the same time, whatever differs."""

from collections.abc import Sequence

from pydantic import SecretStr

from worker.core.intake.profile import Auth
from worker.core.intake.received import Received


class NotProven(Exception):
    """The request is not authentic. `cause` is for the log: the sender gets one text for every cause."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def verify(auth: Auth, secrets: Sequence[SecretStr], received: Received) -> int:
    """Returns the place of the secret that proves the request (0 without a proof); raises `NotProven`.

    All secrets are tried, so that the old and the new one are valid while a secret is rotated.
    """
    raise NotImplementedError
