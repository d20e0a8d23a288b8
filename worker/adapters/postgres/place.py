"""Whether a worker could use a database as its ledger, found out without a change there."""

import psycopg

from worker.adapters.postgres.connection import Connection, Row, connect
from worker.adapters.postgres.refusals import refused
from worker.adapters.postgres.session import Link, running_session
from worker.adapters.postgres.store import require_locks
from worker.adapters.system import SystemClock
from worker.ports import LedgerUnusable
from worker.settings.ledger_url import PostgresUrl

FOUND = (
    "SELECT current_setting('max_locks_per_transaction')::bigint"
    " * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint),"
    " to_regclass('departments') IS NOT NULL,"
    " CASE WHEN to_regclass('departments') IS NULL"
    " THEN coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
    " ELSE has_table_privilege('departments', 'SELECT')"
    " AND has_table_privilege('departments', 'INSERT') AND has_table_privilege('departments', 'UPDATE') END"
)
NO_RIGHT = (
    "the ledger cannot be {}: the user of LEDGER_URL has not the rights; let the user own the schema, or"
    " grant CREATE on it; every worker has the same user"
)


async def lock_room(url: PostgresUrl) -> int:
    """The number of locks that the server has room for, all users together.

    Raises `LedgerFailed`; `LedgerUnusable` for a standby, a pooler, and a user without the rights.
    """
    reading = Link(lambda: connect(url, "provisioner doctor"))
    async with running_session(lambda: url, SystemClock().jitter) as session:
        try:
            await require_locks(session, reading)
            ((room, exists, may_use),) = await session.use(_found)
        except psycopg.Error as error:
            raise refused(error) from None
        finally:
            await reading.close()
    if not may_use:
        raise LedgerUnusable(NO_RIGHT.format("written" if exists else "made"))
    return int(room)


async def _found(connection: Connection) -> list[Row]:
    return await connection.rows(FOUND, ())
