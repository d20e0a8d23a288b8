"""The effect of `PROVISIONER_PREFETCH`: storms in rounds, idle latency, memory, recovery after SIGKILL.

In a storm in rounds every department changes once, then every department again, and so on. Only events that
are in flight together can collapse, so a prefetch below the number of departments never holds two events of
one department.
"""

import os
import signal
import time
from functools import partial

from tests.benchmarks import idle, storm
from tests.benchmarks.events import interleaved, one_each
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load

PREFETCHES = (200, 1_000, 2_000)
EVENTS_EACH = 10
BACKLOG = 4_000
KILL_AFTER = 1_000
CONCURRENCY = 50
"""The default. A create that was in flight at the kill has to be looked for."""


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures each prefetch in turn."""
    figures = []
    for prefetch in PREFETCHES:
        figures += await _storms(stage, scale, prefetch)
        figures.append(await _idle(stage, prefetch))
        figures += await stage.repeated(partial(_memory, stage, prefetch))
        figures += await stage.repeated(partial(_recovery, stage, prefetch))
    return figures


async def _storms(stage: BenchmarkSetup, scale: Scale, prefetch: int) -> list[Figure]:
    figures = []
    for departments in (scale.departments // 5, scale.departments):
        events = interleaved(departments, EVENTS_EACH)
        run = await storm.run(stage, stage.worker, events, prefetch)
        name = f"prefetch {prefetch:,}: {EVENTS_EACH} rounds of {departments:,} departments"
        figures.append(Figure(f"{name}: done in", "s", [run.seconds]))
        figures.append(Figure(f"{name}: calls for each event", "", [run.calls / len(events)]))
    return figures


async def _idle(stage: BenchmarkSetup, prefetch: int) -> Figure:
    milliseconds = await idle.beyond_the_provider(stage, stage.worker, prefetch)
    return Figure(f"prefetch {prefetch:,}: idle, event to credentials", "ms", milliseconds)


async def _memory(stage: BenchmarkSetup, prefetch: int) -> list[Figure]:
    """Resident memory after a backlog many times the prefetch."""
    await stage.set([])
    async with provider() as there, stage.worker(Load(there.url, prefetch)) as running:
        await stage.send(one_each(BACKLOG))
        await stage.watch(running, BACKLOG)
        return [
            Figure(f"prefetch {prefetch:,}: memory after {BACKLOG:,}", "MB", [running.resident_megabytes])
        ]


async def _recovery(stage: BenchmarkSetup, prefetch: int) -> list[Figure]:
    """From the start of the next worker until every event is answered, beside the time without a kill."""
    await stage.set(one_each(BACKLOG))
    async with provider() as there:
        load = Load(there.url, prefetch, concurrency=CONCURRENCY)
        async with stage.worker(load) as first:
            await stage.watch(first, KILL_AFTER)
            os.kill(first.pid, signal.SIGKILL)
        begun = time.monotonic()
        async with stage.worker(load) as second:
            course = await stage.watch(second, BACKLOG)
    name = f"prefetch {prefetch:,}: SIGKILL, then the next worker"
    halfway = next(one.at for one in course if one.results >= (KILL_AFTER + BACKLOG) // 2)
    return [
        Figure(f"{name}: start until half is answered", "s", [halfway - begun]),
        Figure(f"{name}: start until all is answered", "s", [course[-1].at - begun]),
    ]
