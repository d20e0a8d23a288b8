"""The ledger in PostgreSQL beside the one in SQLite, by what the line asks of it for a new department.

Both are durable, on the same disk. An event locks its department, recalls, records entry and answer, and then
the broker's confirm. `LANES` tasks do so at once, as the worker's lanes do. One process asks both, in turn.
"""

import asyncio
import resource
import tempfile
import time
from dataclasses import replace

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.stage import BenchmarkSetup
from tests.support.builders import an_answer, created
from tests.support.postgres_node import postgres_node
from worker.adapters.ledgers import open_ledger
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.ports import OpenedLedger
from worker.settings.ledger_url import parse_ledger_url

TYPE = "department.created.v1"
LANES = 200
EVENTS_OF_A_LANE = 15
EVENT, ANSWER = created(), an_answer(created())


async def measure(_setup: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Medians over `rounds`, as times SQLite's."""
    rates, costs = [], []
    with tempfile.TemporaryDirectory() as folder:
        async with (
            postgres_node(fsync=True) as node,
            open_ledger(parse_ledger_url(f"sqlite:///{folder}/ledger.db")) as file,
            open_ledger(parse_ledger_url(node.url())) as database,
        ):
            for number in range(scale.rounds):
                file_rate, file_cost = await _round(file, f"file-{number}")
                database_rate, database_cost = await _round(database, f"database-{number}")
                rates.append(database_rate / file_rate)
                costs.append(database_cost / file_cost)
    return [
        Figure("PostgreSQL's ledger: events/s, times SQLite's", "", rates),
        Figure("PostgreSQL's ledger: the worker's CPU for an event, times SQLite's", "", costs),
    ]


async def _round(opened: OpenedLedger, tenant: str) -> tuple[float, float]:
    """Events each second, and seconds of CPU for one."""
    begun, used = time.perf_counter(), _cpu()
    await asyncio.gather(*(_lane(opened, tenant, lane) for lane in range(LANES)))
    events = LANES * EVENTS_OF_A_LANE
    return events / (time.perf_counter() - begun), (_cpu() - used) / events


async def _lane(opened: OpenedLedger, tenant: str, lane: int) -> None:
    for number in range(EVENTS_OF_A_LANE):
        department = Department(tenant, f"{lane}-{number}")
        event = Reference("/benchmark", f"{tenant}-{lane}-{number}", TYPE)
        answer = replace(ANSWER, department=department, event=event)
        async with opened.locks.hold(department):
            entry = (await opened.ledger.recall(department, event)).entry
            entry = await opened.ledger.record(replace(entry, name="Sales", version=EVENT.version), answer)
            await opened.ledger.record(entry, replace(answer, confirmed=True))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
