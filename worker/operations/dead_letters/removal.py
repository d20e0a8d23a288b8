"""Taking dead letters off their queue, once what becomes of them is settled and on record."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from worker.flow.waiting import sleep_unless_stopping
from worker.operations.dead_letters.batches import LetterRate
from worker.operations.dead_letters.session import Found, SelectiveBrowse, Session
from worker.ports import UserError

PASS_SECONDS = 10.0
"""How long a rate-limited removal holds the queue before others get their turn."""
OTHERS_TURN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """The letters of a batch that may go, being on record; `failure` is why the others may not."""

    going: Sequence[Found]
    failure: UserError | None = None


@dataclass
class Remover:
    """Removes the selected letters, batch by batch. `prepare` says of each batch which letters may go.

    `stopping` ends it between two batches; `on_progress` is called with how many went in each. `gone` counts
    those removed, `seen` the letters read in the newest pass.
    """

    session: Session
    prepare: Callable[[Sequence[Found]], Awaitable[Batch]]
    rate: LetterRate
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[int], None] = lambda _: None
    gone: int = 0
    seen: int = 0

    async def remove(self, most: int | None) -> None:
        """Removes up to `most`: fewer where there are no more, or where it was stopped.

        Raises the failure of a batch, once the other letters of the batch are gone.
        """
        while True:
            await self.rate.wait(self.stopping)
            if self.stopping.is_set() or await self._pass(most):
                return
            await sleep_unless_stopping(self.session.clock, OTHERS_TURN_SECONDS, self.stopping)

    async def _pass(self, most: int | None) -> bool:
        """Whether there is nothing more to do."""
        begun = self.session.clock.monotonic()
        async with self.session.browsing() as browse:
            async for batch in browse.batches(self.rate.batch_letters):
                self.seen = browse.seen
                if going := batch if most is None else batch[: most - self.gone]:
                    await self._remove(browse, going)
                if self.stopping.is_set() or 0 < self.gone == most:
                    return True
                if going and self._is_over(begun):
                    return False
        return True

    async def _remove(self, browse: SelectiveBrowse, letters: Sequence[Found]) -> None:
        """Waits for the rate, and does nothing if it is stopped meanwhile."""
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

    def _is_over(self, begun: float) -> bool:
        """Whether the pass has taken its time, or would have before the next batch may begin."""
        if self.rate.per_second is None:
            return False
        return self.session.clock.monotonic() + self.rate.wait_seconds - begun > PASS_SECONDS


def discarding(session: Session, stopping: asyncio.Event, on_progress: Callable[[int], None]) -> Remover:
    """A remover that throws the selected letters away; the audit keeps what they were."""

    async def prepare(letters: Sequence[Found]) -> Batch:
        await session.record("discard", [(found.letter, "discarded") for found in letters])
        return Batch(letters)

    return Remover(session, prepare, LetterRate(session.clock), stopping, on_progress)
