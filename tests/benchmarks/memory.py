"""Memory of the worker after many events."""

from functools import partial

from tests.benchmarks.events import one_each
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load, Side

EVENTS = 10_000


async def measure(stage: BenchmarkSetup, _scale: Scale) -> list[Figure]:
    """Measures the resident memory before and after `EVENTS` events."""
    sides = {"worker": stage.worker, "bare loop": stage.bare}
    figures = []
    for name, side in sides.items():
        before, after = await stage.repeated(partial(_run, stage, side))
        figures.append(Figure(f"{name}: resident memory at its start", "MB", [before]))
        figures.append(Figure(f"{name}: after {EVENTS:,} events", "MB", [after]))
    return figures


async def _run(stage: BenchmarkSetup, side: Side) -> tuple[float, float]:
    await stage.set([])
    async with provider() as there, side(Load(there.url)) as running:
        before = running.resident_megabytes
        await stage.send(one_each(EVENTS))
        await stage.watch(running, EVENTS)
        return before, running.resident_megabytes
