"""A wiped org chart: every department of a tenant is removed at once, and others go on.

A steady load of creates and renames runs first by itself, then while the wipe arrives. Both parts are of one
run with default settings, so their latencies, from publishing an event to receiving its answer, are compared
on the same machine. The rate limit is that of a standard account.
"""

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from contracts import topology as names
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import LONGEST_SECONDS, BenchmarkSetup, Load

SMALL = 40
CALLS, WINDOW_SECONDS = 300, 5
PREFETCH = 1000
CONCURRENCY = 50
EVENTS_EACH_SECOND = 15
LATENCY_SECONDS = 0.05
PART_SECONDS = 10.0
MOST_REMOVED = 20
"""The default limit: a tenth of the tenant's departments in 24 h, and 20 in 30 d."""
NORMAL = 3.0
"""Times the p50 without a wipe."""


@dataclass
class Traffic:
    """Sends events, and measures the seconds until their answers arrive."""

    exchange: AbstractExchange
    latencies: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    _sent_at: dict[str, float] = field(default_factory=dict)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, kind: str, tenant: str, department: str, sequence: int) -> str:
        """Publishes an event; returns its id."""
        event_id = f"{kind}-{tenant}-{department}-{sequence}"
        data = {"department_id": department}
        if kind != "removed":
            data["name"] = f"Department {department} version {sequence}"
        event = {
            "specversion": "1.0",
            "source": "/benchmarks",
            "id": event_id,
            "type": f"department.{kind}.v1",
            "time": datetime.now(UTC).isoformat(),
            "sequence": sequence,
            "tenant": tenant,
            "data": data,
        }
        message = aio_pika.Message(
            json.dumps(event).encode(),
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        self._sent_at[event_id] = time.monotonic()
        await self.exchange.publish(message, f"department.{kind}")
        return event_id

    async def hear(self, message: AbstractIncomingMessage) -> None:
        """Takes a result."""
        result = json.loads(message.body)
        cause = result["causationid"]
        self.latencies.setdefault(cause, time.monotonic() - self._sent_at[cause])
        self.outcomes[cause] = result["data"]["outcome"]
        self._arrived.set()

    async def answered(self, event_ids: Sequence[str]) -> None:
        """Waits until each of these events has an answer."""
        async with asyncio.timeout(LONGEST_SECONDS):
            while not all(one in self.outcomes for one in event_ids):
                self._arrived.clear()
                await self._arrived.wait()


@dataclass(frozen=True)
class Wipe:
    """The outcomes of the removals, and the latencies of others before and meanwhile.

    `seconds`: until the last removal was answered. `amid`: the latencies of those sent until then.
    """

    outcomes: Counter[str]
    deletions: int
    seconds: float
    before: Sequence[float]
    meanwhile: Sequence[float]
    amid: Sequence[float]


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures a small organisation and one of `scale.departments`."""
    figures = []
    for departments in (SMALL, scale.departments):
        one = partial(run, stage, departments, scale.seed)
        runs = [await stage.repeated(one) for _ in range(scale.rounds)]
        figures += _figures(f"wipe of {departments} departments", departments, runs)
    return figures


def _figures(name: str, departments: int, runs: Sequence[Wipe]) -> list[Figure]:
    allowed = min(MOST_REMOVED, max(3, departments // 10))
    disabled = [run.outcomes["disabled"] for run in runs]
    held = [run.outcomes["held"] for run in runs]
    return [
        Figure(f"{name}: disabled", "", disabled, at_most=allowed),
        Figure(f"{name}: held", "", held, departments - allowed),
        Figure(f"{name}: deleted", "", [run.deletions for run in runs], at_most=0),
        Figure(f"{name}: all answered in", "s", [run.seconds for run in runs]),
        Figure(f"{name}: others, p50 before", "ms", [1000 * quantile(run.before, 0.5) for run in runs]),
        Figure(f"{name}: others, p99 before", "ms", [1000 * quantile(run.before, 0.99) for run in runs]),
        Figure(f"{name}: others, p50 meanwhile", "ms", [1000 * quantile(run.meanwhile, 0.5) for run in runs]),
        Figure(
            f"{name}: others, p99 meanwhile", "ms", [1000 * quantile(run.meanwhile, 0.99) for run in runs]
        ),
        Figure(f"{name}: others, p50 amid", "ms", [1000 * quantile(run.amid, 0.5) for run in runs]),
        Figure(
            f"{name}: others, p50 meanwhile to before",
            "x",
            [quantile(run.meanwhile, 0.5) / quantile(run.before, 0.5) for run in runs],
            at_most=NORMAL,
        ),
        Figure(
            f"{name}: others, p99 meanwhile to before",
            "x",
            [quantile(run.meanwhile, 0.99) / quantile(run.before, 0.99) for run in runs],
        ),
    ]


def quantile(seconds: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1]


async def run(stage: BenchmarkSetup, departments: int, seed: int) -> Wipe:
    """Creates the departments, measures the load alone, then wipes them."""
    await stage.set([])
    async with provider(f"{CALLS}/{WINDOW_SECONDS}s", LATENCY_SECONDS) as there:
        load = Load(there.url, PREFETCH, (CALLS, WINDOW_SECONDS), CONCURRENCY)
        async with stage.worker(load), _traffic(stage) as traffic:
            ids = [f"d-{number}" for number in range(departments)]
            created = await asyncio.gather(*(traffic.send("created", "wiped", one, 1) for one in ids))
            await traffic.answered(created)
            before = await _steady(traffic, "before")
            await there.calls()
            random.Random(seed).shuffle(ids)
            steady = asyncio.ensure_future(_steady(traffic, "meanwhile"))
            begun = time.monotonic()
            removals = await asyncio.gather(*(traffic.send("removed", "wiped", one, 2) for one in ids))
            await traffic.answered(removals)
            seconds = time.monotonic() - begun
            meanwhile = await steady
            amid = meanwhile[: max(1, int(seconds * EVENTS_EACH_SECOND))]
            statuses = [status for _, status in await there.calls()]
            outcomes = Counter(traffic.outcomes[one] for one in removals)
            return Wipe(outcomes, statuses.count(204), seconds, before, meanwhile, amid)


@asynccontextmanager
async def _traffic(stage: BenchmarkSetup) -> AsyncIterator[Traffic]:
    exchange = await stage.channel.get_exchange(names.DEPARTMENTS, ensure=False)
    traffic = Traffic(exchange)
    queue = await stage.channel.declare_queue(exclusive=True)
    await queue.bind(names.RESULTS, "#")
    tag = await queue.consume(traffic.hear, no_ack=True)
    yield traffic
    await queue.cancel(tag)
    await queue.delete(if_empty=False)


async def _steady(traffic: Traffic, part: str) -> list[float]:
    """Creates and renames at a steady rate; returns their latencies."""
    begun, sent = time.monotonic(), []
    for number in range(int(PART_SECONDS * EVENTS_EACH_SECOND)):
        await asyncio.sleep(max(0.0, begun + number / EVENTS_EACH_SECOND - time.monotonic()))
        made, again = divmod(number, 2)
        kind = "renamed" if again else "created"
        sent.append(await traffic.send(kind, "steady", f"{part}-{made}", 1 + again))
    await traffic.answered(sent)
    return [traffic.latencies[one] for one in sent]
