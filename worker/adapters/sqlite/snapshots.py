"""The snapshots of sources, as SQL on a `SqliteStore`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
from pydantic_core import to_json

from worker.adapters.rows import microseconds, said_of, said_row, standing_of, standing_row
from worker.adapters.sqlite.store import SqliteStore
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.snapshots import Said, Standing
from worker.ports import SnapshotMoved

STANDING = "SELECT source, as_of, digest, revision, finished, complete FROM snapshots WHERE source = ?"
SAID = "SELECT tenant, department_id, name, as_of, missing_since, unsent, removed FROM said WHERE source = ?"
GIVEN = "(tenant, department_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))"
OTHERS = f"SELECT tenant, department_id, min(source) FROM said WHERE source <> ? AND removed = 0 AND {GIVEN}"  # noqa: S608 - ours
PUT = "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)"
SAY = "INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
FORGET = (
    "DELETE FROM said WHERE source = ? AND tenant = ? AND department_id = ? AND unsent = ? AND removed = 1"
)
SENT = "UPDATE said SET unsent = NULL WHERE source = ? AND tenant = ? AND department_id = ? AND unsent = ?"
FOUND_AGAIN = (
    f"UPDATE said SET missing_since = NULL WHERE source = ? AND missing_since IS NOT NULL AND NOT {GIVEN}"  # noqa: S608 - ours
)
LOST = f"UPDATE said SET missing_since = ? WHERE source = ? AND missing_since IS NULL AND {GIVEN}"  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class SqliteSnapshots:
    """The `Snapshots` port on a store."""

    store: SqliteStore

    async def standing(self, source: str) -> Standing | None:
        """See `Snapshots.standing`."""
        with self.store.read() as connection:
            return _standing(connection, source)

    async def said_after(self, source: str, last: Department | None, limit: int) -> Sequence[Said]:
        """See `Snapshots.said_after`."""
        query = f"{SAID} AND (tenant, department_id) > (?, ?) ORDER BY tenant, department_id LIMIT ?"
        with self.store.read() as connection:
            return [
                said_of(row)
                for row in connection.execute(query, (source, *(last or EVERY_DEPARTMENT), limit))
            ]

    async def said(self, source: str, departments: Sequence[Department]) -> Mapping[Department, Said]:
        """See `Snapshots.said`."""
        with self.store.read() as connection:
            found = [
                said_of(row)
                for row in connection.execute(f"{SAID} AND {GIVEN}", (source, _json(departments)))
            ]
            return {said.department: said for said in found}

    async def others(self, source: str, departments: Sequence[Department]) -> Mapping[Department, str]:
        """See `Snapshots.others`."""
        query = f"{OTHERS} GROUP BY tenant, department_id"
        with self.store.read() as connection:
            rows: list[Any] = connection.execute(query, (source, _json(departments))).fetchall()
            return {Department(tenant, id_): other for tenant, id_, other in rows}

    async def unsent(self, source: str, limit: int) -> Sequence[Said]:
        """See `Snapshots.unsent`."""
        with self.store.read() as connection:
            rows = connection.execute(f"{SAID} AND unsent IS NOT NULL LIMIT ?", (source, limit))
            return [said_of(row) for row in rows]

    async def begin(self, standing: Standing, revision: int | None) -> None:
        """See `Snapshots.begin`."""

        def job(connection: apsw.Connection) -> None:
            last = _standing(connection, standing.source)
            if last is not None and last.digest == standing.digest:
                return
            if (last.revision if last else None) != revision:
                raise SnapshotMoved
            connection.execute(PUT, standing_row(standing))

        await self.store.run(job)

    async def say(self, source: str, digest: str, said: Sequence[Said]) -> None:
        """See `Snapshots.say`."""

        def job(connection: apsw.Connection) -> None:
            _require(connection, source, digest)
            connection.executemany(SAY, [said_row(source, one) for one in said])

        await self.store.run(job)

    async def settle(self, source: str, said: Sequence[Said]) -> None:
        """See `Snapshots.settle`."""
        keys = [(source, *one.department, one.unsent) for one in said]

        def job(connection: apsw.Connection) -> None:
            connection.executemany(FORGET, keys)
            connection.executemany(SENT, keys)

        await self.store.run(job)

    async def finish(self, source: str, digest: str, missing: Sequence[Department]) -> None:
        """See `Snapshots.finish`."""
        given = _json(missing)

        def job(connection: apsw.Connection) -> None:
            as_of = microseconds(_require(connection, source, digest).as_of)
            connection.execute(FOUND_AGAIN, (source, given))
            connection.execute(LOST, (as_of, source, given))
            connection.execute("UPDATE snapshots SET finished = 1 WHERE source = ?", (source,))

        await self.store.run(job)


def _standing(connection: apsw.Connection, source: str) -> Standing | None:
    return next((standing_of(row) for row in connection.execute(STANDING, (source,))), None)


def _require(connection: apsw.Connection, source: str, digest: str) -> Standing:
    """Notes the change of what the source said. Raises `SnapshotMoved` if it is not this plan's turn."""
    last = _standing(connection, source)
    if last is None or last.digest != digest:
        raise SnapshotMoved
    connection.execute("UPDATE snapshots SET revision = revision + 1 WHERE source = ?", (source,))
    return last


def _json(departments: Sequence[Department]) -> str:
    return to_json(departments).decode()
