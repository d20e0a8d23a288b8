"""The rate limit: so many requests in every window of so many seconds, ends included, counted exactly."""

import re
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Self

from worker.sandbox.clock import Clock


@dataclass(frozen=True, slots=True)
class RateLimit:
    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `300/5s`, or `off`."""
        if text == "off":
            return None
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})s", text)
        if not found or not int(found[1]) or not int(found[2]):
            raise ValueError(f"{text!r} is not a rate limit: write 300/5s, or off")
        return cls(int(found[1]), int(found[2]))


class Limiter:
    """A log of send times per key: what is refused does not count."""

    def __init__(self, limit: RateLimit | None, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._admitted: defaultdict[str, deque[float]] = defaultdict(deque)

    def admits(self, key: str) -> bool:
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

    def forget(self) -> None:
        self._admitted.clear()
