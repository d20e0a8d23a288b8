"""Signals that stop a command."""

import asyncio
import signal
from collections.abc import Callable


def stop_signal(on_stop: Callable[[], None]) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; then `on_stop` is called. Another one is ignored.

    The command stops soon and must still report and record what it did; SIGQUIT and SIGKILL end it at once.
    """
    stop = asyncio.Event()

    def begin_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, begin_to_stop)
    return stop
