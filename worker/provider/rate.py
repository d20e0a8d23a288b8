"""How fast calls go out: as many as allowed in any window, fewer after being told that it was too fast."""

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice

from worker.ports import RateLimit

LATEST_ARRIVAL = 0.03
"""Part of the window after which a call that was sent has arrived, so that the provider counts it."""

GROWTH = 0.1
"""Part of the limit regained in each window that passes without complaint."""

AT_ONCE = 50
"""A limit up to this is used as soon as it allows; of a higher one, calls that had to wait go out evenly.

What waits meanwhile collapses: a department whose events come in a storm costs one call then, not one each.
"""

EVENLY = 0.9
"""Their distance, as a part of what the limit comes to: the window is full again before it is over."""


class Stopping(Exception):
    """No further call begins."""


@dataclass(eq=False, slots=True)
class Turn:
    """One call's place under the limit: kept until it is used or given back, however long that takes."""

    given_at: float
    latest_arrival_seconds: float
    sent: bool = False
    _counted_by: float = 0.0

    def begins(self) -> None:
        self.sent = True
        self._counted_by = _time() + self.latest_arrival_seconds

    def answered(self) -> None:
        """It has arrived before its answer."""
        self._counted_by = min(self._counted_by, _time())

    def counted_by(self, now: float) -> float:
        """When the provider has counted it, at the latest; if it is not sent yet, it may be any moment."""
        return self._counted_by if self.sent else now + self.latest_arrival_seconds


class Pace:
    """A log of calls. Unlike a bucket it never lets two windows' worth through in one."""

    def __init__(self, limit: RateLimit, stopping: asyncio.Event) -> None:
        self._limit = limit.calls
        self._window = limit.window.total_seconds()
        self._allowed = float(limit.calls)
        self._turns: deque[Turn] = deque()
        self._changed_at = 0.0
        self._closed_until = 0.0
        self._crowded_until = 0.0
        self._first = asyncio.Lock()
        self._stopping = stopping

    @property
    def allowed(self) -> int:
        """Calls in a window, at present."""
        return int(self._allowed)

    async def turn(self) -> Turn:
        """Returns when one more call may be sent, in the order asked; raises `Stopping`."""
        async with self._first:
            return await self.next_turn()

    async def next_turn(self) -> Turn:
        """As `turn`, ahead of all who wait."""
        while (seconds := self._seconds_to_wait()) > 0:
            await self._pass(seconds)
        if self._stopping.is_set():
            raise Stopping
        turn = Turn(_time(), LATEST_ARRIVAL * self._window)
        self._turns.append(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """A turn that was not used after all is the next one's."""
        self._turns.remove(turn)

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """After a 429. Of many at a time, sent before the first was heard of, only one counts."""
        now = _time()
        self._closed_until = max(self._closed_until, now + (retry_after_seconds or 0.0))
        if self._allowed == self._limit or now >= self._changed_at + self._window:
            self._allowed = max(1.0, self._allowed / 2)
            self._changed_at = now

    def _seconds_to_wait(self) -> float:
        now = _time()
        self._grow_back(now)
        self._forget_what_counts_no_more(now)
        free_at = self._closed_until
        too_many = len(self._turns) - self.allowed + 1
        if too_many > 0:
            leaving = islice(self._turns, too_many)  # not quite in the order they are counted in
            free_at = max(free_at, max(turn.counted_by(now) for turn in leaving) + self._window)
            self._crowded_until = free_at + self._window
        return max(free_at, self._evenly(now)) - now

    def _forget_what_counts_no_more(self, now: float) -> None:
        for _ in range(len(self._turns)):
            oldest = self._turns[0]
            if oldest.counted_by(now) + self._window <= now:
                self._turns.popleft()
            elif not oldest.sent and oldest.given_at + self._window <= now:
                self._turns.rotate(-1)  # long held by somebody: not in the way of those behind it
            else:
                return

    def _evenly(self, now: float) -> float:
        """When the next may go, so that a crowd does not use up a window at its very beginning."""
        if now >= self._crowded_until or self.allowed <= AT_ONCE or not self._turns:
            return now
        latest = max(turn.given_at for turn in self._turns)
        return latest + EVENLY * self._window / self.allowed

    def _grow_back(self, now: float) -> None:
        windows = (now - max(self._changed_at, self._closed_until)) // self._window
        if self._allowed < self._limit and windows >= 1:
            self._allowed = min(self._limit, self._allowed + windows * GROWTH * self._limit)
            self._changed_at = now

    async def _pass(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopping


def _time() -> float:
    return asyncio.get_running_loop().time()
