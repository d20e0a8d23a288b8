"""Formats and writes log lines. The events are in `telemetry/events.py`."""

import asyncio
import atexit
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog
from pydantic import SecretStr
from pydantic_core import to_json

LogFormat = Literal["json", "console"]

# These loggers write message bodies and headers, which hold tokens: an uncorrelated return at ERROR, frames
# at DEBUG. The adapters report through `Telemetry` instead.
LEAKY_LOGGERS = ("aiormq", "aio_pika")
# For child loggers with their own level: Python prints records without a handler to stderr.
_SILENCE = logging.NullHandler()


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Sends logs to stderr, one event a line, and silences loggers that could leak; stdout is for results.

    `level` is debug, info, warning or error.
    """
    for name in LEAKY_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
        logger.addHandler(_SILENCE)
    renderer: Any = structlog.processors.JSONRenderer(_json)
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LINES)),
        cache_logger_on_first_use=False,
    )


class GatheredLines:
    """A buffer for stderr. The lines of one turn of the event loop are one write, so one system call.

    Without a running loop each line is written at once.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        atexit.register(self.flush_all)

    def write(self, line: str) -> None:
        """Buffers one line, with its newline."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # in another thread, or before and after the loop
            self.flush_all()
            return
        if len(self._lines) == 1:
            loop.call_soon(self.flush_all)

    def flush(self) -> None:
        """Does nothing: structlog calls it after each line, but the turn has its flush already."""

    def flush_all(self) -> None:
        """Writes the buffer; also at exit, and before the process is ended at once."""
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError, ValueError):  # the reader has gone
                sys.stderr.write("".join(lines))
                sys.stderr.flush()


LINES = GatheredLines()


def _json(event: MutableMapping[str, Any], **_options: Any) -> str:
    return to_json(event, fallback=repr).decode()


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, SecretStr):
            event[name] = "***"
    return event
