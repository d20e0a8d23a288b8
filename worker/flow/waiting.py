"""The waiting room: deliveries wait here for their next try without delaying others.

Each waiting delivery takes a place in the prefetch. If all places were taken, nothing would be delivered. So
the longest waits are evicted, and their messages parked in the broker.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from worker.ports import Clock


async def sleep_unless_stopping(clock: Clock, seconds: float, stopping: asyncio.Event) -> None:
    """Sleeps for `seconds`, or until `stopping` is set."""
    waits = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class WaitOutcome(Enum):
    """How a wait ended."""

    ELAPSED = auto()
    """Its time is over. It is cut short if the cause may be over, or if the worker stops."""

    EVICTED = auto()
    """The room was full and this wait had the longest to go."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    until: float
    messages: Callable[[], int]
    paused: bool
    evictable: bool
    ended: "asyncio.Future[WaitOutcome]"


@dataclass
class WaitingRoom:
    """Holds the waits of a limited number of messages.

    A waiter counts as all the messages in its lane, since those behind it wait too. A pause is a wait for the
    end of a fault that is not the message's own. During a global outage all pauses wait for the same event
    and parking some would not help, so pauses take no room then and are not evicted.
    """

    clock: Clock
    room: int
    """The limit, in messages."""
    global_outages: set[str] = field(default_factory=set)
    """The names of the outages that affect all messages."""
    _waiters: dict[_Waiter, None] = field(default_factory=dict)
    """In the order of their arrival, in which an outage's end wakes them."""
    _closed: bool = False

    @classmethod
    def for_half_of(cls, prefetch: int, clock: Clock) -> "WaitingRoom":
        """A room for half of the prefetch, so that the other half keeps flowing.

        It has room for at least one message: else each would be parked uncounted for ever.
        """
        return cls(clock, max(1, prefetch // 2))

    def __len__(self) -> int:
        """The number of messages that wait."""
        return sum(waiter.messages() for waiter in self._waiters)

    @property
    def lanes(self) -> int:
        """The number of waits: each is that of one lane."""
        return len(self._waiters)

    async def wait(
        self, seconds: float, messages: Callable[[], int], *, paused: bool, evictable: bool = True
    ) -> WaitOutcome:
        """Waits for `seconds`; returns at once after `close`.

        `messages` returns the number of messages in the lane. A wait that is not `evictable` takes no room.
        """
        if self._closed:
            return WaitOutcome.ELAPSED
        ended: asyncio.Future[WaitOutcome] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(self.clock.monotonic() + seconds, messages, paused, evictable, ended)
        self._waiters[waiter] = None
        sleep = asyncio.ensure_future(self.clock.sleep(seconds))
        sleep.add_done_callback(lambda _sleep: _end(waiter, WaitOutcome.ELAPSED))
        try:
            self.make_room()
            return await ended
        finally:
            sleep.cancel()
            del self._waiters[waiter]

    def make_room(self) -> None:
        """Evicts the longest waits until the others fit. Call it when a lane has grown."""
        evictable = sorted((one for one in self._waiters if self._may_evict(one)), key=lambda one: one.until)
        waiting = sum(one.messages() for one in evictable)
        while evictable and waiting > self.room:
            longest = evictable.pop()
            waiting -= longest.messages()
            _end(longest, WaitOutcome.EVICTED)

    def _may_evict(self, waiter: _Waiter) -> bool:
        outlasts_outage = waiter.paused and bool(self.global_outages)
        return waiter.evictable and not waiter.ended.done() and not outlasts_outage

    def end_pauses(self) -> None:
        """Ends all pauses: their cause may be over."""
        for waiter in self._waiters:
            if waiter.paused:
                _end(waiter, WaitOutcome.ELAPSED)

    def close(self) -> None:
        """Ends all waits, now and later."""
        self._closed = True
        for waiter in self._waiters:
            _end(waiter, WaitOutcome.ELAPSED)


def _end(waiter: _Waiter, outcome: WaitOutcome) -> None:
    if not waiter.ended.done():
        waiter.ended.set_result(outcome)
