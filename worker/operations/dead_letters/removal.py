"""Removes dead letters from their queue, after their outcome was recorded in the audit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from worker.flow.waiting import sleep_unless_stopping
from worker.operations.dead_letters.batches import LetterRate
from worker.operations.dead_letters.session import Found, SelectiveBrowse, Session
from worker.ports import UserError

PASS_SECONDS = 10.0
"""How long a rate-limited removal holds the queue in one pass."""
OTHERS_TURN_SECONDS = 0.5
"""How long a rate-limited removal leaves the queue to others between two passes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The recorded letters of a batch, which may go; `failure` is the reason the others may not."""

    going: Sequence[Found]
    failure: UserError | None = None


@dataclass
class Remover:
    """Removes the selected letters, batch by batch. `prepare` returns the letters of a batch that may go.

    `stopping` ends it between two batches; `on_progress` gets the number removed from each. `gone` counts the
    letters removed, `seen` those read in the latest pass.
    """

    session: Session
    prepare: Callable[[Sequence[Found]], Awaitable[Batch]]
    rate: LetterRate
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[int], None] = lambda _: None
    gone: int = 0
    seen: int = 0

    async def remove(self, most: int | None) -> None:
        """Removes up to `most` letters: fewer if there are no more, or if it was stopped.

        Raises the failure of a batch, once the other letters of the batch are gone.
        """
        while True:
            await self.rate.wait(self.stopping)
            if self.stopping.is_set() or await self._pass(most):
                return
            await sleep_unless_stopping(self.session.clock, OTHERS_TURN_SECONDS, self.stopping)

    async def _pass(self, most: int | None) -> bool:
        """Reads the queue once; returns whether nothing is left to do."""
        begun_at = self.session.clock.monotonic()
        async with self.session.browsing() as browse:
            async for batch in browse.batches(self.rate.batch_letters):
                self.seen = browse.seen
                if going := batch if most is None else batch[: most - self.gone]:
                    await self._remove(browse, going)
                if self.stopping.is_set() or 0 < self.gone == most:
                    return True
                if going and self._is_over(begun_at):
                    return False
        return True

    async def _remove(self, browse: SelectiveBrowse, letters: Sequence[Found]) -> None:
        """Removes one batch as soon as the rate allows, unless it is stopped meanwhile."""
        await self.rate.wait(self.stopping)
        if self.stopping.is_set():
            return
        self.rate.begin(len(letters))
        batch = await self.prepare(letters)
        await browse.remove(batch.going)
        self.gone += len(batch.going)
        self.on_progress(len(batch.going))
        if batch.failure is not None:
            raise batch.failure

    def _is_over(self, begun_at: float) -> bool:
        """Whether the pass has used up `PASS_SECONDS`, or will have when the next batch may begin."""
        if self.rate.per_second is None:
            return False
        return self.session.clock.monotonic() + self.rate.wait_seconds - begun_at > PASS_SECONDS


def discarding(session: Session, stopping: asyncio.Event, on_progress: Callable[[int], None]) -> Remover:
    """A remover that discards the selected letters and records each in the audit."""

    async def prepare(letters: Sequence[Found]) -> Batch:
        await session.record("discard", [(found.letter, "discarded") for found in letters])
        return Batch(letters)

    return Remover(session, prepare, LetterRate(session.clock), stopping, on_progress)
