"""The rate of requests of each sender."""

from collections import deque

from worker.ports import Clock, RateLimit


class Rates:
    """At most so many requests of a sender in every window. One that is refused does not count."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self._calls = limit.calls
        self._seconds = limit.window.total_seconds()
        self._clock = clock
        self._taken: dict[str, deque[float]] = {}

    @property
    def per_minute(self) -> int:
        """The requests of a sender that a minute allows."""
        return max(1, int(self._calls * 60 / self._seconds))

    def wait_seconds(self, sender: str) -> float:
        """Takes a request of a sender: 0.0; else how long the sender has to wait until one is taken."""
        now = self._clock.monotonic()
        taken = self._taken.setdefault(sender, deque())
        while taken and taken[0] <= now - self._seconds:
            taken.popleft()
        if len(taken) < self._calls:
            taken.append(now)
            return 0.0
        return max(0.001, taken[0] + self._seconds - now)
