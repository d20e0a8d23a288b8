"""The rate limit: a maximum number of requests in any window of a fixed length, counted exactly."""

import re
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Self

from worker.sandbox.clock import Clock


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `300/5s`; returns None for `off`, raises ValueError for anything else."""
        if text == "off":
            return None
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})s", text)
        if not found or not int(found[1]) or not int(found[2]):
            raise ValueError(f"{text!r} is not a rate limit: write 300/5s, or off")
        return cls(int(found[1]), int(found[2]))


class Limiter:
    """A sliding window for each key, both ends included. Refused requests do not count."""

    def __init__(self, limit: RateLimit | None, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._admitted: defaultdict[str, deque[float]] = defaultdict(deque)

    def admits(self, key: str) -> bool:
        """Whether a request now is within the limit; counts it if so."""
        if self._limit is None:
            return True
        now = self._clock.seconds()
        admitted = self._admitted[key]
        while admitted and admitted[0] < now - self._limit.seconds:
            admitted.popleft()
        if len(admitted) >= self._limit.requests:
            return False
        admitted.append(now)
        return True

    def clear(self) -> None:
        """Forget all requests."""
        self._admitted.clear()
