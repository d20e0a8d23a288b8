"""The ledgers that the suites of its ports are run on: memory, SQLite, PostgreSQL, and the simulated one."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from yarl import URL

from tests.simulation.chance import Chance, Profile
from tests.simulation.history import History
from tests.simulation.ledger import Disk, SimulatedLedger
from tests.simulation.process import Process
from tests.support.builders import SALES, an_entry, created
from worker.adapters.ledgers import open_ledger
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.memory.keeping import MemoryKeeping
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.locks import InProcessLocks
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.ports import Ledger, OpenedLedger
from worker.settings.ledger_url import SqliteUrl, parse_ledger_url


@dataclass(frozen=True)
class Place:
    """Where a ledger may keep its data: an empty folder, or a schema of its own in this database."""

    folder: Path
    server: str = ""


@asynccontextmanager
async def in_memory(_place: Place) -> AsyncIterator[OpenedLedger]:
    ledger = MemoryLedger()
    audit, keeping = MemoryAudit(ledger.audit), MemoryKeeping(ledger)
    yield OpenedLedger(ledger, audit, InProcessLocks(), keeping, ledger.snapshots)


@asynccontextmanager
async def in_sqlite(place: Place) -> AsyncIterator[OpenedLedger]:
    async with open_ledger(SqliteUrl(place.folder / "ledger.db")) as opened:
        yield opened


@asynccontextmanager
async def in_postgres(place: Place) -> AsyncIterator[OpenedLedger]:
    with fresh_schema(place.server) as url:
        async with open_ledger(parse_ledger_url(url)) as opened:
            yield opened


@contextmanager
def fresh_schema(server: str) -> Iterator[str]:
    """The URL of an empty schema of its own: much quicker than a database."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        yield str(URL(server).update_query(options=f"-csearch_path={name}"))
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@asynccontextmanager
async def simulated(_place: Place) -> AsyncIterator[OpenedLedger]:
    """Without faults."""
    loop = asyncio.get_running_loop()
    disk = Disk(History(loop.time))
    ledger = SimulatedLedger(disk, loop, Chance(Profile("no faults", {}), seed=0), Process(loop))
    audit, keeping = MemoryAudit(disk.audit), MemoryKeeping(disk)
    yield OpenedLedger(ledger, audit, InProcessLocks(), keeping, disk.snapshots)


LEDGERS = [
    pytest.param(in_memory, id="memory"),
    pytest.param(in_sqlite, id="sqlite"),
    pytest.param(in_postgres, id="postgres"),
    pytest.param(simulated, id="simulated"),
]


def fresh(department: Department = SALES, status: Status = Status.ACTIVE, **fields: Any) -> Entry:
    """An entry that is not written yet, active unless a status is given."""
    given: dict[str, Any] = {"revision": 0, "department": department}
    if status in {Status.ACTIVE, Status.DISABLED, Status.DELETING}:
        given["auth_id"] = f"SA-{department.tenant}-{department.id}"
    return an_entry(status, **given | fields)


async def entry_of(ledger: Ledger, department: Department = SALES) -> Entry:
    return (await ledger.recall(department, created().reference)).entry
