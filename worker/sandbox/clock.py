"""Simulated time: it runs as fast as real time and can be moved forward."""

from datetime import UTC, datetime, timedelta
from time import monotonic  # noqa: TID251 - the sandbox is a separate program; this is its clock
from zoneinfo import ZoneInfo


class Clock:
    """One clock for dates and durations, so that both move together. `ahead` is its lead over real time."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self._started = real_now()
        self._origin = monotonic()
        self.ahead = ahead

    def now(self) -> datetime:
        """Return the simulated time, in UTC."""
        return self._started + self.ahead + timedelta(seconds=monotonic() - self._origin)

    def seconds(self) -> float:
        """Seconds since the epoch in simulated time; never runs backwards."""
        return self.now().timestamp()

    def today(self, zone: ZoneInfo) -> str:
        """Return the simulated date (YYYY-MM-DD) in a time zone."""
        return self.now().astimezone(zone).date().isoformat()

    def advance(self, by: timedelta) -> None:
        """Move forward; raises ValueError for a step back, or past the year 8999."""
        if by < timedelta(0):
            raise ValueError("simulated time only moves forward")
        if by > datetime(9000, 1, 1, tzinfo=UTC) - self.now():
            raise ValueError("simulated time ends with the year 8999")
        self.ahead += by


def real_now() -> datetime:
    """Return the real time, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the only place that reads it
