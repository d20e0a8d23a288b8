"""An event loop whose time is made up: it never sleeps, but jumps to the next timer.

What runs in it must not do IO. Callbacks run first in, first out as in asyncio's own loops; what disorder
there is comes from the delays the simulated world draws.
"""

import asyncio
import heapq
from asyncio import base_events
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from itertools import count
from typing import Any

Tasks = list["asyncio.Task[Any]"]

OWNER: ContextVar[Tasks | None] = ContextVar("owner", default=None)
"""Whose task a new one is: tasks begun by a task have its owner."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class VirtualLoop(base_events.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self.unhandled: list[str] = []
        self.set_exception_handler(lambda _loop, context: self.unhandled.append(_told(context)))

    def time(self) -> float:
        return self._virtual_now

    def create_task(self, coro: Coroutine[Any, Any, Any], **named: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, **named)
        if (tasks := OWNER.get()) is not None:
            tasks.append(task)
        return task

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self._virtual_now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        """Of two timers for one moment the first set runs first: what is sent in order arrives in order."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and not ready:
            self._virtual_now = max(self._virtual_now, timers[0][0])
            while timers and timers[0][0] <= self._virtual_now:
                timer = heapq.heappop(timers)[2]
                if not timer._cancelled:
                    ready.append(timer)
        if not ready:
            raise Stuck

    def _process_events(self, event_list: Any) -> None:
        """There are none: nothing does IO."""

    def _write_to_self(self) -> None:
        """There are no other threads to wake the loop for."""


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
