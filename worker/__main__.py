"""`python -m worker` is `provisioner`.

The command line takes half a second to import. Told to stop meanwhile it has begun nothing: it ends without a
word.
"""

import os
import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """`run` ends like this until it listens for itself, every other command as long as it is imported."""
    consuming = sys.argv[1:2] == ["run"]
    before = {number: signal.signal(number, _end_well if consuming else _end) for number in SIGNALS}

    from worker.cli import app as cli  # noqa: PLC0415 - now that a signal can come

    if not consuming:
        for number, handler in before.items():
            signal.signal(number, handler)
    cli.main()


def _end_well(_number: int, _frame: object) -> None:
    os._exit(0)


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
