"""Taking dead letters out of their queue, once what becomes of them is settled and on record."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from worker.dead_letters.looking import AT_ONCE, Desk, Found
from worker.ports import ForPeople

PASS_SECONDS = 10.0
"""How long a slowed-down removal holds the queue before others get their turn."""
OTHERS_TURN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Dealt:
    """Those of a batch that may go, all it takes being on record; `failure` is why the others may not."""

    going: Sequence[Found]
    failure: ForPeople | None = None


@dataclass
class Remover:
    """`stopping` ends it between two batches; `on_progress` hears how many went with each."""

    desk: Desk
    deal: Callable[[Sequence[Found]], Awaitable[Dealt]]
    per_second: float | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[int], None] = lambda _: None

    async def remove(self, most: int | None) -> int:
        """How many went: fewer than `most` where there are no more, or where it was stopped.

        Raises what `deal` gives as a failure, once the others of the batch are gone.
        """
        gone = 0
        while True:
            removed, at_the_end = await self._pass(None if most is None else most - gone)
            gone += removed
            if at_the_end or self.stopping.is_set() or gone == most:
                return gone
            await self.desk.clock.sleep(OTHERS_TURN_SECONDS)

    async def _pass(self, most: int | None) -> tuple[int, bool]:
        """How many went, and whether that was the end of the queue."""
        gone, begun = 0, self.desk.clock.monotonic()
        at_once = min(AT_ONCE, max(1, int(self.per_second))) if self.per_second else AT_ONCE
        async with self.desk.looking() as looking:
            async for batch in looking.found(at_once):
                dealt = await self.deal(batch if most is None else batch[: most - gone])
                await looking.look.remove([found.held for found in dealt.going])
                gone += len(dealt.going)
                self.on_progress(len(dealt.going))
                if dealt.failure is not None:
                    raise dealt.failure
                if self.stopping.is_set() or gone == most or self._is_over(begun):
                    return gone, False
                await self._slow_down(len(dealt.going))
        return gone, True

    def _is_over(self, begun: float) -> bool:
        return self.per_second is not None and self.desk.clock.monotonic() - begun > PASS_SECONDS

    async def _slow_down(self, count: int) -> None:
        """Not through a stop."""
        if self.per_second is None:
            return
        waits = [
            asyncio.ensure_future(self.desk.clock.sleep(count / self.per_second)),
            asyncio.ensure_future(self.stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def discard(
    desk: Desk, most: int | None, stopping: asyncio.Event, on_progress: Callable[[int], None]
) -> int:
    """Throws away what is meant; the audit keeps what it was."""

    async def deal(batch: Sequence[Found]) -> Dealt:
        await desk.note("discard", [(found.letter, "discarded") for found in batch])
        return Dealt(batch)

    return await Remover(desk, deal, None, stopping, on_progress).remove(most)
