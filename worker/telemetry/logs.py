"""Formats and writes log lines. The events are in `telemetry/events.py`."""

import asyncio
import atexit
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog
from pydantic import SecretStr
from pydantic_core import to_json

from contracts.departments import DEFAULT_TENANT
from worker.core.visible import visible

LogFormat = Literal["json", "console"]
Line = MutableMapping[str, Any]

_HEAD = ("event", "timestamp", "level")
_FIRST = (
    *_HEAD,
    *("tenant", "department_id", "event_id", "recipient", "outcome", "reason", "failure", "detail"),
)
"""The keys that tell most, in their order; the others follow in the order of the code."""
_COLOURS = {"warning": 33, "error": 31, "critical": 31, "debug": 2}
"""Of the levels: SGR numbers (ECMA-48)."""

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
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _telling_first,
            _for_people(colours=sys.stderr.isatty()) if log_format == "console" else _json,
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


def _telling_first(_logger: Any, _method: str, event: Line) -> Line:
    """The line in its order, without secrets."""
    line = {name: event[name] for name in _FIRST if name in event}
    line.update(event)
    for name, value in line.items():
        if isinstance(value, SecretStr):
            line[name] = "***"
    return line


def _json(_logger: Any, _method: str, event: Line) -> str:
    """A line in ASCII: whatever the encoding of stderr, and nothing in it steers a terminal."""
    try:
        line = to_json(event, fallback=repr, ensure_ascii=True)
    except ValueError:  # a lone surrogate, which no encoding has
        line = to_json({name: visible(str(value)) for name, value in event.items()}, ensure_ascii=True)
    return line.decode().replace("\x7f", "\\u007f")


def _for_people(*, colours: bool) -> Callable[[Any, str, Line], str]:
    """A renderer of `2026-11-28 10:14:30Z warning step_waiting department_id=sales ...`.

    It leaves out what says nothing: no value, no, and the tenant that is the default.
    """

    def render(_logger: Any, _method: str, event: Line) -> str:
        head = [f"{event['timestamp'][:19].replace('T', ' ')}Z", f"{event['level']:<7}", event["event"]]
        if colours:
            head[1] = f"\x1b[{_COLOURS.get(event['level'], 0)}m{head[1]}\x1b[0m"
            head[2] = f"\x1b[1m{head[2]}\x1b[0m"
        told = {
            name: value for name, value in event.items() if name not in _HEAD and not _is_silent(name, value)
        }
        return " ".join([*head, *(f"{name}={_shown(value)}" for name, value in told.items())])

    return render


def _is_silent(name: str, value: Any) -> bool:
    return value is None or value is False or (name == "tenant" and value == DEFAULT_TENANT)


def _shown(value: Any) -> str:
    """A value that steers no terminal; a text with blanks is in quotes."""
    if not isinstance(value, str):
        return visible(to_json(value, fallback=repr).decode())
    text = visible(value)
    return '"{}"'.format(text.replace('"', r"\"")) if re.search(r'[\s"=]|^$', text) else text
