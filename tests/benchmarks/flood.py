"""The flood that a full synchronisation is made of: events that need no call, beside a bare loop.

The bare loop consumes, publishes one message with its confirm, and acks, without a ledger. Creates are
compared with the bare loop that makes the same call and publishes as many messages. The worker has the
departments on record from the creates: `unchanged` are newer events with the name on record, `superseded`
older ones, `repeats` the creates once more, which were answered. CPU tells more than events/s on a machine
that does other work; a core's worth of events is its inverse.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

from rich.table import Table

from tests.benchmarks.events import Said
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load, Side
from tests.support.postgres_node import postgres_node
from worker.cli import terminal as console

CREATES = "creates"
GOALS: Mapping[str, float] = {CREATES: 1.3, "unchanged": 2.0, "superseded": 2.0, "repeats": 2.0}
"""Times the bare loop, in the order of the runs."""

BARE = "bare"
WARM = 0.2
"""The fraction of events that is ignored as warm-up."""


def of_kind(kind: str, departments: int) -> list[Said]:
    """One event of this kind for each department."""
    number, sequence = {"unchanged": (2, 10), "superseded": (3, 1)}.get(kind, (1, 5))
    return [Said(department, number, named=1, sequence=sequence) for department in range(departments)]


Figures = dict[tuple[str, str], tuple[float, float]]
"""Events each second, and CPU seconds per 1,000 events, by kind and side."""


@dataclass
class Runs:
    """Events each second, and CPU seconds per 1,000 events, in each round, by kind and side."""

    rates: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    costs: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, figures: Figures) -> None:
        for key, (rate, cost) in figures.items():
            self.rates[key].append(rate)
            self.costs[key].append(cost)


async def measure(stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Measures the worker on each ledger and the bare loop in turns, on one prefetch."""
    runs, numbers = Runs(), count()
    async with postgres_node(fsync=True) as database:

        async def round_() -> Figures:
            name = f"flood{next(numbers)}"  # a round that is repeated has new ledgers
            database.execute(f"CREATE DATABASE {name}")
            ledgers = {
                "SQLite": f"sqlite:///{stage.folder.parent}/{name}.db",
                "PostgreSQL": database.url(name),
            }
            return await _round(stage, scale.events, ledgers)

        for _ in range(scale.rounds):
            runs.add(await stage.repeated(round_))
    _show(runs)
    return list(_figures(runs))


async def _round(stage: BenchmarkSetup, events: int, ledgers: Mapping[str, str]) -> Figures:
    figures: Figures = {}
    async with AsyncExitStack() as stack:
        providers = {name: await stack.enter_async_context(provider()) for name in (BARE, *ledgers)}
        for kind in GOALS:
            bare = Load(providers[BARE].url, calls=kind == CREATES)
            figures[kind, BARE] = await _run(stage, stage.bare, bare, of_kind(kind, events))
            for name, url in ledgers.items():
                load = Load(providers[name].url, ledger_url=url)
                figures[kind, name] = await _run(stage, stage.worker, load, of_kind(kind, events))
    return figures


async def _run(stage: BenchmarkSetup, side: Side, load: Load, events: Sequence[Said]) -> tuple[float, float]:
    """Events per second, and CPU seconds per 1,000 events, after the warm-up."""
    await stage.set(())
    await stage.send(events)
    async with side(load) as running:
        course = await stage.watch_taken(running, len(events))
    warm = next(progress for progress in course if progress.results >= WARM * len(events))
    done = course[-1].results - warm.results
    seconds, cpu_seconds = course[-1].at - warm.at, course[-1].cpu_seconds - warm.cpu_seconds
    return done / seconds, cpu_seconds / done * 1000


def _figures(runs: Runs) -> Iterable[Figure]:
    for kind, name in runs.rates:
        if name != BARE:
            times = _times(runs.costs[kind, BARE], runs.costs[kind, name])
            goal = GOALS[kind] if name == "SQLite" else None
            yield Figure(f"{kind}, {name}: events per CPU second / bare loop", "x", times, at_least=goal)
            times = _times(runs.rates[kind, name], runs.rates[kind, BARE])
            yield Figure(f"{kind}, {name}: events/s / bare loop", "x", times)


def _times(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(these, those, strict=True)]


def _show(runs: Runs) -> None:
    """The absolute figures, as medians."""
    table = Table("events", "side", "events/s", "CPU s/1,000", "times bare: events/s", "per CPU s")
    for (kind, name), rates in runs.rates.items():
        costs, bare = runs.costs[kind, name], (kind, BARE)
        figures = [
            Figure("", "", rates),
            Figure("", "", costs),
            Figure("", "", _times(rates, runs.rates[bare])),
            Figure("", "", _times(runs.costs[bare], costs)),
        ]
        table.add_row(
            kind,
            name,
            *(f"{one.median:,.0f}" if one.median > 100 else f"{one.median:.3f}" for one in figures),
        )
    console.ERR.print(table)
