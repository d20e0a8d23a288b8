"""One command of an operator about dead letters: its ports, its selection, and how it reads the queue."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property

from worker.core.dead_letters import (
    DEFAULT_DELIVERY_LIMIT,
    AuditLine,
    Letter,
    Selection,
    audit_line,
    letter_of,
    may_be_lost,
    next_return_loses,
    replayed,
    unrouted_letter,
)
from worker.operations.dead_letters.batches import BATCH_LETTERS
from worker.pipeline.reading import Reading, glimpse, reading_of
from worker.ports import Audit, Browse, BrowsedLetter, Clock, DeadLetterQueue, Publisher, TooManyReturns

EVERYTHING = Selection()


@dataclass(frozen=True)
class Found:
    """A dead letter with its summary, `letter`."""

    held: BrowsedLetter
    letter: Letter

    @cached_property
    def reading(self) -> Reading:
        """The message as a worker reads it. Cached, since reading takes long."""
        return reading_of(self.held.original)


def read(held: BrowsedLetter) -> Found:
    """Summarizes a dead letter from its headers and its body."""
    original = held.original
    return Found(held, letter_of(original, glimpse(original.message)))


def read_unrouted(held: BrowsedLetter) -> Found:
    """Summarizes a message that no queue took, from its routing key and its body."""
    original = held.original
    return Found(held, unrouted_letter(original, glimpse(original.message)))


@dataclass(frozen=True)
class Session:
    """The ports and the selection of one command.

    `queue` is what it works on: the dead letters, or with `unrouted` the messages that no queue took.
    `dead_letters` is where a replayed message comes back to if it fails; None: that is `queue`.
    For the audit: `by` is the operator, `run` the id of this command, `asked` its filter or file as text.
    `assume_unlimited`: the operator says that the queue has no delivery limit.
    """

    queue: DeadLetterQueue
    publisher: Publisher
    audit: Audit
    clock: Clock
    by: str
    run: str
    asked: str = "all"
    selection: Selection = EVERYTHING
    assume_unlimited: bool = False
    unrouted: bool = False
    dead_letters: DeadLetterQueue | None = None

    def read(self, held: BrowsedLetter) -> Found:
        """Summarizes a message of the queue."""
        return read_unrouted(held) if self.unrouted else read(held)

    @asynccontextmanager
    async def browsing(self) -> AsyncIterator["SelectiveBrowse"]:
        """Holds the queue for the time of the block; raises `QueueTaken`."""
        async with self.queue.browse() as browse:
            yield SelectiveBrowse(self, browse)

    def selects(self, letter: Letter) -> bool:
        """Whether the selection takes a letter. Letters that this command replayed are left out."""
        return self.selection.takes(letter) and not (letter.replay_id or "").startswith(f"{self.run}-")

    async def record(self, action: str, outcomes: Sequence[tuple[Letter, str]]) -> None:
        """Appends the outcome of each letter to the audit, in one transaction."""
        await self.audit.append([self._line(action, letter, outcome) for letter, outcome in outcomes])

    def _line(self, action: str, letter: Letter, outcome: str) -> AuditLine:
        return audit_line(
            letter,
            outcome,
            at=self.clock.now(),
            by=self.by,
            action=action,
            run=self.run,
            selection=self.asked,
        )


@dataclass
class SelectiveBrowse:
    """One pass over the queue, filtered by the session's selection. `seen` counts every letter read."""

    session: Session
    browse: Browse
    seen: int = 0

    async def batches(self, most: int = BATCH_LETTERS) -> AsyncIterator[Sequence[Found]]:
        """Yields the selected letters in the batches of the queue; a batch may be empty.

        Finish with a batch before you ask for the next. Raises `TooManyReturns`.
        """
        async for batch in self.browse.batches(most):
            if not self.seen:
                await self._guard_delivery_limit(batch[0])
            self.seen += len(batch)
            yield [found for found in map(self.session.read, batch) if self.session.selects(found.letter)]

    async def remove(self, batch: Sequence[Found]) -> None:
        """Removes letters of the latest batch from the queue."""
        await self.browse.remove([found.held for found in batch])

    async def _guard_delivery_limit(self, oldest: BrowsedLetter) -> None:
        """Raises `TooManyReturns` if one more return to the queue could make RabbitMQ drop the letter.

        The oldest letter is held alone at that moment, so nothing else is returned with it.
        """
        session, returns = self.session, oldest.returns
        if not may_be_lost(self.browse.broker, returns) or session.assume_unlimited:
            return
        if await session.queue.is_unlimited():
            return
        if next_return_loses(self.browse.broker, returns):
            await self._requeue(oldest)
        raise TooManyReturns(
            f"the oldest dead letter was given back {returns} times, and beyond {DEFAULT_DELIVERY_LIMIT}"
            " RabbitMQ 4 drops it unless the queue has x-delivery-limit -1: run `provisioner topology check`"
            " as a user who may configure it, and give --no-delivery-limit if it is ok"
        )

    async def _requeue(self, oldest: BrowsedLetter) -> None:
        """Sends the letter to work, since a return would lose it. The worker dead-letters it again."""
        letter = self.session.read(oldest).letter
        session = self.session
        await session.publisher.publish(replayed(oldest.original, f"{session.run}-0", session.by))
        await session.record("rescue", [(letter, "sent to work, lest it is lost")])
        await self.browse.remove([oldest])
