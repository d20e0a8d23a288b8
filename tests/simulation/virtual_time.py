"""An event loop with virtual time: it never sleeps, but jumps to the next timer.

Code in this loop must not do IO. Callbacks run first in, first out, as in asyncio's own loops; the order
varies only by the delays that the simulation draws.
"""

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Tasks = list["asyncio.Task[Any]"]

OWNER: ContextVar[Tasks | None] = ContextVar("owner", default=None)
"""The list that a new task is added to; a task inherits it from the task that starts it."""


class NothingScheduled(Exception):
    """Nothing is ready and no timer is set, so nothing will ever happen again."""


class Call:
    """A minimal asyncio handle, for speed: half of a run is the loop's own work."""

    __slots__ = ("args", "callback", "cancelled", "context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualLoop(base_events.BaseEventLoop):
    """`unhandled` has what asyncio reported to the loop's exception handler."""

    _ready: deque[Call]  # set by the base class, which does not declare it

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = count()
        self.unhandled: list[str] = []
        self.set_exception_handler(lambda _loop, context: self.unhandled.append(_told(context)))

    def time(self) -> float:
        return self._virtual_now

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **named: Any
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(coro, loop=self, **named)
        if (tasks := OWNER.get()) is not None:
            tasks.append(task)
        return task

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> Any:
        call = Call(callback, args, context or copy_context())
        self._ready.append(call)
        return call

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        return self.call_at(self._virtual_now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        """Timers for the same moment run in the order they were set in, so messages keep their order."""
        call = Call(callback, args, context or copy_context())
        heapq.heappush(self._timers, (when, next(self._numbers), call))
        return call

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            call = ready.popleft()
            if call.cancelled:
                continue
            try:
                call.context.run(call.callback, *call.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - asyncio's own loops tell of it and go on, too
                self.call_exception_handler({"message": f"in {call.callback}", "exception": error})

    def _jump(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and not ready:
            self._virtual_now = max(self._virtual_now, timers[0][0])
            while timers and timers[0][0] <= self._virtual_now:
                call = heapq.heappop(timers)[2]
                if not call.cancelled:
                    ready.append(call)
        if not ready:
            raise NothingScheduled

    def _process_events(self, event_list: Any) -> None:
        """Does nothing: there is no IO."""

    def _write_to_self(self) -> None:
        """Does nothing: no other thread wakes the loop."""


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
