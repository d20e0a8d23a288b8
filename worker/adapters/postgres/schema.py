"""The schema of the ledger in PostgreSQL, and its migrations."""

from importlib import resources

import psycopg
from psycopg import errors

from worker.adapters.migrations import migrations_in, pending
from worker.adapters.postgres.connection import Connection
from worker.adapters.postgres.refusals import reason_of, refused
from worker.ports import LedgerFailed, LedgerForeign, LedgerUnusable

MIGRATIONS = migrations_in(resources.files("worker.adapters.postgres") / "migrations")
MIGRATION_SECONDS = 60.0
APPLIED = "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL)"
LOCK = 0x70726F7669736E72  # "provisnr"
"""The advisory lock of those who migrate."""
IN_USE = "1886547817, to_regnamespace(quote_ident(current_schema()))::oid::bigint::bit(32)::integer"
"""The two numbers of the tables' advisory lock: all who use them share it, who changes them has it alone."""
OLDER_RUN = (
    "a worker or a command of an older version uses the ledger, whose tables this version has to change: stop"
    " every worker, then start this version (`provisioner status` shows who runs)"
)


async def applied_migrations(connection: Connection) -> dict[str, str] | None:
    """The checksums of the migrations in the database, by name; None if it has no ledger."""
    if await connection.rows("SELECT to_regclass('migrations')", ()) == [(None,)]:
        return None
    found = await connection.rows("SELECT name, checksum FROM migrations", ())
    return {str(name): str(checksum) for name, checksum in found}


async def migrate(connection: Connection) -> None:
    """Applies pending migrations in order, in one transaction, one process at a time.

    They change tables under the statements of an older version, so none may run. Raises
    `LedgerForeign` for a schema of another version, and `LedgerUnusable`.
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
        missing = pending(await applied_migrations(connection) or {}, MIGRATIONS)
        if missing and await connection.rows(f"SELECT pg_try_advisory_xact_lock({IN_USE})") != [(True,)]:
            raise LedgerUnusable(OLDER_RUN)
        for one in missing:
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


async def use_schema(connection: Connection) -> None:
    """Keeps the schema as it is until the connection ends: a newer version refuses to migrate it meanwhile.

    Raises `LedgerFailed` if the schema has become that of another version, and `psycopg.Error`.
    """
    await connection.rows(  # whoever migrates has it alone until all is committed
        f"BEGIN; SET LOCAL lock_timeout = 0; SELECT pg_advisory_lock_shared({IN_USE}); COMMIT",
        None,
        MIGRATION_SECONDS,
    )
    try:
        missing = pending(await applied_migrations(connection) or {}, MIGRATIONS)
    except LedgerForeign as error:
        raise LedgerFailed(str(error)) from None
    if missing:
        raise LedgerFailed("the ledger was put back to an older version meanwhile: restart this worker")
