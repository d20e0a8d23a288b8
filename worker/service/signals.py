"""Signals that stop a command."""

import asyncio
import signal
from collections.abc import Callable, Sequence

IGNORED = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that log rotation may send; by default they end a process at once."""


def stop_signals() -> Sequence[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP unless it is ignored, as `nohup` has it."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def stop_signal(on_stop: Callable[[], None]) -> asyncio.Event:
    """Returns an event that the first of `stop_signals` sets; it also calls `on_stop`. Later ones do nothing.

    The command stops soon and must still report and record what it did; SIGQUIT and SIGKILL end it at once.
    """
    stop = asyncio.Event()

    def begin_stop() -> None:
        if not stop.is_set():
            stop.set()
            on_stop()

    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, begin_stop)
    return stop
