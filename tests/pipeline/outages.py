"""A provider that refuses calls of chosen kinds, and helpers that let time pass during an outage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.settling_loop import settled
from tests.support.world import World, kind_of_fault
from worker.adapters.memory.provider import MemoryProvider
from worker.bootstrap.running import RunningWorker
from worker.core.inventory import ResourceKind
from worker.core.judge import CallFault, Operation
from worker.ports import CallFailed, Confirmed, NewSubaccount


def a_fault(operation: Operation, status: int | None = None, **more: Any) -> CallFault:
    """`own` is False for a response that something else than the provider wrote."""
    kind = kind_of_fault(status, sent=more.pop("sent", True), own=more.pop("own", True))
    return CallFault(operation, kind, f"Plivo answered {status or 'nothing'} to {operation}", **more)


class Refusing(MemoryProvider):
    """`refuses` holds the current fault of each kind of call; "probe" is a kind too."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, CallFault] = {}
        self.probes = 0

    def refuse_all(self, status: int | None = None, **more: Any) -> None:
        operations: tuple[Operation, ...] = ("create", "update", "delete", "get", "list", "count")
        self.refuses = {operation: a_fault(operation, status, **more) for operation in operations}
        self.refuses["probe"] = self.refuses["list"]

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        self._meet("create", None, idempotency_key)
        return await super().create(name, idempotency_key, enabled=enabled)

    async def update(self, auth_id: str, idempotency_key: str, **changes: Any) -> Confirmed:
        self._meet("update", auth_id, idempotency_key)
        return await super().update(auth_id, idempotency_key, **changes)

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        self._meet("delete", auth_id, idempotency_key)
        return await super().delete(auth_id, idempotency_key, cascade=cascade)

    async def get(self, auth_id: str) -> Any:
        self._meet("get", auth_id, None)
        return await super().get(auth_id)

    async def page(self, offset: int) -> Any:
        self._meet("list", None, None)
        return await super().page(offset)

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Any:
        self._meet("count", auth_id, None)
        return await super().resources(kind, auth_id, offset)

    async def probe(self) -> None:
        self.probes += 1
        if fault := self.refuses.get("probe"):
            raise CallFailed(fault)

    def _meet(self, operation: Operation, auth_id: str | None, key: str | None) -> None:
        if fault := self.refuses.get(operation):
            self.calls.append((operation, auth_id, key))
            raise CallFailed(fault)


async def pass_seconds(world: World, seconds: float) -> None:
    """Advances the clock in steps, from one wake-up to the next."""
    end = world.clock.monotonic() + seconds
    alarm = asyncio.create_task(world.clock.sleep(seconds))  # so that there is always a sleeping task
    await settled()
    while world.clock.monotonic() + world.clock.seconds_to_next() < end:
        world.clock.advance(world.clock.seconds_to_next())
        await settled()
    world.clock.advance(end - world.clock.monotonic())
    await alarm
    await settled()


@asynccontextmanager
async def working_with_duties(world: World) -> AsyncIterator[RunningWorker]:
    async with world.working() as running:
        scheduler = asyncio.create_task(running.worker.scheduler.run())
        try:
            yield running
        finally:
            scheduler.cancel()
            await asyncio.gather(scheduler, return_exceptions=True)
