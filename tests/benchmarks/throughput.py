"""Events per second and CPU of the durable worker, compared with a bare loop without a ledger."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from tests.benchmarks.events import one_each
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load, Side

LATENCIES = (0.0, 0.05)
PREFETCHES = (200, 1000)
LEAST_OF_BARE = 1.0
WARM = 0.2
"""The fraction of events that is ignored as warm-up."""


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures worker and bare loop in turns."""
    figures = []
    for latency in LATENCIES:
        for prefetch in PREFETCHES:
            figures += await _compared(stage, scale, latency, prefetch)
    return figures


async def _compared(stage: BenchmarkSetup, scale: Scale, latency: float, prefetch: int) -> list[Figure]:
    rates: defaultdict[str, list[float]] = defaultdict(list)
    costs: defaultdict[str, list[float]] = defaultdict(list)
    sides = {"worker": stage.worker, "bare loop": stage.bare}
    for _ in range(scale.rounds):
        for name, side in sides.items():
            rate, cost = await run(stage, side, scale.events, latency, prefetch)
            rates[name].append(rate)
            costs[name].append(cost)
    where = f"{latency * 1000:.0f} ms, prefetch {prefetch}"
    return [
        Figure(f"worker / bare loop, {where}: events/s", "x", _ratios(rates), at_least=LEAST_OF_BARE),
        Figure(f"worker / bare loop, {where}: CPU", "x", _ratios(costs)),
        *(Figure(f"{name}, {where}: events/s", "", values) for name, values in rates.items()),
        *(Figure(f"{name}, {where}: CPU per 1,000", "s", values) for name, values in costs.items()),
    ]


def _ratios(values: Mapping[str, Sequence[float]]) -> list[float]:
    """Ratios per round. On a shared machine the CPU ratio is steadier than the speed ratio."""
    return [ours / bare for ours, bare in zip(values["worker"], values["bare loop"], strict=True)]


async def run(
    stage: BenchmarkSetup, side: Side, events: int, latency: float, prefetch: int
) -> tuple[float, float]:
    """Events per second, and CPU seconds per 1,000 events, after the warm-up."""
    return await stage.repeated(partial(_run, stage, side, events, latency, prefetch))


async def _run(
    stage: BenchmarkSetup, side: Side, events: int, latency: float, prefetch: int
) -> tuple[float, float]:
    await stage.set(one_each(events))
    async with provider(latency_seconds=latency) as there, side(Load(there.url, prefetch)) as running:
        course = await stage.watch(running, events)
    warm = next(progress for progress in course if progress.results >= WARM * events)
    end = course[-1]
    done = end.results - warm.results
    return done / (end.at - warm.at), (end.cpu_seconds - warm.cpu_seconds) / done * 1000
