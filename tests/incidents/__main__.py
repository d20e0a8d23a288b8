"""Plays incidents on a RabbitMQ node of their own: `python -m tests.incidents [NAME]`, all without a name.

Prints the timeline of each: made, alerted, explained, repaired, mended.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.incidents.incidents import INCIDENTS
from tests.incidents.scene import Scene, scene
from worker.demo.private_node import private_node
from worker.telemetry.logs import configure_logging


async def play(chosen: Sequence[str]) -> None:
    """Plays these incidents, each at a virtual host without its objects."""
    for name in chosen:
        async with private_node() as node:
            with tempfile.TemporaryDirectory() as folder:
                async with scene(node.url, Path(folder), INCIDENTS[name].settings) as there:
                    await INCIDENTS[name].play(there)
                _say(name, there)


def _say(name: str, there: Scene) -> None:
    taken = there.at("mended") - there.at("alerted")
    lines = [f"{step.seconds:6.1f} s  {step.kind:9}  {step.text}" for step in there.timeline]
    sys.stdout.write("\n".join([f"{name}: {taken:.1f} s from alert to mended", *lines, "", ""]))
    sys.stdout.flush()


def main() -> None:
    """Reads the arguments and plays."""
    parser = argparse.ArgumentParser(prog="python -m tests.incidents", description=__doc__)
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"of: {', '.join(INCIDENTS)}")
    chosen: list[str] = parser.parse_args().name or [*INCIDENTS]
    if unknown := set(chosen) - set(INCIDENTS):
        parser.error(f"no incident {', '.join(sorted(unknown))}; there are: {', '.join(INCIDENTS)}")
    configure_logging("json", "error")
    asyncio.run(play(chosen))


if __name__ == "__main__":
    main()
