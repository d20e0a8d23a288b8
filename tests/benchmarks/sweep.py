"""Latency of live events while 10,000 subaccounts are swept, compared with no sweep in the same run."""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from aio_pika.abc import AbstractIncomingMessage

from contracts import topology as names
from tests.benchmarks.events import one_each
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import ROOT, provider
from tests.benchmarks.stage import BenchmarkSetup, Load
from worker.sandbox import AUTH_ID, AUTH_TOKEN

SUBACCOUNTS = 10_000
PACE = (300, 5)
"""The default of PROVISIONER_RATE_LIMIT, which is Plivo's."""

EVENTS_PER_SECOND = 20
SECONDS = 20
LATENCY_SECONDS = 0.05
MOST_P50, MOST_P99 = 1.5, 3.0
"""The goals: how much longer live events may take during a sweep."""


@dataclass
class Answers:
    """When the result of each event arrived."""

    at: dict[str, float] = field(default_factory=dict)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def hear(self, message: AbstractIncomingMessage) -> None:
        self.at[json.loads(message.body)["data"]["event"]["id"]] = time.monotonic()
        async with self._arrived:
            self._arrived.notify_all()

    async def until(self, events: AbstractSet[str]) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: events <= self.at.keys())


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Rounds without and with a sweep take turns, on one ledger and one account."""
    return await stage.repeated(partial(_measure, stage, scale))


async def _measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    p50: list[float] = []
    p99: list[float] = []
    swept: list[float] = []
    plain: list[list[float]] = []
    during: list[list[float]] = []
    async with provider(latency_seconds=LATENCY_SECONDS) as there:
        await stage.set(one_each(SUBACCOUNTS))
        async with stage.worker(Load(there.url, 1000)) as filling:
            await stage.watch(filling, SUBACCOUNTS)
        async with stage.worker(Load(there.url, 200, PACE)), _answers(stage) as answers:
            for number in range(scale.rounds):
                plain.append(await _latencies(stage, answers, 2 * number))
                async with _sweep(stage, there.url) as sweeping:
                    during.append(await _latencies(stage, answers, 2 * number + 1, sweeping))
                    swept.append(await sweeping)
                p50.append(_percentile(during[-1], 50) / _percentile(plain[-1], 50))
                p99.append(_percentile(during[-1], 99) / _percentile(plain[-1], 99))
    milliseconds = {
        "without a sweep": [(_percentile(one, 50), _percentile(one, 99)) for one in plain],
        "during a sweep": [(_percentile(one, 50), _percentile(one, 99)) for one in during],
    }
    return [
        Figure("event to answer, during a sweep / without: p50", "x", p50, at_most=MOST_P50),
        Figure("event to answer, during a sweep / without: p99", "x", p99, at_most=MOST_P99),
        *(
            Figure(f"event to answer {when}: p{percent}", "ms", [pair[place] * 1000 for pair in pairs])
            for when, pairs in milliseconds.items()
            for place, percent in enumerate((50, 99))
        ),
        Figure(f"sweep of {SUBACCOUNTS:,} subaccounts", "s", swept),
    ]


async def _latencies(
    stage: BenchmarkSetup, answers: Answers, round_: int, sweeping: "asyncio.Future[float] | None" = None
) -> list[float]:
    """Seconds from each event to its answer, at an even pace, for `SECONDS` and until the sweep ends.

    Each event renames another department; its number grows with each round.
    """
    sent: dict[str, float] = {}
    begun = time.monotonic()
    for department in range(SUBACCOUNTS):
        if department >= EVENTS_PER_SECOND * SECONDS and (sweeping is None or sweeping.done()):
            break
        event = (department, 2 + round_)
        await asyncio.sleep(max(0.0, begun + department / EVENTS_PER_SECOND - time.monotonic()))
        sent[f"e-{event[0]}-{event[1]}"] = time.monotonic()
        await stage.send([event])
    async with asyncio.timeout(60):
        await answers.until(sent.keys())
    return [answers.at[id_] - at for id_, at in sent.items()]


@asynccontextmanager
async def _answers(stage: BenchmarkSetup) -> AsyncIterator[Answers]:
    answers = Answers()
    queue = await stage.channel.declare_queue(exclusive=True)
    await queue.bind(names.RESULTS, "#")
    tag = await queue.consume(answers.hear, no_ack=True)
    yield answers
    await queue.cancel(tag)


@asynccontextmanager
async def _sweep(stage: BenchmarkSetup, url: str) -> AsyncIterator["asyncio.Future[float]"]:
    """A sweep by command; its seconds, once it has ended. It must find nothing but renames of the round."""
    environ = {
        "PLIVO_AUTH_ID": AUTH_ID,
        "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
        "PLIVO_API_URL": url,
        "LEDGER_URL": f"sqlite:///{stage.folder / 'ledger.db'}",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "sweep", "--json"),
        cwd=ROOT,
        env=dict(os.environ) | environ,
        stdout=asyncio.subprocess.PIPE,
    )

    async def ended() -> float:
        begun = time.monotonic()
        out, _ = await process.communicate()
        report = json.loads(out)
        assert report["subaccounts"] == SUBACCOUNTS
        assert report["findings"] == [], report["findings"]
        return time.monotonic() - begun

    sweeping = asyncio.ensure_future(ended())
    try:
        yield sweeping
    finally:
        sweeping.cancel()


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
