"""Time and memory of planning a list of 100,000 departments, on a new ledger and on one that has them all."""

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.stage import BenchmarkSetup
from worker.adapters.ledgers import open_ledger
from worker.core.model.departments import Department
from worker.core.snapshots import Said, Standing
from worker.settings.ledger_url import SqliteUrl

FEW, MANY, AT_ONCE = 1_000, 100_000, 1_000
MOST_SECONDS, MOST_TIMES = 20, 1.15
"""The goals: seconds for all, and memory beside that of a hundredth of them."""
AS_OF = datetime(2026, 11, 1, tzinfo=UTC)


async def measure(_stage: BenchmarkSetup, scale: Scale) -> list[Figure]:
    """Plans a short and a long list, each on a new ledger, and the long one on a ledger that has it."""
    fresh, known, times = [], [], []
    for _ in range(scale.rounds):
        with tempfile.TemporaryDirectory() as folder:
            _, few = _planned(Path(folder), FEW)
            seconds, many = _planned(Path(folder), MANY)
            fresh.append(seconds)
            await _remember(Path(folder))
            seconds, compared = _planned(Path(folder), MANY)
            known.append(seconds)
            times.append(max(many, compared) / few)
    return [
        Figure(f"plan of {MANY:,} new departments", "s", fresh, at_most=MOST_SECONDS),
        Figure(f"plan of {MANY:,} known ones, a tenth renamed", "s", known, at_most=MOST_SECONDS),
        Figure(f"resident memory, beside a list of {FEW:,}", "x", times, at_most=MOST_TIMES),
    ]


def _planned(folder: Path, rows: int) -> tuple[float, int]:
    """Seconds and the most resident memory in KiB of `snapshot plan`."""
    list_ = folder / "list.csv"
    with list_.open("w") as out:
        out.write("department_id,name\n")
        out.writelines(f"{id_},Department {id_}\n" for id_ in range(rows))
    command = [sys.executable, "-m", "worker", "snapshot", "plan", str(list_), "--source", "hr"]
    environ = os.environ | {"LEDGER_URL": f"sqlite:///{folder}/ledger.db"}
    begun = time.monotonic()
    process = subprocess.Popen(
        [*command, "--plan", str(folder / "hr.plan")], env=environ, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.monotonic() - begun, usage.ru_maxrss


async def _remember(folder: Path) -> None:
    async with open_ledger(SqliteUrl(folder / "ledger.db")) as opened:
        await opened.snapshots.begin(Standing("hr", AS_OF, "x", 1, finished=False, complete=True), None)
        for first in range(0, MANY, AT_ONCE):  # a child begins with the memory of this process
            said = [
                Said(Department("default", str(id_)), f"Department {id_}" if id_ % 10 else "Other", AS_OF)
                for id_ in range(first, first + AT_ONCE)
            ]
            await opened.snapshots.say("hr", "x", said)
        await opened.snapshots.finish("hr", "x", [])
