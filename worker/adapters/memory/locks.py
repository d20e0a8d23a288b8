"""Department locks within one process, for ledgers that only one worker uses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from worker.core.model import Department


class InProcessLocks:
    """The `DepartmentLocks` port. A lock lives as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Department, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, department: Department) -> AsyncIterator[None]:
        """Waits until nobody else holds the department. Not reentrant."""
        lock = self._locks.setdefault(department, asyncio.Lock())
        async with lock:
            yield

    def __len__(self) -> int:
        """The number of departments that are held or waited for."""
        return len(self._locks)
