"""Time until a worker consumes after its broker restarts: `python -m tests.benchmarks.restarts --times 20`.

The time starts with the first TCP connection that the broker accepts. Only logins load a restarting broker;
refused connections cost it nothing.
"""

import argparse
import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table
from yarl import URL

from tests.soak.worker_process import WorkerProcess, worker_process
from worker.demo.private_node import PrivateNode, private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN, running_sandbox

CONSOLE = Console()
POLL_SECONDS = 0.003


@dataclass(frozen=True)
class Restarts:
    """Restarts of one broker with one running worker."""

    seconds: list[float]
    logins: int


async def restarts(times: int) -> Restarts:
    """Restarts a private node this many times; returns once the worker consumes after the last restart."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        node = await stack.enter_async_context(private_node())
        sandbox = await stack.enter_async_context(running_sandbox())
        environ = {
            "AMQP_URL": node.url,
            "PLIVO_AUTH_ID": AUTH_ID,
            "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{folder}/ledger.db",
        }
        worker = await stack.enter_async_context(worker_process(environ))
        before = worker.count("broker_connected")
        seconds = [
            await once(node, worker, number)
            for number in track(range(1, times + 1), "restarting", console=CONSOLE, transient=True)
        ]
        return Restarts(seconds, worker.count("broker_connected") - before)


async def once(node: PrivateNode, worker: WorkerProcess, number: int) -> float:
    await node.stop()
    starting = asyncio.create_task(node.start())
    accepts_at = await accepted_at(URL(node.url).port or 0)
    await worker.logged("consuming", number + 1)
    seconds = asyncio.get_running_loop().time() - accepts_at
    await starting
    return seconds


async def accepted_at(port: int) -> float:
    """The time of the first accepted TCP connection."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_SECONDS)
        else:
            writer.close()
            return asyncio.get_running_loop().time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    found = asyncio.run(restarts(times))
    table = Table("figure", "value")
    table.add_row(
        f"from the first accept to consuming, median of {times}", f"{statistics.median(found.seconds):.2f} s"
    )
    table.add_row("slowest of them", f"{max(found.seconds):.2f} s")
    table.add_row("logins for each restart (two links)", f"{found.logins / times:.1f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
