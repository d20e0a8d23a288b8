"""Time from the start of a worker until it consumes."""

from functools import partial

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures the time until a new worker consumes."""
    async with provider() as there:
        seconds = [await stage.repeated(partial(_run, stage, there.url)) for _ in range(scale.rounds)]
    return [Figure("start to consuming", "s", seconds)]


async def _run(stage: BenchmarkSetup, provider_url: str) -> float:
    await stage.set([])
    async with stage.worker(Load(provider_url)) as worker:
        return worker.started_in_seconds
