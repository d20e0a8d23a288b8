"""Auth tokens of a provider that shows them once, kept in memory until their credentials are published."""

from dataclasses import dataclass, field

from pydantic import SecretStr

from worker.core.judge import CallFault, FaultKind
from worker.ports import CallFailed, NewSubaccount


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Tokens by auth id, in memory only: they are lost if the worker dies."""

    _tokens: dict[str, SecretStr] = field(default_factory=dict, repr=False)

    def keep(self, made: NewSubaccount) -> None:
        """Keeps the token of a subaccount that was just created, if the response had one."""
        if made.auth_token is not None:
            self._tokens[made.auth_id] = made.auth_token

    def of(self, auth_id: str) -> SecretStr:
        """The token; raises `CallFailed` of the kind TOKEN_LOST if no worker has it any more."""
        token = self._tokens.get(auth_id)
        if token is None:
            detail = (
                f"the auth token of {auth_id} is lost: the provider showed it once, and no worker has it;"
                " its credentials cannot be published"
            )
            raise CallFailed(CallFault("get", FaultKind.TOKEN_LOST, detail))
        return token

    def drop(self, auth_id: str) -> None:
        """Drops a token: its credentials are published."""
        self._tokens.pop(auth_id, None)
