"""Auth ids that the provider gives to one department although they are on record for another.

An auth id is unique at the provider. So this is another account than that of the ledger, or a sandbox begun
anew. Going on would create duplicates, and change the subaccounts of others: everything stops until it is the
ledger's account again.
"""

from contextlib import aclosing
from dataclasses import dataclass, field

from worker.core.judge import FaultKind
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.naming import NO_EVENT, Names
from worker.ports import AuthIdTaken, CallFailed, Clock, Ledger, LedgerForeign, Provider, every_entry

LOOK_SECONDS = 5.0
"""The time between two looks at the provider."""

SAMPLE = 3
"""The number of other subaccounts on record to look at."""


@dataclass
class ForeignIds:
    """Remembers the auth ids met, and looks whether their subaccounts are those on record."""

    provider: Provider
    ledger: Ledger
    names: Names
    clock: Clock
    _met: dict[str, AuthIdTaken] = field(default_factory=dict)
    _look_at: float = 0.0

    def met(self, error: AuthIdTaken) -> None:
        """Remembers an auth id that is on record for another department."""
        self._met[error.auth_id] = error

    async def is_another_account(self, holder: Department) -> bool:
        """Whether the provider shows none of the subaccounts on record, apart from that of `holder`.

        A person may have given that one the tag of another department: this concerns no one else. Looks at
        `SAMPLE` of the others. Raises `CallFailed`.
        """
        looked_at = 0
        async with aclosing(every_entry(self.ledger)) as entries:
            async for entry in entries:
                if entry.department == holder or not entry.is_live:
                    continue
                if await self._is_there(entry):
                    return False
                looked_at += 1
                if looked_at == SAMPLE:
                    break
        return True

    async def check(self) -> None:
        """Raises `LedgerForeign` while a subaccount is not the one on record under its auth id."""
        if not self._met:
            return
        if self.clock.monotonic() >= self._look_at:
            self._look_at = self.clock.monotonic() + LOOK_SECONDS
            for auth_id, error in list(self._met.items()):
                if await self._is_the_holders(auth_id, error.holder):
                    del self._met[auth_id]
        for error in self._met.values():
            raise LedgerForeign(str(error))

    async def _is_the_holders(self, auth_id: str, holder: Department) -> bool:
        entry = (await self.ledger.recall(holder, NO_EVENT)).entry
        if entry.auth_id != auth_id:
            return True
        try:
            return await self._is_there(entry)
        except CallFailed:
            return False

    async def _is_there(self, entry: Entry) -> bool:
        """Whether the provider shows the subaccount on record, under its tag if it has one."""
        try:
            async with self.provider.permit("get") as call:
                shown = await call.get(entry.existing.auth_id)
        except CallFailed as failed:
            if failed.fault.kind is FaultKind.NOT_FOUND:
                return False
            raise
        return self.names.bears_ours(shown.name, entry)
