"""From the values of a payload to those of an event. Nothing is guessed: an odd value is refused.

Each function raises `ValueError`; the text says what is wrong, never the value.
"""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from contracts.times import EARLIEST_MILLISECONDS, instant
from worker.core.intake.profile import TimeFormat

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?")
_ODATA = re.compile(r"/Date\(([0-9]{1,18})(?:[+-][0-9]{4})?\)/")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS = re.compile("[0-9]+")
_MOST_DIGITS = 128


def text_of(value: object) -> str:
    """An id or a name: text, or an integer as its decimal text."""
    match value:
        case None:
            raise ValueError("missing")
        case bool():
            raise ValueError("must be text or an integer, not true or false")
        case int():
            if abs(value) >= 10**_MOST_DIGITS:
                raise ValueError("has too many digits")
            return str(value)
        case float():
            raise ValueError("must be text or an integer, not a number with a fraction")
        case str():
            return value
        case _:
            raise ValueError("must be text or an integer, not a list or an object")


def sequence_of(value: object) -> int:
    """An integer, or its decimal text. Its size is judged by the contract."""
    if isinstance(value, str) and _DIGITS.fullmatch(value) and len(value) <= _MOST_DIGITS:
        return int(value)
    if value is None:
        raise ValueError("missing; an event without a sequence would lose to all that have one")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer or its decimal text")  # noqa: TRY004 - collected as a reason
    return value


def truth_of(value: object) -> bool:
    """The outcome of a condition: true or false, null for false, or a list, which is true unless empty.

    JMESPath takes 0 and the text `false` for true, so these are refused.
    """
    match value:
        case bool():
            return value
        case None:
            return False
        case list():
            return bool(value)
        case _:
            raise ValueError("must be true or false; compare the value, as in item.state == 'closed'")


def time_of(value: object, format_: TimeFormat) -> datetime:
    """The instant in UTC."""
    if value is None:
        raise ValueError("missing")
    match format_:
        case TimeFormat.RFC3339:
            return instant(value)
        case TimeFormat.DATE:
            return _midnight(value)
        case TimeFormat.EPOCH_S:
            return _since_epoch(_number(value), milliseconds=False)
        case TimeFormat.EPOCH_MS:
            wrapped = _ODATA.fullmatch(value) if isinstance(value, str) else None
            return _since_epoch(Decimal(wrapped[1]) if wrapped else _number(value), milliseconds=True)


def _midnight(value: object) -> datetime:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("not a date, such as 2026-11-21")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day") from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _number(value: object) -> Decimal:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise ValueError("not a number since 1970, nor one as text")
    return Decimal(text)


def _since_epoch(number: Decimal, *, milliseconds: bool) -> datetime:
    if milliseconds and number < EARLIEST_MILLISECONDS:
        raise ValueError("too small for milliseconds since 1970: is time_format epoch-s?")
    if not milliseconds and number >= EARLIEST_MILLISECONDS:
        raise ValueError("too large for seconds since 1970: is time_format epoch-ms?")
    microseconds = int(number * (1_000 if milliseconds else 1_000_000))
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None
