"""Events per second and CPU of the intake, compared with a bare aiohttp handler that publishes with confirms.

Both get the same single events, on as many connections, and publish to the same node. The bare handler checks
nothing; the intake proves the sender, validates the event, limits the rate and logs each request.
"""

import asyncio
import json
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp

from contracts.intake import EVENTS_PATH
from tests.benchmarks.bare_intake import LISTENING
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import Consuming, consuming
from tests.benchmarks.stage import BenchmarkSetup

CONNECTIONS = 64
LEAST_OF_BARE = 0.8
WARM = 0.2
"""The fraction of events that is sent before the measurement."""
TOKEN = "benchmark-token"

Side = Callable[[BenchmarkSetup, int], AbstractAsyncContextManager[Consuming]]


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures both in turns."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    costs: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(scale.rounds):
        for name, side in (("intake", _intake), ("bare handler", _bare)):
            await stage.set([])
            rate, cost = await _run(stage, side, scale.events)
            rates[name].append(rate)
            costs[name].append(cost)
    pairs = {"events/s": rates, "CPU": costs}
    ratios = {
        what: [ours / bare for ours, bare in zip(of["intake"], of["bare handler"], strict=True)]
        for what, of in pairs.items()
    }
    return [
        Figure("intake / bare handler: events/s", "x", ratios["events/s"], at_least=LEAST_OF_BARE),
        Figure("intake / bare handler: CPU", "x", ratios["CPU"], at_most=1 / LEAST_OF_BARE),
        *(Figure(f"{name}: events/s", "", values) for name, values in rates.items()),
        *(Figure(f"{name}: CPU per 1,000", "s", values) for name, values in costs.items()),
    ]


async def _run(stage: BenchmarkSetup, side: Side, events: int) -> tuple[float, float]:
    """Events per second, and CPU seconds per 1,000 events, after the warm-up."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}{EVENTS_PATH}"
    async with (
        side(stage, port) as process,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session,
    ):
        await _send(session, url, range(int(events * WARM)))
        loop = asyncio.get_running_loop()
        began, cpu = loop.time(), process.cpu_seconds
        await _send(session, url, range(events, 2 * events))
        return events / (loop.time() - began), (process.cpu_seconds - cpu) / events * 1000


async def _send(session: aiohttp.ClientSession, url: str, numbers: range) -> None:
    left = iter(numbers)
    headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {TOKEN}"}

    async def sender() -> None:
        for number in left:
            async with session.post(url, data=_event(number), headers=headers) as response:
                await response.read()
                if response.status != 202:
                    raise SystemExit(f"HTTP {response.status} from {url}")

    await asyncio.gather(*(sender() for _ in range(CONNECTIONS)))


def _event(number: int) -> bytes:
    event = {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "/benchmark",
        "type": "department.created.v1",
        "time": "2026-11-01T08:30:00Z",
        "data": {"department_id": f"d-{number}", "name": f"Department {number}"},
    }
    return json.dumps(event).encode()


@asynccontextmanager
async def _intake(stage: BenchmarkSetup, port: int) -> AsyncIterator[Consuming]:
    tokens = stage.folder / "tokens"
    tokens.write_text(f"benchmark: {TOKEN}\n")
    tokens.chmod(0o600)
    environ = {
        "AMQP_URL": stage.amqp_url,
        "PROVISIONER_INTAKE": f"127.0.0.1:{port}",
        "PROVISIONER_INTAKE_TOKENS": str(tokens),
        "PROVISIONER_INTAKE_RATE": "1000000/1s",
        "PROVISIONER_LOG_FORMAT": "json",
    }
    command = (sys.executable, "-m", "worker", "intake")
    async with consuming(command, stage.folder / "intake.log", environ, "broker_connected") as process:
        await asyncio.sleep(0.5)  # its channel is opened
        yield process


@asynccontextmanager
async def _bare(stage: BenchmarkSetup, port: int) -> AsyncIterator[Consuming]:
    asked = json.dumps({"amqp_url": stage.amqp_url, "port": port})
    command = (sys.executable, "-m", "tests.benchmarks.bare_intake", asked)
    async with consuming(command, stage.folder / "bare.log", {}, LISTENING) as process:
        yield process


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
