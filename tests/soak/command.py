"""The command line of all soaks: a seed, a temporary folder, a table of figures, and an exit code."""

import argparse
import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak import verdict
from tests.soak.verdict import Violation
from worker.demo.private_node import NodeUnavailable
from worker.telemetry.logs import configure_logging

CONSOLE = Console()
ERR = Console(stderr=True)


@dataclass(frozen=True)
class Report:
    """The violations of a run and its named figures."""

    broken: list[Violation]
    figures: list[tuple[str, str]] = field(default_factory=list)


def parser(name: str, description: str | None, *, departments: bool = True) -> argparse.ArgumentParser:
    """A parser with the options of every soak; the number of departments where that is its size."""
    made = argparse.ArgumentParser(prog=f"python -m tests.soak.{name}", description=description)
    if departments:
        made.add_argument("--departments", type=int, default=500)
    made.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="drawn if not given")
    return made


def run_and_report(seed: int, run: Callable[[Path], Awaitable[Report]]) -> int:
    """Runs the soak in a temporary folder, prints its report, and returns the exit code."""
    configure_logging("console", "critical")
    CONSOLE.print(f"seed {seed}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = asyncio.run(_awaited(run(Path(folder))))
    except NodeUnavailable as error:
        ERR.print(str(error), style="red")
        return 1
    if report.figures:
        table = Table("figure", "value")
        for row in report.figures:
            table.add_row(*row)
        CONSOLE.print(table)
    return verdict.print_violations(report.broken, CONSOLE)


async def _awaited(report: Awaitable[Report]) -> Report:
    return await report
