"""The ledgers that the suites of the ledger's ports are run on: memory, SQLite, and the simulated one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.chance import Chance, Profile
from tests.simulation.history import History
from tests.simulation.ledger import Disk, SimulatedLedger
from tests.simulation.process import Process
from tests.support.builders import SALES, an_entry, created
from worker.adapters.ledgers import open_ledger
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.locks import InProcessLocks
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.ports import Ledger, OpenedLedger
from worker.settings.ledger_url import SqliteUrl


@asynccontextmanager
async def in_memory(_folder: Path) -> AsyncIterator[OpenedLedger]:
    ledger = MemoryLedger()
    yield OpenedLedger(ledger, MemoryAudit(ledger.audit), InProcessLocks())


@asynccontextmanager
async def in_sqlite(folder: Path) -> AsyncIterator[OpenedLedger]:
    async with open_ledger(SqliteUrl(folder / "ledger.db")) as opened:
        yield opened


@asynccontextmanager
async def simulated(_folder: Path) -> AsyncIterator[OpenedLedger]:
    """Without faults."""
    loop = asyncio.get_running_loop()
    disk = Disk(History(loop.time))
    ledger = SimulatedLedger(disk, loop, Chance(Profile("no faults", {}), seed=0), Process(loop))
    yield OpenedLedger(ledger, MemoryAudit(disk.audit), InProcessLocks())


LEDGERS = [
    pytest.param(in_memory, id="memory"),
    pytest.param(in_sqlite, id="sqlite"),
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
