"""Where deliveries wait for their next try, and other waits that a stop cuts short."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from worker.ports import Clock


async def pause(clock: Clock, seconds: float, stopping: asyncio.Event) -> None:
    """Sleeps so long, or until told to stop."""
    waits = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Waited(Enum):
    """How a wait ended."""

    TO_THE_END = auto()
    NO_ROOM = auto()
    """Too much waits: this one had the longest to go, and is to make room."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    until: float
    messages: Callable[[], int]
    paused: bool
    stays: bool
    ended: "asyncio.Future[Waited]"


@dataclass
class WaitingRoom:
    """Has room for so many messages. What is filed behind one that waits, waits with it, and counts.

    A pause is for what is nobody's fault here. In a trouble of `everybodys` all wait for the same, which is
    no reason to move messages: pauses do not count then.
    """

    clock: Clock
    room: int
    everybodys: set[str] = field(default_factory=set)
    _waiters: set[_Waiter] = field(default_factory=set)
    _closed: bool = False

    @classmethod
    def for_half_of(cls, prefetch: int, clock: Clock) -> "WaitingRoom":
        """So that the other half flows; one may always wait, or it would be parked uncounted for ever."""
        return cls(clock, max(1, prefetch // 2))

    def __len__(self) -> int:
        """Messages that wait."""
        return sum(waiter.messages() for waiter in self._waiters)

    async def wait(
        self, seconds: float, messages: Callable[[], int], *, paused: bool, stays: bool = False
    ) -> Waited:
        """Waits, but not through the end of the worker. One that `stays` cannot leave, and takes no room."""
        if self._closed:
            return Waited.TO_THE_END
        ended: asyncio.Future[Waited] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(self.clock.monotonic() + seconds, messages, paused, stays, ended)
        self._waiters.add(waiter)
        sleep = asyncio.ensure_future(self.clock.sleep(seconds))
        sleep.add_done_callback(lambda _sleep: _end(waiter, Waited.TO_THE_END))
        try:
            self.make_room()
            return await ended
        finally:
            sleep.cancel()
            self._waiters.discard(waiter)

    def make_room(self) -> None:
        """Ends the longest waits while too much waits."""
        leaving = sorted((one for one in self._waiters if self._may_leave(one)), key=lambda one: one.until)
        waiting = sum(one.messages() for one in leaving)
        while leaving and waiting > self.room:
            longest = leaving.pop()
            waiting -= longest.messages()
            _end(longest, Waited.NO_ROOM)

    def _may_leave(self, waiter: _Waiter) -> bool:
        return not (waiter.stays or waiter.ended.done() or (waiter.paused and self.everybodys))

    def end_pauses(self) -> None:
        """What they were for may be over."""
        for waiter in self._waiters:
            if waiter.paused:
                _end(waiter, Waited.TO_THE_END)

    def close(self) -> None:
        """Ends all waits, now and later."""
        self._closed = True
        for waiter in self._waiters:
            _end(waiter, Waited.TO_THE_END)


def _end(waiter: _Waiter, how: Waited) -> None:
    if not waiter.ended.done():
        waiter.ended.set_result(how)
