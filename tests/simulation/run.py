"""`python -m tests.simulation.run --seeds 1000`: runs many seeds, or one seed with its history."""

# ruff: noqa: T201 - a command line program prints

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.chance import PROFILES, coverage
from tests.simulation.world import Run, simulate

SHOWN = 5
COLLECT_EVERY = 100


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.seed is not None:
        return _one(options)
    failed = False
    for name in [options.profile] if options.profile else list(PROFILES):
        failed |= _many(name, options)
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many, for each profile")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--profile", choices=list(PROFILES), help="without it: each")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", nargs="?", const="", metavar="DEPARTMENT", help="print its history")
    parser.add_argument("--without", nargs="*", default=[], metavar="FAULT", help="leave these faults out")
    return parser.parse_args(arguments)


def _one(options: argparse.Namespace) -> int:
    run = simulate(PROFILES[options.profile or "all"], options.seed, without=options.without)
    if options.trace is not None:
        for note in run.history.of(options.trace or None):
            print(note)
    print(report(run) if run.broken else f"{run.profile} {run.seed}: all promises kept")
    return int(bool(run.broken))


def _many(name: str, options: argparse.Namespace) -> bool:
    struck: Counter[str] = Counter()
    broken = []
    began = time.monotonic()
    gc.disable()  # runs leave reference cycles, but collecting them during a run costs 10 % of its time
    for seed in range(options.first, options.first + options.seeds):
        if seed % COLLECT_EVERY == 0:
            gc.collect()
        run = simulate(PROFILES[name], seed, without=options.without)
        struck += run.chance.struck
        if run.broken:
            broken.append(seed)
            if len(broken) <= SHOWN:
                print(report(run))
        if sys.stderr.isatty() and seed % 50 == 0:
            print(f"\r{name}: {seed - options.first + 1}/{options.seeds}", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    missed = [kind for kind in coverage(PROFILES[name], struck) if kind not in options.without]
    print(
        f"{name}: {options.seeds} runs, {options.seeds / seconds:.0f}/s, {len(broken)} broken {broken[:20]}"
    )
    print("  " + ", ".join(f"{kind} {count}" for kind, count in sorted(struck.items())))
    if missed:
        print(f"  these faults never struck: {', '.join(missed)}")
    return bool(broken or missed)


def report(run: Run) -> str:
    """The broken promises of a run and the command that repeats it."""
    lines = [f"{run.profile} {run.seed}:", *(f"  {one}" for one in run.broken[:4])]
    lines.append(f"  python -m tests.simulation.run --profile {run.profile} --seed {run.seed} --trace")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
