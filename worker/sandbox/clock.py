"""Simulated time: as fast as real time, ahead of it by as much as it has been moved."""

from datetime import UTC, datetime, timedelta
from time import monotonic  # noqa: TID251 - the sandbox is a program of its own; this is its clock
from zoneinfo import ZoneInfo


class Clock:
    """One time axis for dates and for durations, so that moving it moves both."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self._started = real_now()
        self._origin = monotonic()
        self.ahead = ahead

    def now(self) -> datetime:
        return self._started + self.ahead + timedelta(seconds=monotonic() - self._origin)

    def seconds(self) -> float:
        """Seconds since the epoch in simulated time; never runs backwards."""
        return self.now().timestamp()

    def today(self, zone: ZoneInfo) -> str:
        return self.now().astimezone(zone).date().isoformat()

    def advance(self, by: timedelta) -> None:
        """Raises ValueError for a step back, or beyond the calendar."""
        if by < timedelta(0):
            raise ValueError("simulated time only moves forward")
        if by > datetime(9000, 1, 1, tzinfo=UTC) - self.now():
            raise ValueError("simulated time ends with the year 8999")
        self.ahead += by


def real_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the one place that reads it
