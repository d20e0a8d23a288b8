"""How soon a worker consumes, what memory it takes and how fast it is: `python tests/benchmarks/figures.py`.

Runs `provisioner run` as a process of its own against a private RabbitMQ node and a sandbox in a second
process. Absolute figures say something about one machine only; look at them beside each other.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aio_pika
from rich.console import Console
from rich.progress import track
from rich.table import Table

from contracts import topology as names
from worker.private_node import private_node

EVENT = {
    "specversion": "1.0",
    "source": "/bench",
    "time": "2026-11-01T08:30:00Z",
    "type": "department.created.v1",
}
CONSOLE = Console()


@dataclass(frozen=True)
class Started:
    process: asyncio.subprocess.Process
    seconds: float


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with private_node() as node, sandbox() as url:
            environ = settings(node.url, url, Path(folder))
            starts = [await start_and_stop(environ) for _ in track(range(asked.starts), "starting")]
            rows = await under_load(environ, node.url, asked.events)
    table = Table("figure", "value")
    table.add_row(
        f"process start to consuming, median of {asked.starts}", f"{statistics.median(starts):.2f} s"
    )
    table.add_row("slowest of them", f"{max(starts):.2f} s")
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def settings(amqp_url: str, sandbox_url: str, folder: Path) -> dict[str, str]:
    return {
        "AMQP_URL": amqp_url,
        "PLIVO_AUTH_ID": "MASANDBOX00000000000",
        "PLIVO_AUTH_TOKEN": "sandbox",
        "PLIVO_API_URL": sandbox_url,
        "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PROVISIONER_HTTP": "127.0.0.1:0",
        "PROVISIONER_RATE_LIMIT": "1000000/1s",
        "PROVISIONER_LOG_FORMAT": "json",
    }


@asynccontextmanager
async def sandbox() -> AsyncIterator[str]:
    """In a process of its own, so that it does not share the worker's core."""
    code = (
        "import asyncio\n"
        "from worker.sandbox import running_sandbox\n"
        "async def main():\n"
        "    async with running_sandbox(rate_limit='off') as sandbox:\n"
        "        print(sandbox.url, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def start(environ: Mapping[str, str]) -> Started:
    """Returns once the log says that it consumes; from then on the log goes nowhere."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    provisioner = Path(sys.executable).with_name("provisioner")
    process = await asyncio.create_subprocess_exec(
        provisioner, "run", env=dict(os.environ) | dict(environ), stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async for line in process.stderr:
        if json.loads(line)["event"] == "consuming":
            return Started(process, loop.time() - begun)
    raise SystemExit("the worker did not start")


async def stop(started: Started) -> None:
    started.process.terminate()
    await started.process.communicate()


async def start_and_stop(environ: Mapping[str, str]) -> float:
    started = await start(environ)
    await stop(started)
    return started.seconds


async def under_load(environ: Mapping[str, str], amqp_url: str, events: int) -> list[tuple[str, str]]:
    started = await start(environ)
    draining = asyncio.create_task(started.process.stderr.read())  # type: ignore[union-attr]
    before = resident_megabytes(started.process.pid)
    loop = asyncio.get_running_loop()
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        answered = await answers(channel)
        begun = loop.time()
        await publish(channel, events)
        for _ in track(range(events), "answering"):
            await asyncio.wait_for(answered.get(), 60)
        seconds = loop.time() - begun
    after, cpu = resident_megabytes(started.process.pid), cpu_seconds(started.process.pid)
    started.process.terminate()
    await draining
    return [
        (f"resident memory before and after {events:,} events", f"{before:.0f} MB, {after:.0f} MB"),
        ("creates per second, credentials and result confirmed", f"{events / seconds:,.0f}"),
        ("worker's CPU per 1,000 of them", f"{cpu / events * 1000:.2f} s"),
    ]


async def answers(channel: aio_pika.abc.AbstractChannel) -> "asyncio.Queue[bytes]":
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(names.RESULTS, "#")

    async def hear(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        heard.put_nowait(message.body)

    await queue.consume(hear, no_ack=True)
    return heard


async def publish(channel: aio_pika.abc.AbstractChannel, events: int) -> None:
    exchange = await channel.get_exchange(names.DEPARTMENTS, ensure=False)
    for first in range(0, events, 500):
        await asyncio.gather(
            *(
                exchange.publish(message(number), "department.created")
                for number in range(first, min(first + 500, events))
            )
        )


def message(number: int) -> aio_pika.Message:
    data = {"department_id": f"d-{number}", "name": f"Department {number}"}
    body = json.dumps(EVENT | {"id": f"e-{number}", "data": data}).encode()
    return aio_pika.Message(body, content_type="application/cloudevents+json")


def resident_megabytes(pid: int) -> float:
    """Of Linux' own accounting."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no memory figure for process {pid}")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    asyncio.run(main())
