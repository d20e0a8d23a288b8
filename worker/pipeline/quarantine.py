"""Poison-message quarantine: a message that may have killed its workers is worked on alone.

A worker that dies leaves only the broker's delivery count, and that grows for every message prefetched with
the poison message. So a message that was delivered often is marked in the ledger, worked on alone, and
unmarked. A mark that was never cleared means that a worker died while it worked on the message.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

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
class Quarantine:
    """Runs tries in parallel, and those of a suspected message alone."""

    marks: PoisonMarks
    ledger_watch: LedgerWatch
    lock: SharedExclusiveLock = field(default_factory=SharedExclusiveLock)
    _crashes: dict[str, int] = field(default_factory=dict)
    """Marks by message digest, until they are cleared: while this worker lives, it marks a message once."""

    async def admit(self, work: Work, attempt: Callable[[Work], Awaitable[Result]]) -> Result:
        """The result of `attempt`, or a dead letter `delivery-limit`. Raises `LedgerFailed`."""
        if messages.deliveries_of(work.delivery.original) < QUARANTINE_AFTER_DELIVERIES:
            async with self.lock.shared():
                return await attempt(work)
        async with self.lock.exclusive():
            return await self._alone(messages.message_digest(work.delivery.original), work, attempt)

    async def _alone(self, message: str, work: Work, attempt: Callable[[Work], Awaitable[Result]]) -> Result:
        self.ledger_watch.check()
        if message not in self._crashes:
            self._crashes[message] = await self.marks.mark_poison(message)
        if self._crashes[message] > MAX_CRASHES:
            why = f"{MAX_CRASHES} workers ended while they worked on it alone"
            result: Result = Permanent(DeadReason.DELIVERY_LIMIT, why)
        else:
            result = await attempt(work)
        await self.marks.clear_poison(message)
        del self._crashes[message]
        return result
