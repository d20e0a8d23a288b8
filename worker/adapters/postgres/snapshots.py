"""The snapshots of sources, as SQL on a `PostgresStore`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from worker.adapters.postgres.connection import Connection
from worker.adapters.postgres.store import PostgresStore, transaction
from worker.adapters.rows import microseconds, said_of, said_row, standing_of, standing_row
from worker.core.keeping import COLUMNS, Table
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.snapshots import Said, Standing
from worker.ports import SnapshotMoved

STANDING = "SELECT source, as_of, digest, revision, finished, complete FROM snapshots WHERE source = %s"
SAID = "SELECT tenant, department_id, name, as_of, missing_since, unsent, removed FROM said WHERE source = %s"
GIVEN = (
    "(tenant, department_id) IN (SELECT g.value ->> 0, g.value ->> 1"
    " FROM json_array_elements(%s::json) AS g (value))"
)
OTHERS = (
    "SELECT tenant, department_id, min(source) FROM said"  # noqa: S608 - ours
    f" WHERE source <> %s AND removed = 0 AND {GIVEN} GROUP BY tenant, department_id"
)
PUT = (
    "INSERT INTO snapshots VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (source) DO UPDATE SET"
    " as_of = excluded.as_of, digest = excluded.digest, revision = excluded.revision,"
    " finished = excluded.finished, complete = excluded.complete"
)
SAY = (
    "INSERT INTO said SELECT * FROM json_populate_recordset(NULL::said, %s::json)"
    " ON CONFLICT (source, tenant, department_id) DO UPDATE SET name = excluded.name,"
    " as_of = excluded.as_of, missing_since = excluded.missing_since, unsent = excluded.unsent,"
    " removed = excluded.removed"
)
SENT = (
    "UPDATE said SET unsent = NULL FROM json_populate_recordset(NULL::said, %s::json) AS g"
    " WHERE (said.source, said.tenant, said.department_id, said.unsent)"
    " = (g.source, g.tenant, g.department_id, g.unsent)"
)
FORGET = "DELETE FROM said WHERE source = %s AND removed = 1 AND unsent IS NULL"
FOUND_AGAIN = (
    f"UPDATE said SET missing_since = NULL WHERE source = %s AND missing_since IS NOT NULL AND NOT {GIVEN}"  # noqa: S608 - ours
)
LOST = f"UPDATE said SET missing_since = %s WHERE source = %s AND missing_since IS NULL AND {GIVEN}"  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class PostgresSnapshots:
    """The `Snapshots` port on a store."""

    store: PostgresStore

    async def standing(self, source: str) -> Standing | None:
        """See `Snapshots.standing`."""
        rows = await self.store.rows(STANDING, (source,))
        return standing_of(rows[0]) if rows else None

    async def said_after(self, source: str, last: Department | None, limit: int) -> Sequence[Said]:
        """See `Snapshots.said_after`."""
        query = f"{SAID} AND (tenant, department_id) > (%s, %s) ORDER BY tenant, department_id LIMIT %s"
        rows = await self.store.rows(query, (source, *(last or EVERY_DEPARTMENT), limit))
        return [said_of(row) for row in rows]

    async def said(self, source: str, departments: Sequence[Department]) -> Mapping[Department, Said]:
        """See `Snapshots.said`."""
        rows = await self.store.rows(f"{SAID} AND {GIVEN}", (source, _json(departments)))
        return {said.department: said for said in map(said_of, rows)}

    async def others(self, source: str, departments: Sequence[Department]) -> Mapping[Department, str]:
        """See `Snapshots.others`."""
        rows = await self.store.rows(OTHERS, (source, _json(departments)))
        return {Department(tenant, id_): other for tenant, id_, other in rows}

    async def unsent(self, source: str, limit: int) -> Sequence[Said]:
        """See `Snapshots.unsent`."""
        rows = await self.store.rows(f"{SAID} AND unsent IS NOT NULL LIMIT %s", (source, limit))
        return [said_of(row) for row in rows]

    async def begin(self, standing: Standing, revision: int | None) -> None:
        """See `Snapshots.begin`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                last = await _locked(connection, standing.source)
                if last is not None and last.digest == standing.digest:
                    return
                if (last.revision if last else None) != revision:
                    raise SnapshotMoved
                await connection.rows(PUT, standing_row(standing))

        await self.store.run(work)

    async def say(self, source: str, digest: str, said: Sequence[Said]) -> None:
        """See `Snapshots.say`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                await _require(connection, source, digest)
                await connection.rows(SAY, (_rows(source, said),))

        await self.store.run(work)

    async def settle(self, source: str, said: Sequence[Said]) -> None:
        """See `Snapshots.settle`."""

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                await connection.rows(SENT, (_rows(source, said),))
                await connection.rows(FORGET, (source,))

        await self.store.run(work)

    async def finish(self, source: str, digest: str, missing: Sequence[Department]) -> None:
        """See `Snapshots.finish`."""
        given = _json(missing)

        async def work(connection: Connection) -> None:
            async with transaction(connection):
                as_of = microseconds((await _require(connection, source, digest)).as_of)
                await connection.rows(FOUND_AGAIN, (source, given))
                await connection.rows(LOST, (as_of, source, given))
                await connection.rows("UPDATE snapshots SET finished = 1 WHERE source = %s", (source,))

        await self.store.run(work)


async def _locked(connection: Connection, source: str) -> Standing | None:
    """The standing; whoever asks for it next waits for the end of the transaction."""
    await connection.rows("SELECT pg_advisory_xact_lock(hashtextextended('snapshot ' || %s, 0))", (source,))
    rows = await connection.rows(STANDING, (source,))
    return standing_of(rows[0]) if rows else None


async def _require(connection: Connection, source: str, digest: str) -> Standing:
    """Notes the change of what the source said. Raises `SnapshotMoved` if it is not this plan's turn."""
    last = await _locked(connection, source)
    if last is None or last.digest != digest:
        raise SnapshotMoved
    await connection.rows("UPDATE snapshots SET revision = revision + 1 WHERE source = %s", (source,))
    return last


def _rows(source: str, said: Sequence[Said]) -> str:
    columns = COLUMNS[Table.SAID]
    return to_json([dict(zip(columns, said_row(source, one), strict=True)) for one in said]).decode()


def _json(departments: Sequence[Department]) -> str:
    return to_json(departments).decode()
