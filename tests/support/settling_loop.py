"""An event loop that knows when nothing is left to run.

asyncio lets its selector wait only while no callback is ready; otherwise it polls with a timeout of zero. So
the selector, a public argument of `asyncio.SelectorEventLoop`, sees the moment when nothing can happen
without IO or the passing of time. `settled` waits for that moment, so no test counts loop iterations.
"""

import asyncio
import selectors
from typing import Any

MAX_TURNS = 10_000


class NeverSettles(AssertionError):
    """A task runs again and again without waiting."""


class _IdleSelector(selectors.DefaultSelector):
    """Resolves the futures in `waiting` when the loop would go to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] = []
        self._turns = 0

    def select(self, timeout: float | None = None) -> Any:
        if not self.waiting:
            return super().select(timeout)
        self._turns += 1
        events = super().select(0)
        if not events and (timeout is None or timeout > 0):
            self._resolve()
        elif self._turns > MAX_TURNS:
            self._resolve(
                NeverSettles(f"after {MAX_TURNS} turns of the loop there is still something to run")
            )
        return events

    def _resolve(self, error: Exception | None = None) -> None:
        waiting, self.waiting, self._turns = self.waiting, [], 0
        for future in waiting:
            if future.done():
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(None)


class SettlingLoop(asyncio.SelectorEventLoop):
    """The loop of every asynchronous test."""

    def __init__(self) -> None:
        self._idle_selector = _IdleSelector()
        super().__init__(self._idle_selector)

    async def settled(self) -> None:
        idle = self.create_future()
        self._idle_selector.waiting.append(idle)
        await idle


async def settled() -> None:
    """Returns once nothing more happens without the passing of time or input from outside.

    Work in another thread counts as outside. Raises `NeverSettles` if there is always something to run.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SettlingLoop), "only the loop that tests/conftest.py gives to tests can tell"
    await loop.settled()
