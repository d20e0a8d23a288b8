"""The speed of a replay compared with RabbitMQ's shovel: `python tests/benchmarks/replaying.py`.

Both move the same dead letters to the work queue on one private node and ack each message after its confirm.
They take turns in one run. Only their ratio is comparable between machines.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import aio_pika
from rich.console import Console
from rich.table import Table

from contracts import topology as names
from contracts.topology import BrokerVersion, topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.seam import Connection
from worker.adapters.amqp.topology import state_of
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.cli.loop import run
from worker.cli.open_ports import changing_session
from worker.cli.options import Request
from worker.demo.private_node import PrivateNode, private_node
from worker.operations.dead_letters.replay import Replay
from worker.settings.load import load
from worker.settings.model import DeadLetterSettings

SHOVEL = "benchmark"
PATIENCE_SECONDS = 60
CONSOLE = Console()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.db"
        async with sqlite_ledger(ledger), private_node(plugins=frozenset({"rabbitmq_shovel"})) as node:
            settings = load(DeadLetterSettings, {"AMQP_URL": node.url, "LEDGER_URL": f"sqlite:///{ledger}"})
            async with await connect(node.url, "benchmark") as connection:
                place = ReplayBench(node, settings, connection)
                turns = [await place.turn(asked.messages) for _ in range(asked.turns)]
    table = Table("turn", "shovel", "replay, with its audit", "replay / shovel")
    for number, (shovel, replay) in enumerate(turns, start=1):
        table.add_row(str(number), f"{shovel:,.0f}/s", f"{replay:,.0f}/s", f"{replay / shovel:.2f}")
    CONSOLE.print(table)
    CONSOLE.print(f"median ratio {statistics.median(replay / shovel for shovel, replay in turns):.2f}")


class ReplayBench:
    """A private node, on which shovel and replay take turns."""

    def __init__(self, node: PrivateNode, settings: DeadLetterSettings, connection: Connection) -> None:
        self.node = node
        self.settings = settings
        self.connection = connection

    async def turn(self, messages: int) -> tuple[float, float]:
        """Messages per second of the shovel and of the replay."""
        return await self.rate(messages, self.shovel), await self.rate(messages, self.replay)

    async def rate(self, messages: int, move: Callable[[int], Awaitable[None]]) -> float:
        wanted = topology(BrokerVersion.parse(self.node.version))
        await rabbitmq_topology.apply(self.connection, wanted)
        await self.fill(messages)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await move(messages)
        seconds = loop.time() - begun
        work, dead = await self.depth(names.WORK_QUEUE), await self.depth(names.DEAD_LETTER_QUEUE)
        assert (work, dead) == (messages, 0), (work, dead)
        async with self.connection.channel() as channel:
            for queue in (names.WORK_QUEUE, names.DEAD_LETTER_QUEUE):
                await channel.objects.queue_delete(queue)
        return messages / seconds

    async def shovel(self, messages: int) -> None:
        url = self.node.url.rstrip("/")  # the shovel reads a trailing slash as an empty virtual host
        told = {
            "src-uri": url,
            "src-queue": names.DEAD_LETTER_QUEUE,
            "src-prefetch-count": 1000,
            "src-delete-after": messages,
            "dest-uri": url,
            "dest-exchange": names.REPLAY,
            "ack-mode": "on-confirm",
        }
        await self.node.rabbitmqctl("set_parameter", "shovel", SHOVEL, json.dumps(told))
        async with asyncio.timeout(PATIENCE_SECONDS):
            moved = 0
            while moved < messages:
                await asyncio.sleep(0.02)
                moved = await self.depth(names.WORK_QUEUE) - await self.depth(names.DEAD_LETTER_QUEUE)

    async def replay(self, _messages: int) -> None:
        async with changing_session(self.settings, Request()) as (session, _):
            await Replay(session).send(None)

    async def depth(self, queue: str) -> int:
        state = await state_of(self.connection, queue)
        return state.messages if state else 0

    async def fill(self, messages: int) -> None:
        async with await aio_pika.connect(self.node.url) as plain, plain.channel() as channel:
            exchange = await channel.get_exchange(names.DEAD_LETTERS, ensure=False)
            for first in range(0, messages, 1000):
                numbers = range(first, min(first + 1000, messages))
                await asyncio.gather(*(exchange.publish(dead(n), "department.created") for n in numbers))


def dead(number: int) -> aio_pika.Message:
    event = {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/bench",
        "time": "2026-11-01T08:30:00Z",
        "type": "department.created.v1",
        "data": {"department_id": f"d-{number}", "name": f"Department {number}"},
    }
    headers: dict[str, aio_pika.abc.FieldValue] = {
        "x-dead-reason": "rejected",
        "x-dead-detail": "the provider answered 400 to create",
        "x-dead-at": "2026-11-01T08:30:01+00:00",
        "x-attempts": 1,
        "x-event-id": f"e-{number}",
        "x-department-id": f"d-{number}",
    }
    return aio_pika.Message(
        json.dumps(event).encode(),
        content_type="application/cloudevents+json",
        headers=headers,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


if __name__ == "__main__":
    run(main())  # as the command does: on uvloop if it is installed
