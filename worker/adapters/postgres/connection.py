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
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from pydantic import SecretStr

from worker.ports import LedgerFailed, LedgerUnusable

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


async def connect(url: SecretStr, name: str, options: Mapping[str, str] | None = None) -> Connection:
    """Connects to the server at `url` that can be written to.

    `name`: as the server shows the connection. `options`: settings of the server for this connection. Raises
    `LedgerFailed`, or `LedgerUnusable` if it cannot help to try again.
    """
    connecting = asyncio.ensure_future(
        psycopg.AsyncConnection.connect(**_parameters(url, name, options or {}), autocommit=True)
    )
    try:
        await asyncio.wait({connecting}, timeout=CONNECT_SECONDS)
    finally:
        if not connecting.done():
            connecting.cancel()
    if not connecting.done():
        connecting.add_done_callback(_dropped)
        raise LedgerFailed(
            f"the ledger cannot be reached: no answer from PostgreSQL within {CONNECT_SECONDS:g} s"
        )
    try:
        return Connection(connecting.result())
    except psycopg.Error as error:
        raise _not_connected(reason_of(error)) from None


def _dropped(connecting: "asyncio.Future[psycopg.AsyncConnection[TupleRow]]") -> None:
    """Reads the outcome of an attempt that was given up, so that asyncio does not complain about it."""
    if not connecting.cancelled():
        connecting.exception()


def _parameters(url: SecretStr, name: str, options: Mapping[str, str]) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(url.get_secret_value())
    except psycopg.Error:
        raise LedgerUnusable(
            "LEDGER_URL is no URL that PostgreSQL's client understands;"
            " write postgresql://user@host/database (https://www.postgresql.org/docs/current/libpq-connect.html)"
        ) from None
    ours = " ".join(f"-c {key}={value}" for key, value in (_OURS | dict(options)).items())
    return {
        **_CLIENT,
        **given,
        "options": f"{given.get('options') or ''} {ours}".strip(),
        "application_name": name,
        "target_session_attrs": "read-write",  # a standby would grant the same locks
        "client_encoding": "utf8",
    }


def reason_of(error: psycopg.Error) -> str:
    """What went wrong, in one line."""
    text = error.diag.message_primary or str(error) or "the connection is closed"
    return " ".join(text.split()).removeprefix("connection failed: ")[:400]


def _not_connected(reason: str) -> LedgerFailed:
    """The error of a failed attempt. The client library tells its cause in words only."""
    only_host = "Multiple connection attempts" not in reason
    hint = next((hint for words, hint in _HINTS.items() if words in reason), None)
    if hint is None or not only_host:
        return LedgerFailed(f"the ledger cannot be reached: {reason}")
    return LedgerUnusable(f"the ledger cannot be opened: {reason}; {hint}")


_LOGIN = "correct the user or the password of LEDGER_URL (or PGPASSWORD, PGPASSFILE)"
_HINTS = {
    "password authentication failed": _LOGIN,
    "no password supplied": _LOGIN,
    "authentication failed": _LOGIN,
    "no pg_hba.conf entry": "let the server's pg_hba.conf accept this host and user",
    "role": "create the user, or name another in LEDGER_URL",
    "permission denied for database": "grant CONNECT on the database to this user",
    "session is read-only": "it is a standby, and a ledger needs the primary: name that in LEDGER_URL",
    "unsupported startup parameter": "a pooler stands in between: LEDGER_URL must name PostgreSQL itself",
    "does not exist": "create the database, or name another in LEDGER_URL",
}
"""What to do, by words in the reason; the first that match."""
