"""Keeps credentials from going out in the clear once the ledger has sealed some."""

from dataclasses import dataclass, field

from worker.core.model.credentials import ANY_RECIPIENT
from worker.ports import NoRecipientKey, Register

SEALED_BEFORE = (
    "this ledger has issued sealed credentials: set PROVISIONER_RECIPIENTS as it was,"
    " or PROVISIONER_PLAINTEXT_SECRETS=true to have tokens in the clear from now on"
)


@dataclass
class PlaintextGuard:
    """Asked before each credentials message. `allowed`: the operator accepts tokens in the clear.

    A worker without recipients is refused at its start. This holds also if another worker on the ledger seals
    the first credentials later.
    """

    register: Register
    allowed: bool
    _noted: set[str] = field(default_factory=set)

    async def check(self, recipient: str) -> None:
        """Raises `NoRecipientKey` for credentials that must not go out in the clear, or `LedgerFailed`.

        That credentials are sealed is on record before the first are published.
        """
        if recipient != ANY_RECIPIENT:
            if recipient not in self._noted:
                await self.register.note_sealed(recipient)
                self._noted.add(recipient)
        elif not self.allowed and await self.register.sealed_for():
            raise NoRecipientKey(SEALED_BEFORE)
