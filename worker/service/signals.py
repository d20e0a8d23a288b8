"""Signals that stop a command."""

import asyncio
import signal
from collections.abc import Callable


def stop_signal(on_stop: Callable[[], None]) -> asyncio.Event:
    """Returns an event that the first SIGTERM or SIGINT sets; it also calls `on_stop`. Later ones do nothing.

    The command stops soon and must still report and record what it did; SIGQUIT and SIGKILL end it at once.
    """
    stop = asyncio.Event()

    def begin_stop() -> None:
        if not stop.is_set():
            stop.set()
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, begin_stop)
    return stop
