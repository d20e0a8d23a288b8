"""Single provider calls, each with its own permit."""

from collections.abc import Sequence

from worker.ports import NewSubaccount, ProvidedSubaccount, Provider


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
) -> None:
    async with provider.permit("update") as call:
        await call.update(auth_id, idempotency_key, name=name, enabled=enabled)


async def delete(provider: Provider, auth_id: str, idempotency_key: str) -> None:
    async with provider.permit("delete") as call:
        await call.delete(auth_id, idempotency_key)


async def get(provider: Provider, auth_id: str) -> ProvidedSubaccount:
    async with provider.permit("get") as call:
        return await call.get(auth_id)


async def page(provider: Provider, offset: int) -> Sequence[ProvidedSubaccount]:
    async with provider.permit("list") as call:
        return await call.page(offset)
