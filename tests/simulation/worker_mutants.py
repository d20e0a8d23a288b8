"""Workers among many with one mistake each. The simulation must detect every one of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.simulation.database import DatabaseParts, SimulatedStore
from tests.simulation.mutants import Mutant
from worker.adapters.postgres.locks import PostgresLocks
from worker.bootstrap.wiring import Parts
from worker.core.judge import Done, Pause
from worker.pipeline.handler import Handler
from worker.pipeline.work import Work
from worker.ports import Fence


class AcksWhatItHad(Handler):
    """Acks the messages that it has when the database is lost, instead of returning them."""

    async def _wait_or_park(self, work: Work, verdict: Any) -> Any:
        if isinstance(verdict, Pause) and self.ledger_watch.trouble is not None:
            await work.delivery.ack()
            return Done()
        return await super()._wait_or_park(work, verdict)


class WritesUnderAnyEpoch(SimulatedStore):
    """Writes on a new session what was asked for under the locks of the lost one."""

    def _check_epoch(self, _asked: Any) -> bool:
        return True


class KeepsLocksOverSessions(PostgresLocks):
    """Goes on in a department although the session that held its lock is lost."""

    @asynccontextmanager
    async def _interrupted_by_loss(self, _key: int, _epoch: int) -> AsyncIterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class TellsOfNoLoss:
    """A fence that nobody learns from that the locks are lost: the messages are kept."""

    fence: Fence

    def check(self) -> None:
        self.fence.check()

    async def until_lost(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never


@dataclass(frozen=True, slots=True)
class NeverCloses:
    """A fence that lets every call through, however old the proof."""

    fence: Fence

    def check(self) -> None:
        """Raises nothing."""

    async def until_lost(self) -> str:
        return await self.fence.until_lost()


def _among_many(
    mistake: str,
    parts: Parts | None = None,
    profile: str = "many-workers",
    seed: int = 0,
    **database_parts: Any,
) -> Mutant:
    return Mutant(mistake, parts or Parts(), profile, seed, DatabaseParts(**database_parts))


WORKER_MUTANTS = (
    _among_many("acks after a lost session", Parts(handler=AcksWhatItHad)),
    _among_many("writes with an old epoch", store=WritesUnderAnyEpoch),
    _among_many("keeps department locks over sessions", locks=KeepsLocksOverSessions),
    _among_many("has a fence that never closes", profile="cut-off", seed=90, fence=NeverCloses),
    _among_many("keeps its messages after a lost session", fence=TellsOfNoLoss),
)
