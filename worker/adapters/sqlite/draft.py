"""The rows of a list while it is read, in a temporary database that SQLite deletes when it is closed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from worker.core.model.departments import Department
from worker.core.snapshots import Row

TABLE = (
    "CREATE TABLE rows (tenant TEXT, department_id TEXT, name TEXT, line INTEGER, parent_id TEXT,"
    " contradicted INTEGER DEFAULT 0, PRIMARY KEY (tenant, department_id)) WITHOUT ROWID"
)
ADD = (
    "INSERT INTO rows (tenant, department_id, name, line, parent_id) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
ROWS = "SELECT tenant, department_id, name, line, parent_id FROM rows"
KEY = "WHERE tenant = ? AND department_id = ?"
CONTRADICT = f"UPDATE rows SET contradicted = 1 {KEY}"  # noqa: S608 - ours


@contextmanager
def draft() -> Iterator["SqliteDraft"]:
    """A draft for the time of the block."""
    connection = apsw.Connection("")  # a file of SQLite's own, in the folder for temporary files
    try:
        connection.pragma("journal_mode", "off")
        connection.pragma("synchronous", "off")
        connection.execute(TABLE)
        yield SqliteDraft(connection)
    finally:
        connection.close()


class SqliteDraft:
    """The `SnapshotDraft` port."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add(self, rows: Sequence[Row]) -> Sequence[tuple[Row, int]]:
        """See `SnapshotDraft.add`."""
        clashes = []
        self._connection.execute("BEGIN")
        for row in rows:
            self._connection.execute(ADD, (*row.department, row.name, row.line, row.parent_id))
            if self._connection.changes() == 0 and not (known := self._row(row.department)).says_as(row):
                self._connection.execute(CONTRADICT, row.department)
                clashes.append((row, known.line))
        self._connection.execute("COMMIT")
        return clashes

    def rows(self) -> Iterator[Row]:
        """See `SnapshotDraft.rows`."""
        query = f"{ROWS} WHERE contradicted = 0 ORDER BY tenant, department_id"
        return map(_row_of, self._connection.execute(query))

    def has(self, department: Department) -> bool:
        """See `SnapshotDraft.has`."""
        return self._connection.execute(f"{ROWS} {KEY}", department).fetchone() is not None

    def _row(self, department: Department) -> Row:
        return _row_of(self._connection.execute(f"{ROWS} {KEY}", department).fetchone())


def _row_of(values: Any) -> Row:
    tenant, id_, name, line, parent_id = values
    return Row(Department(tenant, id_), name, line, parent_id)
