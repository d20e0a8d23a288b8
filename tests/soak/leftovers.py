"""What a run may not leave behind: duties in the ledger, messages in the queues."""

import asyncio
from collections.abc import Mapping

from contracts import topology as names
from tests.soak.verdict import Broken
from worker.adapters.rabbitmq_topology import state_of
from worker.operations import connection, departments
from worker.settings import LedgerSettings, TopologySettings, load

POLL_SECONDS = 0.2


async def nothing_due(environ: Mapping[str, str]) -> None:
    """Returns once the ledger has nothing to do for later."""
    while True:
        entries = await departments(load(LedgerSettings, environ))
        if not any(entry.due_at for entry in entries):
            return
        await asyncio.sleep(POLL_SECONDS)


async def left_in_queues(url: str) -> list[Broken]:
    """Work and dead letters, by the broker's word."""
    left = []
    async with connection(load(TopologySettings, {"AMQP_URL": url})) as broker:
        for queue in (names.WORK_QUEUE, names.DEAD_LETTER_QUEUE):
            state = await state_of(broker, queue)
            if state is None or state.messages:
                left.append(Broken("-", f"left in {queue}: {state}"))
    return left
