"""A re-org: many events for each of many departments, under Plivo's own rate limit.

The worker collapses what waits; beside it, a loop with the same pace that makes one call per event.
"""

from dataclasses import dataclass

from tests.benchmarks.events import Event, close_together, interleaved
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import Load, Side, Stage

CALLS, WINDOW_SECONDS = 300, 5
EVENTS_EACH = 10
TIMES_SOONER = 5.0
MOST_TOO_MANY_PERCENT = 0.5
LEAST_USED_PERCENT = 95.0
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Course:
    seconds: float
    calls: int
    too_many_percent: float
    used_percent: float | None
    """Of the allowed rate. None where there was nothing to wait for."""


async def measure(stage: Stage, scale: Scale) -> list[Figure]:
    orders = {
        "close together": close_together(scale.departments, EVENTS_EACH, scale.seed),
        "interleaved": interleaved(scale.departments, EVENTS_EACH),
    }
    courses: dict[str, list[Course]] = {name: [] for name in (*orders, "one call each")}
    for _ in range(scale.rounds):
        for name, events in orders.items():
            courses[name].append(await _run(stage, stage.worker, events))
        courses["one call each"].append(await _run(stage, stage.bare, orders["close together"]))
    size = f"storm of {scale.departments} departments"
    goals = {"close together": TIMES_SOONER, "interleaved": None}
    return [
        Figure(
            f"{size}, {name}: sooner than one call each",
            "x",
            [
                slow.seconds / ours.seconds
                for ours, slow in zip(courses[name], courses["one call each"], strict=True)
            ],
            at_least=goal,
        )
        for name, goal in goals.items()
    ] + [figure for name, runs in courses.items() for figure in _figures(f"{size}, {name}", runs)]


def _figures(name: str, runs: list[Course]) -> list[Figure]:
    used = [run.used_percent for run in runs if run.used_percent is not None]
    ours = "one call each" not in name
    figures = [
        Figure(f"{name}: done in", "s", [run.seconds for run in runs]),
        Figure(f"{name}: calls", "", [run.calls for run in runs]),
        Figure(
            f"{name}: answered 429",
            "%",
            [run.too_many_percent for run in runs],
            at_most=MOST_TOO_MANY_PERCENT if ours else None,
        ),
    ]
    if used:
        goal = LEAST_USED_PERCENT if ours else None
        figures.append(Figure(f"{name}: of the allowed rate used", "%", used, at_least=goal))
    return figures


async def _run(stage: Stage, side: Side, events: list[Event]) -> Course:
    await stage.set(events)
    rate = f"{CALLS}/{WINDOW_SECONDS}s"
    async with provider(rate) as there:
        async with side(Load(there.url, pace=(CALLS, WINDOW_SECONDS))) as running:
            course = await stage.watch(running, len(events))
        calls = await there.calls()
    times = sorted(at for at, status in calls if status != TOO_MANY_REQUESTS)
    refused = len(calls) - len(times)
    return Course(course[-1].at - times[0], len(calls), 100 * refused / len(calls), _used(times))


def _used(times: list[float]) -> float | None:
    """When the last window's first call could have been sent at the earliest, over when it was."""
    full_windows = (len(times) - 1) // CALLS
    if full_windows == 0:
        return None
    return 100 * full_windows * WINDOW_SECONDS / (times[full_windows * CALLS] - times[0])
