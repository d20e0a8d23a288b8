"""The cost of traces for the worker: without them, with one event in a hundred traced, with all."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from operator import truediv

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.stage import BenchmarkSetup
from tests.benchmarks.throughput import run
from tests.support.collector import collector

PREFETCH = 200


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures the three in turns; the spans go to a collector on this machine."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    costs: defaultdict[str, list[float]] = defaultdict(list)
    received = bytearray()
    async with collector(received) as url:
        for _ in range(scale.rounds):
            for name, environ in _ways(url).items():
                side = partial(stage.worker, environ=environ)
                rate, cost = await run(stage, side, scale.events, 0.0, PREFETCH)
                rates[name].append(rate)
                costs[name].append(cost)
                if not (name == "none traced" or received):
                    raise ValueError("no span arrived")
                received.clear()
    plain = "none traced"
    ratios = [
        Figure(f"{name} / {plain}: {what}", "x", list(map(truediv, of[name], of[plain])))
        for name in rates
        if name != plain
        for what, of in (("events/s", rates), ("CPU", costs))
    ]
    return [
        *ratios,
        *(Figure(f"{name}: events/s", "", values) for name, values in rates.items()),
        *(Figure(f"{name}: CPU per 1,000", "s", values) for name, values in costs.items()),
    ]


def _ways(url: str) -> Mapping[str, Mapping[str, str]]:
    exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    return {
        "none traced": {},
        "1 % traced": exported | {"OTEL_TRACES_SAMPLER_ARG": "0.01"},
        "all traced": exported | {"OTEL_TRACES_SAMPLER_ARG": "1"},
    }
