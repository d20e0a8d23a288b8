"""A worker's process as the world sees it: while it lives it has effects, afterwards none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tests.simulation.chance import Chance
from tests.simulation.virtual_time import OWNER, Tasks

T = TypeVar("T")


class ProcessDead(BaseException):
    """Raised to whatever of a dead process still wants to do something: not even cleaning up has effects."""


class Process:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: Tasks = []
        self.alive = True
        self.leaving = False
        self.leave: Callable[[], Awaitable[None]] | None = None
        self.at_death: list[Callable[[], None]] = []

    def begin(self, main: Any) -> "asyncio.Task[Any]":
        """Runs a coroutine as this process's: what it begins is the process's too."""
        return self.within(lambda: self._loop.create_task(main))

    def within(self, call: Callable[[], T]) -> T:
        """A call from outside into the process: a delivery that arrives, say."""
        token = OWNER.set(self._tasks)
        try:
            return call()
        finally:
            OWNER.reset(token)

    def check(self) -> None:
        if not self.alive:
            raise ProcessDead

    def endanger(self, fault: str, chance: Chance) -> None:
        """Where the fault strikes, it dies within the time a call takes."""
        if chance.strikes(fault):
            self._loop.call_later(chance.seconds(0.0, 4 * chance.latency()), self.die)

    def die(self) -> None:
        """At once and wherever it is. What left it before goes its way."""
        if not self.alive:
            return
        self.alive = False
        for leave in self.at_death:
            leave()
        for task in self._tasks:
            task.cancel()
