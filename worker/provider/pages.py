"""Reads single pages of the provider's lists, with retries: else a long list could hardly be read."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from worker.core.judge import Pause, RetryPolicy, RetryState, Wait, classify, judge
from worker.flow.waiting import sleep_unless_stopping
from worker.ports import CallFailed, Clock

MAX_PAGE_TRIES = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageReader:
    """Reads pages. Once `stopping` is set, it does not retry one any more."""

    clock: Clock
    stopping: asyncio.Event

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Makes the call for a page, and repeats it while that may help. Raises its last `CallFailed`."""
        tries = 0
        while True:
            tries += 1
            try:
                return await read()
            except CallFailed as failed:
                state = RetryState(tries=tries, pauses=tries - 1)
                verdict = judge(classify(failed.fault), state, RetryPolicy(), self.clock.jitter())
                enough = failed.fault.outage or tries == MAX_PAGE_TRIES or self.stopping.is_set()
                if enough or not isinstance(verdict, Wait | Pause):
                    raise
            await sleep_unless_stopping(self.clock, verdict.seconds, self.stopping)
