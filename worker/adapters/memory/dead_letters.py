"""The dead-letter queue and the audit in memory. They pass the same conformance suites as the real ones."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from contracts.topology import DEAD_LETTER_QUEUE, BrokerVersion
from worker.adapters.memory.broker import MemoryBroker
from worker.core.dead_letters import AuditLine
from worker.core.messages import Outgoing
from worker.core.model.departments import Department
from worker.ports import BrowsedLetter, Delivery, QueueTaken

UNLIMITED = 2**31


class MemoryAudit:
    """The `Audit` port, perhaps on the lines that a ledger in memory writes too."""

    def __init__(self, lines: list[AuditLine] | None = None) -> None:
        self._lines = [] if lines is None else lines

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """See `Audit.append`."""
        self._lines.extend(lines)

    async def lines(
        self,
        since: datetime | None = None,
        by: str | None = None,
        id_: str | None = None,
        department: Department | None = None,
    ) -> Sequence[AuditLine]:
        """See `Audit.lines`."""
        return [
            line
            for line in self._lines
            if (since is None or line.at >= since)
            and by in {None, line.by}
            and id_ in {None, line.event_id, line.letter}
            and department in {None, (line.tenant, line.department_id)}
        ]


@dataclass(frozen=True)
class MemoryLetter:
    """A dead letter held while the queue is browsed."""

    delivery: Delivery

    @property
    def original(self) -> Outgoing:
        """See `BrowsedLetter.original`."""
        return self.delivery.original

    @property
    def returns(self) -> int:
        """See `BrowsedLetter.returns`."""
        return int(self.original.message.headers.get("x-delivery-count", 0))


class MemoryBrowse:
    """The `Browse` port; it consumes the whole queue."""

    def __init__(self, queue: MemoryBroker, name: str, broker: BrokerVersion, stack: AsyncExitStack) -> None:
        self.broker = broker
        self._queue = queue
        self._name = name
        self._stack = stack
        self._arrived: deque[MemoryLetter] = deque()

    async def batches(self, most: int) -> AsyncIterator[Sequence[BrowsedLetter]]:
        """See `Browse.batches`."""
        for prefetch in (1, UNLIMITED):
            consumer = self._queue.consumer(self._name, prefetch, self._file)
            await self._stack.enter_async_context(consumer)
            await asyncio.sleep(0)
            while self._arrived:
                yield [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]
                await asyncio.sleep(0)
                if prefetch == 1:
                    break

    async def remove(self, letters: Sequence[BrowsedLetter]) -> None:
        """See `Browse.remove`."""
        for letter in letters:
            assert isinstance(letter, MemoryLetter)  # noqa: S101 - a letter of another adapter is a bug
            await letter.delivery.ack()

    def _file(self, delivery: Delivery) -> None:
        self._arrived.append(MemoryLetter(delivery))


class MemoryDeadLetters:
    """The `DeadLetterQueue` port on a `MemoryBroker`, which claims to be the version `broker` of RabbitMQ."""

    def __init__(
        self,
        queue: MemoryBroker,
        broker: BrokerVersion,
        *,
        unlimited: bool = True,
        name: str = DEAD_LETTER_QUEUE,
    ) -> None:
        self._queue = queue
        self._name = name
        self._broker = broker
        self._unlimited = unlimited
        self._taken = False

    async def is_unlimited(self) -> bool:
        """See `DeadLetterQueue.is_unlimited`."""
        return self._unlimited

    @asynccontextmanager
    async def browse(self, *, waits: bool = True) -> AsyncIterator[MemoryBrowse]:  # noqa: ARG002
        """See `DeadLetterQueue.browse`."""
        if self._taken:
            raise QueueTaken("another consumer is reading the dead letters; try again in a moment")
        self._taken = True
        try:
            async with AsyncExitStack() as stack:
                yield MemoryBrowse(self._queue, self._name, self._broker, stack)
        finally:
            self._taken = False
