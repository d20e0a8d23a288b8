"""The audit in a table of the ledger's file."""

from collections.abc import Sequence
from datetime import UTC, datetime

import apsw

from worker.adapters.rows import audit_json, audit_of
from worker.adapters.sqlite.store import SqliteStore
from worker.core.dead_letters import AuditLine
from worker.core.model.departments import Department

LINES = (
    "SELECT audit FROM audit WHERE (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR by = ?2)"
    " AND (?3 IS NULL OR event_id = ?3 OR audit ->> '$.letter' = ?3) ORDER BY number"
)
LINES_OF_DEPARTMENT = (  # spelled as in the index that serves it
    "SELECT audit FROM audit WHERE audit ->> '$.tenant' = ?4 AND audit ->> '$.department_id' = ?5"
    " AND (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR by = ?2)"
    " AND (?3 IS NULL OR event_id = ?3 OR audit ->> '$.letter' = ?3) ORDER BY number"
)


class SqliteAudit:
    """The `Audit` port in a table of a ledger's file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """See `Audit.append`."""
        await self._store.run(lambda connection: write_audit(connection, lines))

    async def lines(
        self,
        since: datetime | None = None,
        by: str | None = None,
        id_: str | None = None,
        department: Department | None = None,
    ) -> Sequence[AuditLine]:
        """See `Audit.lines`."""
        conditions = (_written(since) if since else None, by, id_)
        with self._store.read() as connection:
            if department is None:
                rows = connection.execute(LINES, conditions)
            else:
                rows = connection.execute(LINES_OF_DEPARTMENT, (*conditions, *department))
            return [audit_of(row[0]) for row in rows]


def write_audit(connection: apsw.Connection, lines: Sequence[AuditLine]) -> None:
    """Appends the lines within the transaction of the connection."""
    connection.executemany(
        "INSERT INTO audit (at, by, event_id, audit) VALUES (?, ?, ?, ?)",
        [(_written(line.at), line.by, line.event_id, audit_json(line)) for line in lines],
    )


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()
