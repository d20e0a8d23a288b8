"""A connection to PostgreSQL: what it asks of the server, a limit on each statement, and errors.

https://www.psycopg.org/psycopg3/docs/ and https://www.postgresql.org/docs/current/libpq-connect.html
"""

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from worker.adapters.postgres.refusals import refused
from worker.ports import LedgerFailed
from worker.settings.ledger_url import PostgresUrl

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 3.5
"""A statement without an answer for so long ends its connection. With a dead network, libpq waits for 15
minutes, and a cancelled psycopg query for 12 s."""

_OURS = {
    # A server that cannot reach us for 3 s ends the connection, and with it our locks.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "3000",
    "client_connection_check_interval": "500",
    # So does one that hears nothing of us: the process is frozen, although its kernel still answers.
    "idle_in_transaction_session_timeout": "5000",
    "lock_timeout": "2000",
    "default_transaction_isolation": "read\\ committed",
    # Every statement of a worker finds its rows by an index. A plan made while a table is small would read
    # all of it, and is kept when the table has grown: see `REPLANNED_AFTER` in store.py.
    "enable_seqscan": "off",
    "jit": "off",
}
_CLIENT = {
    "connect_timeout": "3",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "3000",
}
IDLE_SECONDS = 10
"""The server ends a session that is silent for longer: it holds locks, and its process may be frozen."""

T = TypeVar("T")
Row = tuple[Any, ...]
Work = Callable[["Connection"], Awaitable[T]]


class ConnectionLost(LedgerFailed):
    """The connection ended while it was in use. Whether the last statement was carried out is unknown."""


class Connection:
    """An open connection, in autocommit mode. It has one user at a time."""

    def __init__(self, wrapped: "psycopg.AsyncConnection[TupleRow]") -> None:
        self._wrapped = wrapped
        self.proved_at = -math.inf
        """When the newest statement that the server has answered was sent, by the loop's clock."""

    @property
    def place(self) -> str:
        """Its server and database, without a login."""
        info = self._wrapped.info
        return f"postgresql://{info.host}:{info.port}/{info.dbname}"

    @property
    def closed(self) -> bool:
        """Whether it has ended, as far as this side knows."""
        return self._wrapped.closed

    async def rows(
        self, statement: str, parameters: object = None, limit: float = ANSWER_SECONDS
    ) -> list[Row]:
        """Runs one statement and returns its rows. Raises `psycopg.Error`.

        Without an answer within `limit` seconds the connection is shut down. Without parameters, there may be
        several statements, in one transaction.
        """
        loop = asyncio.get_running_loop()
        sent = loop.time()
        overdue = loop.call_later(limit, self.shut_down)
        try:
            cursor = await self._wrapped.execute(
                statement,
                parameters,
                prepare=parameters is not None,  # type: ignore[call-overload]
            )
            found = await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if error.sqlstate is not None and not self.closed:
                self.proved_at = sent
            raise
        finally:
            overdue.cancel()
        self.proved_at = sent
        return found

    def shut_down(self) -> None:
        """Ends the connection at once, whatever is under way: its user gets an error."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._wrapped.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Closes the connection."""
        await self._wrapped.close()


async def connect(
    url: PostgresUrl, name: str, options: Mapping[str, str] | None = None, *, to_read: bool = False
) -> Connection:
    """Connects to the server of `url` that can be written to; with `to_read` only to read from it.

    `name`: as the server shows the connection. `options`: settings of the server for this connection. Raises
    `LedgerFailed`, or `LedgerUnusable` if it cannot help to try again.
    """
    connecting = asyncio.ensure_future(
        psycopg.AsyncConnection.connect(
            **_parameters(url, name, options or {}, to_read=to_read), autocommit=True
        )
    )
    try:
        await asyncio.wait({connecting}, timeout=CONNECT_SECONDS)
    finally:
        if not connecting.done():
            connecting.cancel()
    if not connecting.done():
        connecting.add_done_callback(_dropped)
        raise LedgerFailed(f"the ledger cannot be reached: no answer from {url} within {CONNECT_SECONDS:g} s")
    try:
        return Connection(connecting.result())
    except psycopg.Error as error:
        raise refused(error) from None


def _dropped(connecting: "asyncio.Future[psycopg.AsyncConnection[TupleRow]]") -> None:
    """Reads the outcome of an attempt that was given up, so that asyncio does not complain about it."""
    if not connecting.cancelled():
        connecting.exception()


def _parameters(url: PostgresUrl, name: str, options: Mapping[str, str], *, to_read: bool) -> dict[str, Any]:
    given = url.parameters()
    reading = {"default_transaction_read_only": "on"} if to_read else {}
    ours = " ".join(f"-c {key}={value}" for key, value in (_OURS | reading | dict(options)).items())
    return {
        **_CLIENT,
        **given,
        "options": f"{given.get('options', '')} {ours}".strip(),
        "application_name": name,
        # A standby would grant the same locks, and have older data. `read-write` asks the session.
        "target_session_attrs": "primary" if to_read else "read-write",
        "client_encoding": "utf8",
    }
