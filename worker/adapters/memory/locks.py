"""Department locks within one process, for a ledger with a single worker."""

import asyncio
from contextlib import AbstractAsyncContextManager
from weakref import WeakValueDictionary

from worker.core.model.departments import Department


class InProcessLocks:
    """The `DepartmentLocks` port. A lock exists only while a task holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Department, asyncio.Lock] = WeakValueDictionary()

    def hold(self, department: Department) -> AbstractAsyncContextManager[None]:
        """Holds the department for the time of the block, after other holders. Not reentrant."""
        return self._locks.setdefault(department, asyncio.Lock())

    def __len__(self) -> int:
        """The number of departments that are held or waited for."""
        return len(self._locks)
