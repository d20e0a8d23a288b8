"""The session: the one connection that holds a worker's locks and makes its writes.

A write that came back proves that the locks are still held, because both are on one connection. A heartbeat
proves it while nothing is written. Before an act that rests on a lock, `check` wants a fresh proof: a server
frees the locks of a silent session later than a proof expires. When the connection is lost, all its locks are
lost, and their holders are interrupted before there is another connection.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psycopg

from worker.adapters.postgres.connection import (
    IDLE_SECONDS,
    Connection,
    ConnectionLost,
    T,
    Work,
    connect,
)
from worker.adapters.postgres.refusals import reason_of, refused
from worker.adapters.system import fresh_id
from worker.ports import LedgerFailed
from worker.settings.ledger_url import PostgresUrl

PROOF_SECONDS = 2.0
"""How long a proof lasts. The server frees no lock sooner than 2.9 s after it last heard from us."""
HEARTBEAT_SECONDS = 0.5

END_EARLIER = (  # what is left of an earlier connection holds its locks, and may still write
    "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
    " WHERE application_name = %s AND pid <> pg_backend_pid()"
)
DURABLE = (  # a claim must survive a crash of the server
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


class Link:
    """Keeps one connection, and makes another once it is lost. It has one user at a time, in order."""

    def __init__(self, connecting: Callable[[], Awaitable[Connection]]) -> None:
        self._connecting = connecting
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection | None:
        """The connection, if there is one."""
        return self._connection

    async def use(self, work: Work[T]) -> T:
        """Runs `work` on the connection, after others. It must not be cancelled: psycopg takes 12 s for that.

        Raises `LedgerFailed` if there is no connection, `ConnectionLost` if it ends meanwhile, and whatever
        `work` raises: errors of the server are `psycopg.Error`.
        """
        async with self._turn:
            if self._connection is None:
                self._connection = await self._connecting()
            connection = self._connection
            try:
                return await work(connection)
            except psycopg.Error as error:
                if not connection.closed:
                    raise
                reason = reason_of(error)
            self._connection = None
            lost = ConnectionLost(f"the connection to the ledger was lost: {reason}")
            self.lost(lost)
            raise lost

    def lost(self, error: ConnectionLost) -> None:
        """Called when the connection is lost, before there is another."""

    async def close(self) -> None:
        """Closes the connection, after its last user."""
        async with self._turn:
            if self._connection is not None:
                await self._connection.close()


class Session(Link):
    """A link whose connection holds locks, with their proof."""

    def __init__(self, url: Callable[[], PostgresUrl], jitter: Callable[[], float]) -> None:
        super().__init__(self._begin)
        self._url = url
        self._jitter = jitter
        self.name = f"provisioner worker {fresh_id()}"
        self._loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.epoch = 0
        """The number of losses so far: what was begun in an earlier epoch holds no lock any more."""
        self.leases: dict[int, Callable[[], None]] = {}
        """The function that interrupts the holder of each lock, by its key. Empty after a loss."""
        self.resume: Work[None] | None = None
        """Prepares each further connection."""

    def proof_age(self) -> float:
        """Seconds since the newest statement was sent that the server has answered; infinite without one."""
        if self.connection is None or self.connection.closed:
            return math.inf
        return asyncio.get_running_loop().time() - self.connection.proved_at

    def check(self) -> None:
        """See `Fence.check`."""
        if self.proof_age() > PROOF_SECONDS:
            raise LedgerFailed("PostgreSQL has not confirmed lately that this worker still has its locks")

    async def until_lost(self) -> str:
        """See `Fence.until_lost`."""
        return await asyncio.shield(self._loss)

    def lost(self, error: ConnectionLost) -> None:
        """Interrupts all who hold a lock."""
        self.epoch += 1
        interrupts, self.leases = self.leases.values(), {}
        for interrupt in interrupts:
            interrupt()
        loss, self._loss = self._loss, asyncio.get_running_loop().create_future()
        loss.set_result(str(error))

    async def keep(self, stopping: asyncio.Event) -> None:
        """Proves the session while nothing else does, and reconnects, until `stopping` is set."""
        while not stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS * (0.8 + 0.4 * self._jitter())):
                    await stopping.wait()
            if self.proof_age() > HEARTBEAT_SECONDS / 2 and not stopping.is_set():
                with suppress(LedgerFailed):  # the next user reports it
                    await self.use(lambda connection: connection.rows("SELECT 1", ()))

    async def _begin(self) -> Connection:
        connection = await connect(self._url(), self.name, {"idle_session_timeout": f"{IDLE_SECONDS}s"})
        try:
            await self._take_over(connection)
        except LedgerFailed:
            await connection.close()
            raise
        except psycopg.Error as error:
            await connection.close()
            raise refused(error) from None
        return connection

    async def _take_over(self, connection: Connection) -> None:
        await connection.rows(DURABLE, ())
        if (False,) in await connection.rows(END_EARLIER, (self.name,)):
            raise LedgerFailed(
                "the ledger cannot be used: an earlier connection of this worker is still open"
            )
        if self.resume is not None:
            await self.resume(connection)


@asynccontextmanager
async def running_session(
    url: Callable[[], PostgresUrl], jitter: Callable[[], float]
) -> AsyncIterator[Session]:
    """A session that is kept during the block. It connects when it is first used.

    `url` is asked before each connection.
    """
    session, stopping = Session(url, jitter), asyncio.Event()
    keeping = asyncio.create_task(session.keep(stopping))
    try:
        yield session
    finally:
        stopping.set()
        await asyncio.wait([keeping])
        await session.close()
