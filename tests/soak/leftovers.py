"""Checks that a run leaves no duty in the ledger and no message in the queues."""

import asyncio
from collections.abc import Mapping

from contracts import topology as names
from tests.soak.verdict import Violation
from tests.support.entries import entries_of
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import open_connection
from worker.cli.open_ports import ledger_to_read
from worker.demo.private_node import PrivateNode
from worker.settings.load import load
from worker.settings.model import LedgerSettings

POLL_SECONDS = 0.2


async def nothing_due(environ: Mapping[str, str]) -> None:
    """Returns once the ledger has no duty left."""
    while True:
        async with ledger_to_read(load(LedgerSettings, environ)) as (ledger, _):
            entries = await entries_of(ledger)
        if not any(entry.due_at for entry in entries):
            return
        await asyncio.sleep(POLL_SECONDS)


async def nothing_queued(node: PrivateNode) -> None:
    """Returns once no message is ready or unacked: an ack may follow its answer later."""
    while True:
        if not await work(node, "messages"):
            return
        await asyncio.sleep(POLL_SECONDS)


async def work(node: PrivateNode, column: str) -> int:
    """The number of messages in the work queue, from a column of `rabbitmqctl list_queues`."""
    listed = await node.rabbitmqctl("list_queues", "--no-table-headers", "name", column)
    return int(dict(line.split("\t") for line in listed.splitlines())[names.WORK_QUEUE])


async def left_in_queues(url: str) -> list[Violation]:
    """Messages left in the work queue and the dead-letter queue."""
    left = []
    async with open_connection([url]) as broker:
        for queue in (names.WORK_QUEUE, names.DEAD_LETTER_QUEUE):
            state = await state_of(broker, queue)
            if state is None or state.messages:
                left.append(Violation("-", f"left in {queue}: {state}"))
    return left
