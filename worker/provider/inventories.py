"""Counts the resources of a subaccount, over all pages of the provider's lists."""

from dataclasses import dataclass
from functools import partial

from worker.core.inventory import Inventory, ProvidedResource, ResourceKind, owned_by
from worker.core.judge import CallFault, FaultKind
from worker.core.pages import MAX_RESTARTS, Cursor, Reading
from worker.ports import CallFailed, Provider
from worker.provider.pages import PageReader


@dataclass(frozen=True, slots=True)
class Inventories:
    """Makes inventories. A list that cannot be read completely raises `CallFailed`."""

    provider: Provider
    pages: PageReader

    async def of(self, auth_id: str) -> Inventory:
        """The numbers, applications and endpoints of this subaccount; raises `CallFailed`."""
        return Inventory(
            numbers=await self._ids(ResourceKind.NUMBERS, auth_id),
            applications=await self._ids(ResourceKind.APPLICATIONS, auth_id),
            endpoints=await self._ids(ResourceKind.ENDPOINTS, auth_id),
        )

    async def _ids(self, kind: ResourceKind, auth_id: str) -> tuple[str, ...]:
        for _ in range(MAX_RESTARTS):
            ids = await self._read(kind, auth_id)
            if ids is not None:
                return ids
        detail = f"the list of {kind} changed whenever it was read"
        raise CallFailed(CallFault("count", FaultKind.UNEXPECTED, detail))

    async def _read(self, kind: ResourceKind, auth_id: str) -> tuple[str, ...] | None:
        """Reads the list once. None if an item was removed meanwhile, or the list repeats the same pages."""
        ids: dict[str, None] = {}
        cursor = Cursor()
        while True:
            page = await self.pages.read(partial(self._page, kind, auth_id, cursor.offset))
            match cursor.take([one.id for one in page]):
                case Reading.BROKEN:
                    return None
                case Reading.COMPLETE:
                    return tuple(ids)
                case Reading.MORE:
                    ids |= dict.fromkeys(owned_by(auth_id, page))

    async def _page(self, kind: ResourceKind, auth_id: str, offset: int) -> list[ProvidedResource]:
        async with self.provider.permit("count") as call:
            return list(await call.resources(kind, auth_id, offset))
