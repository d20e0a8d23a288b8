"""Signals that stop a command, and the end of a process."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Sequence

from worker.telemetry.events import Telemetry

CUT_OFF = 1

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


class Stop:
    """Handles `stop_signals`: the first one cancels the start or begins the drain.

    A second one ends the process at once, as does the end of `deadline_seconds` after the first. A second
    SIGHUP does not: a terminal that is closed sends it twice. SIGUSR1 and SIGUSR2 do nothing.
    """

    def __init__(self, deadline_seconds: float, end_at_once: Callable[[], None]) -> None:
        self.before_the_start = False
        self._deadline_seconds = deadline_seconds
        self._end_at_once = end_at_once
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        self._stopping = asyncio.Event()
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in stop_signals():
            self._loop.add_signal_handler(number, self._received, number)

    async def asked(self) -> None:
        """Marks the start as complete, and returns at the first signal."""
        self._starting = None
        await self._stopping.wait()

    def _received(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            self._begin()
        elif number is not signal.SIGHUP:
            self._end_at_once()

    def _begin(self) -> None:
        self._stopping.set()
        self._loop.call_later(self._deadline_seconds, self._end_at_once)
        if self._starting is not None:
            self.before_the_start = True
            self._starting.cancel()


def exit_at_once(telemetry: Telemetry) -> None:
    """Safe at any moment: the broker delivers unacked messages again, and a write to the ledger is atomic."""
    telemetry.cut_off()
    os._exit(CUT_OFF)


def leave_no_core() -> None:
    """Forbids core files: one would hold every token that is in memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
