"""Runs the coroutine of a command to its end."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer

T = TypeVar("T")

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

GARBAGE_THRESHOLDS = (20_000, 20, 50)
"""For `gc.set_threshold`: Python's defaults scan the tens of thousands of objects in flight too often."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, on uvloop if that is installed, and returns its result."""
    _collect_garbage_rarely()
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def run_to_exit(work: Coroutine[Any, Any, bool]) -> NoReturn:
    """Runs a coroutine and ends the command: exit code 0 if the result is True, else 1."""
    leave(well=run(work))


def leave(*, well: bool) -> NoReturn:
    """Ends a command that has printed its result: exit code 0 if `well`, else 1."""
    raise typer.Exit(DONE if well else FAILED)


def _collect_garbage_rarely() -> None:
    """Saves a quarter of the CPU under load. Objects that exist now are never collected."""
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
