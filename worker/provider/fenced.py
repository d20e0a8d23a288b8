"""Begins no change at the provider unless the ledger has just confirmed the worker's locks.

A worker that was frozen, or cut off from its database, may have lost its departments to another one without
knowing it. Its next change would come late, over a newer one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.core.capabilities import Capabilities
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import Operation
from worker.ports import Call, Confirmed, Fence, NewSubaccount, ProvidedSubaccount, Provider


@dataclass(frozen=True, slots=True)
class FencedProvider:
    """Implements the provider port. A call that may change something raises `LedgerFailed` instead."""

    provider: Provider
    fence: Fence

    @property
    def capabilities(self) -> Capabilities:
        """See `Provider.capabilities`."""
        return self.provider.capabilities

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[Call]:
        """See `Provider.permit`."""
        async with self.provider.permit(operation) as call:
            yield FencedCall(call, self.fence)

    async def probe(self) -> None:
        """See `Provider.probe`."""
        await self.provider.probe()


@dataclass(frozen=True, slots=True)
class FencedCall:
    """A permitted call. The fence is asked when it begins: the permit may be some time old."""

    call: Call
    fence: Fence

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """See `Call.create`."""
        self.fence.check()
        return await self.call.create(name, idempotency_key, enabled=enabled)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        """See `Call.update`."""
        self.fence.check()
        return await self.call.update(auth_id, idempotency_key, name=name, enabled=enabled)

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        """See `Call.delete`."""
        self.fence.check()
        return await self.call.delete(auth_id, idempotency_key, cascade=cascade)

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """See `Call.get`."""
        return await self.call.get(auth_id)

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """See `Call.page`."""
        return await self.call.page(offset)

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """See `Call.resources`."""
        return await self.call.resources(kind, auth_id, offset)
