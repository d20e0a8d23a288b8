"""Poison-message quarantine: a message that may have killed its workers is worked on alone.

A worker that dies leaves only the broker's delivery count, and that grows for every message prefetched with
the poison message. So a message that was delivered often is marked in the ledger, worked on alone, and
unmarked. A mark that was never cleared means that a worker died while it worked on the message. A worker that
lives, but could not clear its mark because the ledger was away, clears it before it works again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from contracts.subaccounts import DeadReason
from worker.core import messages
from worker.core.judge import Permanent
from worker.flow.exclusive import SharedExclusiveLock
from worker.flow.ledger_watch import LedgerWatch
from worker.pipeline.line import Result
from worker.pipeline.work import Work
from worker.ports import PoisonMarks

QUARANTINE_AFTER_DELIVERIES = 20
"""The message is not given up at this count: lost connections count too, and are not its fault."""

MAX_CRASHES = 3


@dataclass
class Survived:
    """The digests of messages that this worker has survived, until their marks are cleared."""

    marks: PoisonMarks
    messages: set[str] = field(default_factory=set)

    async def clear(self) -> None:
        """Clears the marks. Raises `LedgerFailed`; the rest is then left for the next time."""
        for message in list(self.messages):
            await self.marks.clear_poison(message)
            self.messages.discard(message)


@dataclass
class Quarantine:
    """Runs tries in parallel, and those of a suspected message alone."""

    marks: PoisonMarks
    survived: Survived
    ledger_watch: LedgerWatch
    lock: SharedExclusiveLock = field(default_factory=SharedExclusiveLock)

    async def admit(self, work: Work, attempt: Callable[[Work], Awaitable[Result]]) -> Result:
        """The result of `attempt`, or a dead letter `delivery-limit`. Raises `LedgerFailed`."""
        if messages.deliveries_of(work.delivery.original) < QUARANTINE_AFTER_DELIVERIES:
            return await self.lock.shared(partial(attempt, work))
        async with self.lock.exclusive():
            return await self._alone(messages.message_digest(work.delivery.original), work, attempt)

    async def _alone(self, message: str, work: Work, attempt: Callable[[Work], Awaitable[Result]]) -> Result:
        self.ledger_watch.check()
        await self.survived.clear()
        if await self.marks.mark_poison(message) > MAX_CRASHES:
            why = f"{MAX_CRASHES} workers ended while they worked on it alone"
            result: Result = Permanent(DeadReason.DELIVERY_LIMIT, why)
        else:
            result = await attempt(work)
        self.survived.messages.add(message)
        await self.survived.clear()
        return result
