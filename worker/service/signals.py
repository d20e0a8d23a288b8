"""Being told to stop."""

import asyncio
import signal
from collections.abc import Callable


def stop_signal(on_stop: Callable[[], None]) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT, which `on_stop` hears of. Another one changes nothing.

    The stop is quick, and what was done has to be told and on record: SIGQUIT and SIGKILL are for haste.
    """
    stop = asyncio.Event()

    def begin_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, begin_to_stop)
    return stop
