"""A readers-writer lock: a suspected poison message is worked on while nothing else runs.

A message that crashes its worker interrupts all messages in progress. If it runs alone, the cause is clear.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class SharedExclusiveLock:
    """Held by any number of shared holders, or by one exclusive holder.

    A waiting exclusive holder goes before every shared holder that comes later, so it cannot starve.
    """

    def __init__(self) -> None:
        self._shared_holders = 0
        self._none_shared = asyncio.Event()
        self._none_shared.set()
        self._exclusive = asyncio.Lock()

    async def shared(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which holds the lock together with other shared holders."""
        while self._exclusive.locked():
            async with self._exclusive:
                pass
        self._shared_holders += 1
        self._none_shared.clear()
        try:
            return await work()
        finally:
            self._shared_holders -= 1
            if not self._shared_holders:
                self._none_shared.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Holds the lock alone, once all shared holders have released it."""
        async with self._exclusive:
            await self._none_shared.wait()
            yield
