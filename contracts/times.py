"""Times as producers write them."""

import re
from datetime import UTC, datetime, timedelta, timezone

from contracts.text import END, integer

_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::(?:[0-5][0-9]|60)(?:\.[0-9]+)?)?"
_OFFSET = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
PATTERN = f"^{_DATE}[Tt ]{_CLOCK}{_OFFSET}{END}"
"""The accepted spellings, as a JSON Schema can say it: it does not know how many days a month has."""

_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?"
    r"(?P<offset>[Zz]|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?)?"
)
_ODATA = re.compile(r"/Date\(", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_EXAMPLE = "such as 2026-11-21T08:30:00Z"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_MILLISECONDS = 100_000_000_000  # in March 1973; seconds stay below it until the year 5138


def instant(value: object) -> datetime:
    """Returns the instant in UTC that a text or a `datetime` means; raises `ValueError`.

    A `datetime` without an offset is in UTC: it comes from an AMQP timestamp.
    """
    match value:
        case datetime():
            given = value if value.tzinfo else value.replace(tzinfo=UTC)
        case str():
            given = _written(value)
        case _:
            raise ValueError(f"not an RFC 3339 time with an offset, {_EXAMPLE}")
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


def from_milliseconds(value: object) -> object:
    """Returns the instant of a whole number of milliseconds since 1970, any other value as it is.

    The AMQP binding of the CloudEvents package for Python writes times so. Raises `ValueError`.
    """
    milliseconds = integer(value)
    if milliseconds is None:
        return value
    if abs(milliseconds) < EARLIEST_MILLISECONDS:
        raise ValueError("an integer counts milliseconds since 1970: too small, is it seconds?")
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


def _written(text: str) -> datetime:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(_why_not(text))
    if match["offset"] is None:
        raise ValueError("has no offset, so it is ambiguous: add Z or an offset such as +01:00")
    if match["hour"] == "24":
        raise ValueError("there is no hour 24: write 00:00 of the next day")
    second, fraction = int(match["second"] or 0), (match["fraction"] or "")[:6].ljust(6, "0")
    if second == 60:  # noqa: PLR2004 - a leap second: it ends the minute, and comes before the next one
        second, fraction = 59, "999999"
    try:
        year, month, day = map(int, match["date"].split("-"))
        clock = int(match["hour"]), int(match["minute"]), second, int(fraction)
        return datetime(year, month, day, *clock, tzinfo=_offset(match))
    except ValueError:
        raise ValueError("there is no such day, hour, minute, second or offset") from None


def _offset(match: re.Match[str]) -> timezone:
    if match["sign"] is None:
        return UTC
    hours, minutes = int(match["hours"]), int(match["minutes"] or 0)
    if minutes > 59:  # noqa: PLR2004 - timezone takes more
        raise ValueError("minutes")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if match["sign"] == "-" else offset)


def _why_not(text: str) -> str:
    if _ODATA.match(text):
        return f"an OData date: write RFC 3339, {_EXAMPLE}"
    if _NUMBER.fullmatch(text):
        return f"a number as text may be seconds or milliseconds: write RFC 3339, {_EXAMPLE}"
    return f"not an RFC 3339 time with an offset, {_EXAMPLE}"
