"""A simulated worker process: it has effects while it lives and none afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tests.simulation.chance import Chance
from tests.simulation.virtual_time import OWNER, Tasks

T = TypeVar("T")


class ProcessDead(BaseException):
    """Raised in tasks of a dead process that use a port, so that not even cleanup has effects."""


class Process:
    """One worker process and its tasks. `at_death` callbacks run when it dies.

    `left_for_good`: no other one takes its place.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int = 1) -> None:
        self._loop = loop
        self.number = number
        self._tasks: Tasks = []
        self.alive = True
        self.leaving = False
        self.left_for_good = False
        self.leave: Callable[[], Awaitable[None]] | None = None
        self.at_death: list[Callable[[], None]] = []

    def begin(self, main: Any) -> "asyncio.Task[Any]":
        """Runs a coroutine in this process; tasks that it starts belong to the process too."""
        return self.within(lambda: self._loop.create_task(main))

    def within(self, call: Callable[[], T]) -> T:
        """Runs a call from outside within the process, such as the arrival of a delivery."""
        token = OWNER.set(self._tasks)
        try:
            return call()
        finally:
            OWNER.reset(token)

    def check(self) -> None:
        if not self.alive:
            raise ProcessDead

    def endanger(self, fault: str, chance: Chance) -> None:
        """If the fault strikes, the process dies within about the time of a call."""
        if chance.strikes(fault):
            self._loop.call_later(chance.seconds(0.0, 4 * chance.latency()), self.die)

    def die(self) -> None:
        """Ends the process at once, at any point. Calls and messages already sent continue."""
        if not self.alive:
            return
        self.alive = False
        for leave in self.at_death:
            leave()
        for task in self._tasks:
            task.cancel()
