"""Writes the tables of metrics in `deploy/monitoring/README.md`: `python -m worker.telemetry.page`."""

# ruff: noqa: T201 - a command line program prints

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.telemetry.metrics import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Distribution,
    Metric,
    Named,
    Values,
    exported_name,
)

PAGE = Path(__file__).parents[2] / "deploy/monitoring/README.md"
BEGIN = "<!-- made by `python -m worker.telemetry.page`; do not edit -->\n"
END = "<!-- end of what is made -->\n"
SHOWN = 12
"""The longest set of values that is listed."""


def with_tables(page: str) -> str:
    """The page with the present tables between its marks. Raises `ValueError` if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it lacks the lines {BEGIN.strip()} and {END.strip()}")
    return before + begin + "".join(_tables()) + end + after


def _tables() -> Iterator[str]:
    for title, metrics in (("Counters", COUNTERS), ("Gauges", GAUGES), ("Histograms", HISTOGRAMS)):
        yield f"\n### {title}\n\n| Metric | Labels | Meaning | When it moves |\n|---|---|---|---|\n"
        yield from map(_row, sorted(metrics, key=lambda one: one.name))
    yield "\n"


def _row(metric: Metric) -> str:
    labels = "; ".join(f"`{name}`: {_shown(values)}" for name, values in metric.labels.items())
    meaning = f"{metric.help} {_bounds(metric.buckets)}" if isinstance(metric, Distribution) else metric.help
    return f"| `{exported_name(metric)}` | {labels} | {meaning} | {metric.action} |\n"


def _shown(values: Values | Named) -> str:
    if isinstance(values, Named):
        return str(values)
    return ", ".join(values) if len(values) <= SHOWN else f"{values[0]}, or one of {len(values) - 1} more"


def _bounds(buckets: Sequence[float]) -> str:
    return f"Buckets from {buckets[0]:g} to {buckets[-1]:g}."


def main() -> int:
    """Writes the page, or with `--check` says whether it is up to date."""
    parser = argparse.ArgumentParser(prog="python -m worker.telemetry.page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    check: bool = parser.parse_args().check
    page = PAGE.read_text()
    wanted = with_tables(page)
    if page == wanted:
        return 0
    if check:
        print(f"{PAGE.name} is out of date: run `python -m worker.telemetry.page`", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
