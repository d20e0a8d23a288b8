"""The schema of the ledger in PostgreSQL, and its migrations."""

from importlib import resources

import psycopg
from psycopg import errors

from worker.adapters.migrations import migrations_in, pending
from worker.adapters.postgres.connection import Connection
from worker.adapters.postgres.refusals import reason_of, refused
from worker.ports import LedgerFailed

MIGRATIONS = migrations_in(resources.files("worker.adapters.postgres") / "migrations")
MIGRATION_SECONDS = 60.0
APPLIED = "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL)"
LOCK = 0x70726F7669736E72  # "provisnr"
"""The advisory lock of those who migrate."""


async def applied_migrations(connection: Connection) -> dict[str, str] | None:
    """The checksums of the migrations in the database, by name; None if it has no ledger."""
    if await connection.rows("SELECT to_regclass('migrations')", ()) == [(None,)]:
        return None
    found = await connection.rows("SELECT name, checksum FROM migrations", ())
    return {str(name): str(checksum) for name, checksum in found}


async def migrate(connection: Connection) -> None:
    """Applies pending migrations in order, in one transaction, one process at a time.

    Raises `LedgerForeign` for a schema of another version, and `LedgerUnusable`.
    """
    applied = await applied_migrations(connection)
    if applied is not None and not pending(applied, MIGRATIONS):
        return
    try:
        await connection.rows("BEGIN; SET LOCAL lock_timeout = 0")
        await connection.rows("SELECT pg_advisory_xact_lock(%s)", (LOCK,), MIGRATION_SECONDS)
        await connection.rows(
            "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL)"
        )
        for one in pending(await applied_migrations(connection) or {}, MIGRATIONS):
            await connection.rows(one.script, None, MIGRATION_SECONDS)
            await connection.rows("INSERT INTO migrations VALUES (%s, %s)", (one.name, one.checksum))
        await connection.rows("COMMIT")
    except errors.InsufficientPrivilege as refusal:
        raise refused(refusal) from None
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise LedgerFailed(f"the ledger's schema cannot be brought up to date: {reason_of(error)}") from None
    finally:
        if not connection.closed:
            await connection.rows("ROLLBACK")  # without a transaction it does nothing
