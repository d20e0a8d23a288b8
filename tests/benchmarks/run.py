"""Compares the worker: `python -m tests.benchmarks.run [--only NAME] [--events N] [--json]`.

Both sides of a comparison take turns in one run, on the same machine and broker. Only ratios are claimed;
absolute figures describe one machine. Run nothing else meanwhile. A storm has 1,000 departments.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from rich.table import Table

from tests.benchmarks import (
    flood,
    idle,
    intake,
    large,
    ledgers,
    memory,
    prefetch,
    snapshot,
    start,
    storm,
    sweep,
    throughput,
    tracing,
    wiped,
)
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.stage import BenchmarkSetup, stage
from worker.cli import terminal as console

Benchmark = Callable[[BenchmarkSetup, Scale], Coroutine[Any, Any, list[Figure]]]

EVENTS = 8_000
"""Many times the largest prefetch; otherwise the first batch dominates the measurement."""

LARGE = 1_000_000

LONG = {"large"}
"""Those that are measured only if they are named: they take an hour."""

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "start": start.measure,
        "throughput": throughput.measure,
        "flood": flood.measure,
        "storm": storm.measure,
        "idle": idle.measure,
        "memory": memory.measure,
        "prefetch": prefetch.measure,
        "ledgers": ledgers.measure,
        "large": large.measure,
        "sweep": sweep.measure,
        "snapshot": snapshot.measure,
        "wiped": wiped.measure,
        "tracing": tracing.measure,
        "intake": intake.measure,
    }
)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be given again")
    parser.add_argument("--events", type=int, default=EVENTS, help="per run of the throughput benchmark")
    parser.add_argument("--departments", type=int, default=1000, help="in a storm, with 10 events each")
    parser.add_argument("--rounds", type=int, default=3, help="of what is measured more than once")
    parser.add_argument("--large", type=int, default=LARGE, help="departments and events of a large ledger")
    parser.add_argument("--ledger", choices=large.LEDGERS, action="append", help="of `large`; else both")
    parser.add_argument("--seed", type=int, default=0, help="of a storm's order")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


async def measured(names: list[str], scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    async with stage() as place:
        for name in names:
            console.ERR.print(f"[dim]measuring {name}")
            figures += await BENCHMARKS[name](place, scale)
    return figures


def show(figures: list[Figure]) -> None:
    table = Table("figure", "median", "min", "max", "goal", "met")
    for figure in figures:
        met = {None: "", True: "yes", False: "no"}[figure.met]
        shown = [figure.written(value) for value in (figure.median, min(figure.values), max(figure.values))]
        table.add_row(figure.name, *shown, figure.goal_text, met)
    console.OUT.print(table)


def main() -> None:
    chosen = asked()
    scale = Scale(
        chosen.events,
        chosen.departments,
        chosen.rounds,
        chosen.seed,
        chosen.large,
        tuple(chosen.ledger or large.LEDGERS),
    )
    usual = [name for name in BENCHMARKS if name not in LONG]
    figures = asyncio.run(measured(chosen.only or usual, scale))
    if chosen.json:
        told = [dataclasses.asdict(one) | {"median": one.median, "met": one.met} for one in figures]
        json.dump({"scale": dataclasses.asdict(scale), "figures": told}, sys.stdout, indent=2)
    else:
        show(figures)


if __name__ == "__main__":
    main()
