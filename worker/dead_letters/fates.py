"""What became of what was replayed: answered, by the ledger, or among the dead letters again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from worker.core.dead_letters import Letter
from worker.core.model import Event
from worker.dead_letters.looking import AT_ONCE, Desk, read
from worker.ports import Ledger, QueueTaken

PATIENCE_SECONDS = 300.0
"""How long to wait for the next news: longer than it takes to settle a create, by default."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LOOK_FROM_PAUSE_SECONDS = 0.4
"""The ledger is asked often; the queue, which others want to read too, only when that was to no avail."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A dead letter on its way through the work queue. Without event nothing can answer it."""

    replay_id: str
    letter: Letter
    event: Event | None


@dataclass(frozen=True, slots=True)
class Fate:
    letter: Letter
    outcome: str


@dataclass
class Fates:
    """`sent` counts those that left the queue; of those watched the others tell what came."""

    sent: int = 0
    answered: int = 0
    dead_again: list[Fate] = field(default_factory=list)
    unanswered: list[Fate] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return bool(self.dead_again or self.unanswered)

    def __iadd__(self, other: "Fates") -> Self:
        self.sent += other.sent
        self.answered += other.answered
        self.dead_again += other.dead_again
        self.unanswered += other.unanswered
        return self


@dataclass
class Watch:
    desk: Desk
    ledger: Ledger
    stopping: asyncio.Event

    async def see(self, batch: Sequence[Sent]) -> Fates:
        """Returns once all have come to something, or for a long time none has, or at a stop."""
        fates, open_ = Fates(sent=len(batch)), {sent.replay_id: sent for sent in batch}
        pause, news_at = FIRST_PAUSE_SECONDS, self.desk.clock.monotonic()
        while open_ and not self.stopping.is_set():
            answered = await self._answered(open_)
            dead = await self._dead_again(open_) if pause >= LOOK_FROM_PAUSE_SECONDS and not answered else {}
            if answered or dead:
                await self._settle(fates, open_, answered, dead)
                pause, news_at = FIRST_PAUSE_SECONDS, self.desk.clock.monotonic()
            elif self.desk.clock.monotonic() - news_at > PATIENCE_SECONDS:
                break
            else:
                await self.desk.clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        fates.unanswered = [Fate(sent.letter, "no answer yet") for sent in open_.values()]
        await self._note(fates.unanswered)
        return fates

    async def _settle(
        self, fates: Fates, open_: dict[str, Sent], answered: Mapping[str, str], dead: Mapping[str, str]
    ) -> None:
        fates.answered += len(answered)
        told = {
            replay_id: Fate(open_.pop(replay_id).letter, outcome)
            for replay_id, outcome in {**answered, **dead}.items()
        }
        fates.dead_again += [told[replay_id] for replay_id in dead]
        await self._note(list(told.values()))

    async def _note(self, fates: Sequence[Fate]) -> None:
        if fates:
            await self.desk.note("replay", [(fate.letter, fate.outcome) for fate in fates])

    async def _answered(self, open_: Mapping[str, Sent]) -> dict[str, str]:
        found = {}
        for sent in open_.values():
            if sent.event is not None:
                known = await self.ledger.recall(sent.event.department, sent.event.reference)
                if known.answer and known.answer.payload_digest == sent.event.payload_digest:
                    found[sent.replay_id] = f"answered {known.answer.outcome}"
        return found

    async def _dead_again(self, open_: Mapping[str, Sent]) -> dict[str, str]:
        found = {}
        try:
            async with self.desk.queue.look() as look:
                async for batch in look.batches(AT_ONCE):
                    for letter in (read(held).letter for held in batch):
                        if letter.replay_id and letter.replay_id in open_:
                            found[letter.replay_id] = f"dead-lettered again, {letter.reason}: {letter.detail}"
        except QueueTaken:
            return {}
        return found
