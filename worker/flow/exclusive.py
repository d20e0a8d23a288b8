"""Many at once, or one alone: for a message that may be what kills its workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Solitude:
    """Whoever wants to be alone waits for those under way; who comes meanwhile waits for it."""

    def __init__(self) -> None:
        self._under_way = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def among_others(self) -> AsyncIterator[None]:
        while self._alone.locked():
            async with self._alone:
                pass
        self._under_way += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._alone:
            await self._nobody.wait()
            yield
