"""A reorganisation: many events for each of many departments, under Plivo's rate limit.

The worker collapses waiting events. The comparison is the least time that one call per event can take under
the same limit. A loop with one call per event, on a fifth of the departments, shows that this minimum is
realistic. Fully interleaved events are the worst order and also get a fifth: once with the default prefetch,
which holds one event of each department, and once with a prefetch that holds all events.
"""

from dataclasses import dataclass
from functools import partial

from tests.benchmarks.events import Event, close_together, interleaved
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load, Side

CALLS, WINDOW_SECONDS = 300, 5
EVENTS_EACH = 10
PREFETCH = 200
TIMES_SOONER = 5.0
MOST_TOO_MANY_PERCENT = 0.5
LEAST_USED_PERCENT = 95.0
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class StormRun:
    """The measurements of one storm."""

    seconds: float
    calls: int
    too_many_percent: float
    used_percent: float | None
    """Percent of the allowed rate. None if no call had to wait."""


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures the storms of the module's docstring."""
    fewer = max(1, scale.departments // 5)
    close = close_together(scale.departments, EVENTS_EACH, scale.seed)
    storms = [await run(stage, stage.worker, close) for _ in range(scale.rounds)]
    worst = await run(stage, stage.worker, interleaved(fewer, EVENTS_EACH))
    in_sight = await run(stage, stage.worker, interleaved(fewer, EVENTS_EACH), prefetch=fewer * EVENTS_EACH)
    simple = await run(stage, stage.bare, close_together(fewer, EVENTS_EACH, scale.seed))
    return [
        *_figures(f"storm of {scale.departments} departments", storms, len(close), TIMES_SOONER),
        *_figures(f"storm of {fewer}, interleaved", [worst], fewer * EVENTS_EACH, None),
        *_figures(f"storm of {fewer}, interleaved, all in flight", [in_sight], fewer * EVENTS_EACH, None),
        *_figures(f"storm of {fewer}, a loop with one call each", [simple], fewer * EVENTS_EACH, None),
    ]


def _figures(name: str, runs: list[StormRun], events: int, sooner: float | None) -> list[Figure]:
    least = (events - 1) // CALLS * WINDOW_SECONDS
    used = [run.used_percent for run in runs if run.used_percent is not None]
    refused = [run.too_many_percent for run in runs]
    figures = [
        Figure(f"{name}: done in", "s", [run.seconds for run in runs]),
        Figure(f"{name}: sooner than one call each", "x", [least / run.seconds for run in runs], sooner),
        Figure(f"{name}: calls for each event", "", [run.calls / events for run in runs]),
        Figure(f"{name}: answered 429", "%", refused, at_most=MOST_TOO_MANY_PERCENT),
    ]
    if used:
        figures.append(Figure(f"{name}: of the allowed rate used", "%", used, LEAST_USED_PERCENT))
    return figures


async def run(stage: BenchmarkSetup, side: Side, events: list[Event], prefetch: int = PREFETCH) -> StormRun:
    """Runs one storm under the rate limit."""
    return await stage.repeated(partial(_run, stage, side, events, prefetch))


async def _run(stage: BenchmarkSetup, side: Side, events: list[Event], prefetch: int) -> StormRun:
    await stage.set(events)
    rate = f"{CALLS}/{WINDOW_SECONDS}s"
    async with provider(rate) as there:
        async with side(Load(there.url, prefetch, (CALLS, WINDOW_SECONDS))) as running:
            course = await stage.watch(running, len(events))
        calls = await there.calls()
    times = sorted(at for at, status in calls if status != TOO_MANY_REQUESTS)
    refused = len(calls) - len(times)
    return StormRun(course[-1].at - times[0], len(calls), 100 * refused / len(calls), _used(times))


def _used(times: list[float]) -> float | None:
    """Percent: earliest possible time of the last window's first call, divided by its actual time."""
    full_windows = (len(times) - 1) // CALLS
    if full_windows == 0:
        return None
    return 100 * full_windows * WINDOW_SECONDS / (times[full_windows * CALLS] - times[0])
