"""The audit in a table of the ledger's database."""

from collections.abc import Sequence
from datetime import datetime

from worker.adapters.postgres.store import Change, PostgresStore, Values
from worker.adapters.rows import audit_json, audit_of, microseconds
from worker.adapters.system import fresh_id
from worker.core.dead_letters import AuditLine
from worker.core.model.departments import EVERY_DEPARTMENT, Department

LINES = (
    "SELECT audit FROM audit WHERE (%(since)s::bigint IS NULL OR at >= %(since)s)"
    " AND (%(by)s::text IS NULL OR by = %(by)s)"
)
OF_ID = " AND (event_id = %(id)s OR letter = %(id)s)"
OF_DEPARTMENT = " AND tenant = %(tenant)s AND department_id = %(department_id)s"


class PostgresAudit:
    """The `Audit` port in a table of a ledger's database."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """See `Audit.append`."""
        if lines:
            await self._store.write(Change(EVERY_DEPARTMENT, audit=audit_rows(lines)))

    async def lines(
        self,
        since: datetime | None = None,
        by: str | None = None,
        id_: str | None = None,
        department: Department | None = None,
    ) -> Sequence[AuditLine]:
        """See `Audit.lines`."""
        conditions: Values = {"since": microseconds(since) if since else None, "by": by, "id": id_}
        query = LINES + (OF_ID if id_ is not None else "")
        if department is not None:
            query += OF_DEPARTMENT
            conditions |= {"tenant": department.tenant, "department_id": department.id}
        rows = await self._store.rows(f"{query} ORDER BY number", conditions)
        return [audit_of(row[0]) for row in rows]


def audit_rows(lines: Sequence[AuditLine]) -> Sequence[Values]:
    """The lines as rows of the table."""
    return [
        {
            "id": fresh_id(),
            "at": microseconds(line.at),
            "by": line.by,
            "event_id": line.event_id,
            "letter": line.letter,
            "tenant": line.tenant,
            "department_id": line.department_id,
            "audit": audit_json(line),
        }
        for line in lines
    ]
