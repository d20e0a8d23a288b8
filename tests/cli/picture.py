"""Draws the terminal of a real demo for the README: `python -m tests.cli.picture [--memory]`.

It runs `provisioner demo` with a RabbitMQ node of its own and draws some of its chapters, since a picture of
all is longer than the README. No time, id or path is edited.
"""

import argparse
import asyncio
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from worker.demo import story
from worker.telemetry.logs import configure_logging

PICTURE = Path(__file__).parents[2] / "deploy/pictures/demo.svg"
COLUMNS = 96
SHOWN = (
    "Three departments are founded",
    "Plivo refuses one",
    "A protected one is removed",
    "next:",
)
"""The beginnings of the titles of the chapters that are drawn."""
LEFT_OUT = "…"
BOLD = "\x1b[1m"
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s+|Fira Code, ", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without a font from the network: a reader's browser does not load it in a picture."""


async def demo_output(*, memory: bool) -> str:
    """The output of a demo with the escape sequences of a terminal."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    with patch.object(story, "CONSOLE", console), patch.object(story, "READING_SECONDS", 0.0):
        await story.tell({}, memory=memory)
    return console.export_text(styles=True)


def drawn(output: str) -> str:
    """The chosen chapters of an output as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in ("$ provisioner demo", *_chosen(output.splitlines())):
        console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(title="provisioner demo", code_format=FORMAT)


def _chosen(lines: Sequence[str]) -> Iterator[str]:
    shown = was_shown = True
    for line in lines:
        if line.startswith(BOLD):
            was_shown, shown = shown, Text.from_ansi(line).plain.startswith(SHOWN)
            if was_shown and not shown:
                yield LEFT_OUT
        if shown:
            yield line


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.cli.picture", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="without RabbitMQ")
    memory: bool = parser.parse_args().memory
    configure_logging("json", "error")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    PICTURE.write_text(drawn(asyncio.run(demo_output(memory=memory))))
    sys.stdout.write(f"{PICTURE}\n")


if __name__ == "__main__":
    main()
