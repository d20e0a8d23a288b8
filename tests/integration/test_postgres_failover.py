"""A worker keeps its promises while its PostgreSQL fails over, and while a synchronous standby is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import pytest

from contracts import topology as names
from tests.support.entries import entries_of
from tests.support.postgres_node import PostgresNode, postgres_node, postgres_standby
from tests.support.real import EVENT, RealSystem
from worker.adapters.ledgers import open_ledger

pytestmark = [
    pytest.mark.xdist_group("broker"),
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("postgres_server"),
]


@dataclass(frozen=True)
class Pair:
    primary: PostgresNode
    standby: PostgresNode

    @property
    def url(self) -> str:
        """Both servers, the standby first."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in (self.standby, self.primary))
        return f"postgresql://postgres@{hosts}/postgres"


@asynccontextmanager
async def synchronous_pair() -> AsyncIterator[Pair]:
    async with postgres_node() as primary, postgres_standby(primary, "standby") as standby:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.execute("SELECT pg_reload_conf()")
        await becomes(primary.url(), "SHOW synchronous_standby_names", "standby")
        yield Pair(primary, standby)


async def becomes(url: str, query: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(query.encode()).fetchone() != (value,):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_a_failover_loses_nothing_and_makes_nothing_twice(system: RealSystem):
    async with synchronous_pair() as pair:
        system.environ["LEDGER_URL"] = pair.url
        async with system.worker():
            results = await system.listen(names.RESULTS)
            await create(system, "before")
            await results.count(1)
            await pair.primary.kill()
            await create(system, "meanwhile")
            pair.standby.promote()
            await create(system, "after")
            await results.count(3)
        async with open_ledger(system.settings.ledger_url, read_only=True) as opened:
            entries = {entry.department.id: entry for entry in await entries_of(opened.ledger)}
        assert entries.keys() == {"before", "meanwhile", "after"}
        assert all(entry.auth_id for entry in entries.values())
    assert len(system.sandbox.subaccounts()) == 3


async def test_without_its_only_synchronous_standby_work_waits(system: RealSystem):
    """The RUNBOOK says how to go on without one. A claim of that time is settled first, as after a crash."""
    system.environ |= {"PROVISIONER_API_TIMEOUT": "2s", "PROVISIONER_SETTLE_WINDOW": "2s"}
    async with synchronous_pair() as pair:
        system.environ["LEDGER_URL"] = pair.primary.url()
        async with system.worker() as running:
            results = await system.listen(names.RESULTS)
            await create(system, "before")
            await results.count(1)
            await pair.standby.kill()
            await create(system, "meanwhile")
            async with asyncio.timeout(30):
                while not any("the ledger" in problem for problem in running.blocks()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            pair.primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            pair.primary.execute("SELECT pg_reload_conf()")
            await results.count(2)
    assert len(system.sandbox.subaccounts()) == 2


async def create(system: RealSystem, department: str) -> None:
    event = EVENT | {"id": department, "data": {"department_id": department, "name": department}}
    await system.send(json.dumps(event).encode())
