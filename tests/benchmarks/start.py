"""Time from the start of a worker until it consumes."""

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures the time until a new worker consumes."""
    seconds = []
    async with provider() as there:
        for _ in range(scale.rounds):
            await stage.set([])
            async with stage.worker(Load(there.url)) as worker:
                seconds.append(worker.started_in_seconds)
    return [Figure("start to consuming", "s", seconds)]
