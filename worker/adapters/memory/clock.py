"""A clock in memory, moved by hand. It passes the clock's conformance suite."""

import asyncio
from datetime import datetime, timedelta


class MemoryClock:
    """The `Clock` port on virtual time: only `advance` moves it.

    `naps` lists the seconds of each sleep; `next_jitter` is the value that `jitter` returns.
    """

    def __init__(self, start: datetime, jitter: float = 0.5) -> None:
        self.next_jitter = jitter
        self.naps: list[float] = []
        self._now = start
        self._asleep: dict[asyncio.Future[None], datetime] = {}
        self._fell_asleep = asyncio.Event()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._now

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._now.timestamp()

    def jitter(self) -> float:
        """See `Clock.jitter`."""
        return self.next_jitter

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self.naps.append(seconds)
        waking = asyncio.get_running_loop().create_future()
        self._asleep[waking] = self._now + timedelta(seconds=seconds)
        self._fell_asleep.set()
        try:
            self.advance(0)
            await waking
        finally:
            self._asleep.pop(waking, None)

    def advance(self, seconds: float) -> None:
        """Moves time on and wakes the sleepers that are due, the earliest first."""
        self._now += timedelta(seconds=seconds)
        for waking, due in sorted(self._asleep.items(), key=lambda sleeper: sleeper[1]):
            if due <= self._now and not waking.done():
                del self._asleep[waking]
                waking.set_result(None)

    @property
    def sleepers(self) -> int:
        """The number of tasks that sleep."""
        return len(self._asleep)

    def seconds_to_next(self) -> float:
        """Seconds until the first sleeper is due; raises `ValueError` without sleepers."""
        return (min(self._asleep.values()) - self._now).total_seconds()

    async def asleep(self, sleepers: int = 1) -> None:
        """Returns once at least `sleepers` tasks sleep."""
        while len(self._asleep) < sleepers:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()
