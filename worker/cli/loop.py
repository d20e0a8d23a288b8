"""Runs a command's coroutine to its end."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RARELY = (20_000, 20, 50)
"""Messages in flight are live objects by the ten thousand, by default gone through again and again."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """On uvloop where it is installed."""
    _collect_garbage_rarely()
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def _collect_garbage_rarely() -> None:
    """A quarter of the CPU under load. What is loaded by now stays, and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*RARELY)
