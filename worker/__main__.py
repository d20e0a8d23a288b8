"""`python -m worker` is `provisioner`.

Importing the command line takes half a second. A stop signal during that time ends the process silently:
nothing has begun yet.
"""

import os
import signal
import sys

from worker.cli import streams
from worker.cli.arguments import command_of

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Runs the command line; a stop signal during its import ends the process at once.

    `run` then exits with 0, until it installs its own handlers; SIGUSR1 and SIGUSR2 never end it. Other
    commands exit with 128 plus the number of the signal, and get the previous handlers back after the import.
    A signal that is ignored stays so.
    """
    streams.prepare()
    consuming = command_of(sys.argv[1:]) == "run"
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {
        number: signal.signal(number, _exit_done if consuming else _exit_by_signal) for number in heeded
    }
    if consuming:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    from worker.cli import app as cli  # noqa: PLC0415 - after the handlers are set

    if not consuming:
        for number, handler in previous.items():
            signal.signal(number, handler)
    cli.main()


def _exit_done(_number: int, _frame: object) -> None:
    os._exit(0)


def _exit_by_signal(number: int, _frame: object) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
