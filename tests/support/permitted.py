"""A provider whose changing calls get a permit for themselves, as the line gets one for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.ports import NewSubaccount, ProvidedSubaccount, Provider


@dataclass(frozen=True)
class Permitted:
    provider: Provider

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        async with self.provider.permit("create"):
            return await self.provider.create(name, idempotency_key, enabled=enabled)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        async with self.provider.permit("update"):
            await self.provider.update(auth_id, idempotency_key, name=name, enabled=enabled)

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        async with self.provider.permit("delete"):
            await self.provider.delete(auth_id, idempotency_key)

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        return await self.provider.get(auth_id)

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        return await self.provider.page(offset)

    async def probe(self) -> None:
        await self.provider.probe()
