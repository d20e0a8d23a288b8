"""Single provider calls, each with its own permit."""

from collections.abc import Sequence

from worker.core.inventory import ProvidedResource, ResourceKind
from worker.ports import Confirmed, NewSubaccount, ProvidedSubaccount, Provider


async def create(
    provider: Provider, name: str, idempotency_key: str, *, enabled: bool = True
) -> NewSubaccount:
    async with provider.permit("create") as call:
        return await call.create(name, idempotency_key, enabled=enabled)


async def update(
    provider: Provider,
    auth_id: str,
    idempotency_key: str,
    *,
    name: str | None = None,
    enabled: bool | None = None,
) -> Confirmed:
    async with provider.permit("update") as call:
        return await call.update(auth_id, idempotency_key, name=name, enabled=enabled)


async def delete(
    provider: Provider, auth_id: str, idempotency_key: str, *, cascade: bool = False
) -> Confirmed:
    async with provider.permit("delete") as call:
        return await call.delete(auth_id, idempotency_key, cascade=cascade)


async def get(provider: Provider, auth_id: str) -> ProvidedSubaccount:
    async with provider.permit("get") as call:
        return await call.get(auth_id)


async def page(provider: Provider, offset: int) -> Sequence[ProvidedSubaccount]:
    async with provider.permit("list") as call:
        return await call.page(offset)


async def resources(
    provider: Provider, kind: ResourceKind, auth_id: str, offset: int = 0
) -> Sequence[ProvidedResource]:
    async with provider.permit("count") as call:
        return await call.resources(kind, auth_id, offset)
