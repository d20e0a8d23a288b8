"""Taking dead letters out of their queue, once what becomes of them is settled and on record."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from worker.flow.waiting import pause
from worker.operations.dead_letters.looking import Desk, Found, Looking
from worker.operations.dead_letters.pace import Pace
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
    """`stopping` ends it between two batches; `on_progress` hears how many went with each.

    `gone` counts them, `seen` what went by in the newest pass.
    """

    desk: Desk
    deal: Callable[[Sequence[Found]], Awaitable[Dealt]]
    pace: Pace
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[int], None] = lambda _: None
    gone: int = 0
    seen: int = 0

    async def remove(self, most: int | None) -> None:
        """Fewer than `most` go where there are no more, or where it was stopped.

        Raises what `deal` gives as a failure, once the others of the batch are gone.
        """
        while True:
            await self.pace.turn(self.stopping)
            if self.stopping.is_set() or await self._pass(most):
                return
            await pause(self.desk.clock, OTHERS_TURN_SECONDS, self.stopping)

    async def _pass(self, most: int | None) -> bool:
        """Whether there is nothing more to do."""
        begun = self.desk.clock.monotonic()
        async with self.desk.looking() as looking:
            async for batch in looking.found(self.pace.at_once):
                self.seen = looking.seen
                if going := batch if most is None else batch[: most - self.gone]:
                    await self._let_go(looking, going)
                if self.stopping.is_set() or 0 < self.gone == most:
                    return True
                if going and self._is_over(begun):
                    return False
        return True

    async def _let_go(self, looking: Looking, batch: Sequence[Found]) -> None:
        """When it is its turn, unless it is stopped by then."""
        await self.pace.turn(self.stopping)
        if self.stopping.is_set():
            return
        self.pace.begin(len(batch))
        dealt = await self.deal(batch)
        await looking.look.remove([found.held for found in dealt.going])
        self.gone += len(dealt.going)
        self.on_progress(len(dealt.going))
        if dealt.failure is not None:
            raise dealt.failure

    def _is_over(self, begun: float) -> bool:
        """Also where the next would come too late."""
        if self.pace.per_second is None:
            return False
        return self.desk.clock.monotonic() + self.pace.wait_seconds - begun > PASS_SECONDS


def discarding(
    desk: Desk,
    stopping: asyncio.Event,
    on_progress: Callable[[int], None],
) -> Remover:
    """Throws away what is meant; the audit keeps what it was."""

    async def deal(batch: Sequence[Found]) -> Dealt:
        await desk.note("discard", [(found.letter, "discarded") for found in batch])
        return Dealt(batch)

    return Remover(desk, deal, Pace(desk.clock), stopping, on_progress)
