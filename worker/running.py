"""Runs a command's coroutine to its end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """On uvloop where it is installed."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - optional, and slow to import for `--help`
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
