"""Limits the rate of calls in any window of time, and lowers the limit after a 429 response."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from worker.core.share import LATEST_ARRIVAL
from worker.flow.waiting import sleep_unless_stopping
from worker.ports import CallRate, Clock

GROWTH = 0.1
"""The part of the limit regained in each window without a 429."""

BURST_CALLS = 50
"""Up to this limit, calls go out as soon as it allows. Under a higher one, waiting calls go out evenly.

Waiting events collapse meanwhile: a department with many events at once then costs one call, not one each.
"""

EVEN_SPACING = 0.9
"""The distance of such calls, as a part of window / limit: below 1, so that each window can be used up."""


LONGEST_REST_SECONDS = 5.0
"""The longest rest after a 429 response for which calls wait here. In a longer one they are refused: messages
must not stay inside a call for minutes."""


SHORTEST_WAIT_SECONDS = 0.001
"""Timers are no finer. A wait of a rounding error might never end where only waits move the clock."""

NO_SHARE_AGAIN_SECONDS = 0.1
"""How often a call that waits looks again, while this worker has no share of the limit."""

NO_SHARE_PATIENCE_SECONDS = 15.0
"""How long a call waits for a share, longer than a newcomer's wait at the default limit. Then it is refused:
the ledger that tells the share may be gone."""


class Stopping(Exception):
    """The worker stops: no further call begins."""


class Resting(Exception):
    """After a 429 response the provider takes no call for another `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class NoShare(Exception):
    """The worker has no share of the rate limit now, or less than when it gave the slot."""


@dataclass(eq=False, slots=True)
class Slot:
    """One call's place under the limit. It is held until it is used or given back, without a time limit.

    `may_begin`: whether the limit still allows the call.
    """

    clock: Clock
    given_at: float
    latest_arrival_seconds: float
    may_begin: Callable[[], bool]
    sent_at: float | None = None
    _counted_by: float = 0.0

    @property
    def sent(self) -> bool:
        """Whether its call has begun."""
        return self.sent_at is not None

    def begin(self) -> None:
        """Marks the call as sent now. Raises `NoShare` if the limit has shrunk too far meanwhile.

        Raises `ValueError` for a second call: each needs a slot.
        """
        if self.sent:
            raise ValueError("a permit is for one call")
        if not self.may_begin():
            raise NoShare
        self.sent_at = self.clock.monotonic()
        self._counted_by = self.sent_at + self.latest_arrival_seconds

    def arrived(self) -> None:
        """Marks the call as counted by the provider: it arrived before its response."""
        self._counted_by = min(self._counted_by, self.clock.monotonic())

    def counted_by(self, now: float) -> float:
        """The latest time at which the provider counts the call; one that is not sent may be sent now."""
        return self._counted_by if self.sent else now + self.latest_arrival_seconds


class RateLimiter:
    """A sliding-window log of calls. Unlike a token bucket it never allows two limits in one window.

    The limit may change at any time. Once it has shrunk, the calls sent since then keep to the new limit, and
    with the earlier ones they keep to the old one, until those have left the window: nobody else sends on
    what was given up before that (see `worker/core/share.py`). Slots given before it shrank that are too many
    are void: their calls do not begin.
    """

    def __init__(self, limit: CallRate, clock: Clock, stopping: asyncio.Event) -> None:
        self._clock = clock
        self._limit = limit
        self._window = limit.window.total_seconds()
        self._latest_arrival = LATEST_ARRIVAL * self._window
        self._slowed: float | None = None
        self._slots: deque[Slot] = deque()
        self._spans: deque[tuple[float, int]] = deque()  # since when which limit holds, in this window
        self._latest_at = 0.0  # when the newest of them was given
        self._changed_at = 0.0
        self._closed_until = 0.0
        self._crowded_until = 0.0
        self._first = asyncio.Lock()
        self._stopping = stopping

    @property
    def allowed(self) -> int:
        """The present limit, in calls per window."""
        calls = self._limit.calls
        return calls if self._slowed is None else min(calls, int(self._slowed))

    @property
    def used(self) -> float:
        """The calls begun in the window that ends now, as a part of the limit; 0 without a share of it."""
        calls, now = self._limit.calls, self._clock.monotonic()
        return self._sent_lately(now) / calls if calls else 0.0

    async def slot(self) -> Slot:
        """Waits in order until one more call may be sent; raises `Stopping`, `Resting` or `NoShare`."""
        async with self._first:
            return await self.priority_slot()

    async def priority_slot(self) -> Slot:
        """Gets a slot ahead of all that wait; raises `Stopping`, `Resting` or `NoShare`."""
        share_by = self._clock.monotonic() + NO_SHARE_PATIENCE_SECONDS
        while (seconds := self._seconds_to_wait()) > 0:
            rest = self._closed_until - self._clock.monotonic()
            if rest > LONGEST_REST_SECONDS and not self._stopping.is_set():
                raise Resting(rest)
            if not self._limit.calls and self._clock.monotonic() >= share_by:
                raise NoShare
            await self._pass(max(seconds, SHORTEST_WAIT_SECONDS))
        if self._stopping.is_set():
            raise Stopping
        now = self._clock.monotonic()
        slot = Slot(self._clock, now, self._latest_arrival, self._may_begin)
        self._slots.append(slot)
        self._latest_at = now
        return slot

    def give_back(self, slot: Slot) -> None:
        """Returns an unused slot for the next call."""
        self._slots.remove(slot)
        self._latest_at = max((slot.given_at for slot in self._slots), default=0.0)

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """Halves the limit after a 429 response. In one window only the first one counts."""
        now = self._clock.monotonic()
        self._closed_until = max(self._closed_until, now + (retry_after_seconds or 0.0))
        calls = float(self._limit.calls)
        if calls and (self._slowed is None or now >= self._changed_at + self._window):
            self._slowed = max(1.0, min(calls, self._slowed or calls) / 2)
            self._changed_at = now

    def _may_begin(self) -> bool:
        """Whether the calls sent in the window that ends now leave room for one more."""
        now, calls = self._clock.monotonic(), self._limit.calls
        if calls and len(self._slots) <= calls:
            return True
        return calls > 0 and all(self._sent_lately(now, since) < most for since, most in self._most(now))

    def _sent_lately(self, now: float, since: float = 0.0) -> int:
        """The calls sent since then that count in the window that ends now."""
        sent = (slot for slot in self._slots if slot.sent_at is not None and slot.sent_at >= since)
        return sum(slot.counted_by(now) + self._window > now for slot in sent)

    def _sendable(self, since: float) -> Iterator[Slot]:
        """The slots whose calls were sent since then, or may be sent."""
        return (slot for slot in self._slots if slot.sent_at is None or slot.sent_at >= since)

    def _most(self, now: float) -> list[tuple[float, int]]:
        """The most calls that may be sent from a moment on until now, for each change of the limit."""
        calls = self._limit.calls
        if not self._spans or self._spans[-1][1] != calls:
            self._spans.append((now, calls))
        while len(self._spans) > 1 and self._spans[1][0] + self._latest_arrival + self._window <= now:
            self._spans.popleft()
        limits = [limit for _, limit in self._spans]
        sinces = [0.0, *(since for since, _ in islice(self._spans, 1, None))]
        return [(since, max(limits[number:])) for number, since in enumerate(sinces)]

    def _seconds_to_wait(self) -> float:
        now = self._clock.monotonic()
        self._grow_back(now)
        self._forget_expired(now)
        allowed = self.allowed
        if allowed < 1:
            return NO_SHARE_AGAIN_SECONDS
        free_at = self._closed_until
        for since, most in self._most(now):
            counted = self._slots if not since else deque(self._sendable(since))
            too_many = len(counted) - (most if self._slowed is None else min(most, allowed)) + 1
            if too_many > 0:
                leaving = islice(counted, too_many)  # roughly in the order of their counting
                free_at = max(free_at, max(slot.counted_by(now) for slot in leaving) + self._window)
                self._crowded_until = free_at + self._window
        return max(free_at, self._evenly(now)) - now

    def _forget_expired(self, now: float) -> None:
        for _ in range(len(self._slots)):
            oldest = self._slots[0]
            if oldest.counted_by(now) + self._window <= now:
                self._slots.popleft()
            elif not oldest.sent and oldest.given_at + self._window <= now:
                self._slots.rotate(-1)  # held for long: it must not keep the slots behind it
            else:
                return

    def _evenly(self, now: float) -> float:
        """When the next call may go, so that many calls do not use up a window at its beginning."""
        if now >= self._crowded_until or self.allowed <= BURST_CALLS or not self._slots:
            return now
        return self._latest_at + EVEN_SPACING * self._window / self.allowed

    def _grow_back(self, now: float) -> None:
        windows = (now - max(self._changed_at, self._closed_until)) // self._window
        calls = self._limit.calls
        if self._slowed is not None and calls and windows >= 1:
            self._slowed += windows * GROWTH * calls
            self._changed_at = now
            if self._slowed >= calls:
                self._slowed = None

    async def _pass(self, seconds: float) -> None:
        await sleep_unless_stopping(self._clock, seconds, self._stopping)
        if self._stopping.is_set():
            raise Stopping
