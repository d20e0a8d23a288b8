"""A provider in memory: for tests, simulation and the demo. It passes the provider's conformance suite."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date

from pydantic import SecretStr

from worker.core.capabilities import EVERYTHING, Capabilities
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation
from worker.ports import Call, CallFailed, Confirmed, NewSubaccount, ProvidedSubaccount

PAGE = 20


@dataclass
class StoredSubaccount:
    """A subaccount of the memory provider."""

    auth_id: str
    auth_token: SecretStr
    name: str
    enabled: bool
    created: date


@dataclass
class StoredResource:
    """A number, application or endpoint of the memory provider; its owner is None for the main account."""

    kind: ResourceKind
    id: str
    sub_account: str | None


class MemoryProvider:
    """The `Provider` and `Call` ports on a list of subaccounts, newest first. It permits every call.

    `calls`: operation, auth_id and idempotency key of each call, in order. `owned`: the resources of all
    accounts; a list of one kind shows them all, whatever subaccount is asked for.
    `cascaded`: the subaccounts that were deleted with their resources.
    """

    capabilities: Capabilities = EVERYTHING

    def __init__(self) -> None:
        self.subaccounts: list[StoredSubaccount] = []
        self.owned: list[StoredResource] = []
        self.cascaded: list[str] = []
        self.calls: list[tuple[Operation, str | None, str | None]] = []
        self.today = date(2026, 11, 21)
        self._made = 0

    @asynccontextmanager
    async def permit(self, _operation: Operation) -> AsyncIterator[Call]:
        """See `Provider.permit`. Never waits."""
        yield self

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """See `Call.create`."""
        self.calls.append(("create", None, idempotency_key))
        self._made += 1
        token = SecretStr(f"memory-token-{self._made}")
        auth_id = f"SA{self._made:018d}"
        self.subaccounts.insert(0, StoredSubaccount(auth_id, token, name, enabled, self.today))
        return NewSubaccount(auth_id, token)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        """See `Call.update`."""
        self.calls.append(("update", auth_id, idempotency_key))
        stored = self._stored(auth_id, "update")
        stored.name = stored.name if name is None else name
        stored.enabled = stored.enabled if enabled is None else enabled
        return Confirmed()

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        """See `Call.delete`."""
        self.calls.append(("delete", auth_id, idempotency_key))
        self.subaccounts.remove(self._stored(auth_id, "delete"))
        if cascade:
            self.cascaded.append(auth_id)
            self.owned = [one for one in self.owned if one.sub_account != auth_id]
        for one in self.owned:
            one.sub_account = None if one.sub_account == auth_id else one.sub_account
        return Confirmed()

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """See `Call.get`."""
        self.calls.append(("get", auth_id, None))
        return _shown(self._stored(auth_id, "get"))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """See `Call.page`."""
        self.calls.append(("list", None, None))
        return [_shown(stored) for stored in self.subaccounts[offset : offset + PAGE]]

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """See `Call.resources`."""
        self.calls.append(("count", auth_id, None))
        listed = [ProvidedResource(one.id, one.sub_account) for one in self.owned if one.kind is kind]
        return listed[offset : offset + PAGE]

    async def probe(self) -> None:
        """See `Provider.probe`. Never fails."""

    def _stored(self, auth_id: str, operation: Operation) -> StoredSubaccount:
        for stored in self.subaccounts:
            if stored.auth_id == auth_id:
                return stored
        detail = f"the provider answered 404 to {operation}"
        raise CallFailed(CallFault(operation, FaultKind.NOT_FOUND, detail))


def _shown(stored: StoredSubaccount) -> ProvidedSubaccount:
    return ProvidedSubaccount(stored.auth_id, stored.name, stored.enabled, stored.created, stored.auth_token)
