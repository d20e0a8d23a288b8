"""The standard streams of a command: closed ones, ones that fail, and encodings that lack characters.

Light to import: `worker/__main__.py` calls `prepare` before anything else can open a file.
"""

import codecs
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

STDIN, STDOUT, STDERR = 0, 1, 2
ERRORS = "shown"
"""The name of the error handler for characters that the encoding of an output lacks."""

_LOOKALIKES = {"…": "...", "•": "*", "│": "|", "┃": "|", "║": "|"}
_RULES = ("\u2500", "\u257f")


_REPLACED: list[Any] = []
"""The stand-ins for streams that were closed when the process began."""


class ReaderGone(Exception):
    """The reader of stdout has closed it, as `head` does when it has read enough."""


def prepare() -> None:
    """Makes the three streams usable: no command ends because one is closed, full or not UTF-8.

    A closed descriptor is opened on /dev/null; otherwise the next file or socket would get its number.
    """
    open_closed()
    sys.stdout.reconfigure(errors=ERRORS)  # type: ignore[union-attr]
    sys.stderr = _unfailing(sys.stderr)


def open_closed() -> None:
    """Opens each closed standard descriptor on /dev/null."""
    for number, name, mode in ((STDIN, "stdin", "r"), (STDOUT, "stdout", "w"), (STDERR, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number, inheritable=True)
                os.close(null)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            _REPLACED.append(stream)
            setattr(sys, name, stream)


def is_read() -> bool:
    """Whether stdout was open when the process began."""
    return sys.stdout is not None and sys.stdout not in _REPLACED


def finish(complain: Callable[[str], None]) -> bool:
    """Flushes stdout; False if it cannot be written, which `complain` is told unless the reader has gone.

    A failed stream is turned to /dev/null: the interpreter flushes it once more at its end.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_rest()
    except (OSError, ValueError) as error:
        _discard_rest()
        complain(f"standard output cannot be written: {getattr(error, 'strerror', None) or error}")
        return False
    return True


def _discard_rest() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


class _Unfailing(io.FileIO):
    """A file that drops what it cannot write: a log must not end the work it tells of."""

    def write(self, data: Any, /) -> int:
        """Returns the number of bytes written or dropped."""
        try:
            written = super().write(data)
        except OSError:
            return len(data)
        return len(data) if written is None else written  # None: a full pipe that does not block


def _unfailing(stream: TextIO) -> io.TextIOWrapper:
    raw = _Unfailing(STDERR, "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=ERRORS, line_buffering=True
    )


def _shown(error: UnicodeError) -> tuple[str, int]:
    """Replaces the characters of tables and bars by ASCII ones, others by their escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    odd = error.object[error.start : error.end]
    return "".join(map(_lookalike, odd)), error.end


def _lookalike(char: str) -> str:
    if char in _LOOKALIKES:
        return _LOOKALIKES[char]
    if _RULES[0] <= char <= _RULES[1]:
        return "-" if char in "─━╌╍╴╶╸╺╼╾═" else "+"
    return char.encode("ascii", "backslashreplace").decode()


codecs.register_error(ERRORS, _shown)
