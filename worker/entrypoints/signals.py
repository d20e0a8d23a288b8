"""Being told to stop."""

import asyncio
import signal


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; after it they have their ordinary, instant effect again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def begin_to_stop() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, begin_to_stop)
    return stop
