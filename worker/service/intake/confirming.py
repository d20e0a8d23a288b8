"""Publishes what a request brought, and waits for RabbitMQ's confirms as long as a sender would wait."""

import asyncio
from collections.abc import Sequence

from worker.core.messages import Outgoing
from worker.ports import Clock, Problems, Publisher, PublishFailed

CONFIRM_SECONDS = 2.0
"""The tightest senders wait 3 seconds for a response."""
MAX_UNCONFIRMED = 5_000
"""Messages that wait for a confirm. Those that a sender no longer waits for count too."""
DOUBT_SECONDS = 5.0
"""For how long the intake is not ready after a publish that failed, unless another one was confirmed."""


class NotConfirmed(Exception):
    """RabbitMQ has not confirmed all messages of a request. Some of them may be in their queues."""


class Saturated(Exception):
    """So many messages wait for a confirm that no more are published."""


class Confirming:
    """Publishes with confirms. Its `problems` tell whether RabbitMQ confirms at the moment.

    A publish goes on when its sender has left or no longer waits: the confirm is then the sign that RabbitMQ
    has recovered.
    """

    def __init__(
        self,
        publisher: Publisher,
        publisher_problems: Problems,
        clock: Clock,
        seconds: float = CONFIRM_SECONDS,
    ) -> None:
        self._publisher = publisher
        self._publisher_problems = publisher_problems
        self._clock = clock
        self._seconds = seconds
        self._unconfirmed: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._failed: tuple[float, str] | None = None

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Returns once all messages are confirmed; raises `NotConfirmed` or `Saturated`."""
        if not messages:
            return
        if problems := await self._publisher_problems():
            raise NotConfirmed(problems[0])
        if len(self._unconfirmed) + len(messages) > MAX_UNCONFIRMED:
            raise Saturated
        tasks = [asyncio.create_task(self._publish(message)) for message in messages]
        self._unconfirmed.update(tasks)
        for task in tasks:
            task.add_done_callback(self._unconfirmed.discard)
        _, late = await asyncio.wait(tasks, timeout=self._seconds)
        if late:
            self._late |= late
            for task in late:
                task.add_done_callback(self._arrived_late)
            raise NotConfirmed(f"no confirm within {self._seconds:g} s")
        failures = [error for task in tasks if (error := task.exception())]
        for error in failures:
            if isinstance(error, PublishFailed):
                raise NotConfirmed(str(error)) from None
            raise error

    async def problems(self) -> list[str]:
        """One line for each reason why RabbitMQ would not confirm now. Empty when it does."""
        if problems := await self._publisher_problems():
            return problems
        if self._late:
            return [f"RabbitMQ has not confirmed a message for over {self._seconds:g} s"]
        if self._failed is not None and self._clock.monotonic() < self._failed[0] + DOUBT_SECONDS:
            return [f"RabbitMQ did not confirm the last message: {self._failed[1]}"]
        return []

    async def _publish(self, message: Outgoing) -> None:
        """Raises `PublishFailed`."""
        try:
            await self._publisher.publish(message)
        except PublishFailed as error:
            self._failed = self._clock.monotonic(), str(error)
            raise
        self._failed = None

    def _arrived_late(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # it is read, so that Python does not complain
