"""Department locks as advisory locks of the session: shared by all workers on one database.

https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.postgres.connection import Connection
from worker.adapters.postgres.gathering import Asked, Gathering
from worker.adapters.postgres.session import Session
from worker.core.model.departments import Department
from worker.ports import LedgerFailed

MOST_HELD = 1000
"""For one worker. The server has room for about 15,000 locks by default, and refuses logins without any."""
AT_ONCE = 500
POLL_SECONDS = 0.1
LOST = "the connection that holds the department's lock was lost"

EXCHANGE = (  # one statement gives back, then takes; a key may be in both
    "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key"
    " UNION ALL SELECT pg_try_advisory_lock(key) FROM unnest(%s::bigint[]) AS key"
)


@dataclass(frozen=True, slots=True)
class _Give:
    """Gives a lock back that was taken in this epoch."""

    key: int
    epoch: int


class PostgresLocks:
    """The `DepartmentLocks` port. `hold` raises `LedgerFailed`, also in its block once the lock is lost."""

    def __init__(self, session: Session, jitter: Callable[[], float]) -> None:
        self._session = session
        self._jitter = jitter
        self._within = InProcessLocks()
        self._room = asyncio.Semaphore(MOST_HELD)
        self._exchange: Gathering[int | _Give, int | None] = Gathering(self._carry_out, AT_ONCE)

    @asynccontextmanager
    async def hold(self, department: Department) -> AsyncIterator[None]:
        """See `DepartmentLocks.hold`."""
        key = lock_key(department)
        async with self._within.hold(department), self._room:
            epoch = await self._take(key)
            try:
                async with self._interrupted_by_loss(key, epoch):
                    yield
            finally:
                self._exchange.tell(_Give(key, epoch))

    async def close(self) -> None:
        """Returns once all locks are given back."""
        await self._exchange.close()

    async def _take(self, key: int) -> int:
        """Takes the lock, and returns the epoch of its session."""
        while True:
            asked = self._exchange.file(key)
            try:
                epoch = await asked.done
            except asyncio.CancelledError:
                if not asked.done.cancelled() and asked.done.exception() is None:
                    self._give_unwanted(key, asked.done.result())
                raise
            if epoch is not None:
                return epoch
            await asyncio.sleep(POLL_SECONDS * (0.5 + self._jitter()))

    @asynccontextmanager
    async def _interrupted_by_loss(self, key: int, epoch: int) -> AsyncIterator[None]:
        """Raises `LedgerFailed` in the block, at its next await, once the session of this epoch is lost."""
        if epoch != self._session.epoch:
            raise LedgerFailed(LOST)
        try:
            async with asyncio.timeout(None) as block:
                loop = asyncio.get_running_loop()
                self._session.leases[key] = lambda: block.reschedule(loop.time())
                try:
                    yield
                finally:
                    if epoch == self._session.epoch:
                        del self._session.leases[key]
        except TimeoutError:
            if block.expired():
                raise LedgerFailed(LOST) from None
            raise

    def _give_unwanted(self, key: int, epoch: int | None) -> None:
        """Gives back what nobody waits for any more."""
        if epoch is not None:
            self._exchange.tell(_Give(key, epoch))

    async def _carry_out(self, batch: Sequence[Asked[int | _Give, int | None]]) -> None:
        await self._session.use(lambda connection: self._exchanged(connection, batch))

    async def _exchanged(
        self, connection: Connection, batch: Sequence[Asked[int | _Give, int | None]]
    ) -> None:
        epoch = self._session.epoch
        given = [one for one in batch if isinstance(one.item, _Give)]
        taken = [one for one in batch if not isinstance(one.item, _Give)]
        keys = [one.item.key for one in given if isinstance(one.item, _Give) and one.item.epoch == epoch]
        wanted = [one.item for one in taken if isinstance(one.item, int)]
        rows = await connection.rows(EXCHANGE, (_array(keys), _array(wanted)))
        for one in given:
            one.resolve(None)
        for one, wanted_key, (got,) in zip(taken, wanted, rows[len(keys) :], strict=True):
            if one.done.done():
                self._give_unwanted(wanted_key, epoch if got else None)
            one.resolve(epoch if got else None)


def _array(keys: Sequence[object]) -> str:
    return "{" + ",".join(map(str, keys)) + "}"


def lock_key(department: Department) -> int:
    """The key of a department's lock, the same for every worker: a signed integer of 8 bytes."""
    name = "\0".join(("department", *department)).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], signed=True)
