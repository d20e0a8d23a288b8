"""A ledger of a million departments and a backlog of a million events, beside a ledger of a thousand.

Rounds on the two ledgers take turns, and only their ratios count. Half of the events change nothing at
departments on record; the others create departments. The peak of memory of `departments list` counts too.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aio_pika

from contracts import topology as names
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.large_state import CREATED, RENAMED, TENANT, department, fill
from tests.benchmarks.processes import ROOT, provider
from tests.benchmarks.stage import BURST, BenchmarkSetup, Load
from tests.support.postgres_node import postgres_node
from worker.cli import terminal as console
from worker.settings.ledger_url import parse_ledger_url

SMALL = 1_000
WARM = 0.2
MOST_RATIO = 1.2
PREFETCH = 200
LIST = """
import sys
from worker.__main__ import main
sys.argv[0] = "provisioner"
try:
    main()
finally:
    (peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(peak.split()[1], file=sys.stderr)
"""
"""A command that prints its peak of memory in kilobytes on stderr."""


@dataclass(frozen=True)
class Round:
    """The measurements of one worker. `started`: seconds, and seconds of CPU, until it consumed."""

    cpu_for_1000: float
    megabytes: float
    started: float
    cpu_started: float


@asynccontextmanager
async def in_files(folder: Path) -> AsyncIterator[Callable[[str], str]]:
    """Ledgers in SQLite: their URLs by name."""
    yield lambda name: f"sqlite:///{folder / name}.db"


@asynccontextmanager
async def in_postgres(_folder: Path) -> AsyncIterator[Callable[[str], str]]:
    """Ledgers in PostgreSQL."""
    async with postgres_node(fsync=True) as node:

        def url(name: str) -> str:
            node.execute(f"CREATE DATABASE {name}")
            return node.url(name)

        yield url


LEDGERS = MappingProxyType({"sqlite": in_files, "postgres": in_postgres})


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures each kind of ledger."""
    figures = []
    for kind in scale.ledgers:
        with tempfile.TemporaryDirectory() as folder:
            async with LEDGERS[kind](Path(folder)) as url_of:
                urls = {"small": url_of("small"), "large": url_of("large")}
                for name, departments in (("small", SMALL), ("large", scale.large)):
                    begun = time.monotonic()
                    # In a thread of its own: the connections to the broker need their heartbeats meanwhile.
                    filling = fill(parse_ledger_url(urls[name]), departments)
                    await asyncio.to_thread(asyncio.run, filling)
                    console.ERR.print(
                        f"[dim]{kind}: filled {departments:,} in {time.monotonic() - begun:,.0f} s"
                    )
                figures += await _measure(stage, scale, kind, urls)
    return figures


async def _measure(stage: BenchmarkSetup, scale: Scale, kind: str, urls: Mapping[str, str]) -> list[Figure]:
    sizes = {"small": SMALL, "large": scale.large}
    rounds: dict[str, list[Round]] = {"small": [], "large": []}
    lists: dict[str, list[float]] = {"small": [], "large": []}
    numbers = count(1)
    async with provider() as small_account, provider() as large_account:  # each ledger has its own for good
        accounts = {"small": small_account.url, "large": large_account.url}

        async def run(name: str, backlog: int) -> Round:
            where = Load(accounts[name], PREFETCH, ledger_url=urls[name])
            one = partial(_round, stage, scale.events, backlog, where, sizes[name], next(numbers))
            return await stage.repeated(one)

        for _ in range(scale.rounds):
            for name, found in rounds.items():
                found.append(await run(name, scale.events))
                lists[name].append(await _peak_of_list(urls[name]))
        backlog = await run("large", scale.large)
    what = f"{kind}, {scale.large:,} departments / {SMALL:,}"
    behind = f"{kind}, a backlog of {scale.large:,} / {scale.events:,}"
    pairs = list(zip(rounds["small"], rounds["large"], strict=True))
    usual_cpu = statistics.median(one.cpu_for_1000 for one in rounds["large"])
    usual_megabytes = statistics.median(one.megabytes for one in rounds["large"])
    compared = {
        "CPU for an event": "cpu_for_1000",
        "memory of the worker": "megabytes",
        "start to consuming": "started",
        "CPU of the start": "cpu_started",
    }
    return [
        *(
            _ratio(f"{what}: {told}", [getattr(large, name) / getattr(small, name) for small, large in pairs])
            for told, name in compared.items()
        ),
        _ratio(
            f"{what}: peak memory of `departments list`",
            [large / small for small, large in zip(lists["small"], lists["large"], strict=True)],
        ),
        _ratio(f"{behind}: CPU for an event", [backlog.cpu_for_1000 / usual_cpu]),
        _ratio(f"{behind}: memory of the worker", [backlog.megabytes / usual_megabytes]),
        Figure(f"{kind}: CPU for 1,000 events", "s", [large.cpu_for_1000 for _, large in pairs]),
        Figure(f"{kind}: memory of the worker", "MB", [large.megabytes for _, large in pairs]),
    ]


def _ratio(name: str, values: list[float]) -> Figure:
    return Figure(name, "x", values, at_most=MOST_RATIO)


async def _round(
    stage: BenchmarkSetup, events: int, backlog: int, load: Load, departments: int, number: int
) -> Round:
    """A worker answers `events` of `backlog` events. `number`: of the round, which no other has."""
    await stage.set([])
    await _send(stage, backlog, departments, number)
    async with stage.worker(load) as running:
        cpu_started = running.cpu_seconds
        course = await stage.watch(running, events)
        warm = next(progress for progress in course if progress.results >= WARM * events)
        done = course[-1].results - warm.results
        return Round(
            (course[-1].cpu_seconds - warm.cpu_seconds) / done * 1000,
            running.resident_megabytes,
            running.started_in_seconds,
            cpu_started,
        )


async def _send(stage: BenchmarkSetup, backlog: int, departments: int, number: int) -> None:
    exchange = await stage.channel.get_exchange(names.DEPARTMENTS, ensure=False)
    bodies = _bodies(backlog, departments, number)
    for first in range(0, backlog, BURST):
        burst = [next(bodies) for _ in range(min(BURST, backlog - first))]
        await asyncio.gather(*(exchange.publish(_message(body), "department.created") for body in burst))


def _bodies(backlog: int, departments: int, number: int) -> Iterator[dict[str, Any]]:
    """Events for departments on record, spread over all of them, and for new ones, in turn."""
    step = max(1, departments // max(1, backlog // 2)) | 1
    for place in range(backlog):
        known = department(place // 2 * step % departments).id
        yield {
            "specversion": "1.0",
            "id": f"round-{number}-{place}",
            "source": "/benchmarks",
            "type": "department.created.v1",
            "time": "2026-11-28T08:30:00Z",
            "sequence": 100 + number,
            "tenant": TENANT,
            "data": {
                "department_id": f"round-{number}-{place}" if place % 2 else known,
                "name": CREATED.name if place % 2 else RENAMED.name,
            },
        }


def _message(body: Mapping[str, Any]) -> aio_pika.Message:
    return aio_pika.Message(
        json.dumps(body).encode(),
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def _peak_of_list(ledger_url: str) -> float:
    """Megabytes."""
    with tempfile.TemporaryFile() as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LIST, "departments", "list", "--json"),
            cwd=ROOT,
            env=os.environ | {"LEDGER_URL": ledger_url},
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
    if process.returncode:
        raise SystemExit(told.decode())
    return int(told) / 1024
