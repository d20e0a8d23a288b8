"""The audit in a table of the ledger's file."""

from collections.abc import Sequence
from datetime import UTC, datetime

import apsw
from pydantic import TypeAdapter

from worker.adapters.sqlite.store import SqliteStore
from worker.core.dead_letters import AuditLine

_LINE = TypeAdapter(AuditLine)


class SqliteAudit:
    """The `Audit` port in a table of a ledger's file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """See `Audit.append`."""
        rows = [(_written(line.at), line.by, line.event_id, _LINE.dump_json(line).decode()) for line in lines]

        def job(connection: apsw.Connection) -> None:
            connection.executemany("INSERT INTO audit (at, by, event_id, audit) VALUES (?, ?, ?, ?)", rows)

        await self._store.run(job)

    async def lines(
        self, since: datetime | None = None, by: str | None = None, id_: str | None = None
    ) -> Sequence[AuditLine]:
        """See `Audit.lines`."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT audit FROM audit WHERE (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR by = ?2)"
                " AND (?3 IS NULL OR event_id = ?3 OR audit ->> '$.letter' = ?3) ORDER BY number",
                (_written(since) if since else None, by, id_),
            )
            return [_LINE.validate_json(str(row[0])) for row in rows]


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()
